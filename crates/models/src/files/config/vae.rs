//! `vae/config.json`.

use serde_json::Value;

use super::{Fields, MOST_CHANNELS, MOST_LAYERS};
use crate::error::Result;

/// `vae/config.json`: what the VAE needs to know about itself.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "the file has them, each for itself")]
pub struct VaeConfig {
    /// Channels of a picture.
    pub in_channels: usize,
    /// Channels of a picture.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of every level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Resnets of every level of the encoder; one more in the decoder.
    pub layers_per_block: usize,
    /// Groups of every group normalisation.
    pub norm_num_groups: usize,
    /// Multiplies latents so that they have about unit variance.
    pub scaling_factor: f64,
    /// The maker says that it overflows in f16.
    pub force_upcast: bool,
    /// A 1×1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// A 1×1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// The middle blocks attend.
    pub mid_block_add_attention: bool,
}

impl VaeConfig {
    /// Reads and checks the text of a config; `path` names it in messages.
    pub fn parse(text: &str, path: &str) -> Result<Self> {
        let fields = Fields::parse(text, path)?;
        fields.only("_class_name", "AutoencoderKL")?;
        fields.only("act_fn", "silu")?;
        for field in ["shift_factor", "latents_mean", "latents_std"] {
            fields.only(field, Value::Null)?;
        }
        let block_out_channels = fields.list("block_out_channels", 1..=MOST_CHANNELS)?;
        let levels = block_out_channels.len();
        for (field, name) in
            [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")]
        {
            let names = fields.texts(field)?;
            if names.len() != levels || names.iter().any(|found| *found != name) {
                return Err(fields.wrong(field, &format!("{levels} times `{name}`")));
            }
        }
        let config = Self {
            in_channels: fields.count("in_channels", Some(3), 3..=3)?,
            out_channels: fields.count("out_channels", Some(3), 3..=3)?,
            latent_channels: fields.count("latent_channels", Some(4), 4..=4)?,
            layers_per_block: fields.count("layers_per_block", Some(1), 1..=MOST_LAYERS)?,
            norm_num_groups: fields.count("norm_num_groups", Some(32), 1..=MOST_CHANNELS)?,
            scaling_factor: fields.positive("scaling_factor", 0.18215, 1e6)?,
            force_upcast: fields.flag("force_upcast", true)?,
            use_quant_conv: fields.flag("use_quant_conv", true)?,
            use_post_quant_conv: fields.flag("use_post_quant_conv", true)?,
            mid_block_add_attention: fields.flag("mid_block_add_attention", true)?,
            block_out_channels,
        };
        // Everything around assumes latents of an eighth of the picture's size.
        if levels != 4 {
            return Err(fields.wrong("block_out_channels", "4 levels, which make a factor of 8"));
        }
        let groups = config.norm_num_groups;
        if config.block_out_channels.iter().any(|channels| !channels.is_multiple_of(groups)) {
            let expected = format!("multiples of the {groups} groups of `norm_num_groups`");
            return Err(fields.wrong("block_out_channels", &expected));
        }
        Ok(config)
    }
}
