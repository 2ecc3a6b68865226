//! CLIP's text encoders: token ids in, features per token and one pooled vector out.
//!
//! Stage 4 of the flow. SDXL takes the states *before* the last layer and without the final
//! normalisation, and the pooled vector of the second encoder only.
//!
//! Reference: transformers 5.24.0 `CLIPTextModel` and `CLIPTextModelWithProjection`.

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::files::{FrozenWeight, HiddenAct, TextEncoderConfig, WeightPath, Weights};
use crate::layers::{Linear, Norm, Run};
use crate::ops::{self, Activation, Mask};

/// Most rows that go through the layers together; more take several passes. With 77 tokens
/// the widest activation of the second encoder is then 25 MB.
const MOST_ROWS: usize = 16;

/// Ids of the published configs say 2 where the tokenizer's end-of-text is 49407;
/// transformers then takes the largest id of the row instead.
const LEGACY_EOS: u32 = 2;

/// One encoder, with its weights where the file map has them.
pub struct TextEncoder {
    config: TextEncoderConfig,
    token_embedding: FrozenWeight,
    position_embedding: FrozenWeight,
    layers: Vec<Layer>,
    /// Apart from the others: only the pooled vector needs it.
    last_layer: Layer,
    final_layer_norm: Norm,
    text_projection: Option<Linear>,
}

/// One row of tokens.
#[derive(Clone, Copy)]
pub struct TokenRow<'a> {
    /// Token ids, padded; 77 of them in SDXL.
    pub ids: &'a [u32],
    /// Which tokens may be looked at; absent for all. The first must be one of them.
    pub mask: Option<&'a [bool]>,
    /// Vectors of the ids from the vocabulary's size on, `[N, D]`: textual inversions.
    pub added: Option<&'a FrozenWeight>,
}

impl TextEncoder {
    /// Finds every weight and checks its shape; reads none.
    pub fn load(config: &TextEncoderConfig, weights: &Weights) -> Result<Self> {
        let root = weights.root();
        // Published files have the prefix; transformers 5 writes the first encoder without.
        let prefixed = root.path("text_model");
        let text_model = if prefixed.path("embeddings").path("token_embedding").contains("weight") {
            prefixed
        } else {
            root.clone()
        };
        let embeddings = text_model.path("embeddings");
        let width = config.hidden_size;
        let layers = text_model.path("encoder").path("layers");
        let layer = |i: usize| Layer::load(&layers.path(i), config);
        let last = config.num_hidden_layers - 1;
        let text_projection = if config.has_projection {
            let path = root.path("text_projection");
            Some(Linear::load_no_bias(&path, &[config.projection_dim, width])?)
        } else {
            None
        };
        Ok(Self {
            token_embedding: embeddings
                .path("token_embedding")
                .get("weight", &[config.vocab_size, width])?,
            position_embedding: embeddings
                .path("position_embedding")
                .get("weight", &[config.max_position_embeddings, width])?,
            layers: (0..last).map(layer).collect::<Result<_>>()?,
            last_layer: layer(last)?,
            final_layer_norm: Norm::load(
                &text_model.path("final_layer_norm"),
                width,
                config.layer_norm_eps,
            )?,
            text_projection,
            config: config.clone(),
        })
    }

    /// The config it was built from.
    #[must_use]
    pub fn config(&self) -> &TextEncoderConfig {
        &self.config
    }

