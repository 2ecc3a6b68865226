//! The VAE: pixels to latents and back, a factor of 8 in both directions.
//!
//! Stage 9 of the flow is [`Vae::decode`]. Latents outside are scaled by `scaling_factor`
//! (SDXL: 0.13025; SD 1.5 uses 0.18215, and mixing them up gives washed-out pictures and no
//! error). Everything is f32: the original SDXL VAE overflows f16 and turns black.
//!
//! Reference: diffusers 0.42.1 `AutoencoderKL`, compared block by block in `tests/parity.rs`.

mod blocks;
mod memory;
#[cfg(test)]
mod tests;
mod tiles;

use candle_core::{D, Tensor};

use self::blocks::{DownBlock, MidBlock, Streaming, UpBlock};
use self::memory::Sizes;
pub use self::tiles::{Tiling, Work};
use crate::error::Result;
use crate::files::{VaeConfig, WeightPath, Weights};
use crate::layers::{Conv, Norm, Run};

/// diffusers' VAE blocks normalise with this, whatever the config says.
const EPS: f64 = 1e-6;
/// `log(variance)` is clamped to this before use, as in diffusers.
const LOG_VARIANCE: (f64, f64) = (-30.0, 20.0);
/// Pixels to a latent, in both directions.
const FACTOR: usize = 8;

/// Decoder and encoder, with their weights where the file map has them.
pub struct Vae {
    config: VaeConfig,
    encoder: Option<Encoder>,
    decoder: Decoder,
    streaming: Streaming,
}

/// The encoder's answer: a normal distribution per latent value, not yet scaled.
pub struct Posterior {
    /// `[B, H/8, W/8, 4]`.
    pub mean: Tensor,
    /// `[B, H/8, W/8, 4]`.
    pub std: Tensor,
}

impl Vae {
    /// Finds every weight and checks its shape; reads none. A file without an encoder decodes.
    pub fn load(config: &VaeConfig, weights: &Weights) -> Result<Self> {
        let root = weights.root();
        let encoder = if root.path("encoder").path("conv_in").contains("weight") {
            Some(Encoder::load(&root, config)?)
        } else {
            None
        };
        let decoder = Decoder::load(&root, config)?;
        let streaming = Streaming::DEFAULT;
        Ok(Self { config: config.clone(), encoder, decoder, streaming })
    }

    /// The config it was built from.
    #[must_use]
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Whether its file has an encoder.
    #[must_use]
    pub fn can_encode(&self) -> bool {
        self.encoder.is_some()
    }

    /// Pixels in about −1…1 from scaled latents.
    ///
    /// Images go one by one, so that a batch needs the memory of one.
    ///
    /// # Shapes
    /// - `latents`: `[B, H/8, W/8, 4]`; result: `[B, H, W, 3]`
    pub fn decode(&self, run: &Run<'_>, latents: &Tensor) -> Result<Tensor> {
        let latents = (latents / self.config.scaling_factor)?;
        one_by_one(&latents, |latents| {
            self.decoder.forward(run, latents, self.config.norm_num_groups, self.streaming)
        })
    }

    /// [`Vae::decode`] as planned: whole, or in overlapping tiles whose seams are blended.
    ///
    /// Tiles are close to the whole, not equal: every tile has its own statistics.
    pub fn decode_as(&self, run: &Run<'_>, latents: &Tensor, tiling: Tiling) -> Result<Tensor> {
        tiling.run(latents, FACTOR, 1, |tile| self.decode(run, tile))
    }

    /// How to decode latents of this height and width within `budget` bytes, and what it takes.
    ///
    /// Whole where that fits, else the largest tiles that do; the smallest may not.
    #[must_use]
    pub fn plan_decode(&self, [height, width]: [usize; 2], budget: Option<u64>) -> Work {
        let sizes = Sizes { config: &self.config, streaming: self.streaming };
        Work::plan([height, width], budget, |height, width| sizes.decode(height, width))
    }

    /// The distribution of latents of pixels in −1…1; multiply by `scaling_factor` to use them.
    ///
    /// # Shapes
    /// - `pixels`: `[B, H, W, 3]`
    pub fn encode(&self, run: &Run<'_>, pixels: &Tensor) -> Result<Posterior> {
        self.posterior(&self.moments(run, pixels)?)
    }

    /// [`Vae::encode`] as planned; tiles are blended before mean and deviation are told apart.
    pub fn encode_as(&self, run: &Run<'_>, pixels: &Tensor, tiling: Tiling) -> Result<Posterior> {
        self.posterior(&tiling.run(pixels, 1, FACTOR, |tile| self.moments(run, tile))?)
    }

    /// How to encode pixels for latents of this height and width, as [`Vae::plan_decode`].
    #[must_use]
    pub fn plan_encode(&self, [height, width]: [usize; 2], budget: Option<u64>) -> Work {
        let sizes = Sizes { config: &self.config, streaming: self.streaming };
        Work::plan([height, width], budget, |height, width| sizes.encode(height, width))
    }

