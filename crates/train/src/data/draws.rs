//! Chance that needs no memory: each draw follows from numbers that say what it is for.
//!
//! The generator is splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
//! generators"; constants of Vigna's `splitmix64.c`). Changing it changes which picture a resumed
//! run sees next, so it is a breaking change, and `draws_are_frozen` says so.

use unwrong_models::SplitMix64;

/// What a draw is for, so that no two purposes share their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Purpose {
    Order = 1,
    Crop = 2,
    Flip = 3,
    CaptionDropout = 4,
    Initial = 5,
    Noise = 6,
    Dropout = 7,
}

/// A stream of numbers for one purpose.
#[derive(Debug, Clone)]
pub(crate) struct Draws(SplitMix64);

impl Draws {
    /// The stream of these numbers: seed, epoch, place and whatever else tells draws apart.
    pub(crate) fn new(purpose: Purpose, numbers: &[u64]) -> Self {
        let mut state = purpose as u64;
        for number in numbers {
            state = SplitMix64::new(state).bits() ^ number;
        }
        Self(SplitMix64::new(SplitMix64::new(state).bits()))
    }

    /// 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0.bits()
    }

    /// See [`SplitMix64::below`].
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0.below(limit)
    }

    /// A number in 0…1, without 1.
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Every order is equally likely (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // The first outputs of Vigna's splitmix64.c for the seed 1234567.
        let mut draws = Draws(SplitMix64::new(1_234_567));
        assert_eq!(draws.bits(), 6_457_827_717_110_365_317);
        assert_eq!(draws.bits(), 3_203_168_211_198_807_973);
        assert_eq!(draws.bits(), 9_817_491_932_198_370_423);
    }

    #[test]
    fn draws_below_a_limit_reach_all_of_it_and_no_more() {
        let mut draws = Draws::new(Purpose::Crop, &[0]);
        let mut seen = [0u32; 3];
        for _ in 0..3000 {
            seen[draws.below(3) as usize] += 1;
        }
        assert!(seen.iter().all(|times| (900..1100).contains(times)), "{seen:?}");
        assert_eq!(draws.below(0), 0);
        assert_eq!(draws.below(1), 0);
    }

    #[test]
    fn other_numbers_or_another_purpose_give_another_stream() {
        let first = |purpose, numbers: &[u64]| Draws::new(purpose, numbers).bits();
        let streams = [
            first(Purpose::Order, &[0, 0]),
            first(Purpose::Order, &[0, 1]),
            first(Purpose::Order, &[1, 0]),
            first(Purpose::Order, &[0]),
            first(Purpose::Crop, &[0, 0]),
        ];
        for (index, stream) in streams.iter().enumerate() {
            assert!(!streams[..index].contains(stream), "{streams:?}");
        }
    }
}
