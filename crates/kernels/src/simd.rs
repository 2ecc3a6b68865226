//! Eight f32 lanes, once per instruction level.
//!
//! Kernels are written once, over [`Simd`]; the value they carry around is the proof that
//! the level's instructions may be used.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod integers;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
pub(crate) use integers::{INTEGERS, Integers};
pub(crate) use portable::{Portable, bf16_to_f32, f16_to_f32};

/// Lanes of a vector.
pub(crate) const LANES: usize = 8;

/// Operations on eight lanes. `a`, `b`, `c` are lane by lane.
pub(crate) trait Simd: Copy {
    /// Eight f32.
    type V: Copy;
    /// Rows of the multiplication tile that fit in registers beside two vectors of columns.
    const TILE_ROWS: usize;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, out: &mut [f32; LANES]);
    /// Eight little-endian f32 at any address.
    fn widen_f32(self, bytes: &[u8; 32]) -> Self::V;
    fn widen_f16(self, bytes: &[u8; 16]) -> Self::V;
    fn widen_bf16(self, bytes: &[u8; 16]) -> Self::V;

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once where the level can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The bits of each lane shifted left into the exponent (by 23).
    fn shift_into_exponent(self, a: Self::V) -> Self::V;
    /// `value` where `x >= limit`, else zero.
    fn keep_where_at_least(self, value: Self::V, x: Self::V, limit: Self::V) -> Self::V;
    /// Rows become columns.
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES];

    /// The lanes as an array.
    #[inline(always)]
    fn lanes(self, v: Self::V) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        self.store(v, &mut out);
        out
    }

    /// The sum of the lanes, always in the same order.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.lanes(v);
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}

/// Applies `f` to each group of eight of `values`; a short tail is padded with zeros.
///
/// A lane sees the same operations wherever it lies, so results do not depend on position.
/// `f` must be `#[inline(always)]` like everything generic: as a function of its own it would be
/// compiled without the level's instructions and call each of them.
#[inline(always)]
pub(crate) fn update<S: Simd>(s: S, values: &mut [f32], f: impl Fn(S::V) -> S::V) {
    let (chunks, tail) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        let v = f(s.load(chunk));
        s.store(v, chunk);
    }
    if !tail.is_empty() {
        let v = f(s.load(&padded(tail)));
        tail.copy_from_slice(&s.lanes(v)[..tail.len()]);
    }
}

/// As [`update`], with a second operand of the same length.
#[inline(always)]
pub(crate) fn update_with<S: Simd>(
    s: S,
    values: &mut [f32],
    other: &[f32],
    f: impl Fn(S::V, S::V) -> S::V,
) {
    assert_eq!(values.len(), other.len());
    let (chunks, tail) = values.as_chunks_mut::<LANES>();
    let (others, other_tail) = other.as_chunks::<LANES>();
    for (chunk, other) in chunks.iter_mut().zip(others) {
        let v = f(s.load(chunk), s.load(other));
        s.store(v, chunk);
    }
    if !tail.is_empty() {
        let v = f(s.load(&padded(tail)), s.load(&padded(other_tail)));
        tail.copy_from_slice(&s.lanes(v)[..tail.len()]);
    }
}

/// A short slice as a whole vector.
#[inline(always)]
pub(crate) fn padded(tail: &[f32]) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    out[..tail.len()].copy_from_slice(tail);
    out
}

/// As [`prefetch`], no nearer than the second-level cache.
#[inline(always)]
pub(crate) fn prefetch_far(address: *const f32) {
    // SAFETY: a hint that faults nowhere.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for the cache line of an address, which may be anywhere; only speed depends on it.
#[inline(always)]
pub(crate) fn prefetch(address: *const f32) {
    // SAFETY: a hint that faults nowhere.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
