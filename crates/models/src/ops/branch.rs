//! What is common to both ways of training a low-rank branch.

use crate::lora::Dropout;

/// Zeros for the numbers of an input that are left out, else what the rest grows by.
pub(super) fn mask(len: usize, dropout: Dropout) -> impl Iterator<Item = f32> {
    let Dropout { probability, seed } = dropout;
    let kept = 1.0 / (1.0 - probability);
    let limit = (f64::from(probability) * 2_f64.powi(64)) as u64;
    (0..len as u64).map(move |index| if mixed(seed, index) < limit { 0.0 } else { kept })
}

/// The number `index` of a stream: splitmix64 (Steele, Lea, Flood 2014).
fn mixed(seed: u64, index: u64) -> u64 {
    let z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
