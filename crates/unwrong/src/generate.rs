//! One request, straight down: from prompts to pixels.
//!
//! Requests run stage by stage (encode all, base all, refine all, decode all), so base and
//! refiner never take turns. Small pictures go through a UNet together; no
//! number of one depends on the others.

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Tensor};
use unwrong_models::lora::Applied;

use crate::denoiser::GuidedUnet;
use crate::encode::{ConditioningPair, Guide, encode, encode_pair, warnings};
use crate::error::{Error, Result};
use crate::memory::tiling_warning;
use crate::noise::Noise;
use crate::picture::{EmbeddedRequest, Pixels};
use crate::pipeline::{AdapterKey, AdapterSet, Pipeline, Stage, Told, VAE_FACTOR};
use crate::plan::Plan;
use crate::progress::{Event, Part, Phase, Progress, Silent, announce};
use crate::questions::Questions;
use crate::request::GenerateRequest;
use crate::sampler::euler;
use crate::schedule::Schedule;
use crate::together::groups;

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
    /// Each step, base then refiner; of pictures that are drawn together, a picture's share.
    pub steps: Vec<f64>,
    /// Latents to pixels.
    pub decode: f64,
}

/// One picture on its way.
pub(crate) struct Job {
    pub(crate) plan: Plan,
    pub(crate) adapters: Arc<AdapterSet>,
    timings: Timings,
}

