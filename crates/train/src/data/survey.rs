//! What one file of a folder is.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use unwrong::request::Size;

use super::decode::{self, Picture};
use super::listing::has_picture_ending;

/// Bytes of a picture file at most.
const MAX_BYTES: u64 = 512 << 20;
/// Bytes from which on files are read one at a time: decoded, they may take a gigabyte each.
const LARGE: u64 = 16 << 20;

/// What one file of a folder is.
pub(super) enum Survey {
    /// Nothing that wants to be a picture: a caption, a list, anything.
    Other,
    /// Something that wants to be one and cannot be used; why, in words that follow "it".
    Unusable(String),
    /// A picture that was decoded to its end.
    Picture(Seen),
}

/// A picture that was decoded to its end.
pub(super) struct Seen {
    /// SHA-256 of the file, in hexadecimal.
    pub(super) sha256: String,
    /// Upright.
    pub(super) size: Size,
    pub(super) is_animated: bool,
    pub(super) is_transparent: bool,
}

impl Survey {
    /// Looks at a file: its first bytes, and all of it where these or its name say picture.
    ///
    /// `large` lets one large file in at a time.
    pub(super) fn of(path: &Path, background: [u8; 3], large: &Mutex<()>) -> Self {
        let is_named = has_picture_ending(path);
        match fs::metadata(path) {
            // Opening a pipe would wait for whoever writes into it.
            Ok(metadata) if !metadata.is_file() && is_named => {
                Self::Unusable("is no regular file".to_owned())
            }
            Ok(metadata) if !metadata.is_file() => Self::Other,
            Ok(metadata) if is_named || is_picture(path) => {
                let bytes = metadata.len();
                let _one =
                    (bytes > LARGE).then(|| large.lock().unwrap_or_else(PoisonError::into_inner));
                Seen::of(path, bytes, background).map_or_else(Self::Unusable, Self::Picture)
            }
            Err(error) if is_named => Self::Unusable(match error.kind() {
                ErrorKind::NotFound => "is a link to nothing".to_owned(),
                _ => format!("cannot be read: {error}"),
            }),
            Ok(_) | Err(_) => Self::Other,
        }
    }
}

impl Seen {
    fn of(path: &Path, bytes: u64, background: [u8; 3]) -> Result<Self, String> {
        if bytes > MAX_BYTES {
            let limit = MAX_BYTES >> 20;
            return Err(format!("has {} MiB, expected at most {limit}", bytes >> 20));
        }
        let bytes = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
        let picture = Picture::decode(&bytes, background)?;
        Ok(Self {
            sha256: sha256(&bytes),
            size: picture.size(),
            is_animated: picture.is_animated,
            is_transparent: picture.is_transparent,
        })
    }
}

/// SHA-256 in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Whether the first bytes are those of a picture that is read here.
fn is_picture(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(16).read_to_end(&mut start));
    read.is_ok() && decode::format(&start).is_some()
}
