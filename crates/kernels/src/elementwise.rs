//! What stands alone where no kernel before or after can do it: activations.

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
