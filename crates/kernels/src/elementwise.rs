//! What stands alone where no kernel before or after can do it: activations.

use crate::backward::times_gelu;
use crate::buffer::Output;
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

/// `value · gelu(gate)`.
///
/// # Shapes
/// - `halves`: `[rows, 2 · outputs]`, in each row first all values, then all gates
/// - result: `[rows, outputs]`
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn geglu(halves: &[f32], outputs: usize) -> Vec<f32> {
    assert!(outputs > 0 && halves.len().is_multiple_of(2 * outputs), "halves of a gated layer");
    let isa = Isa::current();
    let rows = halves.len() / (2 * outputs);
    let step = (65_536 / outputs).max(1);
    let mut output = Output::new(rows * outputs);
    let memory = output.shared();
    parallel::for_each(rows.div_ceil(step), 4 * halves.len(), |index| {
        for row in index * step..rows.min((index + 1) * step) {
            let (values, gates) = halves[2 * row * outputs..][..2 * outputs].split_at(outputs);
            // SAFETY: rows do not overlap; it is written before it is read.
            let out = unsafe { memory.part(row * outputs..(row + 1) * outputs) };
            out.copy_from_slice(values);
            times_gelu(isa, gates, out);
        }
    });
    // SAFETY: the rows cover the output.
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
