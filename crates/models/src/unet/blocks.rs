//! The three kinds of UNet blocks.
//!
//! diffusers has six classes for them (with and without attention); here a block without
//! attention has an empty list.

use super::transformer::{Transformer, TransformerShape};
use super::unit::Unit;
use super::{Prepared, Prompts};
use crate::error::Result;
use crate::files::{UnetConfig, WeightPath};
use crate::layers::{Conv, Resnet, ResnetShape, Run, Upsample};
use crate::ops::Window;

/// Resnets and transformers at one resolution, then half of it.
pub(super) struct DownBlock {
    resnets: Vec<Resnet>,
    attentions: Vec<Transformer>,
    downsampler: Option<(String, Conv)>,
}

impl DownBlock {
    pub(super) fn load(weights: &WeightPath, config: &UnetConfig, level: usize) -> Result<Self> {
        let channels = config.block_out_channels[level];
        let before = config.block_out_channels[level.saturating_sub(1)];
        let resnets = weights.path("resnets");
        let last = level + 1 == config.levels();
        Ok(Self {
            resnets: (0..config.layers_per_block)
                .map(|i| {
                    let inputs = if i == 0 { before } else { channels };
                    Resnet::load(&resnets.path(i), resnet_shape(config, inputs, channels))
                })
                .collect::<Result<_>>()?,
            attentions: if config.down_attention(level) {
                transformers(weights, config, level, config.layers_per_block)?
            } else {
                Vec::new()
            },
            downsampler: if last {
                None
            } else {
                let path = weights.path("downsamplers").path(0);
                let window = Window { stride: 2, ..Window::same(3) };
                let conv = Conv::with_window(&path.path("conv"), channels, channels, window)?;
                Some((path.name().to_owned(), conv))
            },
        })
    }

    pub(super) fn prepare(
        &self,
        run: &Run<'_>,
        prompts: &Prompts,
        prepared: &mut Prepared,
    ) -> Result<()> {
        self.attentions.iter().try_for_each(|a| a.prepare(run, prompts, prepared))
    }

    /// Every state that the way up will meet again is kept.
    pub(super) fn list<'a>(&'a self, units: &mut Vec<Unit<'a>>) {
        for (i, resnet) in self.resnets.iter().enumerate() {
            units.push(Unit::Resnet { resnet, joined: false });
            if let Some(attention) = self.attentions.get(i) {
                attention.list(units);
            }
            units.push(Unit::Keep);
        }
        if let Some((name, conv)) = &self.downsampler {
            units.extend([Unit::Conv { name, conv }, Unit::Keep]);
        }
    }
}

/// Resnet, transformer, resnet at the lowest resolution.
pub(super) struct MidBlock {
    resnets: [Resnet; 2],
    attention: Transformer,
}

impl MidBlock {
    pub(super) fn load(weights: &WeightPath, config: &UnetConfig) -> Result<Self> {
        let level = config.levels() - 1;
        let channels = config.block_out_channels[level];
        let resnets = weights.path("resnets");
        let resnet =
            |i: usize| Resnet::load(&resnets.path(i), resnet_shape(config, channels, channels));
        let shape = transformer_shape(config, level);
        Ok(Self {
            resnets: [resnet(0)?, resnet(1)?],
            attention: Transformer::load(&weights.path("attentions").path(0), shape)?,
        })
    }

    pub(super) fn prepare(
        &self,
        run: &Run<'_>,
        prompts: &Prompts,
        prepared: &mut Prepared,
    ) -> Result<()> {
        self.attention.prepare(run, prompts, prepared)
    }

    pub(super) fn list<'a>(&'a self, units: &mut Vec<Unit<'a>>) {
        let [first, second] = &self.resnets;
        units.push(Unit::Resnet { resnet: first, joined: false });
        self.attention.list(units);
        units.push(Unit::Resnet { resnet: second, joined: false });
    }
}

/// Resnets on what came down, transformers, then twice the resolution.
pub(super) struct UpBlock {
    resnets: Vec<Resnet>,
    attentions: Vec<Transformer>,
    upsampler: Option<(String, Upsample)>,
}

impl UpBlock {
    /// `index` counts from the lowest resolution up.
    pub(super) fn load(weights: &WeightPath, config: &UnetConfig, index: usize) -> Result<Self> {
        let level = config.levels() - 1 - index;
        let channels = config.block_out_channels[level];
        let below = config.block_out_channels[(level + 1).min(config.levels() - 1)];
        let above = config.block_out_channels[level.saturating_sub(1)];
        let layers = config.layers_per_block + 1;
        let resnets = weights.path("resnets");
        Ok(Self {
            resnets: (0..layers)
                .map(|i| {
                    let hidden = if i == 0 { below } else { channels };
                    let skip = if i + 1 == layers { above } else { channels };
                    Resnet::load(&resnets.path(i), resnet_shape(config, hidden + skip, channels))
                })
                .collect::<Result<_>>()?,
            attentions: if config.up_attention(index) {
                transformers(weights, config, level, layers)?
            } else {
                Vec::new()
            },
            upsampler: if level == 0 {
                None
            } else {
                let path = weights.path("upsamplers").path(0);
                Some((path.name().to_owned(), Upsample::load(&path, channels)?))
            },
        })
    }

    pub(super) fn prepare(
        &self,
        run: &Run<'_>,
        prompts: &Prompts,
        prepared: &mut Prepared,
    ) -> Result<()> {
        self.attentions.iter().try_for_each(|a| a.prepare(run, prompts, prepared))
    }

    pub(super) fn list<'a>(&'a self, units: &mut Vec<Unit<'a>>) {
        for (i, resnet) in self.resnets.iter().enumerate() {
            units.push(Unit::Resnet { resnet, joined: true });
            if let Some(attention) = self.attentions.get(i) {
                attention.list(units);
            }
        }
        if let Some((name, upsampler)) = &self.upsampler {
            units.push(Unit::Up { name, upsampler });
        }
    }
}

fn transformers(
    weights: &WeightPath,
    config: &UnetConfig,
    level: usize,
    count: usize,
) -> Result<Vec<Transformer>> {
    let attentions = weights.path("attentions");
    let shape = transformer_shape(config, level);
    (0..count).map(|i| Transformer::load(&attentions.path(i), shape)).collect()
}

fn transformer_shape(config: &UnetConfig, level: usize) -> TransformerShape {
    TransformerShape {
        channels: config.block_out_channels[level],
        depth: config.transformer_layers_per_block[level],
        heads: config.heads[level],
        groups: config.norm_num_groups,
        context: config.cross_attention_dim,
        linear_projection: config.use_linear_projection,
    }
}

fn resnet_shape(config: &UnetConfig, inputs: usize, outputs: usize) -> ResnetShape {
    ResnetShape {
        inputs,
        outputs,
        groups: config.norm_num_groups,
        eps: config.norm_eps,
        embedding: Some(4 * config.block_out_channels[0]),
    }
}
