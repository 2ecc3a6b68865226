//! The noise levels of a run, and where base and refiner part.
//!
//! Stage 5 of the flow. A [`Schedule`] is a table without state: the training index
//! (`timestep`) and noise level (`sigma`) of every step.
//!
//! Reference: `EulerDiscreteScheduler` of diffusers 0.42.1, with the same width of float at
//! every step of the arithmetic, because a timestep decides on which side of the split it
//! falls. Checked number by number in `tests/parity_schedule.rs`.

use unwrong_models::files::SchedulerConfig;

use crate::error::{Error, Result};

/// More training steps than any model has; the table of sigmas is this long.
const MAX_TRAIN_TIMESTEPS: usize = 100_000;

/// Training index and noise level of every step, from the noisiest on.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    timesteps: Vec<f32>,
    /// One more than timesteps: where the last step ends.
    sigmas: Vec<f32>,
    initial_scale: f32,
    train_timesteps: usize,
    /// Steps of the whole run before the first of these.
    before: usize,
}

/// One step: from `sigma` to `sigma_next`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Which step of the whole run, base and refiner together, counted from 1: what a prompt
    /// that changes on the way goes by.
    pub step: usize,
    /// Training index, what the UNet is told; may lie between two integers.
    pub timestep: f32,
    /// Noise level before the step.
    pub sigma: f32,
    /// Noise level after it.
    pub sigma_next: f32,
}

impl Schedule {
    /// The table of `steps` steps that a model's scheduler config asks for.
    pub fn new(config: &SchedulerConfig, steps: usize) -> Result<Self> {
        check(config, steps)?;
        let train_sigmas = train_sigmas(config)?;
        let timesteps = timesteps(config, steps)?;

        let mut sigmas: Vec<f32> =
            timesteps.iter().map(|timestep| interpolate(*timestep, &train_sigmas)).collect();
        sigmas.push(match config.final_sigmas_type.as_str() {
            "zero" => 0.0,
            "sigma_min" => train_sigmas[0],
            other => return Err(unsupported("final_sigmas_type", other, "zero or sigma_min")),
        });

        let max_sigma = sigmas.iter().copied().fold(0.0, f32::max);
        let initial_scale = match config.timestep_spacing.as_str() {
            "leading" => (max_sigma * max_sigma + 1.0).sqrt(),
            _ => max_sigma,
        };
        let train_timesteps = train_sigmas.len();
        Ok(Self { timesteps, sigmas, initial_scale, train_timesteps, before: 0 })
    }

    /// A schedule without steps: what a missing refiner does.
    #[must_use]
    pub fn empty() -> Self {
        let (timesteps, sigmas) = (vec![], vec![0.0]);
        Self { timesteps, sigmas, initial_scale: 1.0, train_timesteps: 0, before: 0 }
    }

