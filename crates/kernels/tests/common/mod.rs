//! Random operands, and comparisons that say where two results differ.

#![allow(dead_code, reason = "each test binary uses a part")]

use unwrong_kernels::{Dtype, Isa, Matrix};

/// A small generator (splitmix64): the same numbers everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Numbers in −1 … 1.
    pub(crate) fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }
}

/// A weight as a file holds it, `offset` bytes off any alignment.
pub(crate) struct Stored {
    dtype: Dtype,
    rows: usize,
    cols: usize,
    offset: usize,
    bytes: Vec<u8>,
}

impl Stored {
    pub(crate) fn new(
        random: &mut Random,
        dtype: usize,
        offset: usize,
        rows: usize,
        cols: usize,
    ) -> Self {
        let dtype = [Dtype::F32, Dtype::F16, Dtype::Bf16][dtype];
        let mut bytes = vec![0; offset];
        for x in random.numbers(rows * cols) {
            match dtype {
                Dtype::F32 => bytes.extend(x.to_le_bytes()),
                Dtype::F16 => bytes.extend(half::f16::from_f32(x).to_le_bytes()),
                Dtype::Bf16 => bytes.extend(half::bf16::from_f32(x).to_le_bytes()),
            }
        }
        Self { dtype, rows, cols, offset, bytes }
    }

    pub(crate) fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.dtype, self.rows, self.cols, &self.bytes[self.offset..])
    }
}

/// Runs `check` at every level of this machine.
pub(crate) fn each_isa(check: impl Fn()) {
    for isa in Isa::available() {
        isa.scope(&check);
    }
}

/// Asserts that sums of `terms` products of numbers below 1 agree: each partial sum, of size
/// √terms, was rounded once.
#[track_caller]
pub(crate) fn close(found: &[f32], expected: &[f32], terms: usize) {
    close_to(found, expected, 1e-6 + 5e-8 * terms as f32);
}

/// Asserts that no number is further off than `tolerance · max(1, |expected|)`.
#[track_caller]
pub(crate) fn close_to(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        assert!(
            error <= tolerance * expected.abs().max(1.0),
            "number {i} is {found}, expected {expected} ({}, off by {error:e})",
            Isa::current().name(),
        );
    }
}

/// Asserts that two results are the same bits.
#[track_caller]
pub(crate) fn same(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.to_bits(), expected.to_bits(), "number {i}: {found} and {expected}");
    }
}

/// Runs `kernel` on 1, 2, 3 and 7 threads and expects the same bits; returns them.
#[must_use]
pub(crate) fn on_any_threads(kernel: impl Fn() -> Vec<f32> + Sync) -> Vec<f32> {
    let isa = Isa::current();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("threads can be started");
        pool.install(|| isa.scope(&kernel))
    };
    let expected = run(1);
    for threads in [2, 3, 7] {
        same(&run(threads), &expected);
    }
    expected
}
