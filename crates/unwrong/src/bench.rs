//! The networks of an open model alone, on invented inputs, for whoever measures them.
//!
//! No stage of the flow: `unwrong bench` and `cargo xtask bench` are made of this. What comes
//! out is thrown away; whether it is right is what the parity tests ask.

use std::time::Instant;

use candle_core::Tensor;
use unwrong_models::layers::Run;
use unwrong_models::lora::{self, Branch, Trained};
use unwrong_models::text_encoder::TokenRow;
use unwrong_models::unet::{KEPT_BYTES, Prepared, Told, TrainingPass};
use unwrong_prompt::{CHUNK_TOKENS, Prompt};

use crate::error::{Error, Result};
use crate::memory;
use crate::noise::Noise;
use crate::pipeline::{AdapterKey, Pipeline, Stage, VAE_FACTOR};
use crate::progress::Part;
use crate::request::{GenerateRequest, LongPrompt, NoiseKind, Size, Syntax};

/// A training index in the middle of the schedule.
const TIMESTEP: f32 = 501.0;
/// The smallest picture that every network halves as often as it wants to.
const SMALLEST: Size = Size { width: 64, height: 64 };
/// Most of a UNet's warm-up: only the first of a picture's steps meets memory that is new to the
/// process.
const STEP_BEFORE: Size = Size { width: 512, height: 512 };

/// Rows of `down` where a training is measured.
const TRAINED_RANK: usize = 4;
/// Sizes that the base is told of a picture.
const BASE_SIZES: usize = 6;

/// A network, or what is measured as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// One step of the base's UNet; its conditioning is prepared before the clock starts.
    Unet,
    /// One step of the refiner's.
    RefinerUnet,
    /// Latents to pixels.
    VaeDecode,
    /// Pixels to latents.
    VaeEncode,
    /// Token ids to embeddings, through both encoders of the base.
    TextEncoders,
    /// Gradients of one training step for matrices of rank 4 on every attention of the base.
    Training,
}

/// How a network is run.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Size of the picture; the text encoders have none.
    pub size: Size,
    /// Pictures, prompts, or halves of guidance, in one call.
    pub batch: usize,
    /// How often it is timed.
    pub runs: usize,
}

impl Network {
    /// What one picture needs in a call: both halves of guidance, or one picture.
    #[must_use]
    pub fn usual_batch(self) -> usize {
        match self {
            Self::Unet | Self::RefinerUnet | Self::TextEncoders => 2,
            Self::VaeDecode | Self::VaeEncode | Self::Training => 1,
        }
    }
}

