//! `text_encoder/config.json` and `text_encoder_2/config.json`.

use serde_json::Value;

use super::{Fields, MOST_CHANNELS, MOST_LAYERS};
use crate::error::Result;

/// The activation between the two layers of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HiddenAct {
    /// `x · sigmoid(1.702 x)`: CLIP ViT-L.
    QuickGelu,
    /// `x · Φ(x)`: OpenCLIP bigG.
    Gelu,
}

/// `text_encoder/config.json`: what a CLIP text encoder needs to know about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct TextEncoderConfig {
    /// Number of tokens.
    pub vocab_size: usize,
    /// Width of the features.
    pub hidden_size: usize,
    /// Width inside the MLPs.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads of every layer.
    pub num_attention_heads: usize,
    /// Longest row of tokens.
    pub max_position_embeddings: usize,
    /// Activation of the MLPs.
    pub hidden_act: HiddenAct,
    /// Added to the variance in layer normalisations.
    pub layer_norm_eps: f64,
    /// Whether a pooled vector is projected: the second encoder.
    pub has_projection: bool,
    /// Width of that vector.
    pub projection_dim: usize,
    /// The token whose state is pooled. Published configs say 2, which stands for the largest
    /// id of the row.
    pub eos_token_id: u32,
}

impl TextEncoderConfig {
    /// Reads and checks the text of a config; `path` names it in messages.
    ///
    /// Which of the two encoders it is decides about the projection, as it does in diffusers:
    /// configs of both have a `projection_dim`.
    pub fn parse(text: &str, path: &str, has_projection: bool) -> Result<Self> {
        let fields = Fields::parse(text, path)?;
        if let Some(kind) = fields.get("model_type").and_then(Value::as_str)
            && !matches!(kind, "clip_text_model" | "clip")
        {
            return Err(fields.wrong("model_type", "`clip_text_model`"));
        }
        let config = Self {
            vocab_size: fields.count("vocab_size", Some(49408), 1..=1 << 24)?,
            hidden_size: fields.count("hidden_size", Some(512), 1..=MOST_CHANNELS)?,
            intermediate_size: fields.count("intermediate_size", Some(2048), 1..=MOST_CHANNELS)?,
            num_hidden_layers: fields.count("num_hidden_layers", Some(12), 1..=MOST_LAYERS)?,
            num_attention_heads: fields.count("num_attention_heads", Some(8), 1..=MOST_CHANNELS)?,
            max_position_embeddings: fields.count(
                "max_position_embeddings",
                Some(77),
                77..=MOST_CHANNELS,
            )?,
            hidden_act: fields.choice(
                "hidden_act",
                "quick_gelu",
                &[("quick_gelu", HiddenAct::QuickGelu), ("gelu", HiddenAct::Gelu)],
            )?,
            layer_norm_eps: fields.positive("layer_norm_eps", 1e-5, 1.0)?,
            has_projection,
            projection_dim: fields.count("projection_dim", Some(512), 1..=MOST_CHANNELS)?,
            eos_token_id: fields.uniform("eos_token_id", Some(49407), 0..=1 << 24)? as u32,
        };
        if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            let expected = format!("a divisor of the `hidden_size` {}", config.hidden_size);
            return Err(fields.wrong("num_attention_heads", &expected));
        }
        Ok(config)
    }
}
