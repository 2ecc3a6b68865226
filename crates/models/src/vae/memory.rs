//! How much memory a decode or encode takes at most, from the config and the size alone.
//!
//! Follows `forward` in `mod.rs` and `blocks.rs`, for our kernels: what is alive at the same
//! time, every image for itself. The plain operations of `ops::reference` take several times that.

use super::blocks::Streaming;
use crate::files::VaeConfig;

/// Scratch of the kernels (transformed tiles and filters of a convolution among it), small tensors,
/// what the allocator keeps.
const REST: u64 = 160_000_000;

/// Numbers become bytes here.
fn bytes(channels: usize, pixels: u64) -> u64 {
    4 * channels as u64 * pixels
}

/// A VAE as far as its memory goes.
pub(super) struct Sizes<'a> {
    pub(super) config: &'a VaeConfig,
    pub(super) streaming: Streaming,
}

impl Sizes<'_> {
    /// Peak of decoding latents of this height and width.
    pub(super) fn decode(&self, height: usize, width: usize) -> u64 {
        let levels = &self.config.block_out_channels;
        let mut below = levels[levels.len() - 1];
        let (mut width, mut pixels) = (width, height as u64 * width as u64);
        let mut peak = middle(below, pixels);
        for (index, &channels) in levels.iter().rev().enumerate() {
            let changes = below != channels;
            let mut first = resnet(below, channels, pixels);
            if index > 0 {
                let small = bytes(below, pixels);
                (width, pixels) = (2 * width, 4 * pixels);
                let image = bytes(below, pixels);
                first = resnet(below, channels, pixels).max(small + image);
                if changes && self.streaming.applies(pixels as usize, below) {
                    // A window of the image: a band and what is still read of the one before.
                    let lines = self.streaming.rows as u64 + 8;
                    let bands = bytes(below, lines * width as u64);
                    first = small + bands + 2 * bytes(channels, pixels);
                }
            }
            peak = peak.max(first).max(resnet(channels, channels, pixels));
            below = channels;
        }
        peak + bytes(2 * self.config.out_channels, pixels) + REST
    }

    /// Peak of encoding pixels into latents of this height and width.
    pub(super) fn encode(&self, height: usize, width: usize) -> u64 {
        let levels = &self.config.block_out_channels;
        let latents = height as u64 * width as u64;
        let mut pixels = latents << (2 * (levels.len() - 1));
        let picture = bytes(self.config.in_channels, pixels);
        let (mut above, mut peak) = (levels[0], 0);
        for &channels in levels {
            peak =
                peak.max(resnet(above, channels, pixels)).max(resnet(channels, channels, pixels));
            // The downsampled image beside the whole one is less than a resnet.
            above = channels;
            pixels /= 4;
        }
        peak.max(middle(above, latents)) + picture + REST
    }
}

/// Input, the image between the convolutions, and a shortcut where there is one; the sum takes
/// the memory of input or shortcut.
fn resnet(inputs: usize, outputs: usize, pixels: u64) -> u64 {
    let shortcut = if inputs == outputs { 0 } else { bytes(outputs, pixels) };
    bytes(inputs, pixels) + bytes(outputs, pixels) + shortcut
}

/// Attention: input, its norm, query, key, value, their mixture, output.
fn middle(channels: usize, pixels: u64) -> u64 {
    7 * bytes(channels, pixels)
}
