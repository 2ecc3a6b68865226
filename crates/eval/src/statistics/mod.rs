//! Statistics of paired differences: interval, test, correction.

mod bootstrap;
mod holm;
mod wilcoxon;

pub use bootstrap::mean_interval;
pub use holm::holm;
pub use wilcoxon::{MOST_EXACT, Method, Wilcoxon, wilcoxon};

/// The mean; 0 of nothing.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The standard deviation of a sample; 0 of less than two.
#[must_use]
pub fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let center = mean(values);
    let squares: f64 = values.iter().map(|value| (value - center).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}
