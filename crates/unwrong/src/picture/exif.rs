//! EXIF: a TIFF without pixels, of which we write and read one field, `UserComment`.
//!
//! A1111 puts its text there (by way of piexif) in JPEG and WebP files.

use super::metadata::Found;
use super::png::PARAMETERS;

/// Tag of the pointer from the first directory to the EXIF directory.
const EXIF_DIRECTORY: u16 = 0x8769;
const USER_COMMENT: u16 = 0x9286;
/// Types of a field: 32-bit number, and bytes that the tag gives a meaning.
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;
/// What may stand in front of the TIFF.
const PREFIX: &[u8] = b"Exif\0\0";
/// Says that a comment is UTF-16.
const UNICODE: &[u8] = b"UNICODE\0";

/// A big-endian TIFF with `text` as its comment, as piexif writes it.
pub(super) fn write(text: &str) -> Vec<u8> {
    let comment: Vec<u8> =
        UNICODE.iter().copied().chain(text.encode_utf16().flat_map(u16::to_be_bytes)).collect();
    let mut tiff = b"MM\0\x2a\0\0\0\x08".to_vec();
    directory(&mut tiff, EXIF_DIRECTORY, LONG, 1, 26);
    directory(&mut tiff, USER_COMMENT, UNDEFINED, comment.len() as u32, 44);
    tiff.extend(comment);
    tiff
}

/// A directory of one field, and no directory after it.
fn directory(tiff: &mut Vec<u8>, tag: u16, kind: u16, count: u32, value: u32) {
    tiff.extend(1u16.to_be_bytes());
    tiff.extend(tag.to_be_bytes());
    tiff.extend(kind.to_be_bytes());
    tiff.extend(count.to_be_bytes());
    tiff.extend(value.to_be_bytes());
    tiff.extend(0u32.to_be_bytes());
}

/// Finds the comment, wherever the directories point, as long as it is in the file.
pub(super) fn read(bytes: &[u8], found: &mut Found) {
    let tiff = bytes.strip_prefix(PREFIX).unwrap_or(bytes);
    if let Some(comment) = user_comment(tiff) {
        found.text(PARAMETERS, decode_comment(comment));
    }
}

fn user_comment(tiff: &[u8]) -> Option<&[u8]> {
    let tiff = match tiff.get(..4)? {
        b"II\x2a\0" => Tiff { bytes: tiff, little_endian: true },
        b"MM\0\x2a" => Tiff { bytes: tiff, little_endian: false },
        _ => return None,
    };
    let first = tiff.u32(4)?;
    let exif = tiff.u32(tiff.field(first, EXIF_DIRECTORY)? + 8)?;
    let comment = tiff.field(exif, USER_COMMENT)?;
    let (count, start) = (tiff.u32(comment + 4)?, tiff.u32(comment + 8)?);
    tiff.bytes.get(start..start.checked_add(count)?)
}

struct Tiff<'a> {
    bytes: &'a [u8],
    little_endian: bool,
}

impl Tiff<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..)?.first_chunk()?;
        Some(if self.little_endian {
            u16::from_le_bytes(*bytes)
        } else {
            u16::from_be_bytes(*bytes)
        })
    }

    fn u32(&self, at: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..)?.first_chunk()?;
        let value = if self.little_endian {
            u32::from_le_bytes(*bytes)
        } else {
            u32::from_be_bytes(*bytes)
        };
        usize::try_from(value).ok()
    }

    /// Where the field with this tag begins: tag, type, count and value, in twelve bytes.
    fn field(&self, directory: usize, tag: u16) -> Option<usize> {
        let count = usize::from(self.u16(directory)?);
        (0..count)
            .map(|k| directory + 2 + 12 * k)
            .take_while(|at| at + 12 <= self.bytes.len())
            .find(|at| self.u16(*at) == Some(tag))
    }
}

/// Eight bytes say the encoding. The order of UTF-16 bytes is nowhere said and differs between
/// programs, so the order that gives more plain letters is taken.
fn decode_comment(comment: &[u8]) -> String {
    if let Some(utf16) = comment.strip_prefix(UNICODE) {
        let decode = |from: fn([u8; 2]) -> u16| {
            let units: Vec<u16> = utf16.as_chunks().0.iter().map(|pair| from(*pair)).collect();
            let plain = units.iter().filter(|unit| **unit < 0x80).count();
            (plain, String::from_utf16_lossy(&units))
        };
        let (big, little) = (decode(u16::from_be_bytes), decode(u16::from_le_bytes));
        let text = if little.0 > big.0 { little.1 } else { big.1 };
        return text.trim_start_matches('\u{feff}').trim_end_matches('\0').to_owned();
    }
    let text = comment.get(8..).unwrap_or_default();
    String::from_utf8_lossy(text).trim_matches(['\0', ' ']).to_owned()
}
