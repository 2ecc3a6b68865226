//! torch's CUDA generator: Philox, spread over the threads of a GPU.
//!
//! Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", with ten rounds. How torch
//! launches it: `ATen/native/cuda/DistributionTemplates.h`; how cuRAND makes normal numbers of
//! it: `curand_normal4`. Checked against an independent Philox and against an H100, whose own
//! sine and cosine differ from the rounded ones by up to 2.9e-6.

use std::f32::consts::{PI, TAU};

/// Threads in a block, as torch launches it.
const BLOCK: u64 = 256;
/// Numbers that one call of the generator gives.
const LANES: u64 = 4;
/// 2⁻³².
const UNIT: f32 = 1.0 / 4_294_967_296.0;

/// What of a GPU the order of its random numbers depends on.
///
/// Up to `multiprocessors · threads_per_multiprocessor` elements every GPU draws the same. That
/// is a picture of 1024×1024 for nearly all of them, but not for a T4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpu {
    /// Streaming multiprocessors: 132 on an H100, 40 on a T4.
    pub multiprocessors: u32,
    /// Resident threads of each: 2048 on an H100, 1024 on a T4.
    pub threads_per_multiprocessor: u32,
}

impl Default for Gpu {
    /// An H100.
    fn default() -> Self {
        Self { multiprocessors: 132, threads_per_multiprocessor: 2048 }
    }
}

#[derive(Debug, Clone)]
pub(super) struct TorchCuda {
    key: [u32; 2],
    blocks: u64,
    /// Counter of every thread, in calls.
    calls: u64,
}

impl TorchCuda {
    pub(super) fn new(seed: u64, gpu: Gpu) -> Self {
        let per_multiprocessor = u64::from(gpu.threads_per_multiprocessor) / BLOCK;
        let blocks = (u64::from(gpu.multiprocessors) * per_multiprocessor).max(1);
        Self { key: halves(seed), blocks, calls: 0 }
    }

    /// Thread `t` of `threads` writes its call's four lanes to `t`, `t + threads`, and so on;
    /// then the grid moves on by four times its threads.
    pub(super) fn draw(&mut self, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        if len == 0 {
            return values;
        }
        let threads = BLOCK * self.blocks.min((len as u64).div_ceil(BLOCK));
        let stride = usize::try_from(threads * LANES).unwrap_or(usize::MAX);
        for grid in values.chunks_mut(stride) {
            // Only the lanes that land in the tensor; thread t always has lane 0 in the longest.
            let mut lanes: Vec<&mut [f32]> = grid.chunks_mut(threads as usize).collect();
            let active = lanes[0].len();
            for thread in 0..active {
                let normals = self.normal4(thread as u64);
                for (lane, normal) in lanes.iter_mut().zip(normals) {
                    if let Some(value) = lane.get_mut(thread) {
                        *value = normal;
                    }
                }
            }
            self.calls = self.calls.wrapping_add(1);
        }
        values
    }

    fn normal4(&self, thread: u64) -> [f32; 4] {
        let [c0, c1] = halves(self.calls);
        let [c2, c3] = halves(thread);
        let [x0, y0, x1, y1] = philox4x32_10([c0, c1, c2, c3], self.key);
        let [a, b] = box_muller(x0, y0);
        let [c, d] = box_muller(x1, y1);
        [a, b, c, d]
    }
}

fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [low0, high0] = halves(u64::from(counter[0]) * 0xd251_1f53);
        let [low1, high1] = halves(u64::from(counter[2]) * 0xcd9e_8d57);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

/// Two words to two normals, sine first; both words end up above zero.
///
/// The angle is one fused multiply-add, as the CUDA compiler makes it.
fn box_muller(x: u32, y: u32) -> [f32; 2] {
    let u = x as f32 * UNIT + UNIT / 2.0;
    let angle = (y as f32).mul_add(TAU * UNIT, PI * UNIT);
    let radius = (-2.0 * f64::from(u).ln() as f32).sqrt();
    let (sin, cos) = f64::from(angle).sin_cos();
    [radius * sin as f32, radius * cos as f32]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the known-answer file of the authors' Random123 library.
    #[test]
    fn the_rounds_give_the_published_answers() {
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        for (counter, key, answer) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (pi, [0xa409_3822, 0x299f_31d0], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ] {
            assert_eq!(philox4x32_10(counter, key), answer);
        }
    }
}
