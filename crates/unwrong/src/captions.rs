//! Which caption a picture fits, by the base's own denoising loss.
//!
//! No stage of the flow: `unwrong eval --follow` is made of this. The picture becomes latents,
//! noise of a few levels is added, and the base predicts the noise under every caption; it
//! predicts best under the caption that fits best. Noise and levels are the same for all captions,
//! so that only the text differs.
//!
//! Li, Prabhudesai, Duggal, Brown and Pathak 2023, "Your diffusion model is secretly a zero-shot
//! classifier", arXiv:2303.16203.

use candle_core::Tensor;
use unwrong_models::files::PredictionType;
use unwrong_models::unet::Prepared;

use crate::encode::{Conditioning, encode_pair};
use crate::error::{Error, Result};
use crate::memory;
use crate::noise::Noise;
use crate::picture::Pixels;
use crate::pipeline::{Pipeline, VAE_FACTOR};
use crate::plan::Plan;
use crate::request::{GenerateRequest, LongPrompt, NoiseKind, Size, Weights};
use crate::schedule::alphas_cumprod;

/// Most latents of one call of the UNet: no more than the two halves of guidance at 1024×1024.
const MOST_LATENTS: usize = 2 * 128 * 128;
/// Tokens of a caption.
const TOKENS: usize = 77;

/// Captions that the base has read, for pictures of one size.
pub struct Captions {
    size: Size,
    groups: Vec<Prepared>,
    /// How many captions each group has; the last may have fewer.
    each: usize,
    count: usize,
}

/// How much noise is added to a picture, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noising {
    /// Training indices, 0…999.
    pub timesteps: Vec<usize>,
    /// What the noise follows from.
    pub seed: u64,
}

impl Noising {
    /// Timesteps in the middle of `levels` equal parts of a model's schedule.
    #[must_use]
    pub fn even(levels: usize, train_timesteps: usize, seed: u64) -> Self {
        let timesteps = (0..levels).map(|level| (2 * level + 1) * train_timesteps / (2 * levels));
        Self { timesteps: timesteps.collect(), seed }
    }
}

/// A picture with noise, as the UNet sees it, `[H/8, W/8, 4]`.
struct Shown {
    size: Size,
    timestep: usize,
    noisy: Vec<f32>,
    /// What it should answer.
    target: Vec<f32>,
}

impl Pipeline {
    /// Refuses what [`Pipeline::captions`] and [`Pipeline::caption_losses`] would refuse for
    /// pictures of this request; reads no weight.
    pub fn check_captions(&self, request: &GenerateRequest) -> Result<()> {
        if !self.vae.can_encode() {
            return Err(Error::Request {
                problem: "the VAE has no encoder, and no picture can be read without".to_owned(),
                hint: Some("name a whole one with `--vae`".to_owned()),
            });
        }
        let plan = self.caption_plan(request)?;
        let Some(budget) = self.memory.or_else(memory::free) else { return Ok(()) };
        let needs = self.base.unet.bytes(at_once(plan.size), latents(plan.size), TOKENS);
        if needs > budget {
            let what = "reading a picture under several captions";
            return Err(Error::NotEnoughMemory { what, size: plan.size, needs, budget });
        }
        Ok(())
    }

    /// Reads the prompts of requests that differ in nothing else. LoRA files and textual
    /// inversions are left out.
    ///
    /// What does not fit in 77 tokens is cut off.
    pub fn captions(&self, requests: &[GenerateRequest]) -> Result<Captions> {
        let plans: Vec<Plan> =
            requests.iter().map(|request| self.caption_plan(request)).collect::<Result<_>>()?;
        let Some(first) = plans.first() else {
            return Err(Error::Request {
                problem: "there are no captions to read".to_owned(),
                hint: None,
            });
        };
        let each = at_once(first.size);
        let groups = plans.chunks(each).map(|plans| self.read(plans)).collect::<Result<_>>()?;
        Ok(Captions { size: first.size, groups, each, count: plans.len() })
    }

    /// The mean square error of the base's prediction under every caption, over all levels of
    /// noise.
    ///
    /// The base alone judges: no LoRA, no refiner, no guidance.
    pub fn caption_losses(
        &self,
        captions: &Captions,
        pixels: &Pixels,
        noising: &Noising,
    ) -> Result<Vec<f64>> {
        let size = Size { width: pixels.width(), height: pixels.height() };
        if size != captions.size {
            return Err(Error::Request {
                problem: format!("the picture has {size} pixels, expected {}", captions.size),
                hint: None,
            });
        }
        let clean = self.latents_of(pixels)?;
        let levels = alphas_cumprod(&self.base.scheduler)?;
        let mut noise = Noise::new(NoiseKind::TorchCpu, noising.seed);
        let mut losses = vec![0.0; captions.count];
        for timestep in &noising.timesteps {
            let kept = *levels.get(*timestep).ok_or_else(|| Error::OutOfRange {
                field: "timestep",
                value: *timestep as f64,
                min: 0.0,
                max: levels.len() as f64 - 1.0,
            })?;
            let (noisy, target) = self.noised(&clean, &noise.draw(clean.len()), kept);
            let shown = Shown { size, timestep: *timestep, noisy, target };
            for (group, losses) in captions.groups.iter().zip(losses.chunks_mut(captions.each)) {
                let found = self.errors(group, losses.len(), &shown)?;
                losses.iter_mut().zip(found).for_each(|(sum, error)| *sum += error);
            }
        }
        let levels = noising.timesteps.len().max(1) as f64;
        for loss in &mut losses {
            *loss /= levels;
        }
        Ok(losses)
    }

