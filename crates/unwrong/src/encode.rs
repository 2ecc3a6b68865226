//! Prompts to the tensors that condition a UNet.
//!
//! Stages 2 to 4 of the flow. The prompt crate says what to run through which encoder and how to
//! join the results; here it is run. Embeddings equal those of compel 2.5.1's `CompelForSDXL`,
//! which is checked in `tests/parity.rs`.

use std::ops::Range;

use candle_core::{D, Device, Tensor};
use unwrong_models::layers::Run;
use unwrong_models::text_encoder::{TextEncoder, TokenRow};
use unwrong_prompt::{CHUNK_TOKENS, Chunk, END_OF_TEXT, EncodePlan, Encoder, Prompt, Variant};

use crate::error::{Error, Result};
use crate::plan::{NegativePrompt, Plan};
use crate::recent::Recent;
use crate::request::{LongPrompt, Syntax};

/// What a UNet is told about one prompt.
#[derive(Debug, Clone)]
pub struct Conditioning {
    /// Per-token text features: `[1, 77n, 2048]` for the base, `[1, 77n, 1280]` for the refiner.
    pub prompt_embeds: Tensor,
    /// One vector, `[1, 1280]`.
    pub pooled_embeds: Tensor,
}

/// The conditioning of both halves of guidance.
#[derive(Debug, Clone)]
pub struct ConditioningPair {
    /// Towards this.
    pub positive: Conditioning,
    /// Away from this; as long as the positive one.
    pub negative: Conditioning,
}

/// One encoder and how a pass goes through it.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) encoder: Encoder,
    pub(crate) network: &'a TextEncoder,
    pub(crate) run: Run<'a>,
    /// What it has read lately; absent where LoRA files change what it says.
    pub(crate) recent: Option<&'a Recent<Row, Tensor>>,
}

/// Tokens that go through an encoder together, and which of them nobody may look at.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// 77 of them; fewer where only the pooled vector is asked for.
    ids: Vec<u32>,
    masked: Range<usize>,
}

/// One text for all encoders of a model: a plan for each.
struct Text {
    plans: Vec<EncodePlan>,
    pooled: [u32; CHUNK_TOKENS],
}

