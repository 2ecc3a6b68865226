//! The numbers behind every draw.

/// Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", from a seed.
///
/// Part of the notation: the same text, wildcards and seed give the same prompt for ever, so
/// neither the numbers nor the order in which a draw takes them may change.
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `limit`; 0 where `limit` is 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(limit)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_draws_the_published_numbers() {
        // The first outputs of Vigna's splitmix64.c for this seed.
        let mut numbers = Numbers::new(1_234_567);
        let drawn = [numbers.bits(), numbers.bits(), numbers.bits()];
        let expected =
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!(drawn, expected);
    }

    #[test]
    fn a_number_is_below_its_limit() {
        let mut numbers = Numbers::new(3);
        assert!((0..1000).all(|_| numbers.below(3) < 3));
        assert_eq!((numbers.below(1), numbers.below(0)), (0, 0));
    }
}
