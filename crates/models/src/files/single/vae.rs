//! A VAE without a config, in either layout.
//!
//! SDXL's VAE and those of Stable Diffusion 1 and 2 have the same shapes; which one a file is,
//! only its maker knows. It is taken for SDXL's.

use serde_json::{Value, json};

use super::put;
use super::shapes::Shapes;
use crate::error::Result;
use crate::files::diffusers::vae_key;
use crate::files::weights::Builder;
use crate::files::{BlockNames, TensorFile, VaeConfig, VaeParts};

/// `vae/config.json` of `stabilityai/stable-diffusion-xl-base-1.0`.
const SCALING_FACTOR: f64 = 0.13025;

/// What `vae/config.json` would say of a VAE in LDM's names.
pub(super) fn ldm_config(shapes: &Shapes<'_>) -> Result<Value> {
    let level = |i: usize| format!("decoder.up.{i}.block.0.conv1.weight");
    let channels =
        (0..shapes.count(level)).map(|i| shapes.need(&level(i), 0)).collect::<Result<Vec<_>>>()?;
    let resnets = shapes.count(|i| format!("decoder.up.0.block.{i}.conv1.weight"));
    config(shapes, &channels, resnets, shapes.has("decoder.mid.attn_1.q.weight"))
}

/// Opens a VAE whose tensors lie under `prefix` in LDM's names.
pub(super) fn open_ldm(file: &TensorFile, prefix: &str) -> Result<VaeParts> {
    let config = ldm_config(&Shapes::new(file, prefix))?;
    let config = VaeConfig::parse(&config.to_string(), file.path())?;
    let names = BlockNames::vae(config.block_out_channels.len(), config.layers_per_block);
    let mut builder = Builder::new(file.path());
    builder.add_source(file);
    for key in file.names() {
        if let Some(name) = key.strip_prefix(prefix) {
            let name = names.to_diffusers(name).unwrap_or_else(|| key.to_owned());
            put(&mut builder, file, key, name, file.weights().get(key))?;
        }
    }
    Ok(VaeParts { config, weights: builder.build() })
}

/// Opens a VAE in diffusers' names.
pub(super) fn open_diffusers(file: TensorFile) -> Result<VaeParts> {
    let shapes = Shapes::new(&file, "");
    let level = |i: usize| format!("decoder.up_blocks.{i}.resnets.0.conv1.weight");
    // The way up begins with the coarsest level.
    let channels = (0..shapes.count(level))
        .rev()
        .map(|i| shapes.need(&level(i), 0))
        .collect::<Result<Vec<_>>>()?;
    let resnets = shapes.count(|i| format!("decoder.up_blocks.0.resnets.{i}.conv1.weight"));
    let attends = shapes.has("decoder.mid_block.attentions.0.group_norm.weight");
    let config = config(&shapes, &channels, resnets, attends)?;
    let config = VaeConfig::parse(&config.to_string(), file.path())?;
    let mut builder = Builder::new(file.path());
    builder.add_file(file, |key| Some(vae_key(key)))?;
    Ok(VaeParts { config, weights: builder.build() })
}

fn config(
    shapes: &Shapes<'_>,
    channels: &[usize],
    decoder_resnets: usize,
    attends: bool,
) -> Result<Value> {
    let levels = channels.len();
    Ok(json!({
        "block_out_channels": channels,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "latent_channels": shapes.need("decoder.conv_in.weight", 1)?,
        // The decoder has one more than the encoder.
        "layers_per_block": decoder_resnets.saturating_sub(1),
        "mid_block_add_attention": attends,
        "scaling_factor": SCALING_FACTOR,
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "use_post_quant_conv": shapes.has("post_quant_conv.weight"),
        "use_quant_conv": shapes.has("quant_conv.weight"),
    }))
}
