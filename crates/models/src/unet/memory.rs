//! How much memory one call of the UNet takes at most, from the config and the size alone.

use super::Unet;
use crate::files::UnetConfig;

/// Scratch of the kernels, small tensors, what the allocator keeps.
const REST: u64 = 128_000_000;

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
}

fn depth(config: &UnetConfig, level: usize) -> usize {
    config.transformer_layers_per_block.get(level).copied().unwrap_or(0)
}
