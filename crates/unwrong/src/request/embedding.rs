//! A textual inversion as the user names it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Endings of files, which are no words.
const ENDINGS: [&str; 3] = [".safetensors", ".pt", ".bin"];

/// A textual inversion and the word that stands for it; `PATH[:WORD]` on the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingRequest {
    /// Path of a file with `clip_l` and `clip_g`.
    pub path: String,
    /// What prompts say for it; absent means the file's name without its ending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub word: Option<String>,
}

impl EmbeddingRequest {
    /// What prompts say for it.
    #[must_use]
    pub fn word(&self) -> String {
        let stem = || Path::new(&self.path).file_stem().unwrap_or_default();
        self.word.clone().unwrap_or_else(|| stem().to_string_lossy().into_owned())
    }
}

impl FromStr for EmbeddingRequest {
    type Err = Error;

    /// What follows the last colon is the word, unless it is part of a path: so `C:\wrong` and
    /// `style:v2.safetensors` are paths.
    fn from_str(text: &str) -> Result<Self> {
        let is_path = |text: &str| {
            let lower = text.to_ascii_lowercase();
            text.contains(['/', '\\']) || ENDINGS.iter().any(|ending| lower.ends_with(ending))
        };
        let (path, word) = match text.rsplit_once(':') {
            Some((path, word)) if !is_path(word) => (path, Some(word.to_owned())),
            _ => (text, None),
        };
        if path.is_empty() {
            return Err(Error::Malformed {
                value: text.to_owned(),
                expected: "a textual inversion such as `style.safetensors` or \
                           `style.safetensors:<style>`",
            });
        }
        Ok(Self { path: path.to_owned(), word })
    }
}

impl fmt::Display for EmbeddingRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path, self.word())
    }
}
