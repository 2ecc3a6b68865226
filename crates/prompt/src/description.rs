//! What `unwrong tokens` shows of a prompt.

use serde::Serialize;

use crate::conjunction::{Conjunction, LoraWeight, Part};
use crate::encoder::{END_OF_TEXT, Encoder};
use crate::plan::LongPrompt;
use crate::prompt::{Fragment, Prompt};
use crate::warning::Warning;

/// Fragments, token ids and warnings of one text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// The weighted pieces, of all prompts one after the other.
    pub fragments: Vec<Fragment>,
    /// What `.and()` and `.blend()` join or weight; empty where they do nothing.
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
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EncoderDescription {
    /// 77 ids each.
    pub chunks: Vec<Vec<u32>>,
    /// The weight of each id.
    pub weights: Vec<Vec<f32>>,
    /// How many of the ids are text; one marker is before it.
    pub text_tokens: Vec<usize>,
    /// Tokens of text that no chunk holds, because the prompt was cut.
    pub dropped: usize,
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
    pub fn new(text: &Conjunction, long_prompt: LongPrompt, warnings: &[Warning]) -> Self {
        let encoders = Encoder::BOTH.map(|encoder| {
            let plan = text.plan(encoder, long_prompt);
            let chunks: Vec<_> = plan.plans().flat_map(|plan| &plan.chunks).collect();
            EncoderDescription {
                chunks: chunks.iter().map(|chunk| chunk.ids.to_vec()).collect(),
                weights: chunks.iter().map(|chunk| chunk.weights.to_vec()).collect(),
                text_tokens: chunks.iter().map(|chunk| text_tokens(&chunk.ids, encoder)).collect(),
                dropped: plan.dropped(),
            }
        });
        let parts: Vec<_> = text.parts().iter().map(PartDescription::new).collect();
        let parts = if is_plain(&parts) { Vec::new() } else { parts };
        Self {
            fragments: text.prompts().flat_map(Prompt::fragments).cloned().collect(),
            parts,
            loras: text.loras().to_vec(),
            encoders: encoders.to_vec(),
            warnings: warnings.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Whether there is one prompt, as it is.
#[expect(clippy::float_cmp, reason = "any other number changes the features")]
fn is_plain(parts: &[PartDescription]) -> bool {
    match parts {
        [PartDescription { weight, prompts }] => {
            *weight == 1.0 && matches!(&**prompts, [alone] if alone.share == 1.0)
        }
        _ => false,
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

/// How many ids are between the start mark and the end mark.
///
/// An end mark that was written in the prompt counts as text, unless the text ends with it and
/// it is the padding too.
fn text_tokens(ids: &[u32], encoder: Encoder) -> usize {
    let padding = encoder.padding();
    let padded = ids.iter().rev().take_while(|id| **id == padding).count();
    // The end mark is padding to the first encoder, and before the padding to the second.
    let end = usize::from(padding != END_OF_TEXT);
    ids.len().saturating_sub(padded + end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Syntax;

    fn describe(text: &str, long_prompt: LongPrompt) -> Description {
        let (text, warnings) = Conjunction::parse(text, Syntax::Compel);
        Description::new(&text, long_prompt, &warnings)
    }

    #[test]
    fn tokens_of_text_are_those_between_the_markers() {
        for (text, expected) in [
            ("", [0, 0]),
            ("a cat", [2, 2]),
            ("a cat!", [3, 3]),
            ("a <|endoftext|> cat", [3, 3]),
            ("a cat <|endoftext|>", [2, 3]),
        ] {
            let described = describe(text, LongPrompt::Pad);
            let found: Vec<_> = described.encoders.iter().map(|one| one.text_tokens[0]).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_prompt_that_is_cut_says_how_much_is_missing() {
        let text = "word ".repeat(80);
        let cut = describe(&text, LongPrompt::Truncate);
        assert_eq!((cut.encoders[0].dropped, cut.encoders[0].text_tokens[0]), (5, 75));
        let whole = describe(&text, LongPrompt::Pad);
        assert_eq!(
            (whole.encoders[1].dropped, &whole.encoders[1].text_tokens[..]),
            (0, &[75, 5][..])
        );
    }

    #[test]
    fn weights_stand_beside_their_ids() {
        let described = describe("a (red)1.5 cat", LongPrompt::Pad);
        assert_eq!(described.encoders[0].weights[0][..5], [1.0, 1.0, 1.5, 1.0, 1.0]);
    }
}
