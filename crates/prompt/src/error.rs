//! What can be wrong with the lists, wildcards and added words of a prompt.

use std::fmt;

use crate::warning::excerpt;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where something stands in a prompt or in a wildcard's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The wildcard's name and the line in its file, from 1; `None` in the prompt itself.
    pub wildcard: Option<(String, usize)>,
    /// The character in the prompt or line, from 1.
    pub character: usize,
    /// The text from there on, shortened.
    pub text: String,
}

impl Place {
    /// Byte `at` of `text`.
    pub(crate) fn new(wildcard: Option<(&str, usize)>, text: &str, at: usize) -> Self {
        Self {
            wildcard: wildcard.map(|(name, line)| (name.to_owned(), line)),
            character: text[..at].chars().count() + 1,
            text: excerpt(&text[at..]),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{}` at character {}", self.text, self.character)?;
        match &self.wildcard {
            Some((name, line)) => write!(formatter, " of line {line} of wildcard `{name}`"),
            None => write!(formatter, " of the prompt"),
        }
    }
}

/// What can be wrong with the lists, wildcards and added words of a prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A `{` without its `}`.
    #[error("the list {place} has no `}}`")]
    ListNotClosed {
        /// The `{`.
        place: Place,
    },

    /// A word for a textual inversion that no text could hold, or every text would.
    #[error("the word `{word}` {problem}")]
    AddedWord {
        /// The word.
        word: String,
        /// What is wrong with it, with its verb.
        problem: &'static str,
    },

    /// Two words for textual inversions that are one, as case does not count.
    #[error("the words `{word}` and `{other}` are the same word")]
    AddedTwice {
        /// The second.
        word: String,
        /// The first.
        other: String,
    },

    /// A weight that is no number from 0 to a million.
    #[error("the weight {place} is not 0 to 1000000")]
    ListWeight {
        /// The weight.
        place: Place,
    },

    /// All weights are 0, so nothing could be drawn.
    #[error("all weights are 0 in the list {place}")]
    NothingToDraw {
        /// The `{`.
        place: Place,
    },

    /// Notation of sd-dynamic-prompts that is not read here.
    #[error("{place}: {meaning} not supported")]
    NotSupported {
        /// Where it starts.
        place: Place,
        /// What it means where it is known, with its verb.
        meaning: &'static str,
        /// What to write instead.
        instead: &'static str,
    },

    /// `__name__` for which there is no file.
    #[error("{place}: there is no wildcard `{}`", excerpt(name))]
    UnknownWildcard {
        /// The first `_`.
        place: Place,
        /// The name.
        name: String,
        /// Some of the names there are.
        known: Vec<String>,
    },

    /// A wildcard whose file has no entry.
    #[error("{place}: wildcard `{name}` has no entries")]
    EmptyWildcard {
        /// The first `_`.
        place: Place,
        /// The name.
        name: String,
    },

    /// A wildcard that cannot be read.
    #[error("wildcard `{name}` cannot be read: {problem}")]
    WildcardNotRead {
        /// The name.
        name: String,
        /// Why not.
        problem: String,
    },

    /// A wildcard that leads back to itself.
    #[error("wildcard `{}` contains itself: {}", names[0], names.join(" → "))]
    WildcardCycle {
        /// The way round, the same name first and last.
        names: Vec<String>,
    },

    /// More entries than fit into memory without harm.
    #[error("the wildcards of the prompt have more than {limit} entries together")]
    TooManyEntries {
        /// The most accepted.
        limit: usize,
    },

    /// The drawn prompt would be too long.
    #[error("the drawn prompt has more than {limit} characters")]
    DrawnTooLong {
        /// The most accepted.
        limit: usize,
    },

    /// Lists in lists make more choices than any prompt needs.
    #[error("the lists of the prompt take more than {limit} choices")]
    TooManyChoices {
        /// The most accepted.
        limit: usize,
    },
}

impl Error {
    /// One sentence on what to do next.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::AddedWord { .. } => {
                "make a word of letters, digits, `<`, `>`, `-` and `_`".into()
            }
            Self::AddedTwice { .. } => "give one of the files another word".into(),
            Self::ListNotClosed { .. } => {
                "close it with `}`, or write `\\{` for the character".into()
            }
            Self::ListWeight { .. } => "write a weight as in `{3::often|0.5::rarely}`".into(),
            Self::NothingToDraw { .. } => "give one option a weight above 0".into(),
            Self::NotSupported { instead, .. } => (*instead).to_owned(),
            Self::UnknownWildcard { name, known, .. } if known.is_empty() => {
                let name = excerpt(name);
                format!(
                    "name a folder with a file `{name}.txt`, or write `\\__` for the characters"
                )
            }
            Self::UnknownWildcard { known, .. } => {
                format!("there are `{}`; write `\\__` for the characters", known.join("`, `"))
            }
            Self::EmptyWildcard { .. } => {
                "write one entry a line; lines with `#` in front are skipped".into()
            }
            Self::WildcardNotRead { .. } => {
                "a wildcard is a text file in UTF-8 with one entry a line".into()
            }
            Self::WildcardCycle { .. } => {
                "take one of these wildcards out of the other's file".into()
            }
            Self::TooManyEntries { .. } => "name fewer wildcards, or smaller ones".into(),
            Self::DrawnTooLong { .. } | Self::TooManyChoices { .. } => {
                "draw fewer options, or nest fewer wildcards".into()
            }
        }
    }
}
