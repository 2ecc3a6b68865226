//! A prompt: the text the user wrote, and its fragments with their weights.

use std::fmt;

use serde::Serialize;

use crate::a1111::{self, Emphasis};
use crate::added::Language;
use crate::comfy;
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
    /// `(word)`, `(some words:1.3)`, `[word]` and `BREAK`, as A1111 reads them. What stands
    /// above weights there, schedules, `AND` and LoRAs, is read by [`crate::Script`].
    A1111 {
        /// What the weights do.
        emphasis: Emphasis,
    },
    /// `(word)` and `(some words:1.3)`, as ComfyUI reads them.
    Comfy,
}

/// Above this, features overflow; compel fails or computes with infinities.
pub(crate) const WEIGHT_LIMIT: f64 = 1e6;

/// Text that shares one weight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fragment {
    /// The words, without the syntax around them. In ComfyUI's syntax, a text that begins with
    /// `embedding:` is the added word of that name.
    pub text: String,
    /// 1 is neutral; see [`EncodePlan`] for what other values do. In A1111's syntax, the text
    /// `BREAK` with weight −1 ends a chunk.
    pub weight: f64,
}

/// A parsed prompt, which is joined with no other; [`crate::Conjunction`] reads whole texts.
///
/// Neighbouring fragments have different weights, unless a swap stands between them, and except in
/// ComfyUI's syntax, which cuts chunks between them. There is always one fragment at least.
/// Printing gives text that parses to the same fragments.
#[derive(Clone, Debug)]
pub struct Prompt {
    source: String,
    language: Language,
    fragments: Vec<Fragment>,
    edited: Option<Vec<Fragment>>,
}

impl Prompt {
    /// Reads `text`. There is no wrong prompt: what is not syntax is text, and where that is
    /// likely to surprise, a warning says so.
    #[must_use]
    pub fn parse(text: &str, language: impl Into<Language>) -> (Self, Vec<Warning>) {
        let language = language.into();
        let (fragments, warnings) = match language.syntax {
            Syntax::Compel => {
                let (read, warnings) = compel::parse_prompt(text);
                return (Self { language, ..Self::new(text, read) }, warnings);
            }
            Syntax::Plain | Syntax::A1111 { emphasis: Emphasis::Literal } => {
                (vec![Fragment { text: text.to_owned(), weight: 1.0 }], Vec::new())
            }
            Syntax::A1111 { .. } => a1111::parse(text),
            Syntax::Comfy => comfy::parse(text, &language.added),
        };
        (Self { source: text.to_owned(), language, fragments, edited: None }, warnings)
    }

    /// In compel's syntax, without added words.
    pub(crate) fn new(source: &str, read: compel::ReadPrompt) -> Self {
        let compel::ReadPrompt { fragments, edited } = read;
        let language = Language::from(Syntax::Compel);
        Self { source: source.to_owned(), language, fragments, edited }
    }

    /// The same words, read in another language of the same syntax.
    pub(crate) fn set_language(&mut self, language: &Language) {
        self.language = language.clone();
    }

    /// What the user wrote; of a prompt that was joined with others, its own piece of that.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The weighted pieces, in order.
    #[must_use]
    pub fn fragments(&self) -> &[Fragment] {
        &self.fragments
    }

    /// The same with what `.swap()` puts in; absent where nothing is swapped.
    ///
    /// It is never drawn. As in compel 2.5.1 (`compel.py`,
    /// `_get_conditioning_for_cross_attention_control`), a prompt is as many chunks long as the
    /// longer of the two.
    #[must_use]
    pub fn edited(&self) -> Option<&[Fragment]> {
        self.edited.as_deref()
    }

    /// What to run through `encoder` for the per-token features of this prompt.
    #[must_use]
    pub fn plan(&self, encoder: Encoder, long_prompt: LongPrompt) -> EncodePlan {
        let plan = |fragments| EncodePlan::new(fragments, &self.language, encoder, long_prompt);
        let mut own = plan(&self.fragments);
        if let Some(edited) = &self.edited {
            own.pad_to(plan(edited).chunks.len());
        }
        own
    }

    /// What to run through the second encoder for the pooled features, which have no weights.
    ///
    /// For compel and plain prompts, the source as written, syntax and all, cut after 75
    /// tokens; that is what compel does. For A1111 and ComfyUI, the first chunk.
    #[must_use]
    pub fn pooled_ids(&self) -> [u32; CHUNK_TOKENS] {
        match self.language.syntax {
            Syntax::Compel | Syntax::Plain => pooled_ids(&self.source, &self.language.added),
            Syntax::A1111 { .. } | Syntax::Comfy => {
                self.plan(Encoder::BigG, LongPrompt::Pad).chunks[0].ids
            }
        }
    }
}

/// Two prompts are equal when they say the same, however it was written.
impl PartialEq for Prompt {
    fn eq(&self, other: &Self) -> bool {
        self.language == other.language
            && self.fragments == other.fragments
            && self.edited == other.edited
    }
}

impl fmt::Display for Prompt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.language.syntax == Syntax::Compel && self.edited.is_none() {
            let tidy = compel::print(&self.fragments);
            if Self::parse(&tidy, self.language.clone()).0 == *self {
                return formatter.write_str(&tidy);
            }
        }
        // Compel has no escape for every text: `a (b++` is text only as long as the bracket
        // stays open. The source always says what it said.
        formatter.write_str(&self.source)
    }
}
