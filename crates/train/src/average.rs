//! A running mean of everything that is trained (exponential moving average, EMA).

/// Means that follow the trained numbers, ever more slowly up to `decay`.
///
/// The arithmetic of diffusers' `EMAModel` (`training_utils.py`, 0.42.1) as it is by default:
/// mean number `n`, from 0, keeps `min(decay, (1 + n) / (10 + n))` of the mean before it; the
/// first keeps nothing. So a short training is not held back by what it began with.
#[derive(Debug, Clone, PartialEq)]
pub struct Average {
    decay: f64,
    /// Of every tensor.
    pub(crate) tensors: Vec<Vec<f32>>,
    /// Steps that were made.
    pub(crate) steps: u64,
}

impl Average {
    /// Starts at `tensors`.
    #[must_use]
    pub fn new(decay: f64, tensors: &[Vec<f32>]) -> Self {
        Self { decay, tensors: tensors.to_vec(), steps: 0 }
    }

    /// Moves every mean towards its tensor.
    pub fn step(&mut self, tensors: &[Vec<f32>]) {
        let moved = (1.0 - kept(self.decay, self.steps)) as f32;
        self.steps += 1;
        for (means, tensor) in self.tensors.iter_mut().zip(tensors) {
            for (mean, number) in means.iter_mut().zip(tensor) {
                *mean -= moved * (*mean - number);
            }
        }
    }
}

/// The share of the mean that step `n`, from 0, keeps.
fn kept(decay: f64, n: u64) -> f64 {
    if n == 0 {
        return 0.0;
    }
    let n = n as f64;
    decay.min((1.0 + n) / (10.0 + n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_is_kept_rises_to_the_decay() {
        let shares = [0, 1, 2, 8, 1000].map(|n| kept(0.99, n));
        let expected = [0.0, 2.0 / 11.0, 3.0 / 12.0, 0.5, 0.99];
        assert!(shares.iter().zip(expected).all(|(share, e)| (share - e).abs() < 1e-15));
    }

    #[test]
    fn the_mean_of_a_line_is_the_weighted_sum_of_its_points() {
        // Closed form: point k counts (1 − kept_k) · Π of kept after it.
        let decay = 0.6;
        let points: Vec<f32> = (0..20).map(|point| 1.0 + point as f32).collect();
        let mut average = Average::new(decay, &[vec![-7.0]]);
        for point in &points {
            average.step(&[vec![*point]]);
        }
        let weight = |k: u64| {
            let after: f64 = (k + 1..20).map(|later| kept(decay, later)).product();
            (1.0 - kept(decay, k)) * after
        };
        let expected: f64 = (0..20).map(|k| weight(k) * f64::from(points[k as usize])).sum();
        let found = f64::from(average.tensors[0][0]);
        assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
        // The beginning is forgotten with the first step.
        assert!((0..20).map(weight).sum::<f64>() - 1.0 < 1e-12);
    }
}
