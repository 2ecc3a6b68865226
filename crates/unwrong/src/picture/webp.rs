//! WebP: libwebp makes the pixels' chunk, and we put EXIF and XMP behind it.
//!
//! The container is RIFF; metadata needs its extended form, with a `VP8X` chunk in front.
//! Google's "WebP Container Specification".

use super::metadata::Found;
use super::{Pixels, Quality, exif, xmp};
use crate::error::{Error, Result};

/// Longest side that the format holds.
const MAX_SIDE: u32 = 16_383;
/// `RIFF`, length, `WEBP`.
const HEADER: usize = 12;
/// Flags of `VP8X`: there is EXIF, there is XMP.
const HAS_EXIF: u8 = 0b1000;
const HAS_XMP: u8 = 0b0100;

pub(super) fn encode(
    pixels: &Pixels,
    json: &str,
    parameters: &str,
    quality: Quality,
) -> Result<Vec<u8>> {
    let refuse = |problem: String| Error::Encode { format: "WebP", problem };
    let (width, height) = (pixels.width(), pixels.height());
    if width.max(height) > MAX_SIDE {
        return Err(refuse(format!("{width}x{height}, expected at most {MAX_SIDE} a side")));
    }
    let (lossless, quality) = match quality {
        Quality::Lossless => (true, 75.0),
        Quality::Lossy(quality) => (false, f32::from(quality)),
    };
    let simple = webp::Encoder::from_rgb(pixels.rgb(), width, height)
        .encode_simple(lossless, quality)
        .map_err(|error| refuse(format!("{error:?}")))?;
    let pixels_chunk = simple.get(HEADER..).unwrap_or_default();

    let mut canvas = [HAS_EXIF | HAS_XMP, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    canvas[4..7].copy_from_slice(&(width - 1).to_le_bytes()[..3]);
    canvas[7..10].copy_from_slice(&(height - 1).to_le_bytes()[..3]);
    let mut body = b"WEBP".to_vec();
    push_chunk(&mut body, *b"VP8X", &canvas);
    body.extend_from_slice(pixels_chunk);
    push_chunk(&mut body, *b"EXIF", &exif::write(parameters));
    push_chunk(&mut body, *b"XMP ", xmp::write(json).as_bytes());

    let mut file = Vec::with_capacity(body.len() + 8);
    push_chunk(&mut file, *b"RIFF", &body);
    Ok(file)
}

/// Kind, length, data, and a byte to make the length even.
fn push_chunk(bytes: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    bytes.extend(kind);
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    if !data.len().is_multiple_of(2) {
        bytes.push(0);
    }
}

pub(super) fn is_webp(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..HEADER) == Some(b"WEBP")
}

/// Every EXIF and XMP chunk, up to where the file breaks off.
pub(super) fn read(bytes: &[u8], found: &mut Found) {
    let mut rest = &bytes[HEADER..];
    while let Some((kind, data, after)) = chunk(rest) {
        rest = after;
        match kind {
            b"EXIF" => exif::read(data, found),
            b"XMP " => xmp::read(&xmp::decode(data), found),
            _ => {}
        }
    }
}

fn chunk(bytes: &[u8]) -> Option<(&[u8; 4], &[u8], &[u8])> {
    let (kind, rest) = bytes.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (data, rest) = rest.split_at_checked(length)?;
    Some((kind, data, rest.get(length % 2..).unwrap_or_default()))
}