    fn caption_plan(&self, request: &GenerateRequest) -> Result<Plan> {
        let caption = GenerateRequest {
            negative_prompt: None,
            prompt_2: None,
            negative_prompt_2: None,
            wrong: None,
            wrong_lora: None,
            loras: Vec::new(),
            embeddings: Vec::new(),
            embedding_dir: None,
            high_noise_fraction: None,
            long_prompt: Some(LongPrompt::Truncate),
            seed: Some(0),
            count: None,
            ..self.completed(request)?
        };
        Ok(Plan::expand(&caption, self.defaults(), self.native_size(), false)?.remove(0))
    }

    /// Captions that go through the UNet together.
    fn read(&self, plans: &[Plan]) -> Result<Prepared> {
        let readers = self.readers(&self.base, &self.unchanged);
        let told: Vec<Conditioning> = plans
            .iter()
            .map(|plan| Ok(encode_pair(&readers, plan, true, &self.device)?.positive))
            .collect::<Result<_>>()?;
        let rows = |of: fn(&Conditioning) -> &Tensor| {
            Tensor::cat(&told.iter().map(of).collect::<Vec<_>>(), 0)
        };
        let embeds = rows(|told| &told.prompt_embeds)?;
        let pooled = rows(|told| &told.pooled_embeds)?;
        let ids = plans.iter().flat_map(|plan| {
            let [positive, _] = plan.conditions.base();
            positive
        });
        let ids = Tensor::from_iter(ids, &self.device)?.reshape((plans.len(), ()))?;
        let run = self.unet_run(Weights::Native, &self.none);
        Ok(self.base.unet.prepare(&run, &embeds, &pooled, &ids)?)
    }

    /// The mean of the VAE's answer, scaled, `[H/8, W/8, 4]`.
    fn latents_of(&self, pixels: &Pixels) -> Result<Vec<f32>> {
        let (height, width) = (pixels.height() as usize, pixels.width() as usize);
        let values: Vec<f32> =
            pixels.rgb().iter().map(|byte| f32::from(*byte) / 127.5 - 1.0).collect();
        let picture = Tensor::from_vec(values, (1, height, width, 3), &self.device)?;
        let size = Size { width: pixels.width(), height: pixels.height() };
        let work = self.vae.plan_encode(latents(size), self.memory.or_else(memory::free));
        let answer = self.vae.encode_as(&self.run(&self.none), &picture, work.tiling)?;
        let scaled = (answer.mean * self.vae.config().scaling_factor)?;
        Ok(scaled.flatten_all()?.to_vec1()?)
    }

    /// What the UNet is shown, and what it should answer.
    fn noised(&self, clean: &[f32], noise: &[f32], kept: f32) -> (Vec<f32>, Vec<f32>) {
        let (signal, sigma) = (kept.sqrt(), (1.0 - kept).sqrt());
        let pairs = || clean.iter().zip(noise);
        let noisy = pairs().map(|(clean, noise)| signal * clean + sigma * noise).collect();
        let target = match self.base.scheduler.prediction_type {
            PredictionType::Epsilon => noise.to_vec(),
            PredictionType::VPrediction => {
                pairs().map(|(clean, noise)| signal * noise - sigma * clean).collect()
            }
        };
        (noisy, target)
    }

    /// The mean square error under each caption of a group.
    fn errors(
        &self,
        group: &Prepared,
        captions: usize,
        Shown { size, timestep, noisy, target }: &Shown,
    ) -> Result<Vec<f64>> {
        let [height, width] = latents(*size);
        let shape = (captions, height, width, noisy.len() / (height * width));
        let noisy = Tensor::from_vec(noisy.repeat(captions), shape, &self.device)?;
        let run = self.unet_run(Weights::Native, &self.none);
        let answers = self.base.unet.forward(&run, &noisy, *timestep as f32, group)?;
        let answers = answers.flatten_all()?.to_vec1::<f32>()?;
        let error = |answer: &[f32]| {
            let squares = answer.iter().zip(target).map(|(a, b)| f64::from(a - b).powi(2));
            squares.sum::<f64>() / target.len() as f64
        };
        Ok(answers.chunks_exact(target.len()).map(error).collect())
    }
}

fn at_once(size: Size) -> usize {
    let [height, width] = latents(size);
    (MOST_LATENTS / (height * width)).clamp(2, 16)
}

fn latents(size: Size) -> [usize; 2] {
    [size.height, size.width].map(|side| (side / VAE_FACTOR) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_lie_in_the_middle_of_equal_parts() {
        assert_eq!(Noising::even(2, 1000, 0).timesteps, [250, 750]);
        assert_eq!(Noising::even(1, 1000, 0).timesteps, [500]);
        assert!(Noising::even(1000, 1000, 0).timesteps.iter().copied().eq(0..1000));
    }

    #[test]
    fn large_pictures_go_through_in_twos() {
        assert_eq!(at_once(Size { width: 1024, height: 1024 }), 2);
        assert_eq!(at_once(Size { width: 2048, height: 1024 }), 2);
        assert_eq!(at_once(Size { width: 512, height: 512 }), 8);
        assert_eq!(at_once(Size { width: 128, height: 128 }), 16);
    }
}
