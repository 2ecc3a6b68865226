//! Standard normal noise, drawn exactly as `torch.randn` draws it.
//!
//! Stage 6 of the flow: a seed means the same picture as in the programs people compare
//! with. Everything is computed here, on the CPU, whatever device the model runs on.

mod mt19937;
mod philox;

use crate::request::NoiseKind;
use mt19937::TorchCpu;
use philox::TorchCuda;

pub use philox::Gpu;

/// A generator of noise; every draw continues where the last one stopped.
///
/// Two machines, two devices or two thread counts draw the same numbers, and they are the
/// numbers that torch draws for the same seed, within 1e-6: torch itself differs by that much
/// between its AVX2 and AVX-512 builds, and by as much again on a GPU. Changing this changes
/// every picture ever made with a seed, so it is a breaking change, and `noise_is_frozen` says
/// so.
///
/// ```
/// use unwrong::noise::Noise;
/// use unwrong::request::NoiseKind;
///
/// let mut noise = Noise::new(NoiseKind::TorchCuda, 0);
/// let four = noise.draw(4);
/// assert!((four[0] - -0.9247).abs() < 5e-5);
/// ```
#[derive(Debug, Clone)]
pub struct Noise {
    generator: Generator,
}

#[derive(Debug, Clone)]
enum Generator {
    // The state of a Mersenne Twister is 2.5 kB.
    TorchCpu(Box<TorchCpu>),
    TorchCuda(TorchCuda),
}

impl Noise {
    /// The generator that torch makes with `manual_seed(seed)`.
    ///
    /// `torch-cpu` uses the low 32 bits of the seed, as torch does; `torch-cuda` all 64.
    #[must_use]
    pub fn new(kind: NoiseKind, seed: u64) -> Self {
        match kind {
            NoiseKind::TorchCpu => {
                Self { generator: Generator::TorchCpu(Box::new(TorchCpu::new(seed))) }
            }
            NoiseKind::TorchCuda => Self::torch_cuda(seed, Gpu::default()),
        }
    }

    /// `torch-cuda` as a certain GPU draws it: above some length the order of the numbers
    /// depends on how many threads the GPU holds.
    #[must_use]
    pub fn torch_cuda(seed: u64, gpu: Gpu) -> Self {
        Self { generator: Generator::TorchCuda(TorchCuda::new(seed, gpu)) }
    }

    /// What one call of `torch.randn` with this many elements returns, flattened.
    ///
    /// Two draws of 16 are one draw of 32 on the CPU, and never on a GPU.
    #[must_use]
    pub fn draw(&mut self, len: usize) -> Vec<f32> {
        match &mut self.generator {
            Generator::TorchCpu(generator) => generator.draw(len),
            Generator::TorchCuda(generator) => generator.draw(len),
        }
    }
}

#[cfg(test)]
mod tests;
