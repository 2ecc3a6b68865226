//! Eight lanes in plain Rust, for every processor.
//!
//! Written so that the compiler turns each operation into the vectors of its target.

use super::{LANES, Simd};

/// The level that is always there.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

type V = [f32; LANES];

#[inline(always)]
fn map2(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type V = V;

    // 16 SSE registers hold 2 rows × 16 columns and what is multiplied; the 32 of NEON hold more.
    const TILE_ROWS: usize = if cfg!(target_arch = "aarch64") { 6 } else { 2 };

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> V {
        *x
    }

    #[inline(always)]
    fn store(self, v: V, out: &mut [f32; LANES]) {
        *out = v;
    }

    #[inline(always)]
    fn widen_f32(self, bytes: &[u8; 32]) -> V {
        let (words, _) = bytes.as_chunks::<4>();
        std::array::from_fn(|i| f32::from_le_bytes(words[i]))
    }

    #[inline(always)]
    fn widen_f16(self, bytes: &[u8; 16]) -> V {
        let (halves, _) = bytes.as_chunks::<2>();
        std::array::from_fn(|i| f16_to_f32(u16::from_le_bytes(halves[i])))
    }

    #[inline(always)]
    fn widen_bf16(self, bytes: &[u8; 16]) -> V {
        let (halves, _) = bytes.as_chunks::<2>();
        std::array::from_fn(|i| bf16_to_f32(u16::from_le_bytes(halves[i])))
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        map2(a, b, |a, b| a / b)
    }

    // `f32::mul_add` is a library call where the processor is not known to fuse.
    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        map2(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        map2(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn shift_into_exponent(self, a: V) -> V {
        a.map(|a| f32::from_bits(a.to_bits() << 23))
    }

    #[inline(always)]
    fn keep_where_at_least(self, value: V, x: V, limit: V) -> V {
        std::array::from_fn(|i| if x[i] >= limit[i] { value[i] } else { 0.0 })
    }

    #[inline(always)]
    fn transpose(self, rows: [V; LANES]) -> [V; LANES] {
        std::array::from_fn(|i| std::array::from_fn(|j| rows[j][i]))
    }
}

/// Exact, without branches: the exponent is moved over and rebased by a multiplication,
/// which also makes subnormal halves right.
#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    const REBASE: f32 = f32::from_bits((127 + 112) << 23); // 2^112
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * REBASE;
    let not_finite = if half & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | sign | not_finite)
}

/// The upper half of the f32.
#[inline(always)]
pub(crate) fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_exactly() {
        for bits in 0..=u16::MAX {
            let ours = f16_to_f32(bits);
            let theirs = half::f16::from_bits(bits).to_f32();
            if theirs.is_nan() {
                assert!(ours.is_nan(), "{bits:#06x}");
            } else {
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{bits:#06x}");
            }
        }
    }
}
