//! Folders and pictures for tests.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{ImageFormat, Rgb, RgbImage};
use tempfile::TempDir;
use unwrong_train::data::{DataOptions, Dataset};

/// A folder that goes away with the test.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// With these files.
    pub(crate) fn with(files: &[(&str, Vec<u8>)]) -> Self {
        let folder = Self::new();
        for (name, bytes) in files {
            folder.write(name, bytes);
        }
        folder
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The dataset, and the notes without the folder's name.
    pub(crate) fn scan(&self, options: &DataOptions) -> (Dataset, Vec<String>) {
        let (dataset, notes) = Dataset::scan(self.path(), options).unwrap();
        let notes = notes.iter().map(|note| self.without_name(&note.to_string())).collect();
        (dataset, notes)
    }

    /// What is said of a folder that cannot be used.
    pub(crate) fn refusal(&self, options: &DataOptions) -> String {
        let error = Dataset::scan(self.path(), options).unwrap_err();
        assert!(error.is_request_error(), "{error}");
        self.without_name(&error.to_string())
    }

    fn without_name(&self, text: &str) -> String {
        let name = self.path().display().to_string();
        text.replace(&format!("{name}/"), "").replace(&name, "DIR")
    }
}

/// Small pictures with one caption for all.
pub(crate) fn options() -> DataOptions {
    DataOptions { resolution: 64, caption: Some("wrong".to_owned()), ..DataOptions::default() }
}

/// A picture that differs from others of another `seed`.
pub(crate) fn picture(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 3 + seed) as u8, (y * 5) as u8, (x + y + seed * 7) as u8])
    })
}

pub(crate) fn encoded(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub(crate) fn png(width: u32, height: u32, seed: u32) -> Vec<u8> {
    encoded(&picture(width, height, seed), ImageFormat::Png)
}

pub(crate) fn jpg(width: u32, height: u32, seed: u32) -> Vec<u8> {
    encoded(&picture(width, height, seed), ImageFormat::Jpeg)
}

pub(crate) fn webp(width: u32, height: u32, seed: u32) -> Vec<u8> {
    encoded(&picture(width, height, seed), ImageFormat::WebP)
}

/// Names of a dataset's files, in its order.
pub(crate) fn names(dataset: &Dataset) -> Vec<String> {
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    dataset.items().iter().map(|item| name(&item.path)).collect()
}
