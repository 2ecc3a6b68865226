//! Where pictures go: one named file, or numbered files in a folder.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;
use unwrong::picture::{Format, file_to_write};

use crate::failure::wrong_request;

/// Where pictures go when nothing is said.
const DEFAULT_FOLDER: &str = "outputs";

/// Where pictures go, settled before any work.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// One picture, under this name.
    File(PathBuf),
    /// `00000-SEED.png` and so on; `next` is above every number in the folder.
    Folder { path: PathBuf, next: u32 },
}

impl Destination {
    /// Reads `-o`; refuses what would fail once the picture is there.
    pub(crate) fn new(output: Option<&Path>, count: u32, force: bool) -> Result<Self> {
        let output = output.unwrap_or(Path::new(DEFAULT_FOLDER));
        let is_folder =
            output == Path::new(DEFAULT_FOLDER) || ends_with_slash(output) || output.is_dir();
        if !is_folder && count == 1 {
            Format::of_path(output)?;
            refuse_existing(output, force)?;
            refuse_unwritable(output.parent().unwrap_or(Path::new("")))?;
            return Ok(Self::File(output.to_owned()));
        }
        if !is_folder && output.extension().is_some() {
            return Err(wrong_request(
                format!("`{}` is one file, but {count} pictures are asked for", output.display()),
                "give a folder, with a slash at its end: `-o out/`",
            ));
        }
        refuse_unwritable(output)?;
        Ok(Self::Folder { path: output.to_owned(), next: next_number(output) })
    }

    /// Whether it numbers its pictures.
    pub(crate) fn is_folder(&self) -> bool {
        matches!(self, Self::Folder { .. })
    }

    /// The format of its pictures.
    pub(crate) fn format(&self) -> Result<Format> {
        match self {
            Self::File(path) => Ok(Format::of_path(path)?),
            Self::Folder { .. } => Ok(Format::Png),
        }
    }

    /// The name of the next picture.
    pub(crate) fn name(&mut self, seed: u64) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Folder { path, next } => {
                let name = path.join(format!("{next:05}-{seed}.png"));
                *next = next.saturating_add(1);
                name
            }
        }
    }
}

/// Nothing is overwritten unless the user says so, and what is no file never is.
pub(crate) fn refuse_existing(path: &Path, force: bool) -> Result<()> {
    refuse_long_names(path)?;
    if file_to_write(path)?.exists() && !force {
        return Err(unwrong::Error::FileExists { path: path.to_owned() }.into());
    }
    Ok(())
}

/// Tries a file, which vanishes again, in the folder or in the nearest one that is there: an
/// hour of work needs a place to go. Makes no folder yet.
pub(crate) fn refuse_unwritable(folder: &Path) -> Result<()> {
    refuse_long_names(folder)?;
    let there = nearest(folder);
    let tried = tempfile::tempfile_in(there);
    tried.map(drop).map_err(|error| {
        wrong_request(
            format!("cannot write into `{}`: {error}", there.display()),
            "give a folder that can be written",
        )
    })
}

/// The nearest folder that is there, or what stands in its place.
fn nearest(folder: &Path) -> &Path {
    // Without a slash at the end: a file is there under its name only.
    let folder = folder.components().as_path();
    let mut parents = folder.ancestors().filter(|parent| !parent.as_os_str().is_empty());
    parents.find(|parent| parent.symlink_metadata().is_ok()).unwrap_or(Path::new("."))
}

/// Asks the file system, each has a limit of its own; also of names within folders to come.
fn refuse_long_names(path: &Path) -> Result<()> {
    let there = nearest(path);
    let is_long = |path: &Path| {
        let about = path.symlink_metadata();
        about.is_err_and(|error| error.kind() == ErrorKind::InvalidFilename)
    };
    let names = path.iter().filter(|name| is_long(&there.join(name)));
    match names.map(Path::new).chain(is_long(path).then_some(path)).next() {
        Some(name) => Err(wrong_request(
            format!("`{}` is longer than the file system takes", name.display()),
            "give a shorter name",
        )),
        None => Ok(()),
    }
}

fn ends_with_slash(path: &Path) -> bool {
    path.as_os_str().to_string_lossy().ends_with(std::path::is_separator)
}

/// One above the largest number that a picture in the folder starts with.
fn next_number(folder: &Path) -> u32 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let (number, _) = name.to_str()?.split_once('-')?;
            number.parse::<u32>().ok()?.checked_add(1)
        })
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_after_the_largest_one() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for name in ["00003-7.png", "00011-8.webp", "99-not-a-picture", "notes.txt"] {
            fs::write(folder.path().join(name), "")?;
        }
        fs::remove_file(folder.path().join("99-not-a-picture"))?;
        let mut destination = Destination::new(Some(folder.path()), 2, false)?;
        assert_eq!(destination.name(5), folder.path().join("00012-5.png"));
        assert_eq!(destination.name(6), folder.path().join("00013-6.png"));
        Ok(())
    }

    #[test]
    fn a_slash_at_the_end_means_a_folder() -> Result<()> {
        let folder = tempfile::tempdir()?.keep();
        let mut destination = Destination::new(Some(&folder.join("new/")), 1, false)?;
        assert_eq!(destination.name(5), folder.join("new/00000-5.png"));
        Ok(())
    }

    #[test]
    fn several_pictures_do_not_fit_into_one_file() {
        let result = Destination::new(Some(Path::new("cat.png")), 2, false);
        assert!(result.is_err_and(|error| error.to_string().contains("2 pictures")));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_refused_before_any_work() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("file");
        fs::write(&file, "")?;
        for output in [file.join("cat.png"), file.join("deep/er/cat.png")] {
            assert!(Destination::new(Some(&output), 1, false).is_err(), "{}", output.display());
        }
        let slash = format!("{}/", file.display());
        assert!(Destination::new(Some(Path::new(&slash)), 2, false).is_err());
        assert!(Destination::new(Some(&folder.path().join("new/er/cat.png")), 1, false).is_ok());
        assert!(!folder.path().join("new").exists(), "a look leaves nothing behind");
        Ok(())
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_not_replaced() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let link = folder.path().join("cat.png");
        std::os::unix::fs::symlink("nowhere", &link)?;
        for force in [false, true] {
            let result = Destination::new(Some(&link), 1, force);
            let said = result.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.ends_with("is a link to nothing, expected a file"), "{said}");
        }
        Ok(())
    }

    #[test]
    fn a_file_that_exists_is_replaced_only_by_force() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("cat.png");
        fs::write(&path, "")?;
        assert!(Destination::new(Some(&path), 1, false).is_err());
        assert!(Destination::new(Some(&path), 1, true).is_ok());
        Ok(())
    }
}
