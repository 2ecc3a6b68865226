//! Files that appear under their name only when they are complete.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes `bytes` under a temporary name in the same folder, makes them safe on the disk, and
/// renames. Missing folders are made.
///
/// Whoever looks at `path` sees nothing, the file that was there, or all of the new one. A file
/// that is there already is replaced only with `force`; this holds even if it appears while we
/// write. What is there and is no file is never replaced: see [`file_to_write`].
pub fn write_atomically(path: &Path, bytes: &[u8], force: bool) -> Result<()> {
    write_piece_by_piece(path, force, &mut |file| {
        let write = file.write_all(bytes);
        write.map_err(|source| Error::Io { action: "write", path: path.to_owned(), source })
    })
}

/// As [`write_atomically`], where `write` fills the file: for what is larger than the memory.
pub fn write_piece_by_piece(
    path: &Path,
    force: bool,
    write: &mut dyn FnMut(&mut File) -> Result<()>,
) -> Result<()> {
    let cannot = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    };
    let target = file_to_write(path)?;
    if !force && target.exists() {
        return Err(Error::FileExists { path: path.to_owned() });
    }
    let folder = folder_of(&target);
    fs::create_dir_all(&folder).map_err(cannot("create", &folder))?;

    // A plain file rather than tempfile's private one: pictures are made to be seen.
    let mut file = tempfile::Builder::new()
        .prefix(".unwrong-")
        .suffix(".part")
        .make_in(&folder, |path| File::create_new(path))
        .map_err(cannot("write in", &folder))?;
    // To the file itself: its wrapper would name the temporary one in an error.
    write(file.as_file_mut())?;
    file.as_file().sync_all().map_err(cannot("write", path))?;

    let renamed = if force { file.persist(&target) } else { file.persist_noclobber(&target) };
    renamed.map_err(|error| match error.error.kind() {
        ErrorKind::AlreadyExists => Error::FileExists { path: path.to_owned() },
        _ => cannot("write", path)(error.error),
    })?;
    // So that the name survives a power cut, too. Some systems cannot do that for a folder.
    if let Ok(folder) = File::open(&folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// The file that writing to `path` makes or replaces: `path`, or where a link leads.
///
/// Refuses folders, devices, pipes and links to nothing: they would give way to the new file.
pub fn file_to_write(path: &Path) -> Result<PathBuf> {
    let refuse = |found| Err(Error::NotAFile { path: path.to_owned(), found });
    // What cannot be looked at cannot be written either, and that says why.
    let Ok(about) = path.symlink_metadata() else { return Ok(path.to_owned()) };
    let target = if about.is_symlink() {
        match path.canonicalize() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return refuse("a link to nothing");
            }
            Err(source) => {
                return Err(Error::Io { action: "follow the link", path: path.to_owned(), source });
            }
            Ok(target) => target,
        }
    } else {
        path.to_owned()
    };
    match target.metadata() {
        Ok(about) if about.is_dir() => refuse("a folder"),
        Ok(about) if !about.is_file() => refuse("a device or a pipe"),
        _ => Ok(target),
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn nothing_is_overwritten_without_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/deep/a.png");
        write_atomically(&path, b"one", false).unwrap();
        let error = write_atomically(&path, b"two", false).unwrap_err();
        assert!(matches!(error, Error::FileExists { .. }), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write_atomically(&path, b"two", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(path.parent().unwrap()), ["a.png"], "nothing else is left");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_written_through_and_one_to_nothing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("far")).unwrap();
        fs::write(path("far/a.png"), "one").unwrap();
        std::os::unix::fs::symlink("far/a.png", path("link.png")).unwrap();
        let error = write_atomically(&path("link.png"), b"two", false).unwrap_err();
        assert!(matches!(error, Error::FileExists { .. }), "{error}");
        write_atomically(&path("link.png"), b"two", true).unwrap();
        assert_eq!(fs::read(path("far/a.png")).unwrap(), b"two");
        assert!(path("link.png").is_symlink());
        assert_eq!(names(&path("far")), ["a.png"], "nothing else is left");

        std::os::unix::fs::symlink("nowhere", path("lost.png")).unwrap();
        let error = write_atomically(&path("lost.png"), b"two", true).unwrap_err();
        assert!(error.to_string().ends_with("is a link to nothing, expected a file"), "{error}");
        assert!(path("lost.png").is_symlink() && !path("nowhere").exists());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_replaced_by_force_either() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _open = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        for path in [&socket, &link] {
            let error = write_atomically(path, b"one", true).unwrap_err();
            let expected = "is a device or a pipe, expected a file";
            assert!(error.to_string().ends_with(expected), "{error}");
            assert!(error.is_request_error() && error.hint().is_some());
        }
        assert!(!socket.metadata().unwrap().is_file());
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write_atomically(&path, b"one", true).is_err());
        assert_eq!(names(folder.path()), ["taken"]);
    }
}
