//! The training itself: one step after the other.

use candle_core::Tensor;
use unwrong::Pipeline;
use unwrong::encode::Conditioning;
use unwrong::noise::Noise;
use unwrong::request::NoiseKind;
use unwrong_models::files::{FrozenWeight, PredictionType};
use unwrong_models::lora::{Branch, Dropout, LoraLayer, Trained};
use unwrong_models::unet::{Reading, Told, TrainingPass};

use crate::average::Average;
use crate::data::draws::{Draws, Purpose};
use crate::data::{Array, Cache, DataOptions, Dataset, Entry, Example, Key};
use crate::diffusion::{Diffusion, Sample, loss};
use crate::error::{Error, Result, StepNumber};
use crate::layers::{Layer, initial};
use crate::optimizer::{Optimizer, clip, norm, not_finite};
use crate::options::TrainOptions;

/// A training under way: the model, the pictures, and all that changes.
pub struct Trainer<'a> {
    pipeline: &'a Pipeline,
    dataset: &'a Dataset,
    /// Pictures of the class, for prior preservation.
    class: Option<&'a Dataset>,
    cache: &'a Cache,
    /// Tells the cached numbers of one model from another's.
    identity: String,
    options: TrainOptions,
    diffusion: Diffusion,
    layers: Vec<Layer>,
    state: State,
}

/// All that a step changes; with it a training goes on as if it had never stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Steps that were made.
    pub(crate) step: u64,
    /// `down` and `up` of every layer, in turn.
    pub(crate) tensors: Vec<Vec<f32>>,
    pub(crate) optimizer: Optimizer,
    /// Running means of the tensors, where the options ask for them.
    pub(crate) average: Option<Average>,
    /// Of every step.
    pub(crate) losses: Vec<f32>,
}

impl State {
    /// Steps that were made.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The loss of every step.
    #[must_use]
    pub fn losses(&self) -> &[f32] {
        &self.losses
    }

    /// A number that is infinite or none, in what a step has changed.
    fn not_finite(&self) -> Option<(StepNumber, f32)> {
        let first = |what, mut all: std::slice::Iter<'_, Vec<f32>>| {
            all.find_map(|numbers| not_finite(numbers)).map(|value| (what, value))
        };
        let average = self.average.as_ref();
        first(StepNumber::Matrices, self.tensors.iter())
            .or_else(|| first(StepNumber::Average, average?.tensors.iter()))
            .or_else(|| Some((StepNumber::Optimizer, self.optimizer.not_finite()?)))
    }
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Counted from 1.
    pub step: u64,
    /// Mean over the step's pictures, and that of the class pictures times its weight.
    pub loss: f64,
    /// The mean over the class pictures alone, where there are some.
    pub prior: Option<f64>,
    /// The learning rate, of the UNet; what Prodigy found it to be.
    pub rate: f64,
    /// Length of the gradient before it was shortened.
    pub gradient_norm: f64,
}

/// A batch within its step.
#[derive(Clone, Copy)]
struct Place {
    /// Tells its random numbers from those of the step's other batches.
    part: u64,
    /// Its share of the pictures.
    share: f64,
    /// How much its loss counts.
    weight: f64,
}

impl<'a> Trainer<'a> {
    /// Checks everything; reads no weight.
    pub fn new(
        pipeline: &'a Pipeline,
        dataset: &'a Dataset,
        cache: &'a Cache,
        options: TrainOptions,
    ) -> Result<Self> {
        options.check()?;
        let layers = options.layers.layers(pipeline.layers())?;
        let diffusion =
            Diffusion::new(pipeline.alphas_cumprod()?, pipeline.prediction_type(), options.loss)?;
        let mut draws = Draws::new(Purpose::Initial, &[options.seed]);
        let tensors: Vec<Vec<f32>> = layers
            .iter()
            .flat_map(|layer| initial(layer, options.rank, &mut || draws.uniform()))
            .collect();
        let optimizer = Optimizer::new(options.optimizer, &tensors);
        let average = options.ema.map(|decay| Average::new(decay, &tensors));
        let state = State { step: 0, tensors, optimizer, average, losses: Vec::new() };
        let identity = pipeline.weights_identity()?;
        let class = None;
        Ok(Self { pipeline, dataset, class, cache, identity, options, diffusion, layers, state })
    }

    /// Trains on pictures of the class, too, so that the model forgets it less: prior
    /// preservation (Ruiz et al. 2022, `DreamBooth`, arXiv:2208.12242).
    ///
    /// Every batch comes with a batch of them, whose loss is added times
    /// [`TrainOptions::prior_weight`].
    #[must_use]
    pub fn with_class(self, class: &'a Dataset) -> Self {
        Self { class: Some(class), ..self }
    }

