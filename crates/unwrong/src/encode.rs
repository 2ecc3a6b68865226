//! Prompts to the tensors that condition a UNet.
//!
//! Stages 2 to 4 of the flow. The prompt crate says what to run through which encoder and how to
//! join the results; here it is run. Embeddings equal those of compel 2.5.1's `CompelForSDXL`,
//! which is checked in `tests/parity.rs`.

use candle_core::{D, Device, Tensor};
use unwrong_models::layers::Run;
use unwrong_models::text_encoder::{TextEncoder, TokenRow};
use unwrong_prompt::{CHUNK_TOKENS, Chunk, EncodePlan, Encoder, Prompt};

use crate::error::{Error, Result};
use crate::plan::{NegativePrompt, Plan};
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
    let positive = parse(&plan.prompt, plan.syntax);
    let negative = match &plan.negative_prompt {
        NegativePrompt::Absent => parse("", plan.syntax),
        NegativePrompt::Text(text) => parse(text, plan.syntax),
    };
    let zeros = zero_absent && plan.negative_prompt == NegativePrompt::Absent;

    let mut positives = encode_plans(readers, &positive, plan.long_prompt);
    let mut negatives = encode_plans(readers, &negative, plan.long_prompt);
    let all = || positives.iter().chain(&negatives);
    let chunks = all().map(|plan| plan.chunks.len()).max().unwrap_or(1);
    positives.iter_mut().chain(&mut negatives).for_each(|plan| plan.pad_to(chunks));

    let positive = condition(readers, &positive, &positives, device)?;
    let negative = if zeros {
        Conditioning {
            prompt_embeds: positive.prompt_embeds.zeros_like()?,
            pooled_embeds: positive.pooled_embeds.zeros_like()?,
        }
    } else {
        condition(readers, &negative, &negatives, device)?
    };
    Ok(ConditioningPair { positive, negative })
}

/// What the reader of a plan's prompts may have meant otherwise, one sentence each.
pub(crate) fn warnings(plan: &Plan) -> Vec<String> {
    let negative = match &plan.negative_prompt {
        NegativePrompt::Absent => None,
        NegativePrompt::Text(text) => Some(("negative prompt", text)),
    };
    let mut sentences = Vec::new();
    for (name, text) in std::iter::once(("prompt", &plan.prompt)).chain(negative) {
        let (prompt, warnings) = Prompt::parse(text, plan.syntax.into());
        sentences.extend(warnings.iter().map(|warning| format!("{name}: {warning}")));
        let dropped = prompt.plan(Encoder::BigG, plan.long_prompt.into()).dropped;
        if dropped > 0 {
            sentences.push(format!("{name}: the last {dropped} tokens were cut off"));
        }
    }
    sentences
}

fn parse(text: &str, syntax: Syntax) -> Prompt {
    Prompt::parse(text, syntax.into()).0
}

fn encode_plans(
    readers: &[Reader<'_>],
    prompt: &Prompt,
    long_prompt: LongPrompt,
) -> Vec<EncodePlan> {
    readers.iter().map(|reader| prompt.plan(reader.encoder, long_prompt.into())).collect()
}

fn condition(
    readers: &[Reader<'_>],
    prompt: &Prompt,
    plans: &[EncodePlan],
    device: &Device,
) -> Result<Conditioning> {
    let features = readers
        .iter()
        .zip(plans)
        .map(|(reader, plan)| features(reader, plan, device))
        .collect::<Result<Vec<_>>>()?;
    let pooling = readers.last().ok_or(Error::NoPooledOutput)?;
    let ids = prompt.pooled_ids();
    let rows = [TokenRow { ids: &ids, mask: None }];
    let pooled = pooling.network.encode(&pooling.run, &rows, device)?.pooled;
    Ok(Conditioning {
        prompt_embeds: Tensor::cat(&features, D::Minus1)?,
        pooled_embeds: pooled.ok_or(Error::NoPooledOutput)?,
    })
}

/// The features of a prompt, `[1, 77n, D]`: the formula at [`EncodePlan`].
fn features(reader: &Reader<'_>, plan: &EncodePlan, device: &Device) -> Result<Tensor> {
    let empty = if plan.chunks.iter().any(Chunk::needs_empty) {
        let ids = plan.encoder.empty_ids();
        Some(penultimate(reader, &[TokenRow { ids: &ids, mask: None }], device)?)
    } else {
        None
    };
    let chunks = plan
        .chunks
        .iter()
        .map(|chunk| {
            let states = blended(reader, chunk, device)?;
            match &empty {
                Some(empty) if chunk.needs_empty() => weighted(&states, empty, chunk),
                _ => Ok(states),
            }
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Tensor::cat(&chunks, 1)?)
}

/// The runs of a chunk through its encoder, in their shares, `[1, 77, D]`.
fn blended(reader: &Reader<'_>, chunk: &Chunk, device: &Device) -> Result<Tensor> {
    let masks: Vec<Option<[bool; CHUNK_TOKENS]>> = chunk
        .variants
        .iter()
        .map(|variant| {
            let seen = |token: usize| !variant.masked.contains(&token);
            (!variant.masked.is_empty()).then(|| std::array::from_fn(seen))
        })
        .collect();
    let rows: Vec<TokenRow<'_>> = masks
        .iter()
        .map(|mask| TokenRow { ids: &chunk.ids, mask: mask.as_ref().map(<[bool; _]>::as_slice) })
        .collect();
    let states = penultimate(reader, &rows, device)?;
    if chunk.variants.len() == 1 {
        return Ok(states);
    }
    let shares: Vec<f32> = chunk.variants.iter().map(|variant| variant.share).collect();
    let shares = Tensor::new(shares, device)?.reshape(((), 1, 1))?;
    Ok(states.broadcast_mul(&shares)?.sum_keepdim(0)?)
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

fn penultimate(reader: &Reader<'_>, rows: &[TokenRow<'_>], device: &Device) -> Result<Tensor> {
    Ok(reader.network.encode(&reader.run, rows, device)?.penultimate)
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
