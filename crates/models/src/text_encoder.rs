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

/// Ids of the published configs say 2 where the tokenizer's end-of-text is 49407;
/// transformers then takes the largest id of the row instead.
const LEGACY_EOS: u32 = 2;

/// One encoder, with its weights where the file map has them.
pub struct TextEncoder {
    config: TextEncoderConfig,
    token_embedding: FrozenWeight,
    position_embedding: FrozenWeight,
    layers: Vec<Layer>,
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
}

/// What an encoder makes of its tokens.
pub struct Encoded {
    /// States before the last layer, not normalised, `[B, 77, D]`.
    pub penultimate: Tensor,
    /// Projection of the normalised last state at the end-of-text token, `[B, P]`; only of an
    /// encoder with a projection.
    pub pooled: Option<Tensor>,
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
            layers: (0..config.num_hidden_layers)
                .map(|i| Layer::load(&layers.path(i), config))
                .collect::<Result<_>>()?,
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

    /// Encodes rows of token ids, all of the same length.
    pub fn encode(&self, run: &Run<'_>, rows: &[TokenRow<'_>], device: &Device) -> Result<Encoded> {
        let mut hidden = self.embed(rows, device)?;
        let all = vec![true; rows.first().map_or(0, |row| row.ids.len())];
        let keys: Vec<&[bool]> = rows.iter().map(|row| row.mask.unwrap_or(&all)).collect();
        let masked = rows.iter().any(|row| row.mask.is_some());
        let mask = if masked { Mask::CausalKeys(&keys) } else { Mask::Causal };
        run.observe("embeddings", &hidden);
        let mut penultimate = hidden.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            if i + 1 == self.layers.len() {
                penultimate = hidden.clone();
                if self.text_projection.is_none() {
                    break;
                }
            }
            hidden = layer.forward(run, &hidden, mask)?;
        }
        let pooled = match &self.text_projection {
            Some(projection) => {
                let normal = self.final_layer_norm.layer(run, &hidden)?;
                let ends = rows
                    .iter()
                    .enumerate()
                    .map(|(index, row)| Ok(normal.get(index)?.get(self.end_of_text(row.ids))?))
                    .collect::<Result<Vec<_>>>()?;
                Some(projection.forward(run, &Tensor::stack(&ends, 0)?)?)
            }
            None => None,
        };
        Ok(Encoded { penultimate, pooled })
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
                let id = *id as usize;
                if id >= self.config.vocab_size {
                    return Err(Error::TokenId { id, vocabulary: self.config.vocab_size });
                }
                let token = self.token_embedding.rows(id..id + 1).values_f32();
                values.extend(token.iter().zip(position).map(|(token, position)| token + position));
            }
        }
        Ok(Tensor::from_vec(values, (rows.len(), tokens, width), device)?)
    }

    /// Where the pooled vector is read.
    fn end_of_text(&self, ids: &[u32]) -> usize {
        if self.config.eos_token_id == LEGACY_EOS {
            // The first of the largest, as argmax has it.
            let largest = ids.iter().max();
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

    fn forward(&self, run: &Run<'_>, x: &Tensor, mask: Mask<'_>) -> Result<Tensor> {
        let normal = self.layer_norm1.layer(run, x)?;
        let query = self.q_proj.forward(run, &normal)?;
        let key = self.k_proj.forward(run, &normal)?;
        let value = self.v_proj.forward(run, &normal)?;
        let mixed = ops::attention(run.ops, &query, &key, &value, self.heads, mask)?;
        let x = self.out_proj.onto(run, &mixed, x)?;

        let normal = self.layer_norm2.layer(run, &x)?;
        let hidden = self.fc1.activated(run, &normal, self.activation)?;
        let output = self.fc2.onto(run, &hidden, &x)?;
        run.observe(&self.name, &output);
        Ok(output)
    }
}