impl Pipeline {
    /// What computes: the kernels' instruction level, or `reference`.
    #[must_use]
    pub fn level(&self) -> &'static str {
        self.ops.level()
    }

    /// Seconds of every timed run of a network, after one run that touches its weights: at most
    /// 512×512 for a UNet, small for the others.
    ///
    /// Of the request, the LoRA files and the weights count.
    pub fn bench(
        &self,
        network: Network,
        request: &GenerateRequest,
        case: Case,
    ) -> Result<Vec<f64>> {
        case.size.check()?;
        self.check_weights(request)?;
        let weights = request.weights.unwrap_or_default();
        let completed = self.completed(request)?;
        let set = self.adapters(&completed, AdapterKey::of(&completed)?)?;
        match network {
            Network::Unet => {
                let run = self.unet_run(weights, &set.of(Part::Base).unet);
                self.bench_unet(&self.base, &run, case)
            }
            Network::RefinerUnet => {
                let refiner = self.refiner.as_ref().ok_or_else(|| Error::Request {
                    problem: format!("`{}` has no refiner", self.model()),
                    hint: Some("name one with `--refiner`".to_owned()),
                })?;
                self.bench_unet(refiner, &self.unet_run(weights, &set.of(Part::Refiner).unet), case)
            }
            Network::VaeDecode => self.bench_decode(case),
            Network::VaeEncode => self.bench_encode(case),
            Network::TextEncoders => self.bench_text(case),
            Network::Training => self.bench_training(case),
        }
    }

    /// What is measured is the whole: where that does not fit, there is nothing to measure.
    fn check_fits(&self, what: &'static str, size: Size, needs: u64) -> Result<()> {
        match self.memory.or_else(memory::free) {
            Some(budget) if needs > budget => {
                Err(Error::NotEnoughMemory { what, size, needs, budget })
            }
            _ => Ok(()),
        }
    }

    fn bench_unet(&self, stage: &Stage, run: &Run<'_>, case: Case) -> Result<Vec<f64>> {
        let [_, height, width, _] = latents_of(case.size, case.batch, 0);
        let needs = stage.unet.bytes(case.batch, [height, width], CHUNK_TOKENS);
        self.check_fits("a step", case.size, needs)?;
        let prepared = &self.invented_conditioning(stage, run, case.batch)?;
        let channels = stage.unet.config().in_channels;
        case.time(step_before(case.size), |size| {
            let latents = self.invented(&latents_of(size, case.batch, channels))?;
            Ok(move || Ok(stage.unet.forward(run, &latents, TIMESTEP, prepared)?))
        })
    }

    fn bench_training(&self, case: Case) -> Result<Vec<f64>> {
        let unet = &self.base.unet;
        let mut trained = Trained::default();
        let attention = [".to_q", ".to_k", ".to_v", ".to_out.0"];
        for (name, shape) in self.targets.iter(lora::Network::Unet) {
            if attention.iter().any(|end| name.ends_with(end)) {
                let down = (self.invented(&[TRAINED_RANK, shape[1]])? * 0.01)?;
                let up = (self.invented(&[shape[0], TRAINED_RANK])? * 0.01)?;
                let branch = Branch { down, up, scale: 1.0, dropout: None };
                trained.insert(lora::Network::Unet, name, branch);
            }
        }
        let config = unet.config();
        let pooled = config.projection_class_embeddings_input_dim
            - BASE_SIZES * config.addition_time_embed_dim;
        let prompt_embeds =
            &self.invented(&[case.batch, CHUNK_TOKENS, config.cross_attention_dim])?;
        let pooled_embeds = &self.invented(&[case.batch, pooled])?;
        let told = Told::Features { prompt_embeds, pooled_embeds };
        let time_ids = &self.invented(&[case.batch, BASE_SIZES])?;
        case.time(step_before(case.size), |size| {
            let latents = self.invented(&latents_of(size, case.batch, config.in_channels))?;
            let (ops, trained) = (self.ops.exact(), &trained);
            let timesteps = vec![TIMESTEP; case.batch];
            Ok(move || {
                let (latents, timesteps, keep) = (&latents, &timesteps[..], KEPT_BYTES);
                let pass = TrainingPass { ops, trained, latents, timesteps, told, time_ids, keep };
                // The slope of half the squared answer.
                Ok(unet.gradients(&pass, |answer| Ok(answer.clone()))?)
            })
        })
    }

    /// What prompts of 77 tokens come to, made of noise.
    fn invented_conditioning(
        &self,
        stage: &Stage,
        run: &Run<'_>,
        batch: usize,
    ) -> Result<Prepared> {
        let config = stage.unet.config();
        let pooling = stage.encoders.last().ok_or(Error::NoPooledOutput)?;
        let width = pooling.network.config().projection_dim;
        // Where it does not come out even, `prepare` says what does not fit.
        let ids = config.time_ids(width).unwrap_or_default();
        Ok(stage.unet.prepare(
            run,
            &self.invented(&[batch, CHUNK_TOKENS, config.cross_attention_dim])?,
            &self.invented(&[batch, width])?,
            &self.invented(&[batch, ids])?,
        )?)
    }

    fn bench_decode(&self, case: Case) -> Result<Vec<f64>> {
        let run = self.run(&self.none);
        let [_, height, width, channels] =
            latents_of(case.size, case.batch, self.vae.config().latent_channels);
        let needs = self.vae.plan_decode([height, width], None).whole_bytes;
        self.check_fits("decoding", case.size, needs)?;
        case.time(SMALLEST, |size| {
            let latents = self.invented(&latents_of(size, case.batch, channels))?;
            Ok(move || Ok(self.vae.decode(&run, &latents)?))
        })
    }

    fn bench_encode(&self, case: Case) -> Result<Vec<f64>> {
        let run = self.run(&self.none);
        let channels = self.vae.config().in_channels;
        let [_, height, width, _] = latents_of(case.size, case.batch, channels);
        let needs = self.vae.plan_encode([height, width], None).whole_bytes;
        self.check_fits("encoding", case.size, needs)?;
        case.time(SMALLEST, |Size { width, height }| {
            let shape = [case.batch, height as usize, width as usize, channels];
            let pixels = (self.invented(&shape)? * 0.5)?;
            Ok(move || Ok(self.vae.encode(&run, &pixels)?))
        })
    }

    fn bench_text(&self, case: Case) -> Result<Vec<f64>> {
        let readers = self.readers(&self.base, &self.unchanged);
        let (prompt, _) = Prompt::parse("a red apple on a wooden table", Syntax::Compel);
        let ids: Vec<_> = readers
            .iter()
            .map(|reader| {
                let plan = prompt.plan(reader.encoder, LongPrompt::Truncate.into());
                plan.chunks[0].ids.to_vec()
            })
            .collect();
        case.time(SMALLEST, |_| {
            Ok(|| {
                for (reader, ids) in readers.iter().zip(&ids) {
                    let rows = vec![TokenRow { ids, mask: None, added: None }; case.batch];
                    let states = reader.network.encode(&reader.run, &rows, &self.device)?;
                    reader.network.pool(&reader.run, &states, &rows)?;
                }
                Ok(())
            })
        })
    }

    /// Normal noise, the same at every run.
    fn invented(&self, shape: &[usize]) -> Result<Tensor> {
        let values = Noise::new(NoiseKind::TorchCpu, 0).draw(shape.iter().product());
        Ok(Tensor::from_vec(values, shape, &self.device)?)
    }
}

impl Case {
    /// Runs once at `warm_up`, then `runs` times at the case's size.
    fn time<T, Once: FnMut() -> Result<T>>(
        self,
        warm_up: Size,
        mut ready: impl FnMut(Size) -> Result<Once>,
    ) -> Result<Vec<f64>> {
        ready(warm_up)?()?;
        let mut once = ready(self.size)?;
        (0..self.runs)
            .map(|_| {
                let started = Instant::now();
                std::hint::black_box(once()?);
                Ok(started.elapsed().as_secs_f64())
            })
            .collect()
    }
}

/// A UNet's warm-up before a step at `size`.
fn step_before(size: Size) -> Size {
    let most = STEP_BEFORE;
    Size { width: size.width.min(most.width), height: size.height.min(most.height) }
}

/// `[B, H/8, W/8, C]`.
fn latents_of(Size { width, height }: Size, batch: usize, channels: usize) -> [usize; 4] {
    [batch, (height / VAE_FACTOR) as usize, (width / VAE_FACTOR) as usize, channels]
}
