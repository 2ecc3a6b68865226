//! What `unwrong tokens --json` shows of a prompt.

use serde::Serialize;

use crate::encoder::Encoder;
use crate::plan::LongPrompt;
use crate::prompt::{Fragment, Prompt};
use crate::warning::Warning;

/// Fragments, token ids and warnings of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// The weighted pieces.
    pub fragments: Vec<Fragment>,
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

impl Description {
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
            encoders,
            warnings: warnings.iter().map(ToString::to_string).collect(),
        }
    }
}
