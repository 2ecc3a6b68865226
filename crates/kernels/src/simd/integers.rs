//! Sixteen 16-bit integers a vector, multiplied in pairs.
//!
//! A vector is eight lanes of 32 bits; a lane is a sum, or a pair of 16-bit operands. Both
//! levels give the same integers.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_and_si256, _mm256_castps_si256, _mm256_castsi256_ps,
    _mm256_cvtepi32_ps, _mm256_cvtps_epi32, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_max_epi32, _mm256_max_epu16, _mm256_packs_epi32, _mm256_permute4x64_epi64,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
};

#[cfg(target_arch = "x86_64")]
use super::Avx2;
use super::{LANES, Portable, Simd};

/// Integers of a vector.
pub(crate) const INTEGERS: usize = 2 * LANES;

/// Operations on eight lanes of integers.
pub(crate) trait Integers: Simd {
    /// Eight lanes of 32 bits.
    type I: Copy;

    fn zero(self) -> Self::I;
    fn load_integers(self, x: &[i16; INTEGERS]) -> Self::I;
    fn store_integers(self, v: Self::I, out: &mut [i16; INTEGERS]);
    /// The same pair in every lane.
    fn splat_pair(self, pair: [i16; 2]) -> Self::I;
    /// `sum + a₀ · b₀ + a₁ · b₁` in each lane. The caller keeps it below 2³¹.
    fn multiply_pairs(self, a: Self::I, b: Self::I, sum: Self::I) -> Self::I;
    /// Each lane's integer as the nearest f32.
    fn floats(self, v: Self::I) -> Self::V;
    /// Eight and eight numbers of at most ±32,767, rounded to the nearest, halves to even.
    fn round(self, low: Self::V, high: Self::V) -> Self::I;
    /// Rows of pairs become columns of pairs.
    fn transpose_pairs(self, rows: [Self::I; LANES]) -> [Self::I; LANES];
    /// The greater of `x`'s magnitude, as bits, and `so_far`. Infinities and NaN are greatest.
    fn greater_magnitude(self, x: Self::V, so_far: Self::I) -> Self::I;
    /// As [`Self::greater_magnitude`], for sixteen numbers of 16 bits and their magnitudes.
    fn greater_half(self, x: &[u8; 2 * INTEGERS], so_far: Self::I) -> Self::I;
    /// Eight lanes of 32 bits.
    fn bits(self, v: Self::I) -> [u32; LANES];

    /// The greatest of magnitudes that were gathered as bits.
    #[inline(always)]
    fn greatest_magnitude(self, v: Self::I) -> f32 {
        f32::from_bits(self.bits(v).into_iter().fold(0, u32::max))
    }

    /// The greatest of 16-bit magnitudes that were gathered as bits.
    #[inline(always)]
    fn greatest_half(self, v: Self::I) -> u16 {
        self.bits(v).into_iter().fold(0, |most, x| most.max(x as u16).max((x >> 16) as u16))
    }
}

// Every block below rests on the two facts that `Avx2`'s own operations rest on: `self` exists
// only where the features do, and arrays behind references are there in full.
#[cfg(target_arch = "x86_64")]
impl Integers for Avx2 {
    type I = __m256i;

