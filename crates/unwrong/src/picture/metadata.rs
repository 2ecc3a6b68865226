//! What pictures carry beside their pixels: ours, and other programs'.
//!
//! A picture may come from anywhere. Nothing in it is believed: every length is checked
//! against what is there, and nothing is inflated beyond [`MAX_TEXT`].

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde::Serialize;

use super::{EmbeddedRequest, jpeg, png, webp};
use crate::error::{Error, Result};

/// Largest picture file that is read.
const MAX_FILE: u64 = 256 << 20;
/// Longest text that is taken from a picture.
pub(super) const MAX_TEXT: usize = 4 << 20;
/// Most texts that are taken from a picture.
const MAX_TEXTS: usize = 64;

/// What a picture carries.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Metadata {
    /// The request that makes it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<EmbeddedRequest>,
    /// Why there is no request, although there is something like one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The text that A1111 and many others write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<String>,
    /// All other texts, by keyword, such as ComfyUI's `workflow`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<(String, String)>,
}

impl Metadata {
    /// The request, or why there is none; `path` is for the message.
    pub fn into_request(self, path: &Path) -> Result<EmbeddedRequest> {
        let (path, has_texts) = (path.to_owned(), self.has_texts());
        match (self.request, self.problem) {
            (Some(request), _) => Ok(request),
            (None, Some(problem)) => Err(Error::NotAPicture { path, problem }),
            (None, None) => Err(Error::NoRequestInPicture { path, has_texts }),
        }
    }

    /// Whether there are texts of other programs.
    #[must_use]
    pub fn has_texts(&self) -> bool {
        self.parameters.is_some() || !self.texts.is_empty()
    }
}

/// Reads what a PNG, WebP or JPEG file carries; the contents say which it is, not the name.
///
/// A file that breaks off in the middle gives what was found up to there.
pub fn read_metadata(path: &Path) -> Result<Metadata> {
    let cannot = Error::reading(path, "a picture");
    let refuse = |problem: String| Error::NotAPicture { path: path.to_owned(), problem };
    // Asked before opening: opening a named pipe would wait for a writer.
    let about = std::fs::metadata(path).map_err(&cannot)?;
    if about.is_dir() {
        return Err(refuse("it is a folder".to_owned()));
    }
    if !about.is_file() {
        return Err(refuse("it is a device or a pipe".to_owned()));
    }
    let file = File::open(path).map_err(&cannot)?;
    if about.len() > MAX_FILE {
        return Err(refuse(format!("it has {} bytes, more than {MAX_FILE}", about.len())));
    }
    let mut bytes = vec![];
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(&cannot)?;
    parse(&bytes).ok_or_else(|| refuse("it is neither PNG, WebP nor JPEG".to_owned()))
}

/// What the bytes of a picture file carry; none if they are no picture file.
pub(super) fn parse(bytes: &[u8]) -> Option<Metadata> {
    let mut found = Found::default();
    if png::is_png(bytes) {
        png::read(bytes, &mut found);
    } else if webp::is_webp(bytes) {
        webp::read(bytes, &mut found);
    } else if jpeg::is_jpeg(bytes) {
        jpeg::read(bytes, &mut found);
    } else {
        return None;
    }
    Some(found.metadata)
}

/// Collects texts while a file is walked.
#[derive(Default)]
pub(super) struct Found {
    metadata: Metadata,
}

impl Found {
    /// Takes note of a text; the first of its kind counts.
    pub(super) fn text(&mut self, keyword: &str, text: String) {
        let metadata = &mut self.metadata;
        if text.len() > MAX_TEXT {
            return;
        }
        match keyword {
            png::REQUEST if metadata.request.is_none() => match EmbeddedRequest::from_json(&text) {
                Ok(request) => metadata.request = Some(request),
                Err(problem) => metadata.problem = Some(problem),
            },
            png::PARAMETERS if metadata.parameters.is_none() => metadata.parameters = Some(text),
            png::REQUEST | png::PARAMETERS => {}
            _ if metadata.texts.len() < MAX_TEXTS => {
                metadata.texts.push((keyword.to_owned(), text));
            }
            _ => {}
        }
    }
}
