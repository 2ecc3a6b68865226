//! The VAE: pixels to latents and back, a factor of 8 in both directions.
//!
//! Stage 9 of the flow is [`Vae::decode`]. Latents outside are scaled by `scaling_factor`
//! (SDXL: 0.13025; SD 1.5 uses 0.18215, and mixing them up gives washed-out pictures and no
//! error). Everything is f32: the original SDXL VAE overflows f16 and turns black.
//!
//! Reference: diffusers 0.42.1 `AutoencoderKL`, compared block by block in `tests/parity.rs`.

use candle_core::{D, Tensor};

use crate::error::Result;
use crate::files::{VaeConfig, WeightPath, Weights};
use crate::layers::{Conv, Linear, Norm, Resnet, ResnetShape, Run, Upsample};
use crate::ops::{self, Mask, Window};

/// diffusers' VAE blocks normalise with this, whatever the config says.
const EPS: f64 = 1e-6;
/// `log(variance)` is clamped to this before use, as in diffusers.
const LOG_VARIANCE: (f64, f64) = (-30.0, 20.0);

/// Decoder and encoder, with their weights where the file map has them.
pub struct Vae {
    config: VaeConfig,
    encoder: Option<Encoder>,
    decoder: Decoder,
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
        Ok(Self { config: config.clone(), encoder, decoder: Decoder::load(&root, config)? })
    }

    /// The config it was built from.
    #[must_use]
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Pixels in about −1…1 from scaled latents.
    ///
    /// # Shapes
    /// - `latents`: `[B, H/8, W/8, 4]`; result: `[B, H, W, 3]`
    pub fn decode(&self, run: &Run<'_>, latents: &Tensor) -> Result<Tensor> {
        let latents = (latents / self.config.scaling_factor)?;
        self.decoder.forward(run, &latents, self.config.norm_num_groups)
    }

    /// The distribution of latents of pixels in −1…1; multiply by `scaling_factor` to use them.
    ///
    /// # Shapes
    /// - `pixels`: `[B, H, W, 3]`
    pub fn encode(&self, run: &Run<'_>, pixels: &Tensor) -> Result<Posterior> {
        let encoder = self.encoder.as_ref().ok_or(crate::error::Error::NoEncoder)?;
        let moments = encoder.forward(run, pixels, self.config.norm_num_groups)?;
        let channels = self.config.latent_channels;
        let mean = moments.narrow(D::Minus1, 0, channels)?.contiguous()?;
        let log_variance = moments.narrow(D::Minus1, channels, channels)?;
        let std = (log_variance.clamp(LOG_VARIANCE.0, LOG_VARIANCE.1)? * 0.5)?.exp()?;
        Ok(Posterior { mean, std })
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

    fn forward(&self, run: &Run<'_>, latents: &Tensor, groups: usize) -> Result<Tensor> {
        let latents = match &self.post_quant_conv {
            Some(conv) => &conv.forward(run, latents)?,
            None => latents,
        };
        let mut hidden = self.conv_in.forward(run, latents)?;
        run.observe("decoder.conv_in", &hidden);
        hidden = self.mid_block.forward(run, &hidden, groups)?;
        for block in &self.up_blocks {
            hidden = block.forward(run, &hidden)?;
        }
        hidden = self.conv_norm_out.group_silu(run, &hidden, groups)?;
        let pixels = self.conv_out.forward(run, &hidden)?;
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
        let mut hidden = self.conv_in.forward(run, pixels)?;
        run.observe("encoder.conv_in", &hidden);
        for block in &self.down_blocks {
            hidden = block.forward(run, &hidden)?;
        }
        hidden = self.mid_block.forward(run, &hidden, groups)?;
        hidden = self.conv_norm_out.group_silu(run, &hidden, groups)?;
        let moments = self.conv_out.forward(run, &hidden)?;
        run.observe("encoder.conv_out", &moments);
        match &self.quant_conv {
            Some(conv) => conv.forward(run, &moments),
            None => Ok(moments),
        }
    }
}

struct DownBlock {
    resnets: Vec<Resnet>,
    downsampler: Option<(String, Conv)>,
}

impl DownBlock {
    fn load(weights: &WeightPath, config: &VaeConfig, level: usize) -> Result<Self> {
        let channels = config.block_out_channels[level];
        let before = config.block_out_channels[level.saturating_sub(1)];
        let resnets = weights.path("resnets");
        Ok(Self {
            resnets: (0..config.layers_per_block)
                .map(|i| {
                    let inputs = if i == 0 { before } else { channels };
                    Resnet::load(&resnets.path(i), resnet_shape(config, inputs, channels))
                })
                .collect::<Result<_>>()?,
            downsampler: if level + 1 == config.block_out_channels.len() {
                None
            } else {
                let path = weights.path("downsamplers").path(0);
                // One row below and one column to the right, unlike the UNet's.
                let padding = [0, 1, 0, 1];
                let window = Window { stride: 2, padding, ..Window::same(3) };
                let conv = Conv::with_window(&path.path("conv"), channels, channels, window)?;
                Some((path.name().to_owned(), conv))
            },
        })
    }

