//! Pictures from their files: pixels to measure, and small ones for the report.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use unwrong::picture::Pixels;
use unwrong::{Error, Result};

/// Reads a PNG of 8-bit red, green and blue, as this program writes them.
pub(crate) fn read(path: &Path) -> Result<Pixels> {
    let refuse = |problem: String| Error::NotAPicture { path: path.to_owned(), problem };
    let file = File::open(path).map_err(|source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let broken = |error: png::DecodingError| refuse(error.to_string());
    let mut reader = png::Decoder::new(BufReader::new(file)).read_info().map_err(broken)?;
    let format = reader.output_color_type();
    if format != (png::ColorType::Rgb, png::BitDepth::Eight) {
        return Err(refuse(format!("it is {format:?}, expected 8 bits of red, green and blue")));
    }
    let bytes = reader.output_buffer_size().ok_or_else(|| refuse("it is too large".to_owned()))?;
    let mut rgb = vec![0; bytes];
    let info = reader.next_frame(&mut rgb).map_err(broken)?;
    Pixels::new(info.width, info.height, rgb)
}

/// The picture with no side above `most` pixels: whole numbers of pixels become their mean.
pub(crate) fn shrink(pixels: &Pixels, most: u32) -> Result<Pixels> {
    let longest = pixels.width().max(pixels.height());
    let factor = longest.div_ceil(most);
    if factor <= 1 {
        return Ok(pixels.clone());
    }
    let (width, height) = ((pixels.width() / factor).max(1), (pixels.height() / factor).max(1));
    let side = |whole: u32| factor.min(whole);
    let (across, down) = (side(pixels.width()), side(pixels.height()));
    let mut rgb = Vec::with_capacity((width * height * 3) as usize);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let sum: u64 = (0..down)
                    .flat_map(|dy| (0..across).map(move |dx| (y * factor + dy, x * factor + dx)))
                    .map(|(y, x)| {
                        let at = (y as usize * pixels.width() as usize + x as usize) * 3 + channel;
                        u64::from(pixels.rgb()[at])
                    })
                    .sum();
                let count = u64::from(across) * u64::from(down);
                rgb.push(((sum + count / 2) / count) as u8);
            }
        }
    }
    Pixels::new(width, height, rgb)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn a_large_picture_becomes_means_of_squares() {
        let row = [10u8, 20, 30, 40, 50].map(|value| [value; 3]).concat();
        let pixels = Pixels::new(5, 2, [row.clone(), row].concat()).unwrap();
        let small = shrink(&pixels, 3).unwrap();
        assert_eq!((small.width(), small.height()), (2, 1));
        assert_eq!(small.rgb(), [15, 15, 15, 35, 35, 35]);
        assert_eq!(shrink(&pixels, 5).unwrap(), pixels);
    }

    #[test]
    fn what_is_no_picture_of_ours_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        std::fs::write(&path, "text").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("a.png"));
        let mut encoder = png::Encoder::new(File::create(&path).unwrap(), 1, 1);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.write_header().unwrap().write_image_data(&[1]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("Grayscale"));
    }
}
