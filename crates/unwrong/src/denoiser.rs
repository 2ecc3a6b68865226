//! The UNet as the k-diffusion contract: a function of latents and noise level.
//!
//! Guidance, the two halves of its batch and the prediction type live here, so the sampler
//! knows nothing of UNets and the UNet nothing of sampling.

use candle_core::Tensor;
use unwrong_models::files::PredictionType;
use unwrong_models::layers::Run;
use unwrong_models::unet::{Prepared, Unet};

use crate::error::Result;
use crate::sampler::Denoiser;
use crate::schedule::Level;

/// A UNet with everything that stays the same from step to step.
pub(crate) struct GuidedUnet<'a> {
    pub(crate) unet: &'a Unet,
    pub(crate) run: Run<'a>,
    /// Of all negative and then all positive prompts; of the positive ones alone when guidance is
    /// off.
    pub(crate) prepared: &'a Prepared,
    /// Of each picture; guidance is on for all or none.
    pub(crate) guidance_scales: Vec<f64>,
    pub(crate) prediction_type: PredictionType,
}

/// At 1 and below guidance changes nothing, and the negative half is not computed.
pub(crate) fn is_guided(guidance_scale: f64) -> bool {
    guidance_scale > 1.0
}

impl Denoiser for GuidedUnet<'_> {
    /// The estimate of the clean latents, `[B, 4, H/8, W/8]`.
    fn denoise(&self, latents: &Tensor, level: &Level) -> Result<Tensor> {
        let Level { sigma, timestep, .. } = *level;
        let scaled = (latents / f64::from((sigma * sigma + 1.0).sqrt()))?;
        let output = self.guided(&scaled, timestep)?;
        match self.prediction_type {
            PredictionType::Epsilon => Ok((latents - (output * f64::from(sigma))?)?),
            PredictionType::VPrediction => {
                // Salimans and Ho 2022, arXiv:2202.00512, in the form diffusers uses.
                let variance = f64::from(sigma * sigma + 1.0);
                let kept = (latents / variance)?;
                Ok((kept - (output * (f64::from(sigma) / variance.sqrt()))?)?)
            }
        }
    }
}

impl GuidedUnet<'_> {
    fn guided(&self, latents: &Tensor, timestep: f32) -> Result<Tensor> {
        let latents = latents.permute((0, 2, 3, 1))?.contiguous()?; // [B, H, W, C]
        if !self.guidance_scales.iter().copied().all(is_guided) {
            return self.predict(&latents, timestep);
        }
        let batch = latents.dim(0)?;
        let both = Tensor::cat(&[&latents, &latents], 0)?;
        let both = self.predict(&both, timestep)?;
        let guided = |(picture, scale): (usize, &f64)| {
            guide(&both.narrow(0, picture, 1)?, &both.narrow(0, batch + picture, 1)?, *scale)
        };
        let guided = self.guidance_scales.iter().enumerate().map(guided);
        Ok(Tensor::cat(&guided.collect::<Result<Vec<_>>>()?, 0)?)
    }

    fn predict(&self, latents: &Tensor, timestep: f32) -> Result<Tensor> {
        let output = self.unet.forward(&self.run, latents, timestep, self.prepared)?;
        Ok(output.permute((0, 3, 1, 2))?.contiguous()?) // [B, C, H, W]
    }
}

/// Classifier-free guidance: pushes the prediction away from `uncond`.
///
/// Returns `uncond + guidance_scale · (cond − uncond)`; both are `[B, 4, H/8, W/8]`.
///
/// Ho and Salimans 2022, arXiv:2207.12598, in the form diffusers uses.
fn guide(uncond: &Tensor, cond: &Tensor, guidance_scale: f64) -> Result<Tensor> {
    Ok((uncond + ((cond - uncond)? * guidance_scale)?)?)
}
