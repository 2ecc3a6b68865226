//! What a step of training shows the network, and how far its answer is off.

use serde::{Deserialize, Serialize};
use unwrong_models::files::PredictionType;

use crate::error::{Error, Result};

/// How answers at different noise levels count.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LossOptions {
    /// Counts little noise no more than this signal-to-noise ratio (min-SNR; Hang et al. 2023,
    /// arXiv:2303.09556); absent: every level counts the same.
    pub snr_gamma: Option<f64>,
    /// A constant per channel is added to the noise, this large.
    pub noise_offset: f64,
}

impl LossOptions {
    /// Refuses what is no option of a loss.
    pub fn check(&self) -> Result<()> {
        let refuse = |field, value: f64, expected: &str| {
            let (value, expected) = (value.to_string(), expected.to_owned());
            Err(Error::OutOfRange { field, value, expected })
        };
        if let Some(gamma) = self.snr_gamma.filter(|gamma| !(*gamma > 0.0 && gamma.is_finite())) {
            return refuse("snr_gamma", gamma, "a number above 0");
        }
        if !(0.0..=1.0).contains(&self.noise_offset) {
            return refuse("noise_offset", self.noise_offset, "0 to 1");
        }
        Ok(())
    }
}

/// One picture's part of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Training index, 0…999.
    pub timestep: usize,
    /// What the network sees, `[H/8, W/8, 4]`.
    pub noisy: Vec<f32>,
    /// What it should answer.
    pub target: Vec<f32>,
    /// How much this answer counts.
    pub weight: f64,
}

/// The forward process of a model.
#[derive(Debug, Clone)]
pub struct Diffusion {
    alphas_cumprod: Vec<f32>,
    prediction: PredictionType,
    options: LossOptions,
}

impl Diffusion {
    /// Refuses what is no option of a loss.
    pub fn new(
        alphas_cumprod: Vec<f32>,
        prediction: PredictionType,
        options: LossOptions,
    ) -> Result<Self> {
        options.check()?;
        Ok(Self { alphas_cumprod, prediction, options })
    }

    /// Training steps of the model.
    #[must_use]
    pub fn timesteps(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// How large the constant that is added to noise is.
    #[must_use]
    pub fn noise_offset(&self) -> f64 {
        self.options.noise_offset
    }

    /// `latents` with `noise` as of `timestep`, as diffusers' `add_noise` and `get_velocity`.
    ///
    /// # Panics
    /// If lengths differ or there is no such timestep.
    #[must_use]
    pub fn sample(&self, latents: &[f32], noise: &[f32], timestep: usize) -> Sample {
        assert_eq!(latents.len(), noise.len(), "noise for latents");
        let kept = self.alphas_cumprod[timestep];
        let (signal, sigma) = (kept.sqrt(), (1.0 - kept).sqrt());
        let mixed = |a: &[f32], b: &[f32], sign: f32| -> Vec<f32> {
            a.iter().zip(b).map(|(a, b)| signal * a + sign * sigma * b).collect()
        };
        let target = match self.prediction {
            PredictionType::Epsilon => noise.to_vec(),
            PredictionType::VPrediction => mixed(noise, latents, -1.0),
        };
        let snr = f64::from(kept) / (1.0 - f64::from(kept));
        Sample { timestep, noisy: mixed(latents, noise, 1.0), target, weight: self.weight(snr) }
    }

    fn weight(&self, snr: f64) -> f64 {
        let Some(gamma) = self.options.snr_gamma else { return 1.0 };
        match self.prediction {
            PredictionType::Epsilon => snr.min(gamma) / snr,
            PredictionType::VPrediction => snr.min(gamma) / (snr + 1.0),
        }
    }
}

/// The weighted mean square error of a batch, and its gradient for the answers.
///
/// `share` is the batch's share of a step's pictures; loss and gradient are multiplied with it.
///
/// # Panics
/// If lengths differ.
#[must_use]
pub fn loss(answers: &[f32], samples: &[Sample], share: f64) -> (f64, Vec<f32>) {
    let each = answers.len() / samples.len().max(1);
    let mut sum = 0.0;
    let mut gradient = Vec::with_capacity(answers.len());
    for (answer, sample) in answers.chunks_exact(each.max(1)).zip(samples) {
        assert_eq!(answer.len(), sample.target.len(), "an answer of the network");
        let factor = share * sample.weight / answers.len() as f64;
        for (answer, target) in answer.iter().zip(&sample.target) {
            let difference = f64::from(answer - target);
            sum += factor * difference * difference;
            gradient.push((2.0 * factor * difference) as f32);
        }
    }
    (sum, gradient)
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these values are exact")]
mod tests {
    use super::*;

    fn diffusion(prediction: PredictionType, snr_gamma: Option<f64>) -> Diffusion {
        let options = LossOptions { snr_gamma, noise_offset: 0.0 };
        Diffusion::new(vec![0.96, 0.64, 0.2], prediction, options).expect("the options are fine")
    }

    #[test]
    fn noise_and_velocity_are_those_of_the_forward_process() {
        let sample = diffusion(PredictionType::Epsilon, None).sample(&[1.0], &[2.0], 1);
        assert!((sample.noisy[0] - (0.8 + 0.6 * 2.0)).abs() < 1e-6);
        assert_eq!((sample.target, sample.weight), (vec![2.0], 1.0));
        let sample = diffusion(PredictionType::VPrediction, None).sample(&[1.0], &[2.0], 1);
        assert!((sample.target[0] - (0.8 * 2.0 - 0.6)).abs() < 1e-6);
    }

    #[test]
    fn little_noise_counts_no_more_than_gamma() {
        // Signal-to-noise ratios 24, 16/9 and 1/4.
        let epsilon = diffusion(PredictionType::Epsilon, Some(5.0));
        let weights = |d: &Diffusion| [0, 1, 2].map(|t| d.sample(&[0.0], &[0.0], t).weight);
        let [first, second, third] = weights(&epsilon);
        assert!((first - 5.0 / 24.0).abs() < 1e-6 && second == 1.0 && third == 1.0);
        let velocity = diffusion(PredictionType::VPrediction, Some(5.0));
        assert!((weights(&velocity)[0] - 5.0 / 25.0).abs() < 1e-6);
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let sample = |target: f32, weight| Sample {
            timestep: 0,
            noisy: vec![],
            target: vec![target, -target],
            weight,
        };
        let samples = [sample(1.0, 1.0), sample(0.5, 0.3)];
        let answers = [0.3, 0.1, -0.2, 0.9];
        let (before, gradient) = loss(&answers, &samples, 0.5);
        for (i, slope) in gradient.iter().enumerate() {
            let mut moved = answers;
            moved[i] += 1e-3;
            let found = (loss(&moved, &samples, 0.5).0 - before) / 1e-3;
            assert!((found - f64::from(*slope)).abs() < 1e-3, "{found}, gradient {slope}");
        }
    }
}
