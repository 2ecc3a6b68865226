//! One picture of a dataset, and one look at it.

use std::fs;
use std::path::PathBuf;

use unwrong::request::Size;

use super::cache::Key;
use super::decode::Picture;
use super::resize::resize;
use super::survey::sha256;
use crate::error::{Error, Result};

/// One picture of a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// What the picture shows, in words.
    pub caption: String,
    /// Size of the picture, upright.
    pub original: Size,
    /// Size it is resized to, so that it covers its bucket.
    pub resized: Size,
    /// Size it is trained at.
    pub bucket: Size,
    /// What shows through transparent pixels: red, green, blue.
    pub background: [u8; 3],
}

/// Where a bucket lies on a resized picture, in pixels of the latter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// Rows above.
    pub top: u32,
    /// Columns to the left.
    pub left: u32,
}

/// One look at a picture: what a step of training sees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Example<'a> {
    /// The picture.
    pub item: &'a Item,
    /// Its caption, or nothing where that was dropped.
    pub caption: &'a str,
    /// The part of it; of the mirrored picture where `flip` is set.
    pub crop: Crop,
    /// Whether it is mirrored, left for right.
    pub flip: bool,
}

impl Item {
    /// The crop in the middle; half a pixel goes up and left, as in kohya's sd-scripts.
    #[must_use]
    pub fn centre(&self) -> Crop {
        let [rows, columns] = self.room();
        Crop { top: rows / 2, left: columns / 2 }
    }

    /// Rows and columns that a crop leaves out.
    pub(super) fn room(&self) -> [u32; 2] {
        let (resized, bucket) = (self.resized, self.bucket);
        [resized.height - bucket.height, resized.width - bucket.width]
    }
}

impl Example<'_> {
    /// The pixels in −1…1, `[H, W, 3]` of the bucket.
    ///
    /// The file is read and decoded here, resized with Lanczos in sRGB, mirrored, and cropped. A
    /// file that is not the one that was scanned is an error.
    pub fn pixels(&self) -> Result<Vec<f32>> {
        let item = self.item;
        let bytes = fs::read(&item.path).map_err(Error::io("read", &item.path))?;
        if sha256(&bytes) != item.sha256 {
            return Err(Error::Changed { path: item.path.clone() });
        }
        let picture = Picture::decode(&bytes, item.background)
            .map_err(|problem| Error::Picture { path: item.path.clone(), problem })?;
        Ok(self.cut(&resize(&picture.rgb, item.resized)))
    }

    /// The part of a resized picture, as `ToTensor` and `Normalize([0.5], [0.5])` of torchvision
    /// make it.
    fn cut(&self, resized: &[u8]) -> Vec<f32> {
        let (Size { width, height }, Crop { top, left }) = (self.item.bucket, self.crop);
        let row_width = self.item.resized.width as usize;
        let mut pixels = Vec::with_capacity((width * height * 3) as usize);
        for row in resized.chunks_exact(row_width * 3).skip(top as usize).take(height as usize) {
            for column in left as usize..(left + width) as usize {
                let column = if self.flip { row_width - 1 - column } else { column };
                let pixel = &row[column * 3..][..3];
                pixels.extend(pixel.iter().map(|byte| (f32::from(*byte) / 255.0 - 0.5) / 0.5));
            }
        }
        pixels
    }

    /// SDXL's micro-conditioning: original height and width, the crop's top and left, the
    /// bucket's height and width.
    ///
    /// As diffusers' training script has them: the original size is that of the upright file, and
    /// the crop is in pixels of the resized picture. (kohya's scripts compute the crop anew from
    /// the aspect ratios, and say 0 nearly always.)
    #[must_use]
    pub fn time_ids(&self) -> [f32; 6] {
        let (Size { width, height }, bucket) = (self.item.original, self.item.bucket);
        let Crop { top, left } = self.crop;
        [height, width, top, left, bucket.height, bucket.width].map(|pixels| pixels as f32)
    }

    /// The name under which what a VAE makes of these pixels is kept.
    ///
    /// `vae` tells one VAE from another: the hash of its weights, and how it is run.
    #[must_use]
    pub fn latents_key(&self, vae: &str) -> Key {
        let [red, green, blue] = self.item.background;
        Key::new(&[
            "latents",
            &self.item.sha256,
            &self.item.resized.to_string(),
            &self.item.bucket.to_string(),
            &format!("{},{}", self.crop.top, self.crop.left),
            if self.flip { "mirrored" } else { "" },
            &format!("{red},{green},{blue}"),
            vae,
        ])
    }
}
