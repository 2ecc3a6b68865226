//! The gradient for a thin matrix: products of two activations, summed over the rows.

use crate::buffer::{Output, count};
use crate::isa::{Isa, per_isa};
use crate::parallel;
use crate::simd::{LANES, Simd};

/// Columns of a task: the sums of a rank-four matrix then stay in the first-level cache.
const COLUMNS: usize = 512;

/// `aᵀ · b`: row `k` of the result is the sum of all rows of `b`, each times its number `k` in `a`.
///
/// Rows are summed in turn, whatever the threads.
///
/// # Shapes
/// - `a`: `[rows, rank]`, `b`: `[rows, width]`
/// - result: `[rank, width]`
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn outer_sum(a: &[f32], b: &[f32], rows: usize) -> Vec<f32> {
    assert!(rows > 0 && a.len().is_multiple_of(rows) && b.len().is_multiple_of(rows), "outer sum");
    let (isa, rank, width) = (Isa::current(), a.len() / rows, b.len() / rows);
    let mut output = Output::new(count([rank, width]));
    let memory = output.shared();
    parallel::for_each(width.div_ceil(COLUMNS), rows * rank * width, |index| {
        let columns = index * COLUMNS..width.min((index + 1) * COLUMNS);
        for k in 0..rank {
            // SAFETY: each task has its own columns.
            let sums = unsafe { memory.part(k * width + columns.start..k * width + columns.end) };
            sums.fill(0.0);
        }
        let mut row = 0;
        while row < rows {
            let many = if rows - row >= 4 { 4 } else { 1 };
            let taken: [&[f32]; 4] = std::array::from_fn(|i| {
                let start = (row + i.min(many - 1)) * width;
                &b[start + columns.start..start + columns.end]
            });
            for k in 0..rank {
                let factors =
                    std::array::from_fn(|i| if i < many { a[(row + i) * rank + k] } else { 0.0 });
                // SAFETY: as above.
                let sums =
                    unsafe { memory.part(k * width + columns.start..k * width + columns.end) };
                if many == 4 {
                    add_four(isa, sums, &taken, &factors);
                } else {
                    add_one(isa, sums, taken[0], factors[0]);
                }
            }
            row += many;
        }
    });
    // SAFETY: the columns cover the output.
    unsafe { output.finish() }
}

per_isa! {
    fn add_four(sums: &mut [f32], rows: &[&[f32]; 4], factors: &[f32; 4]) = add_four_body
}

per_isa! {
    fn add_one(sums: &mut [f32], row: &[f32], factor: f32) = add_one_body
}

#[inline(always)]
fn add_four_body<S: Simd>(s: S, sums: &mut [f32], rows: &[&[f32]; 4], factors: &[f32; 4]) {
    let splats = factors.map(|factor| s.splat(factor));
    let eights: [&[[f32; LANES]]; 4] = rows.map(|row| row.as_chunks().0);
    let (chunks, tail) = sums.as_chunks_mut::<LANES>();
    let [a, b, c, d] = eights;
    for ((((chunk, a), b), c), d) in chunks.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        let mut sum = s.load(chunk);
        for (eight, factor) in [a, b, c, d].into_iter().zip(splats) {
            sum = s.mul_add(s.load(eight), factor, sum);
        }
        s.store(sum, chunk);
    }
    for (row, factor) in rows.iter().zip(factors) {
        add_tail(tail, row, *factor);
    }
}

#[inline(always)]
fn add_one_body<S: Simd>(s: S, sums: &mut [f32], row: &[f32], factor: f32) {
    let splat = s.splat(factor);
    let (chunks, tail) = sums.as_chunks_mut::<LANES>();
    for (chunk, eight) in chunks.iter_mut().zip(row.as_chunks().0) {
        let sum = s.mul_add(s.load(eight), splat, s.load(chunk));
        s.store(sum, chunk);
    }
    add_tail(tail, row, factor);
}

/// The last numbers of a row, fewer than a vector.
#[inline(always)]
fn add_tail(tail: &mut [f32], row: &[f32], factor: f32) {
    let start = row.len() - tail.len();
    tail.iter_mut().zip(&row[start..]).for_each(|(sum, x)| *sum = x.mul_add(factor, *sum));
}
