//! Random numbers that need no quality but to differ: orders, dropout, resampling. (Noise that
//! other programs must agree with is another matter.)

/// Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// What lies between two states.
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Number `index` of the stream of a seed, counted from 0.
    #[must_use]
    pub fn at(seed: u64, index: u64) -> u64 {
        Self(seed.wrapping_add(index.wrapping_mul(Self::STEP))).bits()
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(Self::STEP);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 where `limit` is 0. Some are likelier by less than `limit / 2⁶⁴`.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(limit)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_draws_the_published_numbers() {
        // The first outputs of Vigna's splitmix64.c for this seed.
        let mut numbers = SplitMix64::new(1_234_567);
        let drawn = [numbers.bits(), numbers.bits(), numbers.bits()];
        let expected =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(drawn, expected);
    }

    #[test]
    fn a_number_of_a_stream_is_the_one_at_its_place() {
        let mut numbers = SplitMix64::new(7);
        assert!((0..20).all(|index| SplitMix64::at(7, index) == numbers.bits()));
    }
}