    /// The pictures of the class, if there are some.
    #[must_use]
    pub fn class(&self) -> Option<&'a Dataset> {
        self.class
    }

    /// Where the training stands.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Goes on from another state; refuses that of another training.
    pub fn resume(&mut self, state: State) -> Result<()> {
        let sizes = |state: &State| state.tensors.iter().map(Vec::len).collect::<Vec<_>>();
        if sizes(&state) != sizes(&self.state) {
            return Err(Error::OtherTraining {
                difference: "the matrices have other sizes".to_owned(),
            });
        }
        self.state = state;
        Ok(())
    }

    /// The pictures.
    #[must_use]
    pub fn dataset(&self) -> &'a Dataset {
        self.dataset
    }

    /// The open model.
    #[must_use]
    pub fn pipeline(&self) -> &'a Pipeline {
        self.pipeline
    }

    /// What was asked.
    #[must_use]
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// What the training is, a line for each option: two trainings with the same settings are
    /// one.
    pub fn settings(&self) -> Result<String> {
        let pictures = |dataset: &'a Dataset| -> Vec<_> {
            let items = dataset.items().iter();
            items.map(|item| (&item.sha256, &item.caption, item.bucket.to_string())).collect()
        };
        // What became of bad files is seen in the pictures.
        let data = |dataset: &Dataset| DataOptions { strict: false, ..dataset.options().clone() };
        let class = self
            .class
            .map(|class| serde_json::json!({ "data": data(class), "pictures": pictures(class) }));
        let settings = serde_json::json!({
            "model": self.identity,
            "training": self.options,
            "data": data(self.dataset),
            "class": class,
            "pictures": pictures(self.dataset),
        });
        Ok(serde_json::to_string_pretty(&settings)?)
    }

    /// What the model predicts, in one word.
    #[must_use]
    pub fn prediction(&self) -> &'static str {
        match self.pipeline.prediction_type() {
            PredictionType::Epsilon => "epsilon",
            PredictionType::VPrediction => "v",
        }
    }

    /// Whether every step was made.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.state.step >= self.options.steps
    }

    /// The matrices as they are, or their running means, for a file.
    #[must_use]
    pub fn lora(&self) -> Vec<LoraLayer> {
        let State { tensors, average, .. } = &self.state;
        let tensors = average.as_ref().map_or(tensors, |average| &average.tensors);
        let pairs = self.layers.iter().zip(tensors.as_chunks::<2>().0);
        let rank = self.options.rank;
        pairs
            .map(|(layer, [down, up])| {
                let down = FrozenWeight::from_f32(down, &layer.down(rank));
                let up = FrozenWeight::from_f32(up, &layer.up(rank));
                LoraLayer::low_rank(layer.network, &layer.name, down, up, self.options.alpha())
            })
            .collect()
    }

    /// Computes what the VAE and text encoders that stay as they are say about every picture of
    /// the first epoch, so that the steps find it; `done` is told how many of how many there are.
    pub fn prepare(&self, done: &mut dyn FnMut(usize, usize) -> Result<()>) -> Result<()> {
        let datasets = [Some(self.dataset), self.class].into_iter().flatten();
        let examples: Vec<_> = datasets.flat_map(|dataset| dataset.batches(0)).flatten().collect();
        for (index, example) in examples.iter().enumerate() {
            done(index, examples.len())?;
            self.posterior(example)?;
            if !self.options.layers.text_encoders {
                self.conditioning(example.caption)?;
            }
        }
        done(examples.len(), examples.len())
    }

    /// Makes one step.
    ///
    /// Where the loss or the gradient is no number, nothing has changed; where matrices or what
    /// the optimiser keeps are none after it, the training is of no use any more.
    pub fn step(&mut self) -> Result<StepReport> {
        let (step, options) = (self.state.step, self.options);
        let mut gradients: Vec<Vec<f32>> =
            self.state.tensors.iter().map(|tensor| vec![0.0; tensor.len()]).collect();
        let mut sum = self.accumulate(self.dataset, 0, 1.0, &mut gradients)?;
        let mut prior = None;
        if let Some(class) = self.class {
            // Numbers of their own, so that no picture gets the noise of another.
            let first = options.accumulation as u64;
            let loss = self.accumulate(class, first, options.prior_weight, &mut gradients)?;
            sum += options.prior_weight * loss;
            prior = Some(loss);
        }
        let length = match options.max_grad_norm {
            Some(limit) => clip(&mut gradients, limit),
            None => norm(&gradients),
        };
        let not_finite = |what, value| Err(Error::NotFinite { step: step + 1, what, value });
        for (what, value) in [(StepNumber::Loss, sum), (StepNumber::Gradient, length)] {
            if !value.is_finite() {
                return not_finite(what, value);
            }
        }
        let factor = options.schedule.factor(step, options.steps, options.warmup);
        let rates = self.layers.iter().flat_map(|layer| [options.rate_of(layer.network); 2]);
        let rates: Vec<_> = rates.map(|rate| rate * factor).collect();
        let rate = options.rate * factor * self.state.optimizer.factor();
        self.state.optimizer.step(&mut self.state.tensors, &gradients, &rates);
        if let Some(average) = &mut self.state.average {
            average.step(&self.state.tensors);
        }
        if let Some((what, value)) = self.state.not_finite() {
            return not_finite(what, f64::from(value));
        }
        self.state.step += 1;
        self.state.losses.push(sum as f32);
        Ok(StepReport { step: step + 1, loss: sum, prior, rate, gradient_norm: length })
    }

    /// Adds the gradients of a step's batches times `weight`; returns their loss without it.
    ///
    /// The batches' numbers, which chance follows from, begin at `first`.
    fn accumulate(
        &self,
        dataset: &Dataset,
        first: u64,
        weight: f64,
        gradients: &mut [Vec<f32>],
    ) -> Result<f64> {
        let parts = self.options.accumulation as u64;
        let batch = |part| dataset.batch(self.state.step * parts + part);
        let batches: Vec<_> = (0..parts).map(batch).collect();
        let pictures: usize = batches.iter().map(Vec::len).sum();
        let mut sum = 0.0;
        for (part, batch) in batches.iter().enumerate() {
            let share = batch.len() as f64 / pictures as f64;
            let place = Place { part: first + part as u64, share, weight };
            sum += self.add_batch(batch, place, gradients)?;
        }
        Ok(sum)
    }

    /// Adds a batch's gradients; returns its part of the loss.
    fn add_batch(
        &self,
        batch: &[Example<'_>],
        place: Place,
        gradients: &mut [Vec<f32>],
    ) -> Result<f64> {
        if !self.options.layers.text_encoders {
            let Conditioning { prompt_embeds, pooled_embeds } = &self.features(batch)?;
            let told = Told::Features { prompt_embeds, pooled_embeds };
            return self.add_told(batch, told, place, gradients);
        }
        let encoders: Vec<_> = self.pipeline.text_encoders().collect();
        let mut ids = vec![Vec::new(); encoders.len()];
        for example in batch {
            let rows = self.pipeline.caption_ids(example.caption);
            ids.iter_mut().zip(rows).for_each(|(ids, row)| ids.push(row));
        }
        let readings: Vec<_> = encoders
            .into_iter()
            .zip(&ids)
            .map(|((network, encoder), ids)| Reading { network, encoder, ids })
            .collect();
        self.add_told(batch, Told::Captions(&readings), place, gradients)
    }

    fn add_told(
        &self,
        batch: &[Example<'_>],
        told: Told<'_>,
        Place { part, share, weight }: Place,
        gradients: &mut [Vec<f32>],
    ) -> Result<f64> {
        let samples = self.samples(batch, part)?;
        let size = batch[0].item.bucket;
        let (height, width) = (size.height as usize / 8, size.width as usize / 8);
        let device = self.pipeline.device();
        let noisy: Vec<f32> = samples.iter().flat_map(|sample| &sample.noisy).copied().collect();
        let noisy = Tensor::from_vec(noisy, (batch.len(), height, width, 4), device)?;
        let timesteps: Vec<f32> = samples.iter().map(|sample| sample.timestep as f32).collect();
        let sizes: Vec<f32> = batch.iter().flat_map(Example::time_ids).collect();
        let time_ids = Tensor::from_vec(sizes, (batch.len(), 6), device)?;

        let pass = TrainingPass {
            ops: self.pipeline.ops().exact(),
            trained: &self.trained(part)?,
            latents: &noisy,
            timesteps: &timesteps,
            told,
            time_ids: &time_ids,
            keep: self.kept_bytes(),
        };
        let mut value = 0.0;
        let found = self.pipeline.unet().gradients(&pass, |answer| {
            let answers = answer.flatten_all()?.to_vec1::<f32>()?;
            let (sum, mut gradient) = loss(&answers, &samples, share);
            value = sum;
            for slope in &mut gradient {
                *slope = (f64::from(*slope) * weight) as f32;
            }
            Ok(Tensor::from_vec(gradient, answer.shape(), answer.device())?)
        })?;
        let pairs = self.layers.iter().zip(gradients.as_chunks_mut::<2>().0);
        for (layer, [down, up]) in pairs {
            let Some(gradient) = found.get(layer.network, &layer.name) else { continue };
            add(down, &gradient.down)?;
            add(up, &gradient.up)?;
        }
        Ok(value)
    }

    /// Noise, timestep and target of every picture of a batch.
    fn samples(&self, batch: &[Example<'_>], part: u64) -> Result<Vec<Sample>> {
        let sample = |(place, example): (usize, &Example<'_>)| -> Result<Sample> {
            let numbers = [self.options.seed, self.state.step, part, place as u64];
            let mut draws = Draws::new(Purpose::Noise, &numbers);
            let timestep = draws.below(self.diffusion.timesteps() as u64) as usize;
            let mut noise = Noise::new(NoiseKind::TorchCpu, draws.bits());
            let posterior = self.posterior(example)?;
            let [mean, std] = ["mean", "std"].map(|name| &posterior[name].values);
            let scale = self.pipeline.scaling_factor() as f32;
            let drawn = noise.draw(mean.len());
            let latents: Vec<f32> = mean
                .iter()
                .zip(std)
                .zip(&drawn)
                .map(|((mean, std), drawn)| (mean + std * drawn) * scale)
                .collect();
            let mut drawn = noise.draw(mean.len());
            let offset = self.diffusion.noise_offset() as f32;
            if offset > 0.0 {
                let of_channel = noise.draw(4);
                for (index, value) in drawn.iter_mut().enumerate() {
                    *value += offset * of_channel[index % 4];
                }
            }
            Ok(self.diffusion.sample(&latents, &drawn, timestep))
        };
        batch.iter().enumerate().map(sample).collect()
    }

    /// What text encoders that stay as they are say about a batch.
    fn features(&self, batch: &[Example<'_>]) -> Result<Conditioning> {
        let told: Vec<_> = batch
            .iter()
            .map(|example| self.conditioning(example.caption))
            .collect::<Result<_>>()?;
        let embeds: Vec<_> = told.iter().map(|told| &told.prompt_embeds).collect();
        let pooled: Vec<_> = told.iter().map(|told| &told.pooled_embeds).collect();
        let (prompt_embeds, pooled_embeds) = (Tensor::cat(&embeds, 0)?, Tensor::cat(&pooled, 0)?);
        Ok(Conditioning { prompt_embeds, pooled_embeds })
    }

    fn trained(&self, part: u64) -> Result<Trained> {
        let device = self.pipeline.device();
        let (rank, options) = (self.options.rank, &self.options);
        let mut trained = Trained::default();
        let pairs = self.layers.iter().zip(self.state.tensors.as_chunks::<2>().0);
        for (index, (layer, [down, up])) in pairs.enumerate() {
            let numbers = [options.seed, self.state.step, part, index as u64];
            let dropout = (options.dropout > 0.0).then(|| Dropout {
                probability: options.dropout as f32,
                seed: Draws::new(Purpose::Dropout, &numbers).bits(),
            });
            let branch = Branch {
                down: Tensor::from_slice(down, layer.down(rank), device)?,
                up: Tensor::from_slice(up, layer.up(rank), device)?,
                scale: options.alpha() / rank as f64,
                dropout,
            };
            trained.insert(layer.network, &layer.name, branch);
        }
        Ok(trained)
    }

    /// Mean and deviation of a picture's latents, `[H/8, W/8, 4]`, from the cache if it has them.
    fn posterior(&self, example: &Example<'_>) -> Result<Entry> {
        self.cache.get_or(&example.latents_key(&self.identity), || {
            let size = example.item.bucket;
            let shape = (1, size.height as usize, size.width as usize, 3);
            let pixels = Tensor::from_vec(example.pixels()?, shape, self.pipeline.device())?;
            let posterior = self.pipeline.posterior(&pixels)?;
            let whole = [("mean", &posterior.mean), ("std", &posterior.std)];
            whole.into_iter().map(|(name, tensor)| Ok((name.to_owned(), kept(tensor)?))).collect()
        })
    }

    fn conditioning(&self, caption: &str) -> Result<Conditioning> {
        let entry = self.cache.get_or(&Key::of_caption(caption, &self.identity), || {
            let told = self.pipeline.caption(caption)?;
            let whole = [("embeds", &told.prompt_embeds), ("pooled", &told.pooled_embeds)];
            whole.into_iter().map(|(name, tensor)| Ok((name.to_owned(), kept(tensor)?))).collect()
        })?;
        let tensor = |name: &str| -> Result<Tensor> {
            let Array { shape, values } = &entry[name];
            Ok(Tensor::from_slice(values, shape.as_slice(), self.pipeline.device())?)
        };
        Ok(Conditioning { prompt_embeds: tensor("embeds")?, pooled_embeds: tensor("pooled")? })
    }
}

fn kept(tensor: &Tensor) -> Result<Array> {
    Ok(Array { shape: tensor.dims().to_vec(), values: tensor.flatten_all()?.to_vec1()? })
}

fn add(sum: &mut [f32], gradient: &Tensor) -> Result<()> {
    let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
    sum.iter_mut().zip(gradient).for_each(|(sum, x)| *sum += x);
    Ok(())
}
