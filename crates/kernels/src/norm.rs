//! Group norm and layer norm.

use crate::buffer::Output;
use crate::isa::{Isa, per_isa};
use crate::math::{Activation, apply};
use crate::parallel;
use crate::simd::{LANES, Simd, padded};

/// Sizes of a group norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormShape {
    /// Images.
    pub batch: usize,
    /// Pixels of an image.
    pub positions: usize,
    /// Numbers of a pixel.
    pub channels: usize,
    /// Groups of neighbouring channels that share mean and variance.
    pub groups: usize,
}

/// Elementwise work, in the multiplications that [`parallel`] counts.
const COST: usize = 4;

/// Group norm on `[B, positions, channels]`, then `SiLU` where asked for.
///
/// Sums are taken in f64, over parts of an image that depend on its size only; an image's
/// result does not depend on the others or the threads.
///
/// # Shapes
/// - `x`, result: `[batch, positions, channels]`
/// - `weight`, `bias`: `[channels]`
///
/// # Panics
/// If a length does not fit or the groups do not divide the channels.
#[must_use]
pub fn group_norm(
    x: &[f32],
    shape: GroupNormShape,
    eps: f32,
    weight: &[f32],
    bias: &[f32],
    silu: bool,
) -> Vec<f32> {
    let isa = Isa::current();
    let GroupNormShape { batch, positions, channels, groups } = shape;
    assert_eq!(x.len(), batch * positions * channels, "x of {shape:?}");
    assert_eq!(weight.len(), channels, "weight of {shape:?}");
    assert_eq!(bias.len(), channels, "bias of {shape:?}");
    assert!(groups > 0 && channels % groups == 0, "groups of {shape:?}");
    if x.is_empty() {
        return Vec::new();
    }

    // Parts of an image: at least 64 pixels, at most 64 parts. Nothing else may set this.
    let step = positions.div_ceil(64).max(64);
    let parts = positions.div_ceil(step);
    let part = |index: usize| {
        let (image, part) = (index / parts, index % parts);
        let pixels = part * step..positions.min((part + 1) * step);
        (
            image,
            (image * positions + pixels.start) * channels
                ..(image * positions + pixels.end) * channels,
        )
    };
    let work = COST * x.len();

    // Per part: the sum of each channel, then the sum of its squares.
    let mut sums = vec![0.0_f64; batch * parts * 2 * channels];
    {
        let shared = SharedSums(sums.as_mut_ptr());
        parallel::for_each(batch * parts, work, |index| {
            let shared = &shared;
            // SAFETY: each task has its own `2 · channels` numbers of `sums`.
            let sums = unsafe {
                std::slice::from_raw_parts_mut(shared.0.add(index * 2 * channels), 2 * channels)
            };
            let (sums, squares) = sums.split_at_mut(channels);
            add_moments(isa, &x[part(index).1], sums, squares);
        });
    }

    let affine: Vec<(Vec<f32>, Vec<f32>)> = sums
        .chunks_exact(parts * 2 * channels)
        .map(|sums| affine(sums, shape, eps, weight, bias))
        .collect();

    let mut output = Output::new(x.len());
    let memory = output.shared();
    parallel::for_each(batch * parts, work, |index| {
        let (image, range) = part(index);
        let (factors, offsets) = &affine[image];
        // SAFETY: parts do not overlap; it is only written.
        let out = unsafe { memory.part(range.clone()) };
        scale_and_shift(isa, &x[range], factors, offsets, silu, out);
    });
    // SAFETY: the parts cover the output.
    unsafe { output.finish() }
}

struct SharedSums(*mut f64);
// SAFETY: tasks use disjoint parts.
unsafe impl Sync for SharedSums {}

per_isa! {
    fn add_moments(x: &[f32], sums: &mut [f64], squares: &mut [f64]) = add_moments_body
}

/// Adds up pixels, four at a time: the running sums are read and written that much less.
#[inline(always)]
fn add_moments_body<S: Simd>(_: S, x: &[f32], sums: &mut [f64], squares: &mut [f64]) {
    let channels = sums.len();
    let mut fours = x.chunks_exact(4 * channels);
    for four in &mut fours {
        let (a, rest) = four.split_at(channels);
        let (b, rest) = rest.split_at(channels);
        let (c, d) = rest.split_at(channels);
        for i in 0..channels {
            let [a, b, c, d] = [a[i], b[i], c[i], d[i]].map(f64::from);
            sums[i] += (a + b) + (c + d);
            squares[i] += (a * a + b * b) + (c * c + d * d);
        }
    }
    for pixel in fours.remainder().chunks_exact(channels) {
        for (i, &value) in pixel.iter().enumerate() {
            let value = f64::from(value);
            sums[i] += value;
            squares[i] += value * value;
        }
    }
}

/// The factor and offset of each channel of one image.
fn affine(
    sums: &[f64],
    shape: GroupNormShape,
    eps: f32,
    weight: &[f32],
    bias: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let GroupNormShape { positions, channels, groups, .. } = shape;
    let width = channels / groups;
    let count = (positions * width) as f64;
    let mut factors = Vec::with_capacity(channels);
    let mut offsets = Vec::with_capacity(channels);
    for group in 0..groups {
        let (mut sum, mut squares) = (0.0, 0.0);
        for part in sums.chunks_exact(2 * channels) {
            for channel in group * width..(group + 1) * width {
                sum += part[channel];
                squares += part[channels + channel];
            }
        }
        let mean = sum / count;
        let variance = (squares / count - mean * mean).max(0.0);
        let inverse = 1.0 / (variance + f64::from(eps)).sqrt();
        for channel in group * width..(group + 1) * width {
            let factor = f64::from(weight[channel]) * inverse;
            factors.push(factor as f32);
            offsets.push((f64::from(bias[channel]) - mean * factor) as f32);
        }
    }
    (factors, offsets)
}

