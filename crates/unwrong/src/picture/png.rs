//! PNG: text chunks in front of the pixels.

use super::metadata::{Found, MAX_TEXT};
use super::{Pixels, exif, xmp};
use crate::error::{Error, Result};

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Keyword of our JSON.
pub(super) const REQUEST: &str = "unwrong";
/// Keyword of A1111's text.
pub(super) const PARAMETERS: &str = "parameters";
/// Keyword under which XMP lies in an `iTXt`.
const XMP: &str = "XML:com.adobe.xmp";

pub(super) fn encode(pixels: &Pixels, json: String, parameters: String) -> Result<Vec<u8>> {
    let refused =
        |error: png::EncodingError| Error::Encode { format: "PNG", problem: error.to_string() };
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, pixels.width(), pixels.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.add_itxt_chunk(REQUEST.to_owned(), json).map_err(refused)?;
    // Many readers know only tEXt, but that holds nothing beyond Latin-1.
    let parameters_key = PARAMETERS.to_owned();
    if parameters.chars().all(|char| u32::from(char) < 0x100) {
        encoder.add_text_chunk(parameters_key, parameters).map_err(refused)?;
    } else {
        encoder.add_itxt_chunk(parameters_key, parameters).map_err(refused)?;
    }
    let mut writer = encoder.write_header().map_err(refused)?;
    writer.write_image_data(pixels.rgb()).map_err(refused)?;
    writer.finish().map_err(refused)?;
    Ok(bytes)
}

pub(super) fn is_png(bytes: &[u8]) -> bool {
    bytes.starts_with(SIGNATURE)
}

/// Every text in the file, up to where the file breaks off.
pub(super) fn read(bytes: &[u8], found: &mut Found) {
    let mut rest = &bytes[SIGNATURE.len()..];
    while let Some((kind, data, after)) = chunk(rest) {
        rest = after;
        match kind {
            b"tEXt" => text(data, found),
            b"zTXt" => compressed_text(data, found),
            b"iTXt" => international_text(data, found),
            b"eXIf" => exif::read(data, found),
            b"IEND" => break,
            _ => {}
        }
    }
}

/// Length, kind, data, checksum; the checksum is not looked at.
fn chunk(bytes: &[u8]) -> Option<(&[u8; 4], &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (kind, rest) = rest.split_first_chunk()?;
    let (data, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    Some((kind, data, rest.get(4..).unwrap_or_default()))
}

/// `keyword \0 text`
fn text(data: &[u8], found: &mut Found) {
    if let Some((keyword, text)) = split_nul(data) {
        found.text(&latin1_or_utf8(keyword), latin1_or_utf8(text));
    }
}

/// `keyword \0 method text`
fn compressed_text(data: &[u8], found: &mut Found) {
    if let Some((keyword, [0, text @ ..])) = split_nul(data)
        && let Some(text) = inflate(text)
    {
        found.text(&latin1_or_utf8(keyword), latin1_or_utf8(&text));
    }
}

/// `keyword \0 compressed method language \0 translated keyword \0 text`
fn international_text(data: &[u8], found: &mut Found) {
    let parts = || {
        let (keyword, rest) = split_nul(data)?;
        let ([compressed, _method], rest) = rest.split_first_chunk()?;
        let (_language, rest) = split_nul(rest)?;
        let (_translated, text) = split_nul(rest)?;
        let text = if *compressed == 1 { inflate(text)? } else { text.to_vec() };
        Some((latin1_or_utf8(keyword), String::from_utf8_lossy(&text).into_owned()))
    };
    match parts() {
        Some((keyword, packet)) if keyword == XMP => xmp::read(&packet, found),
        Some((keyword, text)) => found.text(&keyword, text),
        None => {}
    }
}

/// A few bytes may stand for gigabytes: nothing is inflated beyond what a text may hold.
fn inflate(bytes: &[u8]) -> Option<Vec<u8>> {
    miniz_oxide::inflate::decompress_to_vec_zlib_with_limit(bytes, MAX_TEXT).ok()
}

/// The standard says Latin-1; several programs write UTF-8 all the same.
fn latin1_or_utf8(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    }
}

fn split_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let nul = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..nul], &bytes[nul + 1..]))
}
