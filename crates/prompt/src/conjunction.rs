//! What compel makes of a whole text: prompts that `.and()` puts one after the other and
//! `.blend()` mixes.
//!
//! Stage 2 of the flow, above [`Prompt`]. The data model is that of compel 2.5.1,
//! `prompt_parser.py`: `Conjunction`, `Blend`, `FlattenedPrompt`, `LoraWeight`. Its grammar
//! nests neither operator in the other; the types would hold a conjunction of blends.

use std::fmt;

use serde::Serialize;

use crate::added::Language;
use crate::compel;
use crate::conjunction_plan::ConjunctionPlan;
use crate::encoder::{CHUNK_TOKENS, Encoder};
use crate::plan::{LongPrompt, pooled_ids};
use crate::prompt::{Prompt, Syntax};
use crate::warning::Warning;

/// A text with all its prompts, as one request has it.
///
/// `("a cat", "an oil painting").and(1, 0.5)` has two parts of one prompt each,
/// `("a cat", "a dog").blend(0.7, 0.3)` has one part of two prompts, and any other text is one
/// prompt. There is always one prompt at least. Printing gives text that parses to the same.
///
/// ```
/// use unwrong_prompt::{Conjunction, Encoder, LongPrompt, Syntax};
///
/// let (text, warnings) = Conjunction::parse("(\"a cat\", \"a dog\").and()", Syntax::Compel);
/// assert!(warnings.is_empty());
/// assert_eq!(text.plan(Encoder::BigG, LongPrompt::Pad).chunks(), 2);
/// ```
#[derive(Clone, Debug)]
pub struct Conjunction {
    source: String,
    language: Language,
    parts: Vec<Part>,
    loras: Vec<LoraWeight>,
}

/// One part of a conjunction.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What it says.
    pub blend: Blend,
    /// How strongly it says it; 1 is neutral. See [`ConjunctionPlan`] for the formula.
    pub weight: f64,
}

/// Prompts whose features are mixed.
#[derive(Clone, Debug, PartialEq)]
pub struct Blend {
    /// One at least.
    pub prompts: Vec<Blended>,
    /// Whether the weights are divided by their sum; `no_normalize` turns it off.
    pub normalize: bool,
}

/// One prompt of a blend.
#[derive(Clone, Debug, PartialEq)]
pub struct Blended {
    /// What it says.
    pub prompt: Prompt,
    /// As it was written.
    pub weight: f64,
}

/// A network that a text asks for with `withLora(name, weight)` or `useLora(name)`.
///
/// It is no part of the prompt and, as in compel, nothing here loads it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoraWeight {
    /// Letters, digits, `_` and `-`.
    pub name: String,
    /// 1 where none was written.
    pub weight: f64,
}

impl Conjunction {
    /// Reads `text`. As with [`Prompt::parse`], there is no wrong text: what cannot be joined
    /// stays text, and a warning says why.
    #[must_use]
    pub fn parse(text: &str, language: impl Into<Language>) -> (Self, Vec<Warning>) {
        let language = language.into();
        let (reading, warnings) = if language.syntax == Syntax::Compel {
            compel::parse_conjunction(text)
        } else {
            let (prompt, warnings) = Prompt::parse(text, language.clone());
            (compel::Reading::one(prompt), warnings)
        };
        let compel::Reading { mut parts, loras } = reading;
        for blended in parts.iter_mut().flat_map(|part| &mut part.blend.prompts) {
            blended.prompt.set_language(&language);
        }
        (Self { source: text.to_owned(), language, parts, loras }, warnings)
    }

    /// What the user wrote.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The parts, in order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Every prompt of every part, in order.
    pub fn prompts(&self) -> impl Iterator<Item = &Prompt> {
        self.parts.iter().flat_map(|part| &part.blend.prompts).map(|blended| &blended.prompt)
    }

    /// The networks that were asked for, wherever they stood.
    #[must_use]
    pub fn loras(&self) -> &[LoraWeight] {
        &self.loras
    }

    /// What to run through `encoder` for the per-token features, and how to join the results.
    #[must_use]
    pub fn plan(&self, encoder: Encoder, long_prompt: LongPrompt) -> ConjunctionPlan {
        ConjunctionPlan::new(&self.parts, encoder, long_prompt)
    }

    /// What to run through the second encoder for the pooled features: for compel and plain texts
    /// the whole source as written, syntax and all, cut after 75 tokens; else the first chunk.
    ///
    /// Compel 2.5.1, `compel.py`, `build_conditioning_tensor`: `get_pooled_embeddings([text])`.
    /// (It fails for a weighted `.and()` before it gets there; this is what it would give.)
    #[must_use]
    pub fn pooled_ids(&self) -> [u32; CHUNK_TOKENS] {
        match (self.language.syntax, self.prompts().next()) {
            (Syntax::A1111 { .. } | Syntax::Comfy, Some(prompt)) => prompt.pooled_ids(),
            _ => pooled_ids(&self.source, &self.language.added),
        }
    }
}

impl Part {
    /// A prompt by itself.
    pub(crate) fn one(prompt: Prompt, weight: f64) -> Self {
        let prompts = vec![Blended { prompt, weight: 1.0 }];
        Self { blend: Blend { prompts, normalize: true }, weight }
    }
}

impl Blend {
    /// What each prompt's features are multiplied with before they are added up.
    #[must_use]
    pub fn shares(&self) -> Vec<f64> {
        let sum: f64 = self.prompts.iter().map(|blended| blended.weight).sum();
        let whole = if self.normalize { sum } else { 1.0 };
        self.prompts.iter().map(|blended| blended.weight / whole).collect()
    }
}

/// Two texts are equal when they say the same, however it was written.
impl PartialEq for Conjunction {
    fn eq(&self, other: &Self) -> bool {
        self.language == other.language && self.parts == other.parts && self.loras == other.loras
    }
}

impl fmt::Display for Conjunction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let swaps = self.prompts().any(|prompt| prompt.edited().is_some());
        // Swaps and networks are printed as they were written, with options and places.
        if self.language.syntax == Syntax::Compel && !swaps && self.loras.is_empty() {
            let tidy = compel::print_conjunction(&self.parts);
            if Self::parse(&tidy, self.language.clone()).0.parts == self.parts {
                return formatter.write_str(&tidy);
            }
        }
        formatter.write_str(&self.source)
    }
}
