//! One request, straight down: from prompts to pixels.
//!
//! Requests run stage by stage (encode all, base all, refine all, decode all), so base and
//! refiner never take turns; every picture is still computed alone, so it does not depend on
//! the others.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Tensor};
use unwrong_models::lora::{Adapters, Applied};
use unwrong_models::unet::Prepared;

use crate::denoiser::{GuidedUnet, is_guided};
use crate::encode::{ConditioningPair, encode, warnings};
use crate::error::{Error, Result};
use crate::memory::tiling_warning;
use crate::noise::Noise;
use crate::picture::{EmbeddedRequest, Pixels};
use crate::pipeline::{AdapterKey, AdapterSet, Pipeline, Stage, Told, VAE_FACTOR};
use crate::plan::Plan;
use crate::progress::{Event, Part, Phase, Progress, Silent, announce};
use crate::request::GenerateRequest;
use crate::sampler::euler;
use crate::schedule::Schedule;

/// A finished picture and what is worth knowing about it.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The picture.
    pub pixels: Pixels,
    /// Everything that made it.
    pub plan: Plan,
    /// What goes into the file beside the pixels.
    pub embedded: EmbeddedRequest,
    /// What each LoRA file did.
    pub loras: Vec<Applied>,
    /// Where the time went.
    pub timings: Timings,
}

/// Wall-clock seconds. Pictures that share a prompt share its encoding, also from call to call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timings {
    /// Text to embeddings.
    pub encode: f64,
    /// Each step, base then refiner.
    pub steps: Vec<f64>,
    /// Latents to pixels.
    pub decode: f64,
}

/// One picture on its way.
struct Job {
    plan: Plan,
    adapters: Arc<AdapterSet>,
    timings: Timings,
}

impl Pipeline {
    /// Makes every picture of every request; each is announced as soon as it exists.
    ///
    /// The same request and seed give the same bytes, whatever else is asked for in the call.
    pub fn generate(
        &self,
        requests: &[GenerateRequest],
        progress: &mut dyn Progress,
    ) -> Result<Vec<Generation>> {
        let mut jobs = self.plan(requests, progress)?;
        let budget = self.budget(jobs.iter().map(|job| &job.plan))?;

        let latents = jobs.iter().map(|job| self.initial(&job.plan)).collect::<Result<_>>()?;
        let latents = self.denoise(&self.base, Part::Base, &mut jobs, latents, progress)?;
        let latents = match &self.refiner {
            Some(refiner) => self.denoise(refiner, Part::Refiner, &mut jobs, latents, progress)?,
            None => latents,
        };
        self.decode(jobs, latents, budget, progress)
    }

    /// The request that makes the first picture of `request` alone, with all that the model
    /// recommends written down.
    pub fn settled(&self, request: &GenerateRequest) -> Result<GenerateRequest> {
        let jobs = self.plan(std::slice::from_ref(request), &mut Silent)?;
        Ok(jobs[0].plan.alone.clone())
    }

    /// Refuses what [`Pipeline::generate`] would refuse before its first step, and says what it
    /// would say; reads no weight of the model.
    pub fn check(&self, requests: &[GenerateRequest], progress: &mut dyn Progress) -> Result<()> {
        let jobs = self.plan(requests, progress)?;
        self.budget(jobs.iter().map(|job| &job.plan)).map(drop)
    }

    /// What each picture of the requests will carry, without drawing it.
    ///
    /// The first call hashes the model's files.
    pub fn embedded(&self, requests: &[GenerateRequest]) -> Result<Vec<EmbeddedRequest>> {
        let jobs = self.plan(requests, &mut Silent)?;
        jobs.iter()
            .map(|job| self.identity.embed(&job.plan.alone, &job.adapters.embedded))
            .collect()
    }

