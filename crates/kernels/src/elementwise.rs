//! What stands alone where no kernel before or after can do it: activations, doubling.

use std::ops::Range;

use crate::buffer::{Output, Shared};
use crate::isa::{Isa, per_isa};
use crate::math::{Activation, apply};
use crate::parallel;
use crate::simd::{Simd, update};

/// `activation` of every number.
#[must_use]
pub fn activate(x: &[f32], activation: Activation) -> Vec<f32> {
    let isa = Isa::current();
    let step = 1 << 16;
    let mut output = Output::new(x.len());
    let memory = output.shared();
    parallel::for_each(x.len().div_ceil(step), 4 * x.len(), |index| {
        let range = index * step..x.len().min((index + 1) * step);
        // SAFETY: ranges do not overlap; it is written before it is read.
        let out = unsafe { memory.part(range.clone()) };
        out.copy_from_slice(&x[range]);
        activate_slice(isa, activation, out);
    });
    // SAFETY: the ranges cover the output.
    unsafe { output.finish() }
}

per_isa! {
    fn activate_slice(activation: Activation, values: &mut [f32]) = activate_slice_body
}

#[inline(always)]
fn activate_slice_body<S: Simd>(s: S, activation: Activation, values: &mut [f32]) {
    match activation {
        Activation::None => {}
        Activation::Silu => {
            update(
                s,
                values,
                #[inline(always)]
                |x| apply(s, Activation::Silu, x),
            );
        }
        Activation::Gelu => {
            update(
                s,
                values,
                #[inline(always)]
                |x| apply(s, Activation::Gelu, x),
            );
        }
        Activation::QuickGelu => {
            update(
                s,
                values,
                #[inline(always)]
                |x| apply(s, Activation::QuickGelu, x),
            );
        }
    }
}

/// Some rows of an image doubled in both directions, nearest neighbour.
///
/// # Shapes
/// - `x`: `[height, width, channels]` as `shape` says
/// - `out`: `[rows, 2 · width, channels]`, where `rows` count in the doubled image
///
/// # Panics
/// If a length does not fit or a row is not in the image.
pub fn double_rows(x: &[f32], shape: [usize; 3], rows: Range<usize>, out: &mut [f32]) {
    let [height, width, channels] = shape;
    assert_eq!(x.len(), height * width * channels, "x of {shape:?}");
    assert!(rows.end <= 2 * height, "rows {rows:?} of {shape:?} doubled");
    let line = 2 * width * channels;
    assert_eq!(out.len(), rows.len() * line, "rows {rows:?} of {shape:?} doubled");
    let work = 2 * out.len();
    let memory = Shared::of(out);
    parallel::for_each(rows.len(), work, |index| {
        // SAFETY: each task has its own row.
        let out = unsafe { memory.part(index * line..(index + 1) * line) };
        let row = rows.start + index;
        let start = row / 2 * width * channels;
        let pixels = x[start..start + width * channels].chunks_exact(channels.max(1));
        for (pixel, out) in pixels.zip(out.chunks_exact_mut(2 * channels.max(1))) {
            let (left, right) = out.split_at_mut(channels);
            left.copy_from_slice(pixel);
            right.copy_from_slice(pixel);
        }
    });
}
