//! Bytes of a picture file to red, green and blue.
//!
//! What a file is, its first bytes say, not its name. Colour profiles are not applied, as no other
//! trainer applies them.

use std::io::{Cursor, ErrorKind};

use image::codecs::{jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, Limits, RgbImage};
use unwrong::request::Size;

/// Pixels that are read at most: the limit of Pillow, beyond which it suspects a file that is
/// small and unpacks to fill the memory.
const MAX_PIXELS: u64 = 178_956_970;
/// What a decoder may allocate: 8 bytes for each pixel, and what else lies in the file.
const MAX_BYTES: u64 = MAX_PIXELS * 8 + (64 << 20);

/// A picture as it is looked at: upright, and nothing shows through.
pub(super) struct Picture {
    /// `[H, W, 3]`.
    pub(super) rgb: RgbImage,
    /// Whether there are more pictures in the file.
    pub(super) is_animated: bool,
    /// Whether some of it was transparent.
    pub(super) is_transparent: bool,
}

impl Picture {
    /// Decodes a whole file: the first picture of several, turned as its EXIF says, on a
    /// background.
    ///
    /// What is wrong is said in words that follow "it".
    pub(super) fn decode(bytes: &[u8], background: [u8; 3]) -> Result<Self, String> {
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(MAX_BYTES);
        let file = Cursor::new(bytes);
        match format(bytes) {
            Some(ImageFormat::Png) => {
                let decoder = PngDecoder::with_limits(file, limits).map_err(damage)?;
                let is_animated = decoder.is_apng().map_err(damage)?;
                Self::finish(decoder, is_animated, background)
            }
            Some(ImageFormat::Jpeg) => {
                let decoder = JpegDecoder::new(file).map_err(damage)?;
                // The decoder makes up what is missing, in grey.
                if !jpeg_ends(bytes) {
                    return Err(CUT_SHORT.to_owned());
                }
                Self::finish(decoder, false, background)
            }
            // Metadata follows the pixels, so these may be whole while the rotation is not.
            Some(ImageFormat::WebP) if !webp_ends(bytes) => Err(CUT_SHORT.to_owned()),
            Some(ImageFormat::WebP) => {
                let decoder = WebPDecoder::new(file).map_err(damage)?;
                let is_animated = decoder.has_animation();
                Self::finish(decoder, is_animated, background)
            }
            _ => Err(what_else(bytes)),
        }
    }

    fn finish(
        mut decoder: impl ImageDecoder,
        is_animated: bool,
        background: [u8; 3],
    ) -> Result<Self, String> {
        let (width, height) = decoder.dimensions();
        let pixels = u64::from(width) * u64::from(height);
        if pixels > MAX_PIXELS {
            return Err(format!(
                "has {width}x{height} pixels, expected at most {} million",
                MAX_PIXELS / 1_000_000
            ));
        }
        // A broken EXIF block turns nothing.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let decoded = DynamicImage::from_decoder(decoder).map_err(damage)?;
        let (rgb, is_transparent) = flatten(decoded, background);
        let mut upright = DynamicImage::ImageRgb8(rgb);
        upright.apply_orientation(orientation);
        Ok(Self { rgb: upright.into_rgb8(), is_animated, is_transparent })
    }

    /// Width and height, upright.
    pub(super) fn size(&self) -> Size {
        Size { width: self.rgb.width(), height: self.rgb.height() }
    }
}

const CUT_SHORT: &str = "ends before the picture does";

/// Which of the formats that are read here, if any.
pub(super) fn format(bytes: &[u8]) -> Option<ImageFormat> {
    let read = |format: &ImageFormat| {
        matches!(format, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)
    };
    image::guess_format(bytes).ok().filter(read)
}

/// Puts a picture on a background, in sRGB as browsers do. Whether anything showed through is
/// told, too.
fn flatten(decoded: DynamicImage, background: [u8; 3]) -> (RgbImage, bool) {
    if !decoded.color().has_alpha() {
        return (decoded.into_rgb8(), false);
    }
    let rgba = decoded.into_rgba8();
    let is_transparent = rgba.pixels().any(|pixel| pixel.0[3] < 255);
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let alpha = u32::from(from.0[3]);
        for ((to, front), back) in to.0.iter_mut().zip(from.0).zip(background) {
            let (front, back) = (u32::from(front), u32::from(back));
            *to = ((front * alpha + back * (255 - alpha) + 127) / 255) as u8;
        }
    }
    (rgb, is_transparent)
}

/// What a decoder says, in words that follow "it".
fn damage(error: ImageError) -> String {
    match error {
        ImageError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            CUT_SHORT.to_owned()
        }
        ImageError::Unsupported(error) => format!("is of a kind that is not read: {error}"),
        error => format!("is damaged: {error}"),
    }
}

/// What a file is that is not read as a picture, in words that follow "it".
fn what_else(bytes: &[u8]) -> String {
    let found = match image::guess_format(bytes) {
        _ if bytes.is_empty() => return "is empty".to_owned(),
        _ if bytes.get(4..8) == Some(b"ftyp") => "HEIC, AVIF or a film",
        Ok(ImageFormat::Gif) => "GIF",
        Ok(ImageFormat::Bmp) => "BMP",
        Ok(ImageFormat::Tiff) => "TIFF",
        Err(_) if bytes.starts_with(b"version https://git-lfs") => {
            return "is a pointer of git-lfs: the picture itself was not fetched".to_owned();
        }
        _ if is_text(bytes) => "text",
        _ => "no picture",
    };
    format!("is {found}, expected PNG, JPEG or WebP")
}

fn is_text(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(256)];
    // The cut may go through a character of up to four bytes.
    let valid = std::str::from_utf8(start).map_or_else(|error| error.valid_up_to(), str::len);
    valid + 4 > start.len() && !start.contains(&0)
}

/// Whether a JPEG file reaches its end-of-image marker.
fn jpeg_ends(bytes: &[u8]) -> bool {
    const END: u8 = 0xd9;
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        // The next marker; within a scan, zeros and restarts belong to the data.
        let Some(start) = rest.windows(2).position(|pair| {
            pair[0] == 0xff && !matches!(pair[1], 0x00 | 0x01 | 0xd0..=0xd7 | 0xff)
        }) else {
            return false;
        };
        let marker = rest[start + 1];
        rest = &rest[start + 2..];
        if marker == END {
            return true;
        }
        if let [high, low, ..] = *rest {
            let length = usize::from(u16::from_be_bytes([high, low]));
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// Whether a WebP file is as long as its header says; libwebp refuses shorter ones, too.
fn webp_ends(bytes: &[u8]) -> bool {
    let length = bytes.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
    length.is_some_and(|length| u64::from(length) + 8 <= bytes.len() as u64)
}
