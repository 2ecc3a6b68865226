//! Group norm and layer norm.

use crate::buffer::Output;
use crate::conv::Fold;
use crate::isa::{Isa, per_isa};
use crate::math::{Activation, apply};
use crate::moments::Moments;
use crate::parallel;
use crate::simd::{LANES, Simd, padded};

/// Scale and shift of a group norm.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm<'a> {
    /// Groups of neighbouring channels that share mean and variance.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// `[C]`.
    pub weight: &'a [f32],
    /// `[C]`.
    pub bias: &'a [f32],
}

/// What a group norm comes to once the statistics are known: `x · factor + offset`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Factors {
    /// `[B, C]`.
    pub factors: Vec<f32>,
    /// `[B, C]`.
    pub offsets: Vec<f32>,
}

/// Elementwise work, in the multiplications that [`parallel`] counts.
const COST: usize = 4;

impl GroupNorm<'_> {
    /// The statistics of images, as factors and offsets; an image does not know the others.
    ///
    /// # Shapes
    /// - `x`: `[B, H, W, C]` as `shape` says
    ///
    /// # Panics
    /// If a length does not fit or the groups do not divide the channels.
    #[must_use]
    pub fn factors(&self, x: &[f32], shape: [usize; 4]) -> Factors {
        let [_, height, width, channels] = shape;
        assert_eq!(x.len(), shape.iter().product::<usize>(), "x of {shape:?}");
        self.check(channels);
        let mut all = Factors::default();
        if x.is_empty() {
            let nothing = vec![0.0; shape[0] * channels];
            return Factors { factors: nothing.clone(), offsets: nothing };
        }
        for image in x.chunks_exact(height * width * channels) {
            let mut moments = Moments::new(width, channels);
            moments.add_rows(image);
            let Factors { factors, offsets } = moments.factors(self);
            all.factors.extend(factors);
            all.offsets.extend(offsets);
        }
        all
    }

    pub(crate) fn check(&self, channels: usize) {
        assert_eq!(self.weight.len(), channels, "weight of a group norm");
        assert_eq!(self.bias.len(), channels, "bias of a group norm");
        let divides = self.groups > 0 && channels.is_multiple_of(self.groups);
        assert!(divides, "{} groups of {channels} channels", self.groups);
    }
}

impl Factors {
    /// For a convolution that reads through it.
    #[must_use]
    pub fn fold(&self, silu: bool) -> Fold<'_> {
        Fold { factors: &self.factors, offsets: &self.offsets, silu }
    }
}

/// Group norm of images `[B, H, W, C]`, then `SiLU` where asked for.
///
/// # Panics
/// If a length does not fit or the groups do not divide the channels.
#[must_use]
pub fn group_norm(x: &[f32], shape: [usize; 4], norm: &GroupNorm<'_>, silu: bool) -> Vec<f32> {
    folded(x, shape, &norm.factors(x, shape).fold(silu))
}

/// `x` as a convolution with this fold reads it.
pub(crate) fn folded(x: &[f32], shape: [usize; 4], fold: &Fold<'_>) -> Vec<f32> {
    let isa = Isa::current();
    let [batch, height, width, channels] = shape;
    assert_eq!(x.len(), shape.iter().product::<usize>(), "x of {shape:?}");
    assert_eq!(fold.factors.len(), batch * channels, "factors of {shape:?}");
    assert_eq!(fold.offsets.len(), batch * channels, "offsets of {shape:?}");
    if x.is_empty() {
        return Vec::new();
    }
    let pixels = height * width;
    let step = (65_536 / channels).max(1);
    let steps = pixels.div_ceil(step);
    let mut output = Output::new(x.len());
    let memory = output.shared();
    parallel::for_each(batch * steps, COST * x.len(), |index| {
        let (image, first) = (index / steps, index % steps * step);
        let range = (image * pixels + first) * channels
            ..(image * pixels + pixels.min(first + step)) * channels;
        let channels = image * channels..(image + 1) * channels;
        let (factors, offsets) = (&fold.factors[channels.clone()], &fold.offsets[channels]);
        // SAFETY: ranges do not overlap; it is only written.
        let out = unsafe { memory.part(range.clone()) };
        scale_and_shift(isa, &x[range], factors, offsets, fold.silu, out);
    });
    // SAFETY: the ranges cover the output.
    unsafe { output.finish() }
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
