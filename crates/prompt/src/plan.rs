//! What to run through an encoder, and how to join the results.
//!
//! Stage 3 of the flow, from fragments to chunks of 77 tokens. Formulas and quirks of the plan
//! made here are those of compel 2.5.1, `embeddings_provider.py`, `EmbeddingsProvider` with the
//! arguments of `CompelForSDXL`; `a1111` and `comfy` make theirs.

use std::f64::consts::FRAC_PI_2;
use std::ops::Range;

use crate::a1111;
use crate::added::{AddedWords, Language};
use crate::comfy;
use crate::encoder::{CHUNK_TOKENS, END_OF_TEXT, Encoder, START_OF_TEXT};
use crate::prompt::{Fragment, Syntax};
use crate::tokenizer::{Tokenizer, ends_word, single_character_word};

/// Tokens of text in a chunk, between the two markers.
pub(crate) const TEXT_TOKENS: usize = CHUNK_TOKENS - 2;

/// What happens to a prompt of more than 75 tokens.
///
/// `CompelForSDXL` offers neither truncation nor any of compel's `SplitLongTextMode`s: it always
/// splits after sentences, and falls back as [`LongPrompt::Pad`] says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LongPrompt {
    /// It takes as many chunks as it needs. Compel and plain prompts are cut after a sentence,
    /// else a phrase, else a word; A1111 and ComfyUI have rules of their own.
    #[default]
    Pad,
    /// The rest is dropped.
    Truncate,
}

/// How to compute the per-token features of one prompt with one encoder.
///
/// With `encode(ids, mask)` the penultimate hidden states `[77, D]` of the encoder, without
/// its final norm, where tokens outside `mask` are hidden from attention (besides causality),
/// and `empty = encode(encoder.empty_ids(), all)`:
///
/// ```text
/// for each chunk:
///     z = Σ over variants: share · encode(chunk.ids, all but variant.masked)
///     features = weighted(z), as chunk.weighting says
/// result = the chunks' features, one after the other: [77 n, D]
/// ```
///
/// A chunk whose weights are all 1 has `features = z` whatever its [`Weighting`].
///
/// Compel instead runs the whole prompt once more for each fragment *i* of weight w < 1, with
/// that fragment masked, and blends the runs with λ₀ = 1 for the plain one and
/// λᵢ = tan((1 − max(w, 1e-5)) · π/2), divided by their sum. A chunk that a fragment does not
/// touch comes out the same in its run, so its λ is added to the plain share here, and since
/// the shares sum to 1 and weighting is affine, weighting after the blend is the same as
/// before it.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodePlan {
    /// The encoder that the ids are for.
    pub encoder: Encoder,
    /// One at least.
    pub chunks: Vec<Chunk>,
    /// Tokens of text that truncating left out.
    pub dropped: usize,
}

/// How the weights of tokens enter a chunk's features.
///
/// With `z` and `empty` as in [`EncodePlan`] and `mean` over all 77·D numbers of a chunk:
///
/// | | `features[t]` | |
/// |---|---|---|
/// | `Interpolate` | `empty[t] + weights[t] · (z[t] − empty[t])` | compel, ComfyUI |
/// | `Scale` | `weights[t] · z[t]` | A1111's "No norm" |
/// | `ScaleKeepMean` | `weights[t] · z[t] · mean(z) / mean(weights · z)` | A1111's "Original" |
///
/// `Interpolate` leaves a token of weight 1 as it is. Compel 2.5.1, `embeddings_provider.py`;
/// ComfyUI at a125cd8, `comfy/sd1_clip.py`, `encode_token_weights`; A1111 1.10.1,
/// `modules/sd_emphasis.py`. The means of SDXL's features are near zero, so their quotient may
/// be anything: A1111#14874 added "No norm" for this reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Weighting {
    /// Away from the features of the empty chunk, or towards them.
    #[default]
    Interpolate,
    /// Features times weight.
    Scale,
    /// Features times weight, then all of them times one number that restores their mean.
    ScaleKeepMean,
}

/// 77 tokens that go through the encoder together.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// `<|startoftext|>`, up to 75 tokens of text, `<|endoftext|>`, padding.
    pub ids: [u32; CHUNK_TOKENS],
    /// The weight of each token's features; 1 for markers and padding.
    pub weights: [f32; CHUNK_TOKENS],
    /// What the weights do, the same in all chunks of a plan.
    pub weighting: Weighting,
    /// One at least, the first without a mask.
    pub variants: Vec<Variant>,
}

/// One run of a chunk through the encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// Tokens that no token may attend to. Empty for the first variant.
    pub masked: Range<usize>,
    /// This run's part in the result. The shares of a chunk sum to 1.
    pub share: f32,
}

