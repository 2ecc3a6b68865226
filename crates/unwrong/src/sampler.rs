//! Samplers: from noise to latents, one noise level after the other.
//!
//! Stages 7 and 8 of the flow. A sampler knows latents, a schedule and a [`Denoiser`]; it
//! knows nothing of UNets, guidance or prompts, which is k-diffusion's contract.

use candle_core::Tensor;

use crate::error::Result;
use crate::schedule::{Level, Schedule};

/// A function from noisy latents to an estimate of the clean ones.
pub trait Denoiser {
    /// The denoised latents, in the shape of `latents`.
    ///
    /// `level` is the step that they are at. Whoever asks twice in one step, says the same step
    /// twice: prompts that change count steps, not questions.
    fn denoise(&self, latents: &Tensor, level: &Level) -> Result<Tensor>;
}

/// Someone who is told after each step, and may end the run with an error.
pub trait Watch {
    /// `step` of `steps` is done, counted from 1; it started from noise level `sigma` and ended
    /// with `latents`.
    fn step_done(&mut self, step: usize, steps: usize, sigma: f32, latents: &Tensor) -> Result<()>;
}

/// Any closure watches.
impl<F: FnMut(usize, usize, f32, &Tensor) -> Result<()>> Watch for F {
    fn step_done(&mut self, step: usize, steps: usize, sigma: f32, latents: &Tensor) -> Result<()> {
        self(step, steps, sigma, latents)
    }
}

/// Algorithm 2 of Karras et al. 2022 (arXiv:2206.00364), without churn.
///
/// The arithmetic is `EulerDiscreteScheduler`'s of diffusers 0.42.1, rounding included.
pub fn euler(
    denoiser: &dyn Denoiser,
    mut latents: Tensor,
    schedule: &Schedule,
    watch: &mut dyn Watch,
) -> Result<Tensor> {
    for (step, level) in schedule.levels().enumerate() {
        let denoised = denoiser.denoise(&latents, &level)?;
        // A true division: candle's `tensor / f64` multiplies by the rounded inverse.
        let sigma = Tensor::new(level.sigma, latents.device())?;
        let derivative = (&latents - denoised)?.broadcast_div(&sigma)?;
        latents = (latents + (derivative * f64::from(level.sigma_next - level.sigma))?)?;
        watch.step_done(step + 1, schedule.steps(), level.sigma, &latents)?;
    }
    Ok(latents)
}
