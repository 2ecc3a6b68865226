//! What is common to both ways of training a low-rank branch.

use crate::lora::Dropout;
use crate::random::SplitMix64;

/// Zeros for the numbers of an input that are left out, else what the rest grows by.
pub(super) fn mask(len: usize, dropout: Dropout) -> impl Iterator<Item = f32> {
    let Dropout { probability, seed } = dropout;
    let kept = 1.0 / (1.0 - probability);
    let limit = (f64::from(probability) * 2_f64.powi(64)) as u64;
    (0..len as u64).map(move |index| if SplitMix64::at(seed, index) < limit { 0.0 } else { kept })
}
