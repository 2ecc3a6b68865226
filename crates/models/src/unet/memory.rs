//! How much memory one call of the UNet takes at most, from the config and the size alone.

use super::Unet;
use crate::files::UnetConfig;

/// Scratch of the kernels, small tensors, what the allocator keeps.
const REST: u64 = 128_000_000;

/// Images of a transformer block's graph and of its gradients, at most, of its width.
const BLOCK: u64 = 56;
/// Images of a resnet's graph and of its gradients, at most, of its joined width.
const RESNET: u64 = 12;

impl Unet {
    /// Bytes of activations of one call, estimated from above for our kernels.
    ///
    /// `height` and `width` in latents; `tokens` of the prompt, whose keys and values are kept.
    #[must_use]
    pub fn bytes(&self, batch: usize, [height, width]: [usize; 2], tokens: usize) -> u64 {
        let config = &self.config;
        let pixels = |level: usize| {
            let half = |size: usize| (size.div_ceil(1 << level)) as u64;
            batch as u64 * half(height) * half(width)
        };
        let image = |channels: usize, level: usize| 4 * channels as u64 * pixels(level);

        // What the way down leaves for the way up.
        let mut skips = image(config.block_out_channels[0], 0);
        let mut keys = 0;
        let mut most = 0;
        for (level, &channels) in config.block_out_channels.iter().enumerate() {
            skips += config.layers_per_block as u64 * image(channels, level);
            if level + 1 < config.levels() {
                skips += image(channels, level + 1);
            }
            // On the way up: what came, the skip, both joined, and the resnet's three images.
            let below = config.block_out_channels[(level + 1).min(config.levels() - 1)];
            let joined = image(below.max(channels) + channels, level);
            most = most.max(2 * joined + 3 * image(channels, level));
            let layers = depth(config, level);
            if layers > 0 {
                // Input, tokens, their norm, query, key, value, mixture; the gated layer is
                // four wide; one more for the sum.
                most = most.max(10 * image(channels, level));
            }
            // Down, up, and the middle once more.
            let blocks = (2 * config.layers_per_block + 2) * layers;
            keys += 4 * (2 * batch * tokens * channels * blocks) as u64;
        }
        skips + most + keys + REST
    }

    /// Bytes of activations of the gradients of one batch, estimated from above for our kernels.
    ///
    /// What goes into every unit is kept; of one unit there are all images of its graph and
    /// their gradients. `height` and `width` in latents.
    #[must_use]
    pub fn training_bytes(&self, batch: usize, [height, width]: [usize; 2], tokens: usize) -> u64 {
        let config = &self.config;
        let pixels = |level: usize| {
            let half = |size: usize| (size.div_ceil(1 << level)) as u64;
            batch as u64 * half(height) * half(width)
        };
        let image = |channels: usize, level: usize| 4 * channels as u64 * pixels(level);
        let channels = &config.block_out_channels;
        let last = config.levels() - 1;

        // A layer is a resnet and, with a transformer, entering, its blocks and returning.
        let units = |depth: usize| if depth == 0 { 1 } else { 3 + depth as u64 };
        let mut kept = (units(depth(config, last)) + 1) * image(channels[last], last);
        let mut most = 0;
        for (level, &width) in channels.iter().enumerate() {
            let layers = 2 * config.layers_per_block as u64 + 1;
            let below = channels[(level + 1).min(last)].max(width);
            kept += (layers * units(depth(config, level)) + 2) * image(below, level);
            most = most.max(RESNET * image(below + width, level));
            if depth(config, level) > 0 {
                most = most.max(BLOCK * image(width, level));
            }
        }
        let blocks = |level: usize| (2 * config.layers_per_block + 2) * depth(config, level);
        let keys: usize = (0..=last).map(|level| channels[level] * blocks(level)).sum();
        kept + most + 4 * (2 * batch * tokens * keys) as u64 + REST
    }
}

fn depth(config: &UnetConfig, level: usize) -> usize {
    config.transformer_layers_per_block.get(level).copied().unwrap_or(0)
}