impl Job {
    /// All that its conditioning for a UNet depends on.
    pub(crate) fn told(&self, part: Part) -> Told {
        let counts = part == Part::Base || !self.adapters.of(part).is_empty();
        let adapters = counts.then(|| Arc::clone(&self.adapters));
        Told { adapters, plan: self.plan.clone() }
    }
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
        jobs.iter().map(|job| self.embed(job)).collect()
    }

    fn embed(&self, job: &Job) -> Result<EmbeddedRequest> {
        let Job { plan, adapters, .. } = job;
        self.identity.embed(&plan.alone, &adapters.embedded, &plan.embeddings.embedded)
    }

    /// Checks everything, opens the LoRA files; no weight is read before this is done.
    fn plan(&self, requests: &[GenerateRequest], progress: &mut dyn Progress) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        let mut sets: Vec<Arc<AdapterSet>> = Vec::new();
        for request in requests {
            let (complete, left_out) = self.with_embeddings(&self.completed(request)?)?;
            self.check_weights(&complete)?;
            let mut plans = Plan::expand(
                &complete,
                self.defaults(),
                self.native_size(),
                self.refiner.is_some(),
            )?;
            let key = AdapterKey::of(request)?;
            let known = sets.iter().find(|set| set.key == key).map(Arc::clone);
            let adapters = if let Some(known) = known {
                known
            } else {
                let set = self.adapters(request, key)?;
                announce_loras(&set, progress)?;
                sets.push(Arc::clone(&set));
                set
            };
            let embeddings = self.embeddings(&complete)?;
            for plan in &mut plans {
                plan.embeddings = Arc::clone(&embeddings);
            }
            let said = plans.first().map(warnings).unwrap_or_default();
            for warning in left_out.into_iter().chain(said) {
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
        mut latents: Vec<Tensor>,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Tensor>> {
        for group in groups(jobs, |plan| self.at_once(plan)) {
            let schedule = schedule(stage, part, &jobs[group[0]].plan)?;
            if schedule.is_empty() {
                if part == Part::Base {
                    let message = "the base takes no step: too few for its part of the noise";
                    announce(progress, Event::Warning { message })?;
                }
                continue;
            }
            for picture in &group {
                let (picture, pictures) = (*picture, jobs.len());
                announce(progress, Event::Phase { phase: Phase::Encode, picture, pictures })?;
            }
            let questions = Questions::new(self, stage, part, jobs, &group)?;
            jobs[group[0]].timings.encode += questions.begin(schedule.first_step())?;
            let first = &jobs[group[0]];
            let set = Arc::clone(&first.adapters);
            let denoiser = GuidedUnet {
                unet: &stage.unet,
                run: self.unet_run(first.plan.weights, &set.of(part).unet),
                questions: &|step| questions.at(step),
                guidance_scales: group
                    .iter()
                    .map(|picture| jobs[*picture].plan.guidance_scale)
                    .collect(),
                prediction_type: stage.scheduler.prediction_type,
            };
            for picture in &group {
                let (phase, picture, pictures) = (part.phase(), *picture, jobs.len());
                announce(progress, Event::Phase { phase, picture, pictures })?;
            }
            self.identity.start();
            let began: Vec<&Tensor> = group.iter().map(|picture| &latents[*picture]).collect();
            let began = Tensor::cat(&began, 0)?;
            let ended =
                euler(&denoiser, began, &schedule, &mut watch(progress, jobs, part, &group))?;
            let what = match part {
                Part::Base => "the latents after the base",
                Part::Refiner => "the latents after the refiner",
            };
            for (place, picture) in group.iter().enumerate() {
                latents[*picture] = finite(ended.narrow(0, place, 1)?, what)?;
            }
        }
        Ok(latents)
    }

    /// What base or refiner is told about the first picture of a request, in its first step; of
    /// several prompts joined by `AND` the first.
    ///
    /// The refiner of a pipeline without one is told what the base is.
    pub fn condition(&self, request: &GenerateRequest, part: Part) -> Result<ConditioningPair> {
        let jobs = self.plan(std::slice::from_ref(request), &mut Silent)?;
        let Job { plan, adapters, .. } = &jobs[0];
        let (stage, part) = match (part, &self.refiner) {
            (Part::Refiner, Some(refiner)) => (refiner, part),
            _ => (&self.base, Part::Base),
        };
        let readers = self.readers(stage, adapters.of(part));
        encode_pair(&readers, plan, stage.index.force_zeros_for_empty_prompt, &self.device)
    }

    /// What a picture is told in all steps; the last ones stay ready.
    pub(crate) fn guides(
        &self,
        stage: &Stage,
        part: Part,
        job: &mut Job,
    ) -> Result<Arc<Vec<Guide>>> {
        let told = job.told(part);
        let Job { plan, adapters, timings } = job;
        stage.conditioned.get_or_make(told, || {
            let started = Instant::now();
            let readers = self.readers(stage, adapters.of(part));
            let zero_absent = stage.index.force_zeros_for_empty_prompt;
            let guides = encode(&readers, plan, zero_absent, &self.device)?;
            timings.encode += started.elapsed().as_secs_f64();
            Ok(Arc::new(guides))
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
            let embedded = self.embed(&job)?;
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

/// Times every step and passes it on, picture by picture.
fn watch<'a>(
    progress: &'a mut dyn Progress,
    jobs: &'a mut [Job],
    part: Part,
    group: &'a [usize],
) -> impl FnMut(usize, usize, f32, &Tensor) -> Result<()> + 'a {
    let mut started = Instant::now();
    let pictures = jobs.len();
    move |step, steps, sigma, latents| {
        let share = started.elapsed().as_secs_f64() / group.len() as f64;
        started = Instant::now();
        for (place, picture) in group.iter().enumerate() {
            jobs[*picture].timings.steps.push(share);
            let (picture, latents) = (*picture, &latents.narrow(0, place, 1)?);
            let event = Event::Step { part, picture, pictures, step, steps, sigma, latents };
            announce(progress, event)?;
        }
        Ok(())
    }
}

fn announce_loras(set: &AdapterSet, progress: &mut dyn Progress) -> Result<()> {
    for (lora, about) in set.embedded.iter().zip(&set.applied) {
        let Applied { applied, total, unapplied, silent, .. } = about;
        let name = &lora.name;
        let silent = match silent {
            0 => String::new(),
            silent => format!(", {silent} of them at scale 0"),
        };
        let message = format!("LoRA `{name}`: applied {applied} of {total} tensors{silent}");
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
