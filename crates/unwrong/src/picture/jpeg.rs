//! JPEG: EXIF and XMP in application segments, of at most 64 kB each.

use jpeg_encoder::{ColorType, Encoder, EncodingError, SamplingFactor};

use super::metadata::Found;
use super::{Pixels, Quality, exif, xmp};
use crate::error::{Error, Result};

/// Most bytes in a segment, beside its own length.
const MAX_SEGMENT: usize = 65_533;
/// Number of the application segment that holds EXIF and XMP.
const APP1: u8 = 1;
const EXIF: &[u8] = b"Exif\0\0";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

pub(super) fn encode(
    pixels: &Pixels,
    json: &str,
    parameters: &str,
    quality: Quality,
) -> Result<Vec<u8>> {
    let refuse = |problem: String| Error::Encode { format: "JPEG", problem };
    let refused = |error: EncodingError| refuse(error.to_string());
    let side = |side: u32| {
        u16::try_from(side).map_err(|_| refuse(format!("a side of {side}, more than 65535")))
    };
    let quality = match quality {
        Quality::Lossy(quality) => quality,
        Quality::Lossless => 100,
    };
    let mut bytes = vec![];
    let mut encoder = Encoder::new(&mut bytes, quality);
    // Colours at full resolution, as WebP and PNG viewers would not halve ours either.
    encoder.set_sampling_factor(SamplingFactor::F_1_1);
    encoder.set_optimized_huffman_tables(true);
    // The text is for others, and may be left out; the request may not.
    let comment = [EXIF, &exif::write(parameters)].concat();
    if comment.len() <= MAX_SEGMENT {
        encoder.add_app_segment(APP1, comment).map_err(refused)?;
    }
    let packet = [XMP, xmp::write(json).as_bytes()].concat();
    encoder.add_app_segment(APP1, packet).map_err(refused)?;
    let (width, height) = (side(pixels.width())?, side(pixels.height())?);
    encoder.encode(pixels.rgb(), width, height, ColorType::Rgb).map_err(refused)?;
    Ok(bytes)
}

pub(super) fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xff\xd8\xff")
}

/// The application segments in front of the pixels.
pub(super) fn read(bytes: &[u8], found: &mut Found) {
    let mut rest = &bytes[2..];
    while let Some((marker, data, after)) = segment(rest) {
        rest = after;
        match marker {
            0xe1 if data.starts_with(EXIF) => exif::read(data, found),
            0xe1 if data.starts_with(XMP) => xmp::read(&xmp::decode(&data[XMP.len()..]), found),
            // The pixels, or the end.
            0xda | 0xd9 => break,
            _ => {}
        }
    }
}

/// Marker, data, rest. The length counts itself; markers may be padded with 0xff.
fn segment(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let rest = bytes.strip_prefix(b"\xff")?;
    let padding = rest.iter().take_while(|byte| **byte == 0xff).count();
    let (marker, rest) = rest[padding..].split_first()?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes(*length)).checked_sub(2)?;
    let (data, rest) = rest.split_at_checked(length)?;
    Some((*marker, data, rest))
}