    /// The states before the last layer, not normalised, `[B, T, D]`: what a UNet is told.
    ///
    /// All rows have the same length. A row comes out the same whatever the others are. In
    /// training none may have a mask.
    pub fn encode(&self, run: &Run<'_>, rows: &[TokenRow<'_>], device: &Device) -> Result<Tensor> {
        let mut passes = Vec::new();
        let most = if run.training.is_some() { rows.len().max(1) } else { MOST_ROWS };
        for rows in rows.chunks(most) {
            let mut hidden = self.embed(rows, device)?;
            run.observe("embeddings", &hidden);
            for layer in &self.layers {
                hidden = layer.forward(run, &hidden, rows)?;
            }
            passes.push(hidden);
        }
        Ok(Tensor::cat(&passes, 0)?)
    }

    /// The projection of the normalised last state at the end-of-text token, `[B, P]`, from
    /// what [`Self::encode`] made of rows without masks; absent where there is no projection.
    ///
    /// Of the last layer nothing is computed but this token and what it looks at; in training,
    /// whose operations have no part of a tensor, all of it is.
    pub fn pool(
        &self,
        run: &Run<'_>,
        states: &Tensor,
        rows: &[TokenRow<'_>],
    ) -> Result<Option<Tensor>> {
        let Some(projection) = &self.text_projection else { return Ok(None) };
        let ends: Vec<usize> = rows.iter().map(|row| self.end_of_text(row.ids)).collect();
        let state = if run.training.is_some() {
            run.picked(&self.last_layer.forward(run, states, rows)?, &ends)?
        } else {
            self.last_layer.at(run, states, &ends)?
        };
        let normal = self.final_layer_norm.layer(run, &state)?;
        Ok(Some(projection.forward(run, &normal)?))
    }

    /// Bytes of activations that a training keeps, of `rows` of `tokens`, estimated from above for
    /// our kernels.
    #[must_use]
    pub fn training_bytes(&self, rows: usize, tokens: usize) -> u64 {
        let config = &self.config;
        // Norms, query, key, value, mixture and sums; what goes into an activation and comes out.
        let layer = 8 * config.hidden_size + 2 * config.intermediate_size;
        let layers = config.num_hidden_layers + 1; // gradients within one
        4 * (rows * tokens * layer * layers) as u64
    }

    /// Token plus position embeddings, `[B, T, D]`. Only the rows that occur are read.
    fn embed(&self, rows: &[TokenRow<'_>], device: &Device) -> Result<Tensor> {
        let width = self.config.hidden_size;
        let tokens = rows.first().map_or(0, |row| row.ids.len());
        if tokens == 0 || tokens > self.config.max_position_embeddings {
            return Err(Error::TokenRow { tokens, most: self.config.max_position_embeddings });
        }
        let positions = self.position_embedding.rows(0..tokens).values_f32();
        let mut values = Vec::with_capacity(rows.len() * tokens * width);
        for row in rows {
            if row.ids.len() != tokens || row.mask.is_some_and(|mask| mask.len() != tokens) {
                return Err(Error::TokenRow { tokens: row.ids.len(), most: tokens });
            }
            for (id, position) in row.ids.iter().zip(positions.chunks_exact(width)) {
                let token = self.token(*id as usize, row.added)?;
                values.extend(token.iter().zip(position).map(|(token, position)| token + position));
            }
        }
        Ok(Tensor::from_vec(values, (rows.len(), tokens, width), device)?)
    }

    /// The vector of one token.
    fn token(&self, id: usize, added: Option<&FrozenWeight>) -> Result<Vec<f32>> {
        let vocabulary = self.config.vocab_size;
        if id < vocabulary {
            return Ok(self.token_embedding.rows(id..id + 1).values_f32());
        }
        let place = id - vocabulary;
        let shape = [self.config.hidden_size];
        match added {
            Some(added) if added.shape().get(1..) == Some(&shape) && place < added.shape()[0] => {
                Ok(added.rows(place..place + 1).values_f32())
            }
            _ => Err(Error::TokenId { id, vocabulary }),
        }
    }

    /// Where the pooled vector is read.
    fn end_of_text(&self, ids: &[u32]) -> usize {
        if self.config.eos_token_id == LEGACY_EOS {
            // The first of the largest, as argmax has it, but none of what was added: there
            // transformers reads the pooled vector at the first added token.
            let vocabulary = self.config.vocab_size as u32;
            let largest = ids.iter().filter(|id| **id < vocabulary).max();
            ids.iter().position(|id| Some(id) == largest).unwrap_or(0)
        } else {
            ids.iter().position(|id| *id == self.config.eos_token_id).unwrap_or(0)
        }
    }
}

struct Layer {
    name: String,
    activation: Activation,
    heads: usize,
    layer_norm1: Norm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    layer_norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

impl Layer {
    fn load(weights: &WeightPath, config: &TextEncoderConfig) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let attention = weights.path("self_attn");
        let square = |name: &str| Linear::load(&attention.path(name), &[width, width]);
        let norm = |name: &str| Norm::load(&weights.path(name), width, config.layer_norm_eps);
        let mlp = weights.path("mlp");
        Ok(Self {
            name: weights.name().to_owned(),
            activation: match config.hidden_act {
                HiddenAct::QuickGelu => Activation::QuickGelu,
                HiddenAct::Gelu => Activation::Gelu,
            },
            heads: config.num_attention_heads,
            layer_norm1: norm("layer_norm1")?,
            q_proj: square("q_proj")?,
            k_proj: square("k_proj")?,
            v_proj: square("v_proj")?,
            out_proj: square("out_proj")?,
            layer_norm2: norm("layer_norm2")?,
            fc1: Linear::load(&mlp.path("fc1"), &[inner, width])?,
            fc2: Linear::load(&mlp.path("fc2"), &[width, inner])?,
        })
    }

    fn forward(&self, run: &Run<'_>, x: &Tensor, rows: &[TokenRow<'_>]) -> Result<Tensor> {
        let normal = self.layer_norm1.layer(run, x)?;
        let query = self.q_proj.forward(run, &normal)?;
        let key = self.k_proj.forward(run, &normal)?;
        let value = self.v_proj.forward(run, &normal)?;
        let mixed = attention(run, [&query, &key, &value], self.heads, rows)?;
        let x = self.out_proj.onto(run, &mixed, x)?;
        let output = self.mlp(run, &x)?;
        run.observe(&self.name, &output);
        Ok(output)
    }

    /// [`Self::forward`] at one token of each row, `[B, D]`. It looks back only, so the tokens
    /// after it are not read.
    fn at(&self, run: &Run<'_>, x: &Tensor, tokens: &[usize]) -> Result<Tensor> {
        let mut seen = Vec::new(); // [token + 1, D] of each row
        let mut asked = Vec::new(); // [1, D] of each row
        for (row, token) in tokens.iter().enumerate() {
            let row = x.get(row)?;
            asked.push(row.narrow(0, *token, 1)?);
            seen.push(row.narrow(0, 0, token + 1)?);
        }
        let asked = Tensor::cat(&asked, 0)?;
        let query = self.q_proj.forward(run, &self.layer_norm1.layer(run, &asked)?)?;
        let normal = self.layer_norm1.layer(run, &Tensor::cat(&seen, 0)?)?;
        let key = self.k_proj.forward(run, &normal)?;
        let value = self.v_proj.forward(run, &normal)?;

        let mut mixed = Vec::new();
        let mut start = 0;
        for (row, token) in tokens.iter().enumerate() {
            let query = query.narrow(0, row, 1)?.unsqueeze(0)?;
            let key = key.narrow(0, start, token + 1)?.unsqueeze(0)?;
            let value = value.narrow(0, start, token + 1)?.unsqueeze(0)?;
            let one = ops::attention(run.ops, &query, &key, &value, self.heads, Mask::None)?;
            mixed.push(one.squeeze(0)?);
            start += token + 1;
        }
        let x = self.out_proj.onto(run, &Tensor::cat(&mixed, 0)?, &asked)?;
        self.mlp(run, &x)
    }

    fn mlp(&self, run: &Run<'_>, x: &Tensor) -> Result<Tensor> {
        let normal = self.layer_norm2.layer(run, x)?;
        let hidden = self.fc1.activated(run, &normal, self.activation)?;
        self.fc2.onto(run, &hidden, x)
    }
}

/// Causal attention, `[B, T, D]`, with and without masks in one batch.
fn attention(
    run: &Run<'_>,
    query_key_value: [&Tensor; 3],
    heads: usize,
    rows: &[TokenRow<'_>],
) -> Result<Tensor> {
    if rows.iter().all(|row| row.mask.is_none()) {
        let [query, key, value] = query_key_value;
        return run.attention(query, key, value, heads, Mask::Causal);
    }
    if run.training.is_some() {
        return Err(Error::NoBackward { op: "attention with masks" });
    }
    let mut parts = Vec::new();
    let mut start = 0;
    for alike in rows.chunk_by(|a, b| a.mask.is_some() == b.mask.is_some()) {
        let part = |tensor: &Tensor| tensor.narrow(0, start, alike.len());
        let [query, key, value] = query_key_value.map(part);
        let keys: Vec<&[bool]> = alike.iter().filter_map(|row| row.mask).collect();
        let mask = if keys.is_empty() { Mask::Causal } else { Mask::CausalKeys(&keys) };
        parts.push(ops::attention(run.ops, &query?, &key?, &value?, heads, mask)?);
        start += alike.len();
    }
    Ok(Tensor::cat(&parts, 0)?)
}
