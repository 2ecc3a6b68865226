//! What a reader of prompts may have meant otherwise than it was read.

use std::fmt;

/// Something in a prompt that stayed text, or changed, in a way that may surprise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// Syntax that is known but not applied; the model sees it as words.
    KeptAsText {
        /// What was written.
        found: String,
        /// What it means where it is known.
        meaning: &'static str,
    },
    /// A bracket, quote or weight that the syntax could not take, so the model sees it.
    NotApplied {
        /// The word that holds it.
        found: String,
    },
    /// A weight too large to compute with was made smaller.
    WeightLimited {
        /// The words that have this weight.
        text: String,
    },
}

/// Characters of the prompt that a warning shows at most.
const MOST_CHARACTERS: usize = 60;

/// The start of `text`, for a warning.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeptAsText { found, meaning } => {
                write!(formatter, "`{found}` ({meaning}) is not supported and stays text")
            }
            Self::NotApplied { found } => {
                write!(
                    formatter,
                    "`{found}` stays text: its brackets, quotes or weight signs do not form a weight"
                )
            }
            Self::WeightLimited { text } => {
                write!(
                    formatter,
                    "the weight of `{text}` is above the limit of 1000000, which is used"
                )
            }
        }
    }
}
