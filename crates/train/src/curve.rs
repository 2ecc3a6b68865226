//! The loss of every step as a picture: dots, and a smooth line through them.
//!
//! One list of shapes is written as SVG for browsers and drawn as PNG for everything else. Both
//! follow from the losses alone, so the picture of a training that was interrupted is that of one
//! that was not.

mod raster;
mod scene;
mod svg;

use std::path::{Path, PathBuf};

use unwrong::picture::write_atomically;

use crate::error::Result;

/// Names of both pictures.
const NAMES: [&str; 2] = ["loss.svg", "loss.png"];

/// Writes `loss.svg` and `loss.png` into a folder, over what is there; says where they are.
/// Without a loss there is nothing to draw.
pub fn write_curve(folder: &Path, losses: &[f32]) -> Result<Vec<PathBuf>> {
    if losses.is_empty() {
        return Ok(Vec::new());
    }
    let scene = scene::curve(losses);
    let files = [svg::write(&scene).into_bytes(), raster::png(&scene)];
    let mut paths = Vec::new();
    for (name, bytes) in NAMES.into_iter().zip(files) {
        let path = folder.join(name);
        write_atomically(&path, &bytes, true)?;
        paths.push(path);
    }
    Ok(paths)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn both_pictures_follow_from_the_losses_alone() {
        let folder = tempfile::tempdir().unwrap();
        let losses: Vec<f32> = (0..50).map(|step| 1.0 / (1.0 + step as f32)).collect();
        let files = |losses: &[f32]| -> Vec<Vec<u8>> {
            let paths = write_curve(folder.path(), losses).unwrap();
            paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
        };
        let first = files(&losses);
        assert_eq!(first.len(), 2);
        assert!(first == files(&losses));
        assert!(first != files(&losses[..49]));
        assert!(write_curve(folder.path(), &[]).unwrap().is_empty());
    }
}
