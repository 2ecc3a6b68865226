//! Prompts to the tensors that condition a UNet.
//!
//! Stages 2 to 4 of the flow. The prompt crate says what to run through which encoder and how to
//! join the results; here it is run. Embeddings equal those of compel 2.5.1's `CompelForSDXL`,
//! which is checked in `tests/parity.rs`.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use unwrong_models::layers::Run;
use unwrong_models::text_encoder::{TextEncoder, TokenRow};
use unwrong_prompt::{
    CHUNK_TOKENS, Chunk, Conjunction, ConjunctionPlan, END_OF_TEXT, Emphasis, EncodePlan, Encoder,
    Language, PartPlan, Script, SharedPlan, Variant, Warning, Weighting,
};

use crate::embeddings::{EmbeddingSet, has_added, ids_of};
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
#[derive(Clone, PartialEq)]
pub(crate) struct Row {
    /// 77 of them; fewer where only the pooled vector is asked for.
    ids: Vec<u32>,
    masked: Range<usize>,
    /// What ids above the vocabulary stand for; absent where there are none.
    added: Option<Added>,
}

/// The vectors of added words. Two are the same if they were opened together.
#[derive(Clone)]
struct Added(Arc<EmbeddingSet>);

impl PartialEq for Added {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What a UNet is told in some of the steps.
#[derive(Debug, Clone)]
pub(crate) struct Guide {
    /// The last step it is for, counted from 1.
    pub(crate) until: usize,
    /// Towards each of these, with its weight; one at least.
    pub(crate) positive: Vec<(Conditioning, f64)>,
    /// Away from this.
    pub(crate) negative: Conditioning,
}

/// One text for all encoders of a model: a plan for each.
struct Text {
    plans: Vec<ConjunctionPlan>,
    pooled: [u32; CHUNK_TOKENS],
}

/// What base or refiner reads of a text, and of another one with the second encoder.
struct Scripts {
    first: Script,
    second: Option<Script>,
}

/// The texts of a picture, each once.
#[derive(Default)]
struct Texts<'a>(Vec<[&'a Conjunction; 2]>);