    /// Checks everything, opens the LoRA files; no weight is read before this is done.
    fn plan(&self, requests: &[GenerateRequest], progress: &mut dyn Progress) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        let mut sets: Vec<Arc<AdapterSet>> = Vec::new();
        for request in requests {
            let complete = self.completed(request)?;
            self.check_weights(&complete)?;
            let plans = Plan::expand(
                &complete,
                self.defaults(),
                self.native_size(),
                self.refiner.is_some(),
            )?;
            let key = AdapterKey::of(request);
            let known = sets.iter().find(|set| set.key == key).map(Arc::clone);
            let adapters = if let Some(known) = known {
                known
            } else {
                let set = self.adapters(request)?;
                announce_loras(&set, progress)?;
                sets.push(Arc::clone(&set));
                set
            };
            for warning in plans.first().map(warnings).unwrap_or_default() {
                announce(progress, Event::Warning { message: &warning })?;
            }
            for plan in plans {
                let (adapters, timings) = (Arc::clone(&adapters), Timings::default());
                jobs.push(Job { plan, adapters, timings });
            }
        }
        Ok(jobs)
    }

    /// Takes every picture through one UNet's part of the noise.
    fn denoise(
        &self,
        stage: &Stage,
        part: Part,
        jobs: &mut [Job],
        latents: Vec<Tensor>,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Tensor>> {
        let pictures = jobs.len();
        let mut finished = Vec::with_capacity(pictures);
        for (picture, (job, latents)) in jobs.iter_mut().zip(latents).enumerate() {
            let schedule = schedule(stage, part, &job.plan)?;
            if schedule.is_empty() {
                if part == Part::Base {
                    let message = "the base takes no step: too few for its part of the noise";
                    announce(progress, Event::Warning { message })?;
                }
                finished.push(latents);
                continue;
            }
            announce(progress, Event::Phase { phase: Phase::Encode, picture, pictures })?;
            let prepared = self.prepared(stage, part, job)?;
            let set = Arc::clone(&job.adapters);
            let denoiser = GuidedUnet {
                unet: &stage.unet,
                run: self.unet_run(
                    job.plan.weights,
                    if part == Part::Base { &set.adapters.unet } else { &self.none },
                ),
                prepared: &prepared,
                guidance_scale: job.plan.guidance_scale,
                prediction_type: stage.scheduler.prediction_type,
            };
            announce(progress, Event::Phase { phase: part.phase(), picture, pictures })?;
            self.identity.start();
            let place = Place { part, picture, pictures };
            let mut watch = watch(progress, &mut job.timings, place);
            let latents = euler(&denoiser, latents, &schedule, &mut watch)?;
            let what = match part {
                Part::Base => "the latents after the base",
                Part::Refiner => "the latents after the refiner",
            };
            finished.push(finite(latents, what)?);
        }
        Ok(finished)
    }

    /// What base or refiner is told about the first picture of a request.
    ///
    /// The refiner of a pipeline without one is told what the base is.
    pub fn condition(&self, request: &GenerateRequest, part: Part) -> Result<ConditioningPair> {
        let jobs = self.plan(std::slice::from_ref(request), &mut Silent)?;
        match (part, &self.refiner) {
            (Part::Refiner, Some(refiner)) => self.encode(refiner, &jobs[0].plan, None),
            _ => self.encode(&self.base, &jobs[0].plan, Some(&jobs[0].adapters.adapters)),
        }
    }

    fn encode(
        &self,
        stage: &Stage,
        plan: &Plan,
        adapters: Option<&Adapters>,
    ) -> Result<ConditioningPair> {
        let readers = self.readers(stage, adapters);
        encode(&readers, plan, stage.index.force_zeros_for_empty_prompt, &self.device)
    }

    /// What a UNet is told about a picture; the last ones stay ready.
    fn prepared(&self, stage: &Stage, part: Part, job: &mut Job) -> Result<Arc<Prepared>> {
        let Job { plan, adapters, timings } = job;
        let adapters = (part == Part::Base).then(|| Arc::clone(adapters));
        let told = Told { adapters: adapters.clone(), plan: plan.clone() };
        stage.prepared.get_or_make(told, || {
            let started = Instant::now();
            let adapters = adapters.as_ref().map(|set| &set.adapters);
            let pair = self.encode(stage, plan, adapters)?;
            let time_ids = match part {
                Part::Base => plan.conditions.base(),
                Part::Refiner => plan.conditions.refiner(stage.index.requires_aesthetics_score),
            };
            let run = self.run(adapters.map_or(&self.none, |adapters| &adapters.unet));
            let prepared = prepare(stage, &run, &pair, time_ids, plan.guidance_scale)?;
            timings.encode += started.elapsed().as_secs_f64();
            Ok(Arc::new(prepared))
        })
    }

    fn decode(
        &self,
        jobs: Vec<Job>,
        latents: Vec<Tensor>,
        budget: Option<u64>,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Generation>> {
        let pictures = jobs.len();
        let mut generations = Vec::with_capacity(pictures);
        for (picture, (mut job, latents)) in jobs.into_iter().zip(latents).enumerate() {
            announce(progress, Event::Phase { phase: Phase::Decode, picture, pictures })?;
            let work = self.plan_decode(job.plan.size, budget);
            if let Some(message) = tiling_warning(&work, budget) {
                announce(progress, Event::Warning { message: &message })?;
            }
            let started = Instant::now();
            let latents = latents.permute((0, 2, 3, 1))?.contiguous()?; // [B, H, W, C]
            let decoded = self.vae.decode_as(&self.run(&self.none), &latents, work.tiling)?;
            let pixels = Pixels::from_tensor(&finite(decoded, "the decoded pixels")?)?;
            job.timings.decode = started.elapsed().as_secs_f64();

            let loras = job.adapters.applied.clone();
            let embedded = self.identity.embed(&job.plan.alone, &job.adapters.embedded)?;
            let generation =
                Generation { pixels, plan: job.plan, embedded, loras, timings: job.timings };
            let finished = Event::Picture { index: picture, pictures, generation: &generation };
            announce(progress, finished)?;
            generations.push(generation);
        }
        Ok(generations)
    }

    /// The noise a picture begins as, `[1, 4, H/8, W/8]`, as strong as the base expects it.
    fn initial(&self, plan: &Plan) -> Result<Tensor> {
        let schedule = Schedule::new(&self.base.scheduler, plan.steps)?;
        Ok((self.noise(plan)? * f64::from(schedule.initial_scale()))?)
    }

    /// `[1, 4, H/8, W/8]` of standard normal noise.
    fn noise(&self, plan: &Plan) -> Result<Tensor> {
        let (height, width) = (plan.size.height / VAE_FACTOR, plan.size.width / VAE_FACTOR);
        let shape = (1, self.base.unet.config().in_channels, height as usize, width as usize);
        let count = shape.1 * shape.2 * shape.3;
        let values = Noise::new(plan.noise, plan.seed).draw(count);
        Ok(Tensor::from_vec(values, shape, &self.device)?)
    }
}

/// The noise levels of one UNet; the refiner's are of its own scheduler config.
fn schedule(stage: &Stage, part: Part, plan: &Plan) -> Result<Schedule> {
    let whole = Schedule::new(&stage.scheduler, plan.steps)?;
    Ok(match part {
        Part::Base => whole.high_noise(plan.high_noise_fraction),
        Part::Refiner => whole.low_noise(plan.high_noise_fraction),
    })
}

/// Which part of which picture is being made.
#[derive(Clone, Copy)]
struct Place {
    part: Part,
    picture: usize,
    pictures: usize,
}

/// Times every step and passes it on.
fn watch<'a>(
    progress: &'a mut dyn Progress,
    timings: &'a mut Timings,
    Place { part, picture, pictures }: Place,
) -> impl FnMut(usize, usize, f32, &Tensor) -> Result<()> + 'a {
    let mut started = Instant::now();
    move |step, steps, sigma, latents| {
        timings.steps.push(started.elapsed().as_secs_f64());
        started = Instant::now();
        announce(progress, Event::Step { part, picture, pictures, step, steps, sigma, latents })
    }
}

