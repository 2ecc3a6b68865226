//! What a file is, told from its first bytes: safetensors, or something else.
//!
//! The commonest reports about loaders are a pickle, a download page or a pointer under a
//! `.safetensors` name, each with the message "header too large".

use std::fmt;

/// A file that is something other than safetensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Foreign {
    /// Nothing at all.
    Empty,
    /// Fewer than the eight bytes of the header length.
    TooShort,
    /// A zip, as `torch.save` has written since 2020.
    TorchZip,
    /// A bare pickle, as `torch.save` wrote before.
    Pickle,
    /// A web page, usually of a download that needed a login.
    Html,
    /// The text that stands for a file in a git repository without git-lfs.
    GitLfsPointer,
    /// llama.cpp's format.
    Gguf,
    /// A picture.
    Picture,
    /// JSON text, usually the error message of a server.
    Json,
    /// Something else.
    Unknown,
}

impl Foreign {
    /// Looks at the first bytes; `None` if nothing speaks against safetensors.
    #[must_use]
    pub fn recognise(bytes: &[u8]) -> Option<Self> {
        let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes).trim_ascii_start();
        let starts = |magic: &[u8]| bytes.starts_with(magic);
        Some(match bytes {
            [] => Self::Empty,
            _ if starts(b"PK\x03\x04") || starts(b"PK\x05\x06") => Self::TorchZip,
            _ if starts(b"GGUF") => Self::Gguf,
            _ if starts(b"\x89PNG") || starts(b"\xFF\xD8\xFF") || is_webp(bytes) => Self::Picture,
            _ if text.starts_with(b"version https://git-lfs") => Self::GitLfsPointer,
            _ if is_markup(text) => Self::Html,
            // A true header never begins like this: its length would be astronomical.
            _ if text.starts_with(b"{") && !has_header(bytes) => Self::Json,
            [0x80, 2..=5, ..] if !has_header(bytes) => Self::Pickle,
            _ if bytes.len() < 8 => Self::TooShort,
            _ => return None,
        })
    }

    /// The way out, where there is one.
    #[must_use]
    pub fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::Empty | Self::TooShort | Self::Html | Self::Json => {
                "download the file again; a private or licensed file needs a login"
            }
            Self::GitLfsPointer => {
                "run `git lfs pull` in its repository, or download the file itself"
            }
            Self::Gguf => "use the original .safetensors file; quantised files are not read",
            Self::TorchZip | Self::Pickle | Self::Picture | Self::Unknown => return None,
        })
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::TooShort => "shorter than the 8 bytes every such file begins with",
            Self::TorchZip => "a torch zip (a pickle, as `torch.save` writes .bin, .pt and .ckpt)",
            Self::Pickle => "a Python pickle (as old `torch.save` wrote .bin, .pt and .ckpt)",
            Self::Html => "an HTML page",
            Self::GitLfsPointer => "a git-lfs pointer (a short text that stands for the file)",
            Self::Gguf => "a GGUF file",
            Self::Picture => "a picture",
            Self::Json => "JSON text",
            Self::Unknown => "something else",
        })
    }
}

/// Whether the ninth byte opens a header and the eight before it are a possible length.
fn has_header(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{') && bytes[5..8] == [0, 0, 0]
}

fn is_markup(text: &[u8]) -> bool {
    let start: Vec<u8> = text.iter().take(9).map(u8::to_ascii_lowercase).collect();
    start.starts_with(b"<!doctype") || start.starts_with(b"<html") || start.starts_with(b"<?xml")
}

fn is_webp(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_impostor_is_named() {
        let cases: [(&[u8], Foreign); 11] = [
            (b"", Foreign::Empty),
            (b"abc", Foreign::TooShort),
            (b"PK\x03\x04\x00\x00\x00\x00\x00\x00", Foreign::TorchZip),
            (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j", Foreign::Pickle),
            (b"\n<!DOCTYPE html><html>", Foreign::Html),
            (b"<HTML><body>", Foreign::Html),
            (b"version https://git-lfs.github.com/spec/v1\noid", Foreign::GitLfsPointer),
            (b"GGUF\x03\x00\x00\x00\x00", Foreign::Gguf),
            (b"\x89PNG\r\n\x1a\n\x00\x00", Foreign::Picture),
            (b"{\"error\":\"Repository not found\"}", Foreign::Json),
            (b"RIFF\x00\x00\x00\x00WEBPVP8 ", Foreign::Picture),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Foreign::recognise(bytes), Some(expected), "{bytes:?}");
        }
    }

    #[test]
    fn a_header_of_123_or_640_bytes_is_no_json_and_no_pickle() {
        assert_eq!(Foreign::recognise(b"{\0\0\0\0\0\0\0{\"a\""), None);
        assert_eq!(Foreign::recognise(b"\x80\x02\0\0\0\0\0\0{\"a\""), None);
    }
}