    fn forward(&self, run: &Run<'_>, x: &Tensor) -> Result<Tensor> {
        let mut hidden = x.clone();
        for resnet in &self.resnets {
            hidden = resnet.forward(run, &hidden, None)?;
        }
        if let Some((name, downsampler)) = &self.downsampler {
            hidden = downsampler.forward(run, &hidden)?;
            run.observe(name, &hidden);
        }
        Ok(hidden)
    }
}

struct UpBlock {
    resnets: Vec<Resnet>,
    upsampler: Option<(String, Upsample)>,
}

impl UpBlock {
    /// `index` counts from the lowest resolution up.
    fn load(weights: &WeightPath, config: &VaeConfig, index: usize) -> Result<Self> {
        let levels = config.block_out_channels.len();
        let level = levels - 1 - index;
        let channels = config.block_out_channels[level];
        let below = config.block_out_channels[(level + 1).min(levels - 1)];
        let resnets = weights.path("resnets");
        Ok(Self {
            resnets: (0..=config.layers_per_block)
                .map(|i| {
                    let inputs = if i == 0 { below } else { channels };
                    Resnet::load(&resnets.path(i), resnet_shape(config, inputs, channels))
                })
                .collect::<Result<_>>()?,
            upsampler: if level == 0 {
                None
            } else {
                let path = weights.path("upsamplers").path(0);
                Some((path.name().to_owned(), Upsample::load(&path, channels)?))
            },
        })
    }

    fn forward(&self, run: &Run<'_>, x: &Tensor) -> Result<Tensor> {
        let mut hidden = x.clone();
        for resnet in &self.resnets {
            hidden = resnet.forward(run, &hidden, None)?;
        }
        if let Some((name, upsampler)) = &self.upsampler {
            hidden = upsampler.forward(run, &hidden)?;
            run.observe(name, &hidden);
        }
        Ok(hidden)
    }
}

struct MidBlock {
    resnets: [Resnet; 2],
    attention: Option<Attention>,
}

impl MidBlock {
    fn load(weights: &WeightPath, config: &VaeConfig, channels: usize) -> Result<Self> {
        let shape = resnet_shape(config, channels, channels);
        let resnets = weights.path("resnets");
        Ok(Self {
            resnets: [
                Resnet::load(&resnets.path(0), shape)?,
                Resnet::load(&resnets.path(1), shape)?,
            ],
            attention: if config.mid_block_add_attention {
                Some(Attention::load(&weights.path("attentions").path(0), channels)?)
            } else {
                None
            },
        })
    }

    fn forward(&self, run: &Run<'_>, x: &Tensor, groups: usize) -> Result<Tensor> {
        let mut hidden = self.resnets[0].forward(run, x, None)?;
        if let Some(attention) = &self.attention {
            hidden = attention.forward(run, &hidden, groups)?;
        }
        self.resnets[1].forward(run, &hidden, None)
    }
}

/// Attention of every pixel to every pixel, one head as wide as the channels.
struct Attention {
    name: String,
    group_norm: Norm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl Attention {
    fn load(weights: &WeightPath, channels: usize) -> Result<Self> {
        let linear = |path: WeightPath| Linear::load(&path, &[channels, channels]);
        Ok(Self {
            name: weights.name().to_owned(),
            group_norm: Norm::load(&weights.path("group_norm"), channels, EPS)?,
            to_q: linear(weights.path("to_q"))?,
            to_k: linear(weights.path("to_k"))?,
            to_v: linear(weights.path("to_v"))?,
            to_out: linear(weights.path("to_out").path(0))?,
        })
    }

    fn forward(&self, run: &Run<'_>, x: &Tensor, groups: usize) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        let tokens = (batch, height * width, channels);
        let normal = self.group_norm.group(run, x, groups)?.reshape(tokens)?;
        let query = self.to_q.forward(run, &normal)?;
        let key = self.to_k.forward(run, &normal)?;
        let value = self.to_v.forward(run, &normal)?;
        let mixed = ops::attention(run.ops, &query, &key, &value, 1, Mask::None)?;
        let output = self.to_out.onto(run, &mixed, &x.reshape(tokens)?)?.reshape(x.shape())?;
        run.observe(&self.name, &output);
        Ok(output)
    }
}

fn resnet_shape(config: &VaeConfig, inputs: usize, outputs: usize) -> ResnetShape {
    ResnetShape { inputs, outputs, groups: config.norm_num_groups, eps: EPS, embedding: None }
}
