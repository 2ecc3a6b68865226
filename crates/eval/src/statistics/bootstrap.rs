//! The interval of a mean, by drawing the pairs again and again.

use unwrong_models::SplitMix64;

use super::mean;

/// How often the pairs are drawn.
const DRAWS: usize = 10_000;
/// The seed of all draws: the same pairs give the same interval.
const SEED: u64 = 0;

/// The 95 % interval of the mean: the percentiles of 10,000 means of as many values, drawn
/// with replacement.
///
/// Efron 1979, "Bootstrap methods: another look at the jackknife".
#[must_use]
pub fn mean_interval(values: &[f64]) -> [f64; 2] {
    if values.is_empty() {
        return [0.0, 0.0];
    }
    let mut numbers = SplitMix64::new(SEED);
    let mut means: Vec<f64> = (0..DRAWS)
        .map(|_| {
            let mut drawn = || values[numbers.below(values.len() as u64) as usize];
            let sum: f64 = (0..values.len()).map(|_| drawn()).sum();
            sum / values.len() as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    // Of equal values every mean is the same, whatever the rounding of its sum.
    if values.iter().all(|value| value.total_cmp(&values[0]).is_eq()) {
        return [mean(values); 2];
    }
    [percentile(&means, 0.025), percentile(&means, 0.975)]
}

/// Between the two nearest values, as numpy's default has it.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len() - 1) as f64;
    let (below, share) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + share * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "these values are exact")]

    use super::*;

    #[test]
    fn percentiles_lie_between_values() {
        let sorted = [0.0, 1.0, 2.0, 4.0];
        assert_eq!(
            [0.0, 0.5, 0.75, 1.0].map(|part| percentile(&sorted, part)),
            [0.0, 1.5, 2.5, 4.0]
        );
    }

    #[test]
    fn equal_values_leave_no_doubt() {
        assert_eq!(mean_interval(&[0.1; 7]), [mean(&[0.1; 7]); 2]);
        assert_eq!(mean_interval(&[]), [0.0, 0.0]);
    }
}