/// Encodes the prompts of a plan with the encoders of one model, the pooling one last.
///
/// `zero_absent` is the model's `force_zeros_for_empty_prompt`: an absent negative prompt is all
/// zeros, not the encoded empty text.
pub(crate) fn encode(
    readers: &[Reader<'_>],
    plan: &Plan,
    zero_absent: bool,
    device: &Device,
) -> Result<ConditioningPair> {
    let negative = match &plan.negative_prompt {
        NegativePrompt::Absent => "",
        NegativePrompt::Text(text) => text,
    };
    let mut texts = [(&*plan.prompt, &plan.prompt_2), (negative, &plan.negative_prompt_2)]
        .map(|(text, second)| Text::new(readers, plan, text, second.as_deref()));
    let chunks = texts.iter().flat_map(|text| &text.plans).map(|plan| plan.chunks.len()).max();
    for plan in texts.iter_mut().flat_map(|text| &mut text.plans) {
        plan.pad_to(chunks.unwrap_or(1));
    }

    if zero_absent && plan.negative_prompt == NegativePrompt::Absent {
        let positive = condition(readers, &texts[..1], device)?.remove(0);
        let negative = Conditioning {
            prompt_embeds: positive.prompt_embeds.zeros_like()?,
            pooled_embeds: positive.pooled_embeds.zeros_like()?,
        };
        return Ok(ConditioningPair { positive, negative });
    }
    let mut both = condition(readers, &texts, device)?;
    let (negative, positive) = (both.remove(1), both.remove(0));
    Ok(ConditioningPair { positive, negative })
}

/// What the reader of a plan's prompts may have meant otherwise, one sentence each.
pub(crate) fn warnings(plan: &Plan) -> Vec<String> {
    let negative = match &plan.negative_prompt {
        NegativePrompt::Absent => None,
        NegativePrompt::Text(text) => Some(("negative prompt", text)),
    };
    let second = [
        ("second prompt", plan.prompt_2.as_ref()),
        ("second negative prompt", plan.negative_prompt_2.as_ref()),
    ];
    let second = second.into_iter().filter_map(|(name, text)| Some((name, text?)));
    let mut sentences = Vec::new();
    for (name, text) in std::iter::once(("prompt", &plan.prompt)).chain(negative).chain(second) {
        let (prompt, warnings) = Prompt::parse(text, plan.syntax.into());
        sentences.extend(warnings.iter().map(|warning| format!("{name}: {warning}")));
        let dropped = prompt.plan(Encoder::BigG, plan.long_prompt.into()).dropped;
        if dropped > 0 {
            sentences.push(format!("{name}: the last {dropped} tokens were cut off"));
        }
    }
    sentences
}

impl Text {
    /// `second` is what the second of two encoders reads instead.
    fn new(readers: &[Reader<'_>], plan: &Plan, text: &str, second: Option<&str>) -> Self {
        let parse = |text| Prompt::parse(text, plan.syntax.into()).0;
        let (first, second) = (parse(text), second.map(parse));
        let of = |index: usize| match &second {
            Some(second) if index > 0 => second,
            _ => &first,
        };
        let long_prompt = plan.long_prompt.into();
        let plan =
            |(index, reader): (usize, &Reader<'_>)| of(index).plan(reader.encoder, long_prompt);
        Self {
            plans: readers.iter().enumerate().map(plan).collect(),
            pooled: of(readers.len().saturating_sub(1)).pooled_ids(),
        }
    }
}

/// The conditioning of every text. Each encoder reads all it has to in one go.
fn condition(readers: &[Reader<'_>], texts: &[Text], device: &Device) -> Result<Vec<Conditioning>> {
    // The pooled vector looks back from the end of the text: the padding is not read.
    let ends = texts.iter().map(|text| text.pooled.iter().position(|id| *id == END_OF_TEXT));
    let longest = ends.flatten().max().map_or(CHUNK_TOKENS, |end| end + 1);
    let pooled: Vec<Row> = texts.iter().map(|text| Row::new(&text.pooled[..longest])).collect();
    let read = |(index, reader): (usize, &Reader<'_>)| {
        let mut rows: Vec<Row> =
            texts.iter().flat_map(|text| Row::of_plan(&text.plans[index])).collect();
        if index + 1 == readers.len() {
            rows.extend(pooled.iter().cloned());
        }
        States::read(reader, rows, device)
    };
    let states = readers.iter().enumerate().map(read).collect::<Result<Vec<_>>>()?;

    let (pooling, of_pooling) = readers.last().zip(states.last()).ok_or(Error::NoPooledOutput)?;
    let pooled_embeds = of_pooling.pooled(pooling, &pooled)?;
    let embeds = |(index, text): (usize, &Text)| {
        let features = states.iter().zip(&text.plans).map(|(states, plan)| states.features(plan));
        Ok(Conditioning {
            prompt_embeds: Tensor::cat(&features.collect::<Result<Vec<_>>>()?, D::Minus1)?,
            pooled_embeds: pooled_embeds.narrow(0, index, 1)?,
        })
    };
    texts.iter().enumerate().map(embeds).collect()
}

impl Row {
    fn new(ids: &[u32]) -> Self {
        Self { ids: ids.to_vec(), masked: 0..0 }
    }

    fn of_variant(chunk: &Chunk, variant: &Variant) -> Self {
        Self { ids: chunk.ids.to_vec(), masked: variant.masked.clone() }
    }

    /// Whether this row's states begin with the other's: a token looks back only.
    fn covers(&self, other: &Self) -> bool {
        self.ids.starts_with(&other.ids) && self.masked == other.masked
    }

    /// Everything an encoder has to read for a plan.
    fn of_plan(plan: &EncodePlan) -> Vec<Self> {
        let mut rows = Vec::new();
        for chunk in &plan.chunks {
            rows.extend(chunk.variants.iter().map(|variant| Self::of_variant(chunk, variant)));
        }
        if plan.chunks.iter().any(Chunk::needs_empty) {
            rows.push(Self::new(&plan.encoder.empty_ids()));
        }
        rows
    }

    fn mask(&self) -> Option<Vec<bool>> {
        let seen = |token| !self.masked.contains(&token);
        (!self.masked.is_empty()).then(|| (0..self.ids.len()).map(seen).collect())
    }
}

/// What an encoder says to rows of tokens: its penultimate states, `[1, 77, D]` of each.
struct States(Vec<(Row, Tensor)>);

impl States {
    /// Reads every row once, together with the others.
    fn read(reader: &Reader<'_>, rows: Vec<Row>, device: &Device) -> Result<Self> {
        let mut states = Self(Vec::new());
        let mut unread: Vec<Row> = Vec::new();
        for row in rows {
            if states.find(&row).is_some() || unread.iter().any(|other| other.covers(&row)) {
                continue;
            }
            match reader.recent.and_then(|recent| recent.get(&row)) {
                Some(known) => states.0.push((row, known)),
                None => unread.push(row),
            }
        }
        for alike in unread.chunk_by(|a, b| a.ids.len() == b.ids.len()) {
            let masks: Vec<_> = alike.iter().map(Row::mask).collect();
            let token_rows: Vec<TokenRow<'_>> = alike
                .iter()
                .zip(&masks)
                .map(|(row, mask)| TokenRow { ids: &row.ids, mask: mask.as_deref(), added: None })
                .collect();
            let read = reader.network.encode(&reader.run, &token_rows, device)?;
            for (index, row) in alike.iter().enumerate() {
                // A copy, so that a row that is remembered does not hold its whole batch.
                let read = read.narrow(0, index, 1)?.force_contiguous()?;
                if let Some(recent) = reader.recent {
                    recent.keep(row.clone(), read.clone());
                }
                states.0.push((row.clone(), read));
            }
        }
        Ok(states)
    }

    fn find(&self, row: &Row) -> Option<&Tensor> {
        self.0.iter().find(|(known, _)| known.covers(row)).map(|(_, states)| states)
    }

    fn of(&self, row: &Row) -> &Tensor {
        self.find(row).expect("every row of a plan was read")
    }

    /// The pooled vectors of rows without masks, `[B, 1280]`.
    fn pooled(&self, pooling: &Reader<'_>, rows: &[Row]) -> Result<Tensor> {
        let states = rows.iter().map(|row| self.of(row).narrow(1, 0, row.ids.len()));
        let states = Tensor::cat(&states.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        let rows: Vec<_> =
            rows.iter().map(|row| TokenRow { ids: &row.ids, mask: None, added: None }).collect();
        let pooled = pooling.network.pool(&pooling.run, &states, &rows)?;
        pooled.ok_or(Error::NoPooledOutput)
    }

    /// The features of a prompt, `[1, 77n, D]`: the formula at [`EncodePlan`].
    fn features(&self, plan: &EncodePlan) -> Result<Tensor> {
        let chunk = |chunk: &Chunk| {
            let states = self.blended(chunk)?;
            if chunk.needs_empty() {
                let empty = self.of(&Row::new(&plan.encoder.empty_ids()));
                weighted(&states, empty, chunk)
            } else {
                Ok(states)
            }
        };
        let chunks = plan.chunks.iter().map(chunk).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&chunks, 1)?)
    }

    /// The runs of a chunk through its encoder, in their shares, `[1, 77, D]`.
    fn blended(&self, chunk: &Chunk) -> Result<Tensor> {
        let of = |variant| self.of(&Row::of_variant(chunk, variant));
        if let [alone] = &*chunk.variants {
            return Ok(of(alone).clone());
        }
        let states: Vec<&Tensor> = chunk.variants.iter().map(of).collect();
        let states = Tensor::cat(&states, 0)?;
        let shares: Vec<f32> = chunk.variants.iter().map(|variant| variant.share).collect();
        let shares = Tensor::new(shares, states.device())?.reshape(((), 1, 1))?;
        Ok(states.broadcast_mul(&shares)?.sum_keepdim(0)?)
    }
}

/// `empty + weight · (states − empty)`; a token of weight 1 stays as it is, to the bit.
fn weighted(states: &Tensor, empty: &Tensor, chunk: &Chunk) -> Result<Tensor> {
    let device = states.device();
    let weights = Tensor::new(&chunk.weights[..], device)?.reshape((1, CHUNK_TOKENS, 1))?;
    let moved = (empty + (states - empty)?.broadcast_mul(&weights)?)?;
    #[expect(clippy::float_cmp, reason = "compel leaves a token alone when its weight is 1")]
    let plain: Vec<u8> = chunk.weights.iter().map(|weight| u8::from(*weight == 1.0)).collect();
    let plain = Tensor::new(plain, device)?.reshape((1, CHUNK_TOKENS, 1))?;
    Ok(plain.broadcast_as(states.shape())?.where_cond(states, &moved)?)
}

impl From<Syntax> for unwrong_prompt::Syntax {
    fn from(syntax: Syntax) -> Self {
        match syntax {
            Syntax::Compel => Self::Compel,
            Syntax::Plain => Self::Plain,
        }
    }
}

impl From<LongPrompt> for unwrong_prompt::LongPrompt {
    fn from(long_prompt: LongPrompt) -> Self {
        match long_prompt {
            LongPrompt::Pad => Self::Pad,
            LongPrompt::Truncate => Self::Truncate,
        }
    }
}