fn announce_loras(set: &AdapterSet, progress: &mut dyn Progress) -> Result<()> {
    for (lora, Applied { applied, total, unapplied, .. }) in set.embedded.iter().zip(&set.applied) {
        let name = &lora.name;
        let message = format!("LoRA `{name}`: applied {applied} of {total} tensors");
        announce(progress, Event::Notice { message: &message })?;
        for unapplied in unapplied {
            let message = format!("LoRA `{name}`: {unapplied}");
            announce(progress, Event::Warning { message: &message })?;
        }
    }
    Ok(())
}

/// A picture of NaN is black and says nothing: refuse it where it arises.
fn finite(tensor: Tensor, what: &'static str) -> Result<Tensor> {
    // Infinities and NaN survive a sum of absolute values; f64 cannot overflow here.
    let sum = tensor.abs()?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
    if sum.is_finite() { Ok(tensor) } else { Err(Error::NotFinite { what }) }
}

/// Joins both halves of guidance into one batch, negative first, as diffusers does.
fn prepare(
    stage: &Stage,
    run: &unwrong_models::layers::Run<'_>,
    pair: &ConditioningPair,
    time_ids: [Vec<f32>; 2],
    guidance_scale: f64,
) -> Result<Prepared> {
    let device = pair.positive.prompt_embeds.device();
    let rows = |[positive, negative]: [Tensor; 2]| -> Result<Tensor> {
        if is_guided(guidance_scale) {
            Ok(Tensor::cat(&[negative, positive], 0)?)
        } else {
            Ok(positive)
        }
    };
    let [positive_ids, negative_ids] = time_ids;
    let ids = |ids: Vec<f32>| -> Result<Tensor> { Ok(Tensor::new(ids, device)?.unsqueeze(0)?) };
    let (positive, negative) = (&pair.positive, &pair.negative);
    let embeds = rows([positive.prompt_embeds.clone(), negative.prompt_embeds.clone()])?;
    let pooled = rows([positive.pooled_embeds.clone(), negative.pooled_embeds.clone()])?;
    let ids = rows([ids(positive_ids)?, ids(negative_ids)?])?;
    Ok(stage.unet.prepare(run, &embeds, &pooled, &ids)?)
}
