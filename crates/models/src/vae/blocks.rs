//! The blocks of the VAE: resnets at one resolution, and what leads to the next.

use candle_core::Tensor;

use super::EPS;
use crate::error::Result;
use crate::files::{VaeConfig, WeightPath};
use crate::layers::{Conv, Linear, Norm, Resnet, ResnetShape, Run, Upsample};
use crate::ops::{self, Image, Mask, Window};

pub(super) struct DownBlock {
    resnets: Vec<Resnet>,
    downsampler: Option<(String, Conv)>,
}

impl DownBlock {
    pub(super) fn load(weights: &WeightPath, config: &VaeConfig, level: usize) -> Result<Self> {
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

    pub(super) fn forward(&self, run: &Run<'_>, x: Image) -> Result<Image> {
        let mut hidden = x;
        for resnet in &self.resnets {
            hidden = resnet.forward(run, hidden, None)?;
        }
        if let Some((name, downsampler)) = &self.downsampler {
            hidden = downsampler.image(run, &hidden)?;
            run.observe_image(name, &hidden)?;
        }
        Ok(hidden)
    }
}

pub(super) struct UpBlock {
    resnets: Vec<Resnet>,
    pub(super) upsampler: Option<Upsampler>,
}

impl UpBlock {
    /// `index` counts from the lowest resolution up.
    pub(super) fn load(weights: &WeightPath, config: &VaeConfig, index: usize) -> Result<Self> {
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
                let layer = Upsample::load(&path, channels)?;
                Some(Upsampler { name: path.name().to_owned(), channels, layer })
            },
        })
    }

    /// `x` may still be as small as the block before left it: then `upsampler` is that block's,
    /// and its output is never whole where `streaming` says so.
    pub(super) fn forward(
        &self,
        run: &Run<'_>,
        x: Image,
        upsampler: Option<&Upsampler>,
        streaming: Streaming,
    ) -> Result<Image> {
        let (first, rest) = self.resnets.split_first().expect("a block has a resnet and one more");
        let mut hidden = match upsampler {
            // Who watches wants to see the image between.
            Some(upsampler) if run.observer.is_none() && upsampler.is_large(&x, streaming)? => {
                first.forward_upsampled(run, x, &upsampler.layer, streaming.rows)?
            }
            Some(upsampler) => {
                let image = upsampler.forward(run, &x)?;
                drop(x);
                first.forward(run, image, None)?
            }
            None => first.forward(run, x, None)?,
        };
        for resnet in rest {
            hidden = resnet.forward(run, hidden, None)?;
        }
        Ok(hidden)
    }
}

/// What leads from one up block to the next.
pub(super) struct Upsampler {
    name: String,
    channels: usize,
    layer: Upsample,
}

impl Upsampler {
    fn is_large(&self, x: &Image, streaming: Streaming) -> Result<bool> {
        let [_, height, width, _] = x.dims()?;
        Ok(streaming.applies(4 * height * width, self.channels))
    }

    fn forward(&self, run: &Run<'_>, x: &Image) -> Result<Image> {
        let image = self.layer.image(run, x)?;
        run.observe_image(&self.name, &image)?;
        Ok(image)
    }
}

/// When an upsampled image is computed twice in bands rather than stored.
///
/// The result is the same to the bit; it costs the upsampling convolution a second time.
#[derive(Clone, Copy)]
pub(super) struct Streaming {
    /// Images of more numbers than this are streamed.
    pub(super) above: usize,
    /// Rows of a band, a multiple of 4.
    pub(super) rows: usize,
}

impl Streaming {
    /// Half a gigabyte: up to there, what is stored stays below the peak of what follows at
    /// 1024². Bands of 16 rows are 17 MB there, and large enough for a convolution.
    pub(super) const DEFAULT: Self = Self { above: 1 << 27, rows: 16 };

    pub(super) fn applies(self, pixels: usize, channels: usize) -> bool {
        pixels * channels > self.above
    }
}

pub(super) struct MidBlock {
    resnets: [Resnet; 2],
    attention: Option<Attention>,
}

impl MidBlock {
    pub(super) fn load(weights: &WeightPath, config: &VaeConfig, channels: usize) -> Result<Self> {
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

    pub(super) fn forward(&self, run: &Run<'_>, x: Image, groups: usize) -> Result<Image> {
        let mut hidden = self.resnets[0].forward(run, x, None)?;
        if let Some(attention) = &self.attention {
            hidden = attention.forward(run, &hidden.into_tensor()?, groups)?.into();
        }
        self.resnets[1].forward(run, hidden, None)
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
