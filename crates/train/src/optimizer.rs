//! `AdamW` and what goes around it: clipping, and how the rate changes.

use serde::{Deserialize, Serialize};

/// Options of [`AdamW`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamWOptions {
    /// How slowly the mean of gradients and the mean of their squares follow.
    pub betas: (f64, f64),
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Share of a value that is taken away per unit of the rate.
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    /// Those of diffusers' training scripts.
    fn default() -> Self {
        Self { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 1e-2 }
    }
}

/// Adam with decoupled weight decay (Loshchilov, Hutter 2019, arXiv:1711.05101), with the
/// arithmetic of `torch.optim.AdamW`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    options: AdamWOptions,
    /// Steps that were made.
    pub(crate) steps: u64,
    /// Of every tensor, in the order of [`AdamW::step`]'s: means of gradients and of squares.
    pub(crate) moments: Vec<Moments>,
}

/// Running means of one tensor's gradients.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    pub(crate) mean: Vec<f32>,
    pub(crate) square: Vec<f32>,
}

impl AdamW {
    /// An optimiser of tensors with so many numbers each.
    #[must_use]
    pub fn new(options: AdamWOptions, sizes: &[usize]) -> Self {
        let moments = |&size: &usize| Moments { mean: vec![0.0; size], square: vec![0.0; size] };
        Self { options, steps: 0, moments: sizes.iter().map(moments).collect() }
    }

    /// Moves every tensor against its gradient, each at its own rate.
    ///
    /// # Panics
    /// If tensors and gradients are not those the optimiser was made for.
    pub fn step(&mut self, tensors: &mut [Vec<f32>], gradients: &[Vec<f32>], rates: &[f64]) {
        assert_eq!(tensors.len(), self.moments.len(), "tensors of an optimiser");
        assert_eq!(gradients.len(), self.moments.len(), "gradients of an optimiser");
        assert_eq!(rates.len(), self.moments.len(), "rates of an optimiser");
        self.steps += 1;
        let AdamWOptions { betas: (beta1, beta2), eps, weight_decay } = self.options;
        let power = self.steps as f64;
        let correction = 1.0 - beta1.powf(power);
        let root = (1.0 - beta2.powf(power)).sqrt() as f32;
        let (beta2, new1, new2) = (beta2 as f32, (1.0 - beta1) as f32, (1.0 - beta2) as f32);
        let eps = eps as f32;
        for (((tensor, gradient), moments), rate) in
            tensors.iter_mut().zip(gradients).zip(&mut self.moments).zip(rates)
        {
            let kept = (1.0 - rate * weight_decay) as f32;
            let step = (rate / correction) as f32;
            assert_eq!(tensor.len(), gradient.len(), "gradient of a tensor");
            let numbers = tensor.iter_mut().zip(gradient);
            let means = moments.mean.iter_mut().zip(&mut moments.square);
            for ((x, g), (mean, square)) in numbers.zip(means) {
                *mean += new1 * (g - *mean);
                *square = *square * beta2 + new2 * g * g;
                *x = *x * kept - step * *mean / (square.sqrt() / root + eps);
            }
        }
    }
}

/// The length of all gradients as one vector.
#[must_use]
pub fn norm(gradients: &[Vec<f32>]) -> f64 {
    let squares = gradients.iter().flatten().map(|x| f64::from(*x).powi(2));
    squares.sum::<f64>().sqrt()
}

/// Shortens gradients to at most `limit` in all, as `torch.nn.utils.clip_grad_norm_`; returns
/// the length before.
pub fn clip(gradients: &mut [Vec<f32>], limit: f64) -> f64 {
    let length = norm(gradients);
    let factor = limit / (length + 1e-6);
    if factor < 1.0 {
        let factor = factor as f32;
        gradients.iter_mut().flatten().for_each(|x| *x *= factor);
    }
    length
}

/// How the rate changes over a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RateSchedule {
    /// The same throughout.
    #[default]
    Constant,
    /// Half a cosine, to zero.
    Cosine,
    /// A straight line, to zero.
    Linear,
}

impl RateSchedule {
    /// As diffusers and kohya's scripts call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Cosine => "cosine",
            Self::Linear => "linear",
        }
    }

    /// The factor of the rate at `step` (from 0) of `steps`, of which the first `warmup` rise to
    /// it in a straight line; as diffusers' `get_scheduler`.
    #[must_use]
    pub fn factor(self, step: u64, steps: u64, warmup: u64) -> f64 {
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let rest = steps.saturating_sub(warmup).max(1);
        let done = (step - warmup) as f64 / rest as f64;
        match self {
            Self::Constant => 1.0,
            Self::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * done).cos())).max(0.0),
            Self::Linear => (1.0 - done).max(0.0),
        }
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these values are exact")]
mod tests {
    use super::*;

    #[test]
    fn a_rate_rises_then_falls_to_nothing() {
        let factors =
            |schedule: RateSchedule| [0, 1, 2, 6, 10].map(|step| schedule.factor(step, 10, 2));
        assert_eq!(factors(RateSchedule::Constant), [0.0, 0.5, 1.0, 1.0, 1.0]);
        assert_eq!(factors(RateSchedule::Linear), [0.0, 0.5, 1.0, 0.5, 0.0]);
        let cosine = factors(RateSchedule::Cosine);
        assert_eq!(cosine[..3], [0.0, 0.5, 1.0]);
        assert!((cosine[3] - 0.5).abs() < 1e-12 && cosine[4].abs() < 1e-12);
        // Without a warm-up the first step has the whole rate.
        assert_eq!(RateSchedule::Linear.factor(0, 4, 0), 1.0);
    }

    #[test]
    fn only_long_gradients_are_shortened() {
        let mut gradients = vec![vec![3.0], vec![0.0, 4.0]];
        assert_eq!(clip(&mut gradients, 10.0), 5.0);
        assert_eq!(gradients, [vec![3.0], vec![0.0, 4.0]]);
        clip(&mut gradients, 1.0);
        assert!((norm(&gradients) - 1.0).abs() < 1e-6);
    }
}
