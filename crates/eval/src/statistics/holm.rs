//! Several tests at once.

/// Holm's step-down correction, in the order of the values.
///
/// Holm 1979, "A simple sequentially rejective multiple test procedure".
#[must_use]
pub fn holm(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut corrected = vec![0.0; values.len()];
    let mut largest = 0.0f64;
    for (place, index) in order.into_iter().enumerate() {
        largest = largest.max((values.len() - place) as f64 * values[index]).min(1.0);
        corrected[index] = largest;
    }
    corrected
}