impl Chunk {
    /// Whether the encoder's output is the result as it is.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.variants.len() == 1 && !self.is_weighted()
    }

    /// Whether a weight needs the features of the empty chunk.
    #[must_use]
    pub fn needs_empty(&self) -> bool {
        self.weighting == Weighting::Interpolate && self.is_weighted()
    }

    /// Whether a weight is not 1.
    #[must_use]
    #[expect(clippy::float_cmp, reason = "a token is left alone when its weight is 1")]
    pub fn is_weighted(&self) -> bool {
        self.weights.iter().any(|&weight| weight != 1.0)
    }

    /// At most 75 tokens with their weights, between the markers.
    pub(crate) fn framed(encoder: Encoder, text: &[(u32, f32)], weighting: Weighting) -> Self {
        let (ids, weights): (Vec<u32>, Vec<f32>) = text.iter().copied().unzip();
        let mut chunk = Self { ids: encoder.frame(&ids), ..Self::empty(encoder, weighting) };
        chunk.weights[1..=weights.len()].copy_from_slice(&weights);
        chunk
    }

    fn empty(encoder: Encoder, weighting: Weighting) -> Self {
        Self {
            ids: encoder.empty_ids(),
            weights: [1.0; CHUNK_TOKENS],
            weighting,
            variants: vec![Variant { masked: 0..0, share: 1.0 }],
        }
    }
}

impl EncodePlan {
    pub(crate) fn new(
        fragments: &[Fragment],
        Language { syntax, added }: &Language,
        encoder: Encoder,
        long_prompt: LongPrompt,
    ) -> Self {
        let chunks = match *syntax {
            Syntax::Compel | Syntax::Plain => {
                return Self::compel(fragments, added, encoder, long_prompt);
            }
            Syntax::A1111 { emphasis } => a1111::chunks(fragments, added, emphasis, encoder),
            Syntax::Comfy => comfy::chunks(fragments, added, encoder),
        };
        Self::of(chunks, encoder, long_prompt)
    }

    /// All of `chunks`, or the first.
    fn of(mut chunks: Vec<Chunk>, encoder: Encoder, long_prompt: LongPrompt) -> Self {
        let mut dropped = 0;
        if long_prompt == LongPrompt::Truncate {
            let text = |chunk: &Chunk| {
                chunk.ids.iter().skip(1).take_while(|&&id| id != END_OF_TEXT).count()
            };
            dropped = chunks.drain(1..).map(|chunk| text(&chunk)).sum();
        }
        Self { encoder, chunks, dropped }
    }

    fn compel(
        fragments: &[Fragment],
        added: &AddedWords,
        encoder: Encoder,
        long_prompt: LongPrompt,
    ) -> Self {
        let tokenizer = Tokenizer::new(encoder);
        let encode = |fragment: &Fragment| tokenizer.encode_with(&fragment.text, added);
        let mut pieces: Vec<Vec<u32>> = fragments.iter().map(encode).collect();
        let whole: usize = pieces.iter().map(Vec::len).sum();
        if long_prompt == LongPrompt::Truncate {
            // Compel truncates every fragment before it truncates the prompt.
            for ids in &mut pieces {
                ids.truncate(TEXT_TOKENS);
            }
        }
        let ids = pieces.concat();
        let mut weights = Vec::with_capacity(ids.len());
        for (piece, fragment) in pieces.iter().zip(fragments) {
            weights.resize(weights.len() + piece.len(), fragment.weight as f32);
        }

        let mut chunks = Vec::new();
        let mut places = Vec::with_capacity(ids.len());
        let (mut ids, mut weights) = (ids.as_slice(), weights.as_slice());
        loop {
            let (text, text_weights);
            let length = cut(ids, long_prompt);
            (text, ids) = ids.split_at(length);
            (text_weights, weights) = weights.split_at(length);
            places.extend((chunks.len() * CHUNK_TOKENS + 1..).take(length));
            let mut chunk =
                Chunk { ids: encoder.frame(text), ..Chunk::empty(encoder, Weighting::Interpolate) };
            chunk.weights[1..=length].copy_from_slice(text_weights);
            chunks.push(chunk);
            if ids.is_empty() || long_prompt == LongPrompt::Truncate {
                break;
            }
        }

        let mut plan = Self { encoder, chunks, dropped: whole - places.len() };
        let ranges = plan.find(&pieces, &places, long_prompt);
        plan.mask_lowered(fragments, &ranges, long_prompt);
        plan
    }

    /// Fills up with empty chunks, so that two prompts, or the two encoders' features of one,
    /// get the same length. Never shortens.
    pub fn pad_to(&mut self, chunks: usize) {
        if chunks > self.chunks.len() {
            let weighting = self.chunks[0].weighting;
            self.chunks.resize(chunks, Chunk::empty(self.encoder, weighting));
        }
    }

