//! Optimisers and what goes around them: clipping, and how the rate changes.

mod adamw;
mod prodigy;
mod schedule;

use serde::{Deserialize, Serialize};

pub use adamw::AdamW;
pub use prodigy::Prodigy;
pub use schedule::RateSchedule;

/// Which optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// [`AdamW`].
    #[default]
    AdamW,
    /// [`Prodigy`], which finds the rate.
    Prodigy,
}

/// An optimiser and its options.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OptimizerOptions {
    /// Which one.
    pub kind: OptimizerKind,
    /// How slowly the mean of gradients and the mean of their squares follow.
    pub betas: (f64, f64),
    /// Added to the root of the mean square.
    pub eps: f64,
    /// Share of a value that is taken away per unit of the rate.
    pub weight_decay: f64,
}

impl Default for OptimizerOptions {
    /// Those of diffusers' training scripts.
    fn default() -> Self {
        let kind = OptimizerKind::default();
        Self { kind, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 1e-2 }
    }
}

impl OptimizerKind {
    /// As diffusers and kohya's scripts call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AdamW => "AdamW",
            Self::Prodigy => "Prodigy",
        }
    }

    /// The learning rate it is usually given.
    #[must_use]
    pub const fn rate(self) -> f64 {
        match self {
            Self::AdamW => 1e-4,
            Self::Prodigy => 1.0,
        }
    }
}

/// The optimiser of a training.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Optimizer {
    AdamW(AdamW),
    Prodigy(Prodigy),
}

impl Optimizer {
    /// For tensors that begin like this.
    pub(crate) fn new(options: OptimizerOptions, start: &[Vec<f32>]) -> Self {
        match options.kind {
            OptimizerKind::AdamW => {
                let sizes: Vec<_> = start.iter().map(Vec::len).collect();
                Self::AdamW(AdamW::new(options, &sizes))
            }
            OptimizerKind::Prodigy => Self::Prodigy(Prodigy::new(options, start)),
        }
    }

    /// Moves every tensor against its gradient, each at its own rate; Prodigy knows one for all.
    pub(crate) fn step(&mut self, tensors: &mut [Vec<f32>], gradients: &[Vec<f32>], rates: &[f64]) {
        match self {
            Self::AdamW(adam) => adam.step(tensors, gradients, rates),
            Self::Prodigy(prodigy) => {
                prodigy.step(tensors, gradients, rates.first().copied().unwrap_or_default());
            }
        }
    }

    /// What the next step multiplies its rate with.
    pub(crate) fn factor(&self) -> f64 {
        match self {
            Self::AdamW(_) => 1.0,
            Self::Prodigy(prodigy) => prodigy.distance(),
        }
    }

    /// A number that is infinite or none, in all that a step changes.
    pub(crate) fn not_finite(&self) -> Option<f32> {
        let moments = self.moments().iter();
        let found = moments.flat_map(|moments| [&moments.mean, &moments.square]);
        found.into_iter().find_map(|numbers| not_finite(numbers)).or_else(|| match self {
            Self::AdamW(_) => None,
            Self::Prodigy(prodigy) => prodigy.not_finite(),
        })
    }

    /// All that a step changes, by name, for a checkpoint.
    pub(crate) fn parts(&self) -> Vec<(String, Vec<f32>)> {
        let mut parts = Vec::new();
        for (index, moments) in self.moments().iter().enumerate() {
            parts.push((format!("{index:06}.mean"), moments.mean.clone()));
            parts.push((format!("{index:06}.square"), moments.square.clone()));
        }
        if let Self::Prodigy(prodigy) = self {
            parts.extend(prodigy.parts());
        }
        parts
    }

    /// The same with the parts of a checkpoint after `steps`, if all are there.
    pub(crate) fn with_parts(
        mut self,
        steps: u64,
        part: impl Fn(&str) -> Option<Vec<f32>>,
    ) -> Option<Self> {
        let moments = match &mut self {
            Self::AdamW(adam) => {
                adam.steps = steps;
                &mut adam.moments
            }
            Self::Prodigy(prodigy) => {
                prodigy.set_parts(&part)?;
                &mut prodigy.moments
            }
        };
        for (index, moments) in moments.iter_mut().enumerate() {
            let mean = part(&format!("{index:06}.mean"))?;
            *moments = Moments { mean, square: part(&format!("{index:06}.square"))? };
        }
        Some(self)
    }

    fn moments(&self) -> &[Moments] {
        match self {
            Self::AdamW(adam) => &adam.moments,
            Self::Prodigy(prodigy) => &prodigy.moments,
        }
    }
}

/// Running means of one tensor's gradients.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    pub(crate) mean: Vec<f32>,
    pub(crate) square: Vec<f32>,
}

impl Moments {
    fn zeros(size: usize) -> Self {
        Self { mean: vec![0.0; size], square: vec![0.0; size] }
    }
}

/// The first number that is infinite or none.
pub(crate) fn not_finite(numbers: &[f32]) -> Option<f32> {
    // All bits of the exponent set. The greatest of whole numbers is found many at a time.
    let bits = |number: &f32| number.to_bits() & !(1 << 31);
    let greatest = numbers.iter().map(bits).fold(0, u32::max);
    if greatest < f32::INFINITY.to_bits() {
        return None;
    }
    numbers.iter().copied().find(|number| !number.is_finite())
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

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these values are exact")]
mod tests {
    use super::*;

    #[test]
    fn what_is_infinite_or_no_number_is_found() {
        assert_eq!(not_finite(&[]), None);
        assert_eq!(not_finite(&[-0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE]), None);
        for value in [f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(not_finite(&[1.0, value, 2.0]), Some(value));
        }
        assert!(not_finite(&[1.0, -f32::NAN]).is_some_and(f32::is_nan));
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