    #[inline(always)]
    fn zero(self) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn load_integers(self, x: &[i16; INTEGERS]) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_integers(self, v: __m256i, out: &mut [i16; INTEGERS]) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
    }

    #[inline(always)]
    fn splat_pair(self, [low, high]: [i16; 2]) -> __m256i {
        let pair = i32::from(low) & 0xffff | i32::from(high) << 16;
        // SAFETY: see above.
        unsafe { _mm256_set1_epi32(pair) }
    }

    #[inline(always)]
    fn multiply_pairs(self, a: __m256i, b: __m256i, sum: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
    }

    #[inline(always)]
    fn floats(self, v: __m256i) -> Self::V {
        // SAFETY: see above.
        unsafe { _mm256_cvtepi32_ps(v) }
    }

    #[inline(always)]
    fn round(self, low: Self::V, high: Self::V) -> __m256i {
        // SAFETY: see above. Packing works within each half of the register; the permutation
        // puts the quarters in order.
        unsafe {
            let packed = _mm256_packs_epi32(_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high));
            _mm256_permute4x64_epi64::<0b11_01_10_00>(packed)
        }
    }

    #[inline(always)]
    fn transpose_pairs(self, rows: [__m256i; LANES]) -> [__m256i; LANES] {
        let mut floats = [self.splat(0.0); LANES];
        for (float, row) in floats.iter_mut().zip(rows) {
            // SAFETY: see above.
            *float = unsafe { _mm256_castsi256_ps(row) };
        }
        let mut columns = [self.zero(); LANES];
        for (column, float) in columns.iter_mut().zip(self.transpose(floats)) {
            // SAFETY: see above.
            *column = unsafe { _mm256_castps_si256(float) };
        }
        columns
    }

    #[inline(always)]
    fn greater_magnitude(self, x: Self::V, so_far: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let magnitude = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(i32::MAX));
            _mm256_max_epi32(so_far, magnitude)
        }
    }

    #[inline(always)]
    fn greater_half(self, x: &[u8; 2 * INTEGERS], so_far: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let x = _mm256_loadu_si256(x.as_ptr().cast());
            _mm256_max_epu16(so_far, _mm256_and_si256(x, _mm256_set1_epi16(i16::MAX)))
        }
    }

    #[inline(always)]
    fn bits(self, v: __m256i) -> [u32; LANES] {
        let mut out = [0; LANES];
        // SAFETY: see above.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
        out
    }
}

/// A lane is its sum, or a pair with the first operand in the low half.
type I = [i32; LANES];

#[inline(always)]
fn pair(lane: i32) -> [i32; 2] {
    [i32::from(lane as i16), lane >> 16]
}

#[inline(always)]
fn lane(low: i16, high: i16) -> i32 {
    i32::from(low) & 0xffff | i32::from(high) << 16
}

impl Integers for Portable {
    type I = I;

    #[inline(always)]
    fn zero(self) -> I {
        [0; LANES]
    }

    #[inline(always)]
    fn load_integers(self, x: &[i16; INTEGERS]) -> I {
        std::array::from_fn(|i| lane(x[2 * i], x[2 * i + 1]))
    }

    #[inline(always)]
    fn store_integers(self, v: I, out: &mut [i16; INTEGERS]) {
        *out = std::array::from_fn(|i| pair(v[i / 2])[i % 2] as i16);
    }

    #[inline(always)]
    fn splat_pair(self, [low, high]: [i16; 2]) -> I {
        [lane(low, high); LANES]
    }

    #[inline(always)]
    fn multiply_pairs(self, a: I, b: I, sum: I) -> I {
        std::array::from_fn(|i| {
            let ([a0, a1], [b0, b1]) = (pair(a[i]), pair(b[i]));
            sum[i] + (a0 * b0 + a1 * b1)
        })
    }

    #[inline(always)]
    fn floats(self, v: I) -> Self::V {
        v.map(|x| x as f32)
    }

    #[inline(always)]
    fn round(self, low: Self::V, high: Self::V) -> I {
        // Adding this leaves the nearest integer in the low bits of the mantissa: rounding
        // as an instruction is not there on every processor.
        const MAGIC: f32 = 12_582_912.0; // 1.5·2²³
        let low: [i16; LANES] = low.map(|x| (x + MAGIC).to_bits() as i16);
        let high: [i16; LANES] = high.map(|x| (x + MAGIC).to_bits() as i16);
        std::array::from_fn(|i| {
            let half = if i < LANES / 2 { &low } else { &high };
            let first = 2 * (i % (LANES / 2));
            lane(half[first], half[first + 1])
        })
    }

    #[inline(always)]
    fn transpose_pairs(self, rows: [I; LANES]) -> [I; LANES] {
        std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
    }

    #[inline(always)]
    fn greater_magnitude(self, x: Self::V, so_far: I) -> I {
        std::array::from_fn(|i| so_far[i].max(x[i].abs().to_bits().cast_signed()))
    }

    #[inline(always)]
    fn greater_half(self, x: &[u8; 2 * INTEGERS], so_far: I) -> I {
        let (halves, _) = x.as_chunks::<2>();
        std::array::from_fn(|i| {
            let [low, high] = pair(so_far[i]);
            let [x_low, x_high] =
                [halves[2 * i], halves[2 * i + 1]].map(|half| i16::from_le_bytes(half) & i16::MAX);
            lane((low as i16).max(x_low), (high as i16).max(x_high))
        })
    }

    #[inline(always)]
    fn bits(self, v: I) -> [u32; LANES] {
        v.map(i32::cast_unsigned)
    }
}