    /// Adds the runs in which a fragment of weight below 1 is hidden.
    fn mask_lowered(
        &mut self,
        fragments: &[Fragment],
        ranges: &[Option<Range<usize>>],
        long_prompt: LongPrompt,
    ) {
        let mut total = 1.0;
        // Per chunk: the blend weight that went to its masked variants.
        let mut masked_total = vec![0.0; self.chunks.len()];
        let mut masked: Vec<Vec<(Range<usize>, f64)>> = vec![Vec::new(); self.chunks.len()];
        for (fragment, range) in fragments.iter().zip(ranges) {
            let Some(range) = range.as_ref().filter(|_| fragment.weight < 1.0) else { continue };
            let blend = ((1.0 - fragment.weight.max(1e-5)) * FRAC_PI_2).tan();
            total += blend;
            for n in range.start / CHUNK_TOKENS..=(range.end - 1) / CHUNK_TOKENS {
                // Compel keeps the first and last token of a chunk visible, unless it truncates.
                let visible = match long_prompt {
                    LongPrompt::Pad => 1..CHUNK_TOKENS - 1,
                    LongPrompt::Truncate => 0..CHUNK_TOKENS,
                };
                let offset = n * CHUNK_TOKENS;
                let start = range.start.saturating_sub(offset).max(visible.start);
                let end = (range.end - offset).min(visible.end);
                if start < end {
                    masked[n].push((start..end, blend));
                    masked_total[n] += blend;
                }
            }
        }
        for ((chunk, masked), masked_total) in self.chunks.iter_mut().zip(masked).zip(masked_total)
        {
            let share = |blend: f64| (blend / total) as f32;
            chunk.variants[0].share = share(total - masked_total);
            let others = masked.into_iter();
            chunk
                .variants
                .extend(others.map(|(masked, blend)| Variant { masked, share: share(blend) }));
        }
    }

    /// Where each fragment's tokens lie, counted over all chunks; `None` for those without.
    ///
    /// Compel searches them in the padded chunks, so padding that equals a token of the text
    /// may count as part of a fragment: it does when `!`, whose id pads the second encoder,
    /// starts a fragment in a later chunk. Where its search fails, and compel with it, the
    /// fragment is at the `places` where its tokens were put.
    fn find(
        &self,
        pieces: &[Vec<u32>],
        places: &[usize],
        long_prompt: LongPrompt,
    ) -> Vec<Option<Range<usize>>> {
        let tokens: Vec<u32> = self.chunks.iter().flat_map(|chunk| chunk.ids).collect();
        let mut ranges = Vec::with_capacity(pieces.len());
        let (mut from, mut first) = (0, 0);
        for ids in pieces {
            let own = places.get(first..(first + ids.len()).min(places.len())).unwrap_or(&[]);
            let own = own.first().zip(own.last()).map(|(&start, &end)| start..end + 1);
            first += ids.len();
            let cut_off = long_prompt == LongPrompt::Truncate && from >= CHUNK_TOKENS - 1;
            let range = if ids.is_empty() || cut_off {
                None
            } else {
                self.find_one(&tokens, ids, from, long_prompt).or(own)
            };
            from = range.as_ref().map_or(from, |range| range.end);
            ranges.push(range);
        }
        ranges
    }

    fn find_one(
        &self,
        tokens: &[u32],
        ids: &[u32],
        from: usize,
        long_prompt: LongPrompt,
    ) -> Option<Range<usize>> {
        let truncate = long_prompt == LongPrompt::Truncate;
        let last = tokens.len() - 1;
        let start = match tokens.get(from..last)?.iter().position(|id| *id == ids[0]) {
            Some(found) => from + found,
            None if truncate => last,
            None => return None,
        };
        let mut end = start;
        let mut expected = ids.iter();
        let mut wanted = expected.next()?;
        loop {
            if end >= last {
                return truncate.then_some(start..last + 1);
            }
            let token = tokens[end];
            if token == *wanted {
                match expected.next() {
                    Some(next) => wanted = next,
                    None => return Some(start..end + 1),
                }
            } else if truncate
                || ![START_OF_TEXT, END_OF_TEXT, self.encoder.padding()].contains(&token)
            {
                return None;
            }
            end += 1;
        }
    }
}

/// How many of `tokens` go into the next chunk.
fn cut(ids: &[u32], long_prompt: LongPrompt) -> usize {
    if ids.len() <= TEXT_TOKENS {
        return ids.len();
    }
    if long_prompt == LongPrompt::Truncate {
        return TEXT_TOKENS;
    }
    let after_last = |ends: &dyn Fn(u32) -> bool| {
        ids[..TEXT_TOKENS].iter().rposition(|&id| ends(id)).map(|place| place + 1)
    };
    let sentence = single_character_word(b'.');
    let phrase = [b'.', b',', b';', b':'].map(single_character_word);
    after_last(&|id| id == sentence)
        .or_else(|| after_last(&|id| phrase.contains(&id)))
        .or_else(|| after_last(&ends_word))
        .unwrap_or(TEXT_TOKENS)
}

/// See [`crate::Prompt::pooled_ids`].
pub(crate) fn pooled_ids(source: &str, added: &AddedWords) -> [u32; CHUNK_TOKENS] {
    let mut text = Tokenizer::new(Encoder::BigG).encode_with(source, added);
    text.truncate(TEXT_TOKENS);
    Encoder::BigG.frame(&text)
}
