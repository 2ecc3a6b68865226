//! What `unwrong tokens --json` shows of a prompt.

use serde::Serialize;

use crate::conjunction::{Conjunction, LoraWeight, Part};
use crate::encoder::Encoder;
use crate::plan::LongPrompt;
use crate::prompt::{Fragment, Prompt};
use crate::warning::Warning;

/// Fragments, token ids and warnings of one text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// The weighted pieces, of all prompts one after the other.
    pub fragments: Vec<Fragment>,
    /// What `.and()` and `.blend()` join; empty where they join nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartDescription>,
    /// Networks that were asked for and that the text does not load.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraWeight>,
    /// The chunks of the first and of the second encoder.
    pub encoders: Vec<EncoderDescription>,
    /// The warnings, as sentences.
    pub warnings: Vec<String>,
}

/// The token ids that one encoder gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EncoderDescription {
    /// 77 ids each.
    pub chunks: Vec<Vec<u32>>,
}

/// One part of a text that `.and()` or `.blend()` joins.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartDescription {
    /// Its weight in `.and()`.
    pub weight: f64,
    /// What is mixed; one prompt where nothing is.
    pub prompts: Vec<PromptDescription>,
}

/// One prompt of a part.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptDescription {
    /// What its features are multiplied with.
    pub share: f64,
    /// The weighted pieces.
    pub fragments: Vec<Fragment>,
}

impl Description {
    /// Describes a whole text as it would be encoded.
    ///
    /// The chunks are those of all prompts, one prompt after the other.
    #[must_use]
    pub fn of(text: &Conjunction, long_prompt: LongPrompt, warnings: &[Warning]) -> Self {
        let encoders = Encoder::BOTH.map(|encoder| {
            let plan = text.plan(encoder, long_prompt);
            let chunks = plan.plans().flat_map(|plan| &plan.chunks);
            EncoderDescription { chunks: chunks.map(|chunk| chunk.ids.to_vec()).collect() }
        });
        let joined = text.parts().iter().map(|part| part.blend.prompts.len()).sum::<usize>() > 1;
        let parts = text.parts().iter().filter(|_| joined).map(PartDescription::new).collect();
        Self {
            fragments: text.prompts().flat_map(Prompt::fragments).cloned().collect(),
            parts,
            loras: text.loras().to_vec(),
            encoders: encoders.to_vec(),
            warnings: warnings.iter().map(ToString::to_string).collect(),
        }
    }

    /// Describes `prompt` as it would be encoded.
    #[must_use]
    pub fn new(prompt: &Prompt, long_prompt: LongPrompt, warnings: &[Warning]) -> Self {
        let encoders = Encoder::BOTH
            .iter()
            .map(|&encoder| {
                let plan = prompt.plan(encoder, long_prompt);
                EncoderDescription {
                    chunks: plan.chunks.iter().map(|chunk| chunk.ids.to_vec()).collect(),
                }
            })
            .collect();
        Self {
            fragments: prompt.fragments().to_vec(),
            parts: Vec::new(),
            loras: Vec::new(),
            encoders,
            warnings: warnings.iter().map(ToString::to_string).collect(),
        }
    }
}

impl PartDescription {
    fn new(part: &Part) -> Self {
        let prompts = part.blend.prompts.iter().zip(part.blend.shares());
        let prompts = prompts.map(|(blended, share)| PromptDescription {
            share,
            fragments: blended.prompt.fragments().to_vec(),
        });
        Self { weight: part.weight, prompts: prompts.collect() }
    }
}
