//! The files of a folder, in an order that no file system decides.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Endings of files that are meant to be pictures, readable here or not.
const ENDINGS: &[&str] = &[
    "png", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic",
    "heif", "jxl",
];

/// What a folder holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Everything that is not a folder, sorted; hidden files left out.
    pub(super) files: Vec<PathBuf>,
    /// Folders that were not looked into, because that was not asked for.
    pub(super) folders: usize,
    /// Folders that trainings left, sorted; what is in them was made from pictures like these.
    pub(super) trainings: Vec<PathBuf>,
}

impl Listing {
    /// Lists a folder, and with `recursive` those within it.
    ///
    /// Names that begin with a dot are left out: `.DS_Store`, `._a.png`, `.ipynb_checkpoints`. So
    /// are folders named `NAME.training`.
    /// Links are followed; no folder is read twice, so a link to a folder above is no loop.
    pub(super) fn read(folder: &Path, recursive: bool) -> Result<Self> {
        let mut listing = Self::default();
        let mut seen = HashSet::new();
        let mut folders = vec![folder.to_owned()];
        if !folder.exists() {
            let (path, expected) = (folder.to_owned(), "a folder of pictures");
            return Err(unwrong::Error::NotThere { path, expected }.into());
        }
        while let Some(folder) = folders.pop() {
            let canonical = folder.canonicalize().map_err(Error::io("read", &folder))?;
            if !seen.insert(canonical) {
                continue;
            }
            let entries = fs::read_dir(&folder).map_err(Error::io("read", &folder))?;
            let paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
            let mut within = Vec::new();
            for path in paths.map_err(Error::io("read", &folder))? {
                if is_hidden(&path) {
                    continue;
                }
                if !path.is_dir() {
                    listing.files.push(path);
                } else if is_training(&path) {
                    listing.trainings.push(path);
                } else if recursive {
                    within.push(path);
                } else {
                    listing.folders += 1;
                }
            }
            // Sorted, so that of two ways to one folder the same is taken everywhere.
            within.sort_by(|a, b| b.cmp(a));
            folders.append(&mut within);
        }
        listing.files.sort();
        listing.trainings.sort();
        Ok(listing)
    }

    /// Whether the folder holds this file.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.files.binary_search_by(|file| file.as_path().cmp(path)).is_ok()
    }

    /// Files of this name, folders above before those within.
    pub(super) fn named(&self, name: &str) -> Vec<&Path> {
        let named = self.files.iter().filter(|path| path.file_name() == Some(OsStr::new(name)));
        let mut named: Vec<&Path> = named.map(PathBuf::as_path).collect();
        named.sort_by_key(|path| path.components().count());
        named
    }
}

/// Whether a file's name says that it is a picture.
pub(super) fn has_picture_ending(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
    ENDINGS.iter().any(|known| ending == *known)
}

/// Whether a folder's name is that of one that a training leaves beside its LoRA.
fn is_training(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "training")
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}
