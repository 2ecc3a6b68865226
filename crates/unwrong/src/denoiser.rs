//! The UNet as the k-diffusion contract: a function of latents and noise level.
//!
//! Guidance, the two halves of its batch and the prediction type live here, so the sampler
//! knows nothing of UNets and the UNet nothing of sampling.

use std::sync::Arc;

use candle_core::Tensor;
use unwrong_models::files::PredictionType;
use unwrong_models::layers::Run;
use unwrong_models::unet::{Prepared, Unet};

use crate::error::Result;
use crate::sampler::Denoiser;
use crate::schedule::Level;

/// A UNet with everything that it needs to predict noise for some pictures.
pub(crate) struct GuidedUnet<'a> {
    pub(crate) unet: &'a Unet,
    pub(crate) run: Run<'a>,
    /// What it is asked at a step, counted from 1: prompts may change on the way.
    pub(crate) questions: &'a dyn Fn(usize) -> Result<Arc<Vec<Question>>>,
    /// Of each picture.
    pub(crate) guidance_scales: Vec<f64>,
    pub(crate) prediction_type: PredictionType,
}

/// Prompts of one length that go through a UNet together.
pub(crate) struct Question {
    pub(crate) prepared: Prepared,
    /// Which picture each prompt is for, and as what.
    pub(crate) rows: Vec<(usize, Side)>,
}

/// What a prompt is to its picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Side {
    /// Away from it.
    Negative,
    /// Towards it, with a weight beside the other positive ones.
    Positive(f64),
}

/// At 1 and below guidance changes nothing, and the negative half is not computed.
pub(crate) fn is_guided(guidance_scale: f64) -> bool {
    guidance_scale > 1.0
}

impl Denoiser for GuidedUnet<'_> {
    /// The estimate of the clean latents, `[B, 4, H/8, W/8]`.
    fn denoise(&self, latents: &Tensor, level: &Level) -> Result<Tensor> {
        let sigma = level.sigma;
        let scaled = (latents / f64::from((sigma * sigma + 1.0).sqrt()))?;
        let output = self.guided(&scaled, level)?;
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
    fn guided(&self, latents: &Tensor, level: &Level) -> Result<Tensor> {
        let latents = latents.permute((0, 2, 3, 1))?.contiguous()?; // [B, H, W, C]
        let count = self.guidance_scales.len();
        let mut negative: Vec<Option<Tensor>> = vec![None; count];
        let mut positive: Vec<Vec<(f64, Tensor)>> = vec![Vec::new(); count];
        for Question { prepared, rows } in &*(self.questions)(level.step)? {
            let seen = rows.iter().map(|(picture, _)| latents.narrow(0, *picture, 1));
            let seen = Tensor::cat(&seen.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
            let answers = self.unet.forward(&self.run, &seen, level.timestep, prepared)?;
            let answers = answers.permute((0, 3, 1, 2))?.contiguous()?; // [B, C, H, W]
            for (row, (picture, side)) in rows.iter().enumerate() {
                let answer = answers.narrow(0, row, 1)?;
                match side {
                    Side::Negative => negative[*picture] = Some(answer),
                    Side::Positive(weight) => positive[*picture].push((*weight, answer)),
                }
            }
        }
        let sides = negative.into_iter().zip(positive).zip(&self.guidance_scales);
        let guided = sides.map(|((negative, positive), scale)| guide(negative, &positive, *scale));
        Ok(Tensor::cat(&guided.collect::<Result<Vec<_>>>()?, 0)?)
    }
}

/// Classifier-free guidance: pushes the prediction away from the negative one.
///
/// Returns `negative + Σ weight · guidance_scale · (positive − negative)`, each `[1, 4, H/8, W/8]`;
/// without a negative one there is one positive, and guidance is off.
///
/// Ho and Salimans 2022, arXiv:2207.12598, in the form diffusers uses; with several positive
/// prompts as A1111 1.10.1 does it, `sd_samplers_cfg_denoiser.py`, `combine_denoised`.
fn guide(
    negative: Option<Tensor>,
    positive: &[(f64, Tensor)],
    guidance_scale: f64,
) -> Result<Tensor> {
    let Some(negative) = negative else {
        let (_, alone) = positive.first().expect("every picture has a prompt");
        return Ok(alone.clone());
    };
    let mut guided = negative.clone();
    for (weight, answer) in positive {
        guided = (guided + ((answer - &negative)? * (weight * guidance_scale))?)?;
    }
    Ok(guided)
}
