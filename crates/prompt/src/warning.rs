//! What a reader of prompts may have meant otherwise than it was read.

use std::fmt;

use crate::conjunction::LoraWeight;

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
    /// `.and(…)` or `.blend(…)` that joins nothing; the model sees it as words.
    NotJoined {
        /// The operator.
        found: String,
        /// What it lacks.
        reason: String,
    },
    /// Something that was understood and that the model does not see.
    LeftOut {
        /// What was written.
        found: String,
        /// Why, and the way out.
        reason: &'static str,
    },
    /// A weight too large to compute with, up or down, was made smaller.
    WeightLimited {
        /// The words that have this weight.
        text: String,
    },
    /// A weight that nothing can be computed with: `nan`, which a program reads as a number.
    WeightNoNumber {
        /// The words that have this weight.
        text: String,
    },
    /// A bracket without its partner.
    Unbalanced {
        /// The text from it on, or up to it.
        found: String,
        /// What comes of it.
        effect: &'static str,
    },
    /// Something that looks like syntax but stays text.
    Unread {
        /// What was written.
        found: String,
        /// Why it could not be read.
        reason: &'static str,
    },
    /// Something of which a part has no effect.
    ReadInPart {
        /// What was written.
        found: String,
        /// The parts.
        parts: String,
    },
    /// A schedule whose switch lies before the first step or after the last.
    NeverSwitches {
        /// What was written.
        found: String,
        /// How many steps there are.
        steps: usize,
    },
    /// A number at the end of a prompt that is read as the weight of all of it.
    WeightOfAll {
        /// The end of the prompt, with its colon.
        found: String,
    },
}

/// More than this many warnings of a kind would bury what matters.
pub(crate) const MOST_WARNINGS: usize = 8;

/// Characters of the prompt that a warning shows at most.
const MOST_CHARACTERS: usize = 60;

/// Puts `new` behind `all`, each once and not too many of a kind.
pub(crate) fn add(all: &mut Vec<Warning>, new: Vec<Warning>) {
    for warning in new {
        let kind = std::mem::discriminant(&warning);
        let alike = all.iter().filter(|own| std::mem::discriminant(*own) == kind);
        if alike.count() < MOST_WARNINGS && !all.contains(&warning) {
            all.push(warning);
        }
    }
}

/// How a list is named in a warning.
pub(crate) const LIST: &str = "{…|…}";

/// The start of `text`, for a warning.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Warning {
    /// Whether it is about a list, `{a|b}`, that stays text.
    ///
    /// Where lists are drawn there is none left but those that were escaped, so this says nothing.
    #[must_use]
    pub fn is_about_list(&self) -> bool {
        matches!(self, Self::KeptAsText { found, .. } if found == LIST)
    }

    pub(crate) fn not_joined(operator: &str, reason: &str) -> Self {
        Self::NotJoined { found: format!("{operator}(…)"), reason: reason.to_owned() }
    }

    /// What it is about, as it was written.
    pub(crate) fn found(&self) -> Option<&str> {
        match self {
            Self::KeptAsText { found, .. }
            | Self::NotJoined { found, .. }
            | Self::LeftOut { found, .. }
            | Self::NotApplied { found }
            | Self::Unbalanced { found, .. }
            | Self::Unread { found, .. }
            | Self::ReadInPart { found, .. }
            | Self::NeverSwitches { found, .. }
            | Self::WeightOfAll { found } => Some(found),
            Self::WeightLimited { .. } | Self::WeightNoNumber { .. } => None,
        }
    }

    pub(crate) fn after_and(found: String) -> Self {
        let reason = "what follows `.and(…)` is not read; write it into one of its prompts";
        Self::LeftOut { found, reason }
    }

    pub(crate) fn swap() -> Self {
        let reason = "the words before it are drawn, and no attention is edited";
        Self::LeftOut { found: ".swap(…)".to_owned(), reason }
    }

    pub(crate) fn lora(lora: &LoraWeight) -> Self {
        let reason = "a prompt loads no LoRA file; name the file beside the prompt";
        Self::LeftOut {
            found: format!("withLora({}, {})", excerpt(&lora.name), lora.weight),
            reason,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeptAsText { found, meaning } => {
                write!(formatter, "`{found}` stays text ({meaning})")
            }
            Self::NotJoined { found, reason } => {
                write!(formatter, "`{found}` stays text: {reason}")
            }
            Self::LeftOut { found, reason } => {
                write!(formatter, "`{found}` is left out: {reason}")
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
                    "the weight of `{text}` is beyond 1000000, up or down, so that limit is used"
                )
            }
            Self::WeightNoNumber { text } => {
                write!(formatter, "the weight of `{text}` is `nan`, which is no number, so it is 1")
            }
            Self::Unbalanced { found, effect } => write!(formatter, "`{found}` {effect}"),
            Self::Unread { found, reason } => write!(formatter, "`{found}` stays text: {reason}"),
            Self::ReadInPart { found, parts } => {
                write!(formatter, "in `{found}` nothing is done with {parts}")
            }
            Self::NeverSwitches { found, steps } => {
                write!(formatter, "`{found}` does not switch between step 1 and step {steps}")
            }
            Self::WeightOfAll { found } => {
                write!(
                    formatter,
                    "`{found}` at the end is the weight of the whole prompt; write `{found}.` to keep it as text"
                )
            }
        }
    }
}
