//! `AdamW`.

use super::{Moments, OptimizerOptions};

/// Adam with decoupled weight decay (Loshchilov, Hutter 2019, arXiv:1711.05101), with the
/// arithmetic of `torch.optim.AdamW`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    options: OptimizerOptions,
    /// Steps that were made.
    pub(crate) steps: u64,
    /// Of every tensor, in the order of [`AdamW::step`]'s: means of gradients and of squares.
    pub(crate) moments: Vec<Moments>,
}

impl AdamW {
    /// An optimiser of tensors with so many numbers each.
    #[must_use]
    pub fn new(options: OptimizerOptions, sizes: &[usize]) -> Self {
        let moments = sizes.iter().map(|size| Moments::zeros(*size)).collect();
        Self { options, steps: 0, moments }
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
        let OptimizerOptions { betas: (beta1, beta2), eps, weight_decay, .. } = self.options;
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