    /// How many steps there are.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.timesteps.len()
    }

    /// The number of the first of them, counted over the whole run from 1.
    #[must_use]
    pub fn first_step(&self) -> usize {
        self.before + 1
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.timesteps.is_empty()
    }

    /// Training index of every step.
    #[must_use]
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// Noise level before every step, and after the last.
    #[must_use]
    pub fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    /// What standard normal noise is multiplied with to be the first latents; diffusers calls it
    /// `init_noise_sigma`.
    ///
    /// With leading spacing this is `sqrt(max² + 1)`, else `max`. Both parts of a split keep the
    /// value of the whole.
    #[must_use]
    pub fn initial_scale(&self) -> f32 {
        self.initial_scale
    }

    /// The steps in order.
    pub fn levels(&self) -> impl Iterator<Item = Level> + '_ {
        let steps = self.timesteps.iter().zip(self.sigmas.windows(2)).enumerate();
        steps.map(|(index, (&timestep, pair))| Level {
            step: self.before + index + 1,
            timestep,
            sigma: pair[0],
            sigma_next: pair[1],
        })
    }

    /// The part of the base: the first steps, as far as their timestep is at least
    /// [the cutoff](Self::low_noise). A fraction of 1 takes all.
    #[must_use]
    pub fn high_noise(&self, fraction: f64) -> Self {
        if fraction >= 1.0 {
            return self.clone();
        }
        let cutoff = self.cutoff(fraction);
        let count = self.timesteps.iter().filter(|&&timestep| timestep >= cutoff).count();
        Self {
            timesteps: self.timesteps[..count].to_vec(),
            sigmas: self.sigmas[..=count].to_vec(),
            ..*self
        }
    }

    /// The part of the refiner: the last steps, as many as have a timestep below the cutoff,
    /// `round(1000 − 1000 · fraction)`. A fraction of 1 leaves none.
    ///
    /// When base and refiner have equal configs this starts where the base stopped. It is not
    /// `floor(0.8 · steps)`: of 84 steps at 0.8 the base takes 65.
    #[must_use]
    pub fn low_noise(&self, fraction: f64) -> Self {
        let cutoff = if fraction >= 1.0 { f32::NEG_INFINITY } else { self.cutoff(fraction) };
        let count = self.timesteps.iter().filter(|&&timestep| timestep < cutoff).count();
        let start = self.steps() - count;
        Self {
            timesteps: self.timesteps[start..].to_vec(),
            sigmas: self.sigmas[start..].to_vec(),
            before: self.before + start,
            ..*self
        }
    }

    /// Python rounds half to even, and computes in f64.
    fn cutoff(&self, fraction: f64) -> f32 {
        if fraction <= 0.0 {
            // Leading spacing with an offset may start one above the last training index.
            return f32::INFINITY;
        }
        let train_timesteps = self.train_timesteps as f64;
        (train_timesteps - fraction * train_timesteps).round_ties_even() as f32
    }
}

/// Refuses by name what this crate does not compute.
fn check(config: &SchedulerConfig, steps: usize) -> Result<()> {
    for (option, set) in [
        ("use_karras_sigmas", config.use_karras_sigmas),
        ("use_exponential_sigmas", config.use_exponential_sigmas),
        ("use_beta_sigmas", config.use_beta_sigmas),
        ("rescale_betas_zero_snr", config.rescale_betas_zero_snr),
    ] {
        if set {
            return Err(unsupported(option, "true", "false"));
        }
    }
    if config.trained_betas.is_some() {
        return Err(unsupported("trained_betas", "a list", "null"));
    }
    if config.timestep_type != "discrete" {
        return Err(unsupported("timestep_type", &config.timestep_type, "discrete"));
    }
    if config.interpolation_type != "linear" {
        return Err(unsupported("interpolation_type", &config.interpolation_type, "linear"));
    }
    let train_timesteps = config.num_train_timesteps;
    if !(1..=MAX_TRAIN_TIMESTEPS).contains(&train_timesteps) {
        let found = train_timesteps.to_string();
        return Err(unsupported("num_train_timesteps", &found, "1 to 100000"));
    }
    if !(1..=train_timesteps).contains(&steps) {
        return Err(Error::OutOfRange {
            field: "steps",
            value: steps as f64,
            min: 1.0,
            max: train_timesteps as f64,
        });
    }
    Ok(())
}

fn unsupported(option: &'static str, value: &str, expected: &'static str) -> Error {
    Error::SchedulerOption { option, value: value.to_owned(), expected }
}

/// Noise level of every training step, rising.
fn train_sigmas(config: &SchedulerConfig) -> Result<Vec<f32>> {
    let sigma = |kept: f32| ((1.0 - kept) / kept).sqrt();
    Ok(alphas_cumprod(config)?.into_iter().map(sigma).collect())
}