per_isa! {
    pub(crate) fn scale_and_shift(
        x: &[f32],
        factors: &[f32],
        offsets: &[f32],
        silu: bool,
        out: &mut [f32],
    ) = scale_and_shift_body
}

#[inline(always)]
fn scale_and_shift_body<S: Simd>(
    s: S,
    x: &[f32],
    factors: &[f32],
    offsets: &[f32],
    silu: bool,
    out: &mut [f32],
) {
    let channels = factors.len();
    for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
        if silu {
            affine_row(
                s,
                x,
                factors,
                offsets,
                out,
                #[inline(always)]
                |v| apply(s, Activation::Silu, v),
            );
        } else {
            affine_row(
                s,
                x,
                factors,
                offsets,
                out,
                #[inline(always)]
                |v| v,
            );
        }
    }
}

/// `out = f(x · factor + offset)`.
#[inline(always)]
fn affine_row<S: Simd>(
    s: S,
    x: &[f32],
    factors: &[f32],
    offsets: &[f32],
    out: &mut [f32],
    f: impl Fn(S::V) -> S::V,
) {
    let (out, out_tail) = out.as_chunks_mut::<LANES>();
    let (x, x_tail) = x.as_chunks::<LANES>();
    let (factors, factor_tail) = factors.as_chunks::<LANES>();
    let (offsets, offset_tail) = offsets.as_chunks::<LANES>();
    for (((out, x), factor), offset) in out.iter_mut().zip(x).zip(factors).zip(offsets) {
        s.store(f(s.mul_add(s.load(x), s.load(factor), s.load(offset))), out);
    }
    if !out_tail.is_empty() {
        let (factor, offset) = (s.load(&padded(factor_tail)), s.load(&padded(offset_tail)));
        let v = s.lanes(f(s.mul_add(s.load(&padded(x_tail)), factor, offset)));
        out_tail.copy_from_slice(&v[..out_tail.len()]);
    }
}

/// Layer norm of each row.
///
/// # Shapes
/// - `x`, result: `[rows, width]`
/// - `weight`, `bias`: `[width]`
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn layer_norm(x: &[f32], width: usize, eps: f32, weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let isa = Isa::current();
    assert_eq!(weight.len(), width, "weight of a layer norm");
    assert_eq!(bias.len(), width, "bias of a layer norm");
    assert!(width > 0 && x.len().is_multiple_of(width), "rows of a layer norm");
    let rows = x.len() / width;
    let step = (65_536 / width).max(1);
    let mut output = Output::new(x.len());
    let memory = output.shared();
    parallel::for_each(rows.div_ceil(step), COST * x.len(), |index| {
        let range = index * step * width..rows.min((index + 1) * step) * width;
        // SAFETY: ranges do not overlap; it is only written.
        let out = unsafe { memory.part(range.clone()) };
        layer_norm_rows(isa, &x[range], eps, weight, bias, out);
    });
    // SAFETY: the ranges cover the output.
    unsafe { output.finish() }
}

per_isa! {
    fn layer_norm_rows(
        x: &[f32],
        eps: f32,
        weight: &[f32],
        bias: &[f32],
        out: &mut [f32],
    ) = layer_norm_rows_body
}

#[inline(always)]
fn layer_norm_rows_body<S: Simd>(
    s: S,
    x: &[f32],
    eps: f32,
    weight: &[f32],
    bias: &[f32],
    out: &mut [f32],
) {
    let width = weight.len();
    let count = width as f32;
    for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean = sum_of(s, x) / count;
        let middle = s.splat(mean);
        let (whole, tail) = x.as_chunks::<LANES>();
        let mut squares = s.splat(0.0);
        for x in whole {
            let distance = s.sub(s.load(x), middle);
            squares = s.mul_add(distance, distance, squares);
        }
        let rest: f32 = tail.iter().map(|x| (x - mean) * (x - mean)).sum();
        let variance = (s.sum(squares) + rest) / count;
        let inverse = s.splat(1.0 / (variance + eps).sqrt());
        let (out, out_tail) = out.as_chunks_mut::<LANES>();
        let (weights, weight_tail) = weight.as_chunks::<LANES>();
        let (biases, bias_tail) = bias.as_chunks::<LANES>();
        for (((out, x), weight), bias) in out.iter_mut().zip(whole).zip(weights).zip(biases) {
            let normed = s.mul(s.sub(s.load(x), middle), inverse);
            s.store(s.mul_add(normed, s.load(weight), s.load(bias)), out);
        }
        if !out_tail.is_empty() {
            let normed = s.mul(s.sub(s.load(&padded(tail)), middle), inverse);
            let (weight, bias) = (s.load(&padded(weight_tail)), s.load(&padded(bias_tail)));
            let v = s.lanes(s.mul_add(normed, weight, bias));
            out_tail.copy_from_slice(&v[..out_tail.len()]);
        }
    }
}

#[inline(always)]
fn sum_of<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (whole, tail) = x.as_chunks::<LANES>();
    let mut sum = s.splat(0.0);
    for x in whole {
        sum = s.add(sum, s.load(x));
    }
    sum = s.add(sum, s.load(&padded(tail)));
    s.sum(sum)
}