    fn moments(&self, run: &Run<'_>, pixels: &Tensor) -> Result<Tensor> {
        let encoder = self.encoder.as_ref().ok_or(crate::error::Error::NoEncoder)?;
        one_by_one(pixels, |pixels| encoder.forward(run, pixels, self.config.norm_num_groups))
    }

    fn posterior(&self, moments: &Tensor) -> Result<Posterior> {
        let channels = self.config.latent_channels;
        let mean = moments.narrow(D::Minus1, 0, channels)?.contiguous()?;
        let log_variance = moments.narrow(D::Minus1, channels, channels)?;
        let std = (log_variance.clamp(LOG_VARIANCE.0, LOG_VARIANCE.1)? * 0.5)?.exp()?;
        Ok(Posterior { mean, std })
    }
}

/// Runs a network on every image of a batch by itself.
fn one_by_one(batch: &Tensor, network: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    match batch.dim(0)? {
        1 => network(batch),
        images => {
            let outputs: Vec<_> = (0..images)
                .map(|image| network(&batch.narrow(0, image, 1)?))
                .collect::<Result<_>>()?;
            Ok(Tensor::cat(&outputs, 0)?)
        }
    }
}

struct Decoder {
    post_quant_conv: Option<Conv>,
    conv_in: Conv,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: Norm,
    conv_out: Conv,
}

impl Decoder {
    fn load(root: &WeightPath, config: &VaeConfig) -> Result<Self> {
        let weights = root.path("decoder");
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let latent = config.latent_channels;
        let up = weights.path("up_blocks");
        Ok(Self {
            post_quant_conv: if config.use_post_quant_conv {
                Some(Conv::load(&root.path("post_quant_conv"), latent, latent, 1)?)
            } else {
                None
            },
            conv_in: Conv::load(&weights.path("conv_in"), latent, last, 3)?,
            mid_block: MidBlock::load(&weights.path("mid_block"), config, last)?,
            up_blocks: (0..channels.len())
                .map(|index| UpBlock::load(&up.path(index), config, index))
                .collect::<Result<_>>()?,
            conv_norm_out: Norm::load(&weights.path("conv_norm_out"), first, EPS)?,
            conv_out: Conv::load(&weights.path("conv_out"), first, config.out_channels, 3)?,
        })
    }

    fn forward(
        &self,
        run: &Run<'_>,
        latents: &Tensor,
        groups: usize,
        streaming: Streaming,
    ) -> Result<Tensor> {
        let latents = match &self.post_quant_conv {
            Some(conv) => &conv.forward(run, latents)?,
            None => latents,
        };
        let mut hidden = self.conv_in.image(run, &latents.into())?;
        run.observe_image("decoder.conv_in", &hidden)?;
        hidden = self.mid_block.forward(run, hidden, groups)?;
        let mut upsampler = None;
        for block in &self.up_blocks {
            hidden = block.forward(run, hidden, upsampler, streaming)?;
            upsampler = block.upsampler.as_ref();
        }
        let norm = self.conv_norm_out.group_silu(run, groups);
        let pixels = self.conv_out.normed(run, &hidden, norm, None, None)?.into_tensor()?;
        run.observe("decoder.conv_out", &pixels);
        Ok(pixels)
    }
}

struct Encoder {
    conv_in: Conv,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    conv_norm_out: Norm,
    conv_out: Conv,
    quant_conv: Option<Conv>,
}

impl Encoder {
    fn load(root: &WeightPath, config: &VaeConfig) -> Result<Self> {
        let weights = root.path("encoder");
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let moments = 2 * config.latent_channels;
        let down = weights.path("down_blocks");
        Ok(Self {
            conv_in: Conv::load(&weights.path("conv_in"), config.in_channels, first, 3)?,
            down_blocks: (0..channels.len())
                .map(|level| DownBlock::load(&down.path(level), config, level))
                .collect::<Result<_>>()?,
            mid_block: MidBlock::load(&weights.path("mid_block"), config, last)?,
            conv_norm_out: Norm::load(&weights.path("conv_norm_out"), last, EPS)?,
            conv_out: Conv::load(&weights.path("conv_out"), last, moments, 3)?,
            quant_conv: if config.use_quant_conv {
                Some(Conv::load(&root.path("quant_conv"), moments, moments, 1)?)
            } else {
                None
            },
        })
    }

    fn forward(&self, run: &Run<'_>, pixels: &Tensor, groups: usize) -> Result<Tensor> {
        let mut hidden = self.conv_in.image(run, &pixels.into())?;
        run.observe_image("encoder.conv_in", &hidden)?;
        for block in &self.down_blocks {
            hidden = block.forward(run, hidden)?;
        }
        hidden = self.mid_block.forward(run, hidden, groups)?;
        let norm = self.conv_norm_out.group_silu(run, groups);
        let moments = self.conv_out.normed(run, &hidden, norm, None, None)?.into_tensor()?;
        run.observe("encoder.conv_out", &moments);
        match &self.quant_conv {
            Some(conv) => conv.forward(run, &moments),
            None => Ok(moments),
        }
    }
}
