//! Pictures as files, with the request that made them inside.
//!
//! Stage 10 of the flow. Where things lie in a file:
//!
//! | format | our JSON ([`EmbeddedRequest`]) | A1111's text ([`EmbeddedRequest::infotext`]) |
//! |---|---|---|
//! | PNG | `iTXt`, keyword `unwrong` | `tEXt` where Latin-1 holds it, else `iTXt`; keyword `parameters` |
//! | WebP | XMP, property `unwrong:request` | EXIF, `UserComment` in UTF-16 |
//! | JPEG | XMP, property `unwrong:request` | EXIF, `UserComment` in UTF-16, if it fits into 64 kB |
//!
//! XMP rather than a second EXIF field, because EXIF has no field for private text that
//! galleries do not show as a caption. The XMP is plain ASCII.

mod embedded;
mod exif;
mod file;
mod format;
mod infotext;
mod jpeg;
mod metadata;
mod pixels;
mod png;
mod webp;
mod xmp;

use std::path::Path;

use crate::error::Result;

pub use embedded::{EmbeddedLora, EmbeddedModels, EmbeddedRequest, EmbeddedWord, ModelId};
pub use file::{file_to_write, write_atomically, write_piece_by_piece};
pub use format::{Format, Quality};
pub use metadata::{Metadata, read_metadata};
pub use pixels::Pixels;

/// Writes a picture; the format follows the name.
///
/// The file appears under its name only when it is complete. One that is there already is
/// replaced only with `force`; missing folders are made.
pub fn write(
    path: &Path,
    pixels: &Pixels,
    embedded: &EmbeddedRequest,
    quality: Quality,
    force: bool,
) -> Result<()> {
    let format = Format::of_path(path)?;
    write_atomically(path, &encode(pixels, embedded, format, quality)?, force)
}

/// The bytes of a picture file. The same picture and request give the same bytes.
pub fn encode(
    pixels: &Pixels,
    embedded: &EmbeddedRequest,
    format: Format,
    quality: Quality,
) -> Result<Vec<u8>> {
    format.check(quality)?;
    let (json, parameters) = (embedded.to_json(), embedded.infotext());
    match format {
        Format::Png => png::encode(pixels, json, parameters),
        Format::Webp => webp::encode(pixels, &json, &parameters, quality),
        Format::Jpeg => jpeg::encode(pixels, &json, &parameters, quality),
    }
}

#[cfg(test)]
mod tests;