/// Encodes the prompts of a plan with the encoders of one model, the pooling one last; what is
/// told in all steps, in their order.
///
/// `zero_absent` is the model's `force_zeros_for_empty_prompt`: an absent negative prompt is all
/// zeros, not the encoded empty text.
pub(crate) fn encode(
    readers: &[Reader<'_>],
    plan: &Plan,
    zero_absent: bool,
    device: &Device,
) -> Result<Vec<Guide>> {
    let positive = Scripts::new(plan, &plan.prompt, plan.prompt_2.as_deref(), Script::parse);
    let text = plan.negative_prompt.text();
    let negative =
        Scripts::new(plan, text, plan.negative_prompt_2.as_deref(), Script::parse_negative);
    let is_zero = zero_absent && plan.has_no_negative();

    let mut texts = Texts::default();
    let mut told = Vec::new();
    for until in ends(&[&positive, &negative], plan.steps) {
        let parts = (0..positive.first.parts.len())
            .map(|part| (texts.place(positive.at(part, until)), positive.first.parts[part].weight));
        let parts: Vec<_> = parts.collect();
        let away = (!is_zero).then(|| texts.place(negative.at(0, until)));
        told.push((until, parts, away));
    }
    let conditionings = condition(readers, &texts.plans(readers, plan), &plan.embeddings, device)?;
    let guide = |(until, parts, away): (usize, Vec<(usize, f64)>, Option<usize>)| {
        let positive: Vec<_> = parts
            .into_iter()
            .map(|(place, weight)| (conditionings[place].clone(), weight))
            .collect();
        let negative = match away {
            Some(place) => conditionings[place].clone(),
            None => positive[0].0.zeros_like()?,
        };
        Ok(Guide { until, positive, negative })
    };
    told.into_iter().map(guide).collect()
}

/// What the first step is told, of the first prompt.
pub(crate) fn encode_pair(
    readers: &[Reader<'_>],
    plan: &Plan,
    zero_absent: bool,
    device: &Device,
) -> Result<ConditioningPair> {
    let Guide { mut positive, negative, .. } =
        encode(readers, plan, zero_absent, device)?.remove(0);
    Ok(ConditioningPair { positive: positive.remove(0).0, negative })
}

/// The last steps of all prompts: where something changes.
fn ends(scripts: &[&Scripts], steps: usize) -> Vec<usize> {
    let parts = scripts.iter().flat_map(|scripts| scripts.all()).flat_map(|script| &script.parts);
    let ends = parts.flat_map(|part| &part.prompts).map(|prompt| prompt.until.min(steps));
    let mut ends: Vec<usize> = ends.chain([steps]).collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// What the reader of a plan's prompts may have meant otherwise, one sentence each.
pub(crate) fn warnings(plan: &Plan) -> Vec<String> {
    let negative = match &plan.negative_prompt {
        NegativePrompt::Absent => None,
        NegativePrompt::Text(text) => Some(text),
    };
    let texts = [
        ("prompt", Some(&plan.prompt)),
        ("negative prompt", negative),
        ("second prompt", plan.prompt_2.as_ref()),
        ("second negative prompt", plan.negative_prompt_2.as_ref()),
    ];
    let mut sentences = Vec::new();
    let mut used = BTreeSet::new();
    for (name, text) in texts.into_iter().filter_map(|(name, text)| Some((name, text?))) {
        let parse = if name.contains("negative") { Script::parse_negative } else { Script::parse };
        let (script, warnings) = parse(text, plan.language(), plan.steps);
        sentences.extend(warnings.iter().map(|warning| format!("{name}: {warning}")));
        if !plan.embeddings.words.is_empty() {
            used.extend(ids_of(&script));
        }
        let prompts = script.parts.iter().flat_map(|part| &part.prompts);
        let dropped = prompts.map(|scheduled| {
            scheduled.prompt.plan(Encoder::BigG, plan.long_prompt.into()).dropped()
        });
        let dropped = dropped.max().unwrap_or(0);
        if dropped > 0 {
            sentences.push(format!("{name}: the last {dropped} tokens were cut off"));
        }
    }
    let words = plan.embeddings.words.iter();
    let unused = words.filter(|(_, ids)| !used.contains(&ids.start));
    sentences.extend(unused.map(|(word, _)| {
        let how = if plan.syntax == Syntax::Comfy { "embedding:" } else { "" };
        format!("the textual inversion `{how}{word}` is in no prompt")
    }));
    sentences
}

impl Scripts {
    fn new(
        plan: &Plan,
        first: &str,
        second: Option<&str>,
        parse: fn(&str, Language, usize) -> (Script, Vec<Warning>),
    ) -> Self {
        let read = |text| parse(text, plan.language(), plan.steps).0;
        Self { first: read(first), second: second.map(read) }
    }

    fn all(&self) -> impl Iterator<Item = &Script> {
        [&self.first].into_iter().chain(&self.second)
    }

    /// What both encoders read of a part at a step. Where the second text has fewer parts, its
    /// last one stands for the others.
    fn at(&self, part: usize, step: usize) -> [&Conjunction; 2] {
        let first = self.first.parts[part].prompt_at(step);
        let second = self
            .second
            .as_ref()
            .map_or(first, |second| second.parts[part.min(second.parts.len() - 1)].prompt_at(step));
        [first, second]
    }
}

impl<'a> Texts<'a> {
    /// Where a text stands, which is put behind the others if it is new.
    fn place(&mut self, text: [&'a Conjunction; 2]) -> usize {
        let same = |known: &[&Conjunction; 2]| {
            known.iter().zip(text).all(|(one, other)| one.source() == other.source())
        };
        let known = self.0.iter().position(same);
        known.unwrap_or_else(|| {
            self.0.push(text);
            self.0.len() - 1
        })
    }

    /// What to run for each. The encoders' features of one text are filled up to one length; in
    /// compel those of all texts are.
    fn plans(&self, readers: &[Reader<'_>], plan: &Plan) -> Vec<Text> {
        let new = |text: &[&Conjunction; 2]| Text::new(readers, plan, *text);
        let mut texts: Vec<Text> = self.0.iter().map(new).collect();
        let longest = texts.iter().map(Text::chunks).max().unwrap_or(1);
        for text in &mut texts {
            let length = match plan.syntax {
                Syntax::Compel | Syntax::Plain => longest,
                Syntax::A1111 | Syntax::A1111Original | Syntax::Comfy => text.chunks(),
            };
            text.plans.iter_mut().for_each(|plan| plan.pad_to(length));
        }
        texts
    }
}

impl Text {
    /// The second text is what the second of two encoders reads.
    fn new(readers: &[Reader<'_>], plan: &Plan, texts: [&Conjunction; 2]) -> Self {
        let plans = readers.iter().zip(texts);
        let plans = plans
            .map(|(reader, text)| text.plan(reader.encoder, plan.long_prompt.into()))
            .collect();
        let last = readers.len().clamp(1, texts.len()) - 1;
        Self { plans, pooled: texts[last].pooled_ids() }
    }

    fn chunks(&self) -> usize {
        self.plans.iter().map(ConjunctionPlan::chunks).max().unwrap_or(1)
    }
}

impl Conditioning {
    fn zeros_like(&self) -> Result<Self> {
        Ok(Self {
            prompt_embeds: self.prompt_embeds.zeros_like()?,
            pooled_embeds: self.pooled_embeds.zeros_like()?,
        })
    }
}

/// The conditioning of every text. Each encoder reads all it has to in one go.
fn condition(
    readers: &[Reader<'_>],
    texts: &[Text],
    embeddings: &Arc<EmbeddingSet>,
    device: &Device,
) -> Result<Vec<Conditioning>> {
    // The pooled vector looks back from the end of the text: the padding is not read.
    let ends = texts.iter().map(|text| text.pooled.iter().position(|id| *id == END_OF_TEXT));
    let longest = ends.flatten().max().map_or(CHUNK_TOKENS, |end| end + 1);
    let pooled = texts.iter().map(|text| Row::new(&text.pooled[..longest], 0..0, embeddings));
    let pooled: Vec<Row> = pooled.collect();
    let read = |(index, reader): (usize, &Reader<'_>)| {
        let mut rows: Vec<Row> =
            texts.iter().flat_map(|text| Row::of_plan(&text.plans[index], embeddings)).collect();
        if index + 1 == readers.len() {
            rows.extend(pooled.iter().cloned());
        }
        States::read(reader, rows, embeddings, device)
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
    fn new(ids: &[u32], masked: Range<usize>, embeddings: &Arc<EmbeddingSet>) -> Self {
        let added = has_added(ids).then(|| Added(Arc::clone(embeddings)));
        Self { ids: ids.to_vec(), masked, added }
    }

    fn empty(encoder: Encoder) -> Self {
        Self { ids: encoder.empty_ids().to_vec(), masked: 0..0, added: None }
    }

    fn of_variant(chunk: &Chunk, variant: &Variant, embeddings: &Arc<EmbeddingSet>) -> Self {
        Self::new(&chunk.ids, variant.masked.clone(), embeddings)
    }

    /// As its encoder reads it; of one without a mask, what pools reads.
    fn tokens<'a>(&'a self, encoder: Encoder, mask: Option<&'a [bool]>) -> TokenRow<'a> {
        let added = self.added.as_ref().and_then(|added| added.0.vectors(encoder));
        TokenRow { ids: &self.ids, mask, added }
    }

    /// Whether this row's states begin with the other's: a token looks back only.
    fn covers(&self, other: &Self) -> bool {
        self.ids.starts_with(&other.ids) && self.masked == other.masked && self.added == other.added
    }

    /// Everything an encoder has to read for a plan.
    fn of_plan(plan: &ConjunctionPlan, embeddings: &Arc<EmbeddingSet>) -> Vec<Self> {
        let mut rows = Vec::new();
        for chunk in plan.plans().flat_map(|plan| &plan.chunks) {
            let row = |variant| Self::of_variant(chunk, variant, embeddings);
            rows.extend(chunk.variants.iter().map(row));
        }
        let mut chunks = plan.plans().flat_map(|plan| &plan.chunks);
        if plan.parts.iter().any(PartPlan::needs_empty) || chunks.any(Chunk::needs_empty) {
            rows.push(Self::empty(plan.encoder));
        }
        rows
    }

    fn mask(&self) -> Option<Vec<bool>> {
        let seen = |token| !self.masked.contains(&token);
        (!self.masked.is_empty()).then(|| (0..self.ids.len()).map(seen).collect())
    }
}

/// What an encoder says to rows of tokens: its penultimate states, `[1, 77, D]` of each.
struct States {
    known: Vec<(Row, Tensor)>,
    embeddings: Arc<EmbeddingSet>,
}

impl States {
    /// Reads every row once, together with the others.
    fn read(
        reader: &Reader<'_>,
        rows: Vec<Row>,
        embeddings: &Arc<EmbeddingSet>,
        device: &Device,
    ) -> Result<Self> {
        let mut states = Self { known: Vec::new(), embeddings: Arc::clone(embeddings) };
        let mut unread: Vec<Row> = Vec::new();
        for row in rows {
            if states.find(&row).is_some() || unread.iter().any(|other| other.covers(&row)) {
                continue;
            }
            match reader.recent.and_then(|recent| recent.get(&row)) {
                Some(known) => states.known.push((row, known)),
                None => unread.push(row),
            }
        }
        for alike in unread.chunk_by(|a, b| a.ids.len() == b.ids.len()) {
            let masks: Vec<_> = alike.iter().map(Row::mask).collect();
            let token_rows: Vec<TokenRow<'_>> = alike
                .iter()
                .zip(&masks)
                .map(|(row, mask)| row.tokens(reader.encoder, mask.as_deref()))
                .collect();
            let read = reader.network.encode(&reader.run, &token_rows, device)?;
            for (index, row) in alike.iter().enumerate() {
                // A copy, so that a row that is remembered does not hold its whole batch.
                let read = read.narrow(0, index, 1)?.force_contiguous()?;
                if let Some(recent) = reader.recent {
                    recent.keep(row.clone(), read.clone());
                }
                states.known.push((row.clone(), read));
            }
        }
        Ok(states)
    }

    fn find(&self, row: &Row) -> Option<&Tensor> {
        self.known.iter().find(|(known, _)| known.covers(row)).map(|(_, states)| states)
    }

    fn of(&self, row: &Row) -> &Tensor {
        self.find(row).expect("every row of a plan was read")
    }

    /// The pooled vectors of rows without masks, `[B, 1280]`.
    fn pooled(&self, pooling: &Reader<'_>, rows: &[Row]) -> Result<Tensor> {
        let states = rows.iter().map(|row| self.of(row).narrow(1, 0, row.ids.len()));
        let states = Tensor::cat(&states.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        let rows: Vec<_> = rows.iter().map(|row| row.tokens(pooling.encoder, None)).collect();
        let pooled = pooling.network.pool(&pooling.run, &states, &rows)?;
        pooled.ok_or(Error::NoPooledOutput)
    }

    /// The features of a text, `[1, 77n, D]`: the formula at [`ConjunctionPlan`].
    fn features(&self, plan: &ConjunctionPlan) -> Result<Tensor> {
        let parts = plan.parts.iter().map(|part| self.part(part, plan.encoder));
        Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)?)
    }

    fn part(&self, part: &PartPlan, encoder: Encoder) -> Result<Tensor> {
        if part.is_plain() {
            return self.prompt(&part.prompts[0].plan);
        }
        let mut sum: Option<Tensor> = None;
        for SharedPlan { share, plan } in &part.prompts {
            let features = (self.prompt(plan)? * f64::from(*share))?;
            sum = Some(match sum {
                Some(sum) => (sum + features)?,
                None => features,
            });
        }
        let sum = sum.expect("a part has a prompt");
        if !part.needs_empty() {
            return Ok(sum);
        }
        let empty = self.of(&Row::empty(encoder)).repeat((1, part.chunks(), 1))?;
        Ok((&empty + ((sum - &empty)? * f64::from(part.weight))?)?)
    }

    /// The features of a prompt, `[1, 77n, D]`: the formula at [`EncodePlan`].
    fn prompt(&self, plan: &EncodePlan) -> Result<Tensor> {
        let chunk = |chunk: &Chunk| {
            let states = self.blended(chunk)?;
            if !chunk.is_weighted() {
                return Ok(states);
            }
            match chunk.weighting {
                Weighting::Scale => scaled(&states, chunk),
                Weighting::ScaleKeepMean => keeping_mean(&states, &scaled(&states, chunk)?),
                _ => {
                    let empty = self.of(&Row::empty(plan.encoder));
                    weighted(&states, empty, chunk)
                }
            }
        };
        let chunks = plan.chunks.iter().map(chunk).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&chunks, 1)?)
    }

    /// The runs of a chunk through its encoder, in their shares, `[1, 77, D]`.
    fn blended(&self, chunk: &Chunk) -> Result<Tensor> {
        let of = |variant| self.of(&Row::of_variant(chunk, variant, &self.embeddings));
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

/// `weight · states`.
fn scaled(states: &Tensor, chunk: &Chunk) -> Result<Tensor> {
    let weights = Tensor::new(&chunk.weights[..], states.device())?;
    Ok(states.broadcast_mul(&weights.reshape((1, CHUNK_TOKENS, 1))?)?)
}

/// Scaled states times what gives them the mean that they had.
fn keeping_mean(states: &Tensor, scaled: &Tensor) -> Result<Tensor> {
    let mean = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>();
    Ok((scaled * (mean(states)? / mean(scaled)?))?)
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
            Syntax::A1111 => Self::A1111 { emphasis: Emphasis::NoNorm },
            Syntax::A1111Original => Self::A1111 { emphasis: Emphasis::Original },
            Syntax::Comfy => Self::Comfy,
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
