//! How noisy: Immerkær's estimate.

use std::f64::consts::PI;

use super::{Luma, mean};

/// Standard deviation of white noise, in levels of 255.
///
/// Immerkær 1996, "Fast noise variance estimation": the mask is the difference of two
/// Laplacians, so it answers neither to flat nor to sloping parts.
pub(super) fn immerkaer(luma: &Luma) -> f64 {
    const MASK: [[f64; 3]; 3] = [[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]];
    (PI / 2.0).sqrt() / 6.0 * mean(luma.filtered(&MASK).map(f64::abs))
}
