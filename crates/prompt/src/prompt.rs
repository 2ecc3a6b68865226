//! A prompt: the text the user wrote, and its fragments with their weights.

use std::fmt;

use serde::Serialize;

use crate::compel;
use crate::encoder::{CHUNK_TOKENS, Encoder};
use crate::plan::{EncodePlan, LongPrompt, pooled_ids};
use crate::warning::Warning;

/// How weights are written in a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Syntax {
    /// `word++`, `word-`, `(some words)1.3`, as compel reads them.
    #[default]
    Compel,
    /// No weights: every character is text.
    Plain,
}

/// Text that shares one weight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fragment {
    /// The words, without the syntax around them.
    pub text: String,
    /// 1 is neutral; see [`EncodePlan`] for what other values do.
    pub weight: f64,
}

/// A parsed prompt.
///
/// Neighbouring fragments have different weights, and there is always one fragment at least.
/// Printing gives text that parses to the same fragments.
#[derive(Clone, Debug)]
pub struct Prompt {
    source: String,
    syntax: Syntax,
    fragments: Vec<Fragment>,
}

impl Prompt {
    /// Reads `text`. There is no wrong prompt: what is not syntax is text, and where that is
    /// likely to surprise, a warning says so.
    #[must_use]
    pub fn parse(text: &str, syntax: Syntax) -> (Self, Vec<Warning>) {
        let (fragments, warnings) = match syntax {
            Syntax::Compel => compel::parse(text),
            Syntax::Plain => (vec![Fragment { text: text.to_owned(), weight: 1.0 }], Vec::new()),
        };
        (Self { source: text.to_owned(), syntax, fragments }, warnings)
    }

    /// What the user wrote.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The weighted pieces, in order.
    #[must_use]
    pub fn fragments(&self) -> &[Fragment] {
        &self.fragments
    }

    /// What to run through `encoder` for the per-token features of this prompt.
    #[must_use]
    pub fn plan(&self, encoder: Encoder, long_prompt: LongPrompt) -> EncodePlan {
        EncodePlan::new(&self.fragments, encoder, long_prompt)
    }

    /// What to run through the second encoder for the pooled features: the source as written,
    /// syntax and all, cut after 75 tokens. That is what compel does.
    #[must_use]
    pub fn pooled_ids(&self) -> [u32; CHUNK_TOKENS] {
        pooled_ids(&self.source)
    }
}

/// Two prompts are equal when they say the same, however it was written.
impl PartialEq for Prompt {
    fn eq(&self, other: &Self) -> bool {
        self.syntax == other.syntax && self.fragments == other.fragments
    }
}

impl fmt::Display for Prompt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.syntax == Syntax::Compel {
            let tidy = compel::print(&self.fragments);
            if compel::parse(&tidy).0 == self.fragments {
                return formatter.write_str(&tidy);
            }
        }
        // Compel has no escape for every text: `a (b++` is text only as long as the bracket
        // stays open. The source always says what it said.
        formatter.write_str(&self.source)
    }
}
