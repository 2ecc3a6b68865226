//! Activations, elementwise.

use crate::buffer::Output;
use crate::isa::{Isa, per_isa};
use crate::math::{Activation, gelu, slope};
use crate::parallel;
use crate::simd::{Simd, update_with};

/// The gradient for `x`, given `dy` for [`activate`](crate::activate)`(x)`.
///
/// # Panics
/// If lengths differ.
#[must_use]
pub fn activate_backward(dy: &[f32], x: &[f32], activation: Activation) -> Vec<f32> {
    assert_eq!(dy.len(), x.len(), "gradient of an activation");
    let isa = Isa::current();
    let step = 1 << 16;
    let mut output = Output::new(x.len());
    let memory = output.shared();
    parallel::for_each(x.len().div_ceil(step), 8 * x.len(), |index| {
        let range = index * step..x.len().min((index + 1) * step);
        // SAFETY: ranges do not overlap; it is written before it is read.
        let out = unsafe { memory.part(range.clone()) };
        out.copy_from_slice(&dy[range.clone()]);
        times_slope(isa, activation, &x[range], out);
    });
    // SAFETY: the ranges cover the output.
    unsafe { output.finish() }
}

/// The gradient for both halves of a gated layer, given `dy` for `value · gelu(gate)`.
///
/// # Shapes
/// - `dy`: `[rows, outputs]`
/// - `halves`, result: `[rows, 2 · outputs]`, in each row first all values, then all gates
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn geglu_backward(dy: &[f32], halves: &[f32], outputs: usize) -> Vec<f32> {
    assert_eq!(halves.len(), 2 * dy.len(), "halves of a gated layer");
    assert!(outputs > 0 && dy.len().is_multiple_of(outputs), "gradient of a gated layer");
    let isa = Isa::current();
    let rows = dy.len() / outputs;
    let step = (32_768 / outputs).max(1);
    let mut output = Output::new(halves.len());
    let memory = output.shared();
    parallel::for_each(rows.div_ceil(step), 8 * halves.len(), |index| {
        for row in index * step..rows.min((index + 1) * step) {
            let whole = 2 * row * outputs..2 * (row + 1) * outputs;
            let (values, gates) = halves[whole.clone()].split_at(outputs);
            let dy = &dy[row * outputs..(row + 1) * outputs];
            // SAFETY: rows do not overlap; it is written before it is read.
            let out = unsafe { memory.part(whole) };
            let (dvalues, dgates) = out.split_at_mut(outputs);
            dvalues.copy_from_slice(dy);
            times_gelu(isa, gates, dvalues);
            dgates.copy_from_slice(dy);
            times_gelu_slope(isa, values, gates, dgates);
        }
    });
    // SAFETY: the rows cover the output.
    unsafe { output.finish() }
}

per_isa! {
    fn times_slope(activation: Activation, x: &[f32], out: &mut [f32]) = times_slope_body
}

#[inline(always)]
fn times_slope_body<S: Simd>(s: S, activation: Activation, x: &[f32], out: &mut [f32]) {
    // One loop per activation: the choice stays outside.
    match activation {
        Activation::None => {}
        Activation::Silu => times(s, Activation::Silu, x, out),
        Activation::Gelu => times(s, Activation::Gelu, x, out),
        Activation::QuickGelu => times(s, Activation::QuickGelu, x, out),
    }
}

#[inline(always)]
fn times<S: Simd>(s: S, activation: Activation, x: &[f32], out: &mut [f32]) {
    update_with(
        s,
        out,
        x,
        #[inline(always)]
        |dy, x| s.mul(dy, slope(s, activation, x)),
    );
}

per_isa! {
    pub(crate) fn times_gelu(gates: &[f32], out: &mut [f32]) = times_gelu_body
}

#[inline(always)]
fn times_gelu_body<S: Simd>(s: S, gates: &[f32], out: &mut [f32]) {
    update_with(
        s,
        out,
        gates,
        #[inline(always)]
        |dy, gate| s.mul(dy, gelu(s, gate)),
    );
}

per_isa! {
    fn times_gelu_slope(values: &[f32], gates: &[f32], out: &mut [f32]) = times_gelu_slope_body
}

#[inline(always)]
fn times_gelu_slope_body<S: Simd>(s: S, values: &[f32], gates: &[f32], out: &mut [f32]) {
    times(s, Activation::Gelu, gates, out);
    update_with(
        s,
        out,
        values,
        #[inline(always)]
        |dy, value| s.mul(dy, value),
    );
}
