//! What to run through an encoder for a text of several prompts, and how to join the results.
//!
//! Stage 3 of the flow, above [`EncodePlan`]. Formulas of compel 2.5.1: `compel.py`,
//! `build_conditioning_tensor_for_conjunction` and `_get_conditioning_for_blend`, and
//! `embeddings_provider.py`, `apply_embedding_weights`.

use crate::added::Language;
use crate::conjunction::Part;
use crate::encoder::Encoder;
use crate::plan::{EncodePlan, LongPrompt};

/// How to compute the per-token features of a text with one encoder.
///
/// With `features(plan)` the result of an [`EncodePlan`], `[77 n, D]`, and `empty` the features
/// of the encoder's empty chunk, repeated to the length of what it meets:
///
/// ```text
/// for each part:
///     z = Σ over prompts: share · features(plan)        all of one length
///     part = z                                          where its weight is 1
///          = empty + weight · (z − empty)               elsewhere
/// result = the parts' features, one after the other: [77 n, D]
/// ```
///
/// Shares sum to 1 unless the text says `no_normalize`. The plans of a part are filled up with
/// empty chunks to the length of its longest before they are mixed, for each encoder by itself;
/// so the encoders may differ in length, which [`ConjunctionPlan::pad_to`] evens out.
#[derive(Clone, Debug, PartialEq)]
pub struct ConjunctionPlan {
    /// The encoder that the ids are for.
    pub encoder: Encoder,
    /// One at least.
    pub parts: Vec<PartPlan>,
}

/// How to compute one part.
#[derive(Clone, Debug, PartialEq)]
pub struct PartPlan {
    /// The weight of the part's features against the empty text's.
    pub weight: f32,
    /// One at least, with equally many chunks.
    pub prompts: Vec<SharedPlan>,
}

/// How to compute one prompt of a part.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedPlan {
    /// What its features are multiplied with.
    pub share: f32,
    /// How to compute them.
    pub plan: EncodePlan,
}

impl ConjunctionPlan {
    pub(crate) fn new(parts: &[Part], encoder: Encoder, long_prompt: LongPrompt) -> Self {
        let part = |part: &Part| {
            let shares = part.blend.shares();
            let plans = part.blend.prompts.iter().map(|own| own.prompt.plan(encoder, long_prompt));
            let mut prompts: Vec<SharedPlan> = shares
                .into_iter()
                .zip(plans)
                .map(|(share, plan)| SharedPlan { share: share as f32, plan })
                .collect();
            let longest = prompts.iter().map(|own| own.plan.chunks.len()).max().unwrap_or(1);
            for prompt in &mut prompts {
                prompt.plan.pad_to(longest);
            }
            PartPlan { weight: part.weight as f32, prompts }
        };
        Self { encoder, parts: parts.iter().map(part).collect() }
    }

    /// The length of the result, in chunks of 77 tokens.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.parts.iter().map(PartPlan::chunks).sum()
    }

    /// Every plan to execute, in order.
    pub fn plans(&self) -> impl Iterator<Item = &EncodePlan> {
        self.parts.iter().flat_map(|part| &part.prompts).map(|prompt| &prompt.plan)
    }

    /// Tokens of text that truncating left out.
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.plans().map(|plan| plan.dropped).sum()
    }

    /// Appends empty chunks, so that two texts, or the two encoders' features of one, get the
    /// same length. Never shortens.
    ///
    /// They are a part of their own: neither weights nor shares touch them.
    pub fn pad_to(&mut self, chunks: usize) {
        let missing = chunks.saturating_sub(self.chunks());
        if missing > 0 {
            let mut plan =
                EncodePlan::new(&[], &Language::default(), self.encoder, LongPrompt::Pad);
            plan.pad_to(missing);
            let prompts = vec![SharedPlan { share: 1.0, plan }];
            self.parts.push(PartPlan { weight: 1.0, prompts });
        }
    }
}

impl PartPlan {
    /// The length of the part, in chunks of 77 tokens.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.prompts.first().map_or(0, |prompt| prompt.plan.chunks.len())
    }

    /// Whether the part needs the features of the empty chunk besides those of its plans.
    #[must_use]
    #[expect(clippy::float_cmp, reason = "compel leaves a part alone when its weight is 1")]
    pub fn needs_empty(&self) -> bool {
        self.weight != 1.0
    }

    /// Whether the part is the features of its only plan as they are.
    #[must_use]
    #[expect(clippy::float_cmp, reason = "any other share changes the features")]
    pub fn is_plain(&self) -> bool {
        !self.needs_empty() && matches!(&*self.prompts, [alone] if alone.share == 1.0)
    }
}