/// The share of the picture's variance that is left at every training step, falling.
///
/// The running product is kept in f64 and rounded at every step, as `torch.cumprod` does.
pub(crate) fn alphas_cumprod(config: &SchedulerConfig) -> Result<Vec<f32>> {
    let count = config.num_train_timesteps;
    let betas: Vec<f32> = match config.beta_schedule.as_str() {
        "linear" => linspace(config.beta_start, config.beta_end, count),
        "scaled_linear" => {
            let roots = linspace(config.beta_start.sqrt(), config.beta_end.sqrt(), count);
            roots.into_iter().map(|root| root * root).collect()
        }
        other => return Err(unsupported("beta_schedule", other, "scaled_linear or linear")),
    };
    let mut product = 1.0f64;
    let alphas: Vec<f32> = betas
        .into_iter()
        .map(|beta| {
            product *= f64::from(1.0 - beta);
            product as f32
        })
        .collect();
    if alphas.iter().all(|kept| (f32::MIN_POSITIVE..=1.0).contains(kept)) {
        Ok(alphas)
    } else {
        let found = format!("{} to {}", config.beta_start, config.beta_end);
        Err(unsupported("beta_start", &found, "betas from 0 to below 1"))
    }
}

/// `torch.linspace` in f32: from both ends to the middle, with fused multiply-adds.
fn linspace(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = if count > 1 { (end - start) / (count - 1) as f32 } else { 0.0 };
    (0..count)
        .map(|i| {
            if i < count / 2 {
                step.mul_add(i as f32, start)
            } else {
                (-step).mul_add((count - 1 - i) as f32, end)
            }
        })
        .collect()
}

/// Table 2 of Lin et al. 2023 (arXiv:2305.08891), falling.
fn timesteps(config: &SchedulerConfig, steps: usize) -> Result<Vec<f32>> {
    let train_timesteps = config.num_train_timesteps;
    match config.timestep_spacing.as_str() {
        "leading" => {
            let ratio = train_timesteps / steps;
            let offset = config.steps_offset as f32;
            Ok((0..steps).rev().map(|i| (i * ratio) as f32 + offset).collect())
        }
        "trailing" => Ok(trailing(train_timesteps as f64, steps)),
        "linspace" => Ok(numpy_linspace((train_timesteps - 1) as f64, steps)),
        other => Err(unsupported("timestep_spacing", other, "leading, trailing or linspace")),
    }
}

/// `numpy.arange(train_timesteps, 0, -ratio)`, rounded, less one.
///
/// numpy takes its step from the difference of the first two values, which rounding may have
/// moved away from the ratio. For 62 of the counts up to 1000 (61 is the first) rounding also gives
/// diffusers one value more, at timestep −1; we make the steps that were asked for.
fn trailing(train_timesteps: f64, steps: usize) -> Vec<f32> {
    let ratio = train_timesteps / steps as f64;
    let step = (train_timesteps - ratio) - train_timesteps;
    (0..steps).map(|i| (train_timesteps + i as f64 * step).round_ties_even() as f32 - 1.0).collect()
}

/// `numpy.linspace(0, last, steps)` in f64, rounded to f32, then reversed.
fn numpy_linspace(last: f64, steps: usize) -> Vec<f32> {
    if steps == 1 {
        return vec![0.0];
    }
    let step = last / (steps - 1) as f64;
    let value = |i: usize| if i + 1 == steps { last } else { i as f64 * step };
    (0..steps).rev().map(|i| value(i) as f32).collect()
}

/// `numpy.interp` over the training indices: in f64, held at both ends.
fn interpolate(timestep: f32, train_sigmas: &[f32]) -> f32 {
    let last = train_sigmas.len() - 1;
    let position = f64::from(timestep).clamp(0.0, last as f64);
    let below = (position as usize).min(last);
    let above = (below + 1).min(last);
    let (low, high) = (f64::from(train_sigmas[below]), f64::from(train_sigmas[above]));
    ((high - low) * (position - below as f64) + low) as f32
}

#[cfg(test)]
mod tests;
