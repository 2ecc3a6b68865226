//! Prodigy: Adam that finds its own rate.

use super::{Moments, OptimizerOptions, not_finite};

/// The first estimate of the distance: so small that any real one replaces it.
const FIRST: f64 = 1e-6;

/// Prodigy (Mishchenko, Defazio 2023, arXiv:2306.06101), with the arithmetic of prodigyopt 1.1.2:
/// decoupled weight decay, Adam's bias correction and safeguarded warm-up, the two latter as in
/// diffusers' training scripts.
///
/// It estimates how far the tensors have to go, D, from how far they went along their gradients,
/// and makes the rate D times the one it is given, which is usually 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Prodigy {
    options: OptimizerOptions,
    /// Where the tensors began.
    start: Vec<Vec<f32>>,
    pub(super) moments: Vec<Moments>,
    /// Weighted sums of gradients.
    sums: Vec<Vec<f32>>,
    scalars: Scalars,
}

/// Numbers of a checkpoint, so of its precision.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scalars {
    /// D, the greatest estimate so far.
    distance: f32,
    /// Weighted sum of how far the tensors went along their gradients.
    along: f32,
    /// Steps at a rate above zero.
    steps: f32,
}

impl Prodigy {
    /// An optimiser of tensors that begin like this.
    #[must_use]
    pub fn new(options: OptimizerOptions, start: &[Vec<f32>]) -> Self {
        Self {
            options,
            start: start.to_vec(),
            moments: start.iter().map(|tensor| Moments::zeros(tensor.len())).collect(),
            sums: start.iter().map(|tensor| vec![0.0; tensor.len()]).collect(),
            scalars: Scalars { distance: FIRST as f32, along: 0.0, steps: 0.0 },
        }
    }

    /// The present estimate of D.
    #[must_use]
    pub fn distance(&self) -> f64 {
        f64::from(self.scalars.distance)
    }

    /// Moves every tensor against its gradient; a rate of 0 changes nothing.
    ///
    /// # Panics
    /// If tensors and gradients are not those the optimiser was made for.
    pub fn step(&mut self, tensors: &mut [Vec<f32>], gradients: &[Vec<f32>], rate: f64) {
        assert_eq!(tensors.len(), self.start.len(), "tensors of an optimiser");
        assert_eq!(gradients.len(), self.start.len(), "gradients of an optimiser");
        if rate <= 0.0 {
            return;
        }
        let OptimizerOptions { betas: (beta1, beta2), .. } = self.options;
        let power = f64::from(self.scalars.steps) + 1.0;
        let correction = (1.0 - beta2.powf(power)).sqrt() / (1.0 - beta1.powf(power));
        let used = self.distance();
        let step = used * rate * correction;
        let Some(estimate) = self.gather(tensors, gradients, step) else { return };

        let scalars = &mut self.scalars;
        scalars.distance = scalars.distance.max(estimate as f32);
        scalars.steps += 1.0;
        self.advance(tensors, step);
    }

    /// Takes the gradients into the means and sums; the new estimate of D, or none where there
    /// was no gradient yet.
    fn gather(&mut self, tensors: &[Vec<f32>], gradients: &[Vec<f32>], step: f64) -> Option<f64> {
        let OptimizerOptions { betas: (beta1, beta2), .. } = self.options;
        let distance = self.distance();
        let (mean_kept, mean_new) = (beta1 as f32, (distance * (1.0 - beta1)) as f32);
        let (square_kept, square_new) =
            (beta2 as f32, (distance * distance * (1.0 - beta2)) as f32);
        let beta3 = beta2.sqrt();
        let (sum_kept, sum_new) = (beta3 as f32, (distance / FIRST * distance) as f32);
        let (mut along, mut length) = (0.0, 0.0);
        for (index, gradient) in gradients.iter().enumerate() {
            let (tensor, start) = (&tensors[index], &self.start[index]);
            assert_eq!(tensor.len(), gradient.len(), "gradient of a tensor");
            let went = start.iter().zip(tensor).map(|(start, now)| f64::from(start - now));
            let went = went.zip(gradient).map(|(went, gradient)| went * f64::from(*gradient));
            along += distance / FIRST * step * went.sum::<f64>();
            let Moments { mean, square } = &mut self.moments[index];
            let means = mean.iter_mut().zip(square).zip(&mut self.sums[index]);
            for (gradient, ((mean, square), sum)) in gradient.iter().zip(means) {
                *mean = *mean * mean_kept + mean_new * gradient;
                *square = *square * square_kept + square_new * gradient * gradient;
                *sum = *sum * sum_kept + sum_new * gradient;
                length += f64::from(sum.abs());
            }
        }
        if length == 0.0 {
            return None;
        }
        let along = beta3 * f64::from(self.scalars.along) + along;
        self.scalars.along = along as f32;
        Some(along / length)
    }

    /// Adam's step and the decay.
    fn advance(&self, tensors: &mut [Vec<f32>], step: f64) {
        let OptimizerOptions { eps, weight_decay, .. } = self.options;
        let eps = (self.distance() * eps) as f32;
        let (kept, step) = ((1.0 - weight_decay * step) as f32, step as f32);
        for (tensor, Moments { mean, square }) in tensors.iter_mut().zip(&self.moments) {
            for (x, (mean, square)) in tensor.iter_mut().zip(mean.iter().zip(square)) {
                *x = *x * kept - step * mean / (square.sqrt() + eps);
            }
        }
    }

    /// A number that is infinite or none, but for the moments.
    pub(super) fn not_finite(&self) -> Option<f32> {
        let Scalars { distance, along, steps } = self.scalars;
        let found = self.sums.iter().find_map(|sum| not_finite(sum));
        found.or_else(|| not_finite(&[distance, along, steps]))
    }

    /// All that a step changes, but for the moments.
    pub(super) fn parts(&self) -> Vec<(String, Vec<f32>)> {
        let Scalars { distance, along, steps } = self.scalars;
        let sums = self.sums.iter().enumerate();
        let sums = sums.map(|(index, sum)| (format!("{index:06}.sum"), sum.clone()));
        sums.chain([(SCALARS.to_owned(), vec![distance, along, steps])]).collect()
    }

    pub(super) fn set_parts(&mut self, part: &impl Fn(&str) -> Option<Vec<f32>>) -> Option<()> {
        for (index, sum) in self.sums.iter_mut().enumerate() {
            *sum = part(&format!("{index:06}.sum"))?;
        }
        let [distance, along, steps] = part(SCALARS)?.try_into().ok()?;
        self.scalars = Scalars { distance, along, steps };
        Some(())
    }
}

/// The name of the numbers in a checkpoint.
const SCALARS: &str = "prodigy";
