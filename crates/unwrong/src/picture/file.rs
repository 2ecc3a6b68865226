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
/// write.
pub fn write_atomically(path: &Path, bytes: &[u8], force: bool) -> Result<()> {
    let cannot = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    };
    if !force && path.exists() {
        return Err(Error::FileExists { path: path.to_owned() });
    }
    let folder = folder_of(path);
    fs::create_dir_all(&folder).map_err(cannot("create", &folder))?;

    // A plain file rather than tempfile's private one: pictures are made to be seen.
    let mut file = tempfile::Builder::new()
        .prefix(".unwrong-")
        .suffix(".part")
        .make_in(&folder, |path| File::create_new(path))
        .map_err(cannot("write in", &folder))?;
    // To the file itself: its wrapper would name the temporary one in an error.
    file.as_file_mut().write_all(bytes).map_err(cannot("write", path))?;
    file.as_file().sync_all().map_err(cannot("write", path))?;

    let renamed = if force { file.persist(path) } else { file.persist_noclobber(path) };
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

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write_atomically(&path, b"one", true).is_err());
        assert_eq!(names(folder.path()), ["taken"]);
    }
}
