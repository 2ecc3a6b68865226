//! Group norm and layer norm.
//!
//! With `x̂` the normed input, `g` the gradient for it and means over the group (the row):
//! `dx = (g − mean(g) − x̂ · mean(g · x̂)) / deviation`.

use rayon::prelude::*;

use crate::buffer::{Output, with_scratch};
use crate::isa::{Isa, per_isa};
use crate::math::{Activation, slope};
use crate::norm::GroupNorm;
use crate::parallel;
use crate::simd::{LANES, Simd, update_with};

/// The gradient for `x`, given `dy` for [`layer_norm`](crate::layer_norm)`(x)`.
///
/// # Shapes
/// - `dy`, `x`, result: `[rows, width]`
/// - `weight`: `[width]`
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn layer_norm_backward(
    dy: &[f32],
    x: &[f32],
    width: usize,
    eps: f32,
    weight: &[f32],
) -> Vec<f32> {
    let isa = Isa::current();
    assert_eq!(weight.len(), width, "weight of a layer norm");
    assert!(width > 0 && x.len().is_multiple_of(width), "rows of a layer norm");
    assert_eq!(dy.len(), x.len(), "gradient of a layer norm");
    let rows = x.len() / width;
    let step = (32_768 / width).max(1);
    let mut output = Output::new(x.len());
    let memory = output.shared();
    parallel::for_each(rows.div_ceil(step), 8 * x.len(), |index| {
        let range = index * step * width..rows.min((index + 1) * step) * width;
        // SAFETY: ranges do not overlap; it is only written.
        let out = unsafe { memory.part(range.clone()) };
        layer_norm_rows(isa, &dy[range.clone()], &x[range], eps, weight, out);
    });
    // SAFETY: the ranges cover the output.
    unsafe { output.finish() }
}

per_isa! {
    fn layer_norm_rows(
        dy: &[f32],
        x: &[f32],
        eps: f32,
        weight: &[f32],
        out: &mut [f32],
    ) = layer_norm_rows_body
}

#[inline(always)]
fn layer_norm_rows_body<S: Simd>(
    s: S,
    dy: &[f32],
    x: &[f32],
    eps: f32,
    weight: &[f32],
    out: &mut [f32],
) {
    let width = weight.len();
    let count = width as f32;
    let rows = dy.chunks_exact(width).zip(x.chunks_exact(width));
    for (out, (dy, x)) in out.chunks_exact_mut(width).zip(rows) {
        let mean = sum_of(
            s,
            [x, x],
            0.0,
            #[inline(always)]
            |x, _| x,
        ) / count;
        let variance = sum_of(
            s,
            [x, x],
            mean,
            #[inline(always)]
            |x, _| {
                let distance = s.sub(x, s.splat(mean));
                s.mul(distance, distance)
            },
        ) / count;
        let inverse = 1.0 / (variance + eps).sqrt();

        // `out` holds g until it is known what to take off.
        out.copy_from_slice(dy);
        update_with(
            s,
            out,
            weight,
            #[inline(always)]
            |dy, weight| s.mul(dy, weight),
        );
        let first = sum_of(
            s,
            [out, x],
            0.0,
            #[inline(always)]
            |g, _| g,
        ) / count;
        let second = sum_of(
            s,
            [out, x],
            0.0,
            #[inline(always)]
            |g, x| s.mul(g, s.mul(s.sub(x, s.splat(mean)), s.splat(inverse))),
        ) / count;
        update_with(
            s,
            out,
            x,
            #[inline(always)]
            |g, x| {
                let normed = s.mul(s.sub(x, s.splat(mean)), s.splat(inverse));
                let rest = s.sub(s.sub(g, s.splat(first)), s.mul(normed, s.splat(second)));
                s.mul(rest, s.splat(inverse))
            },
        );
    }
}

/// The sum of `f` over two rows, the last vector of each filled up with `fill`.
#[inline(always)]
fn sum_of<S: Simd>(s: S, [a, b]: [&[f32]; 2], fill: f32, f: impl Fn(S::V, S::V) -> S::V) -> f32 {
    let (a, a_tail) = a.as_chunks::<LANES>();
    let (b, b_tail) = b.as_chunks::<LANES>();
    let mut sum = s.splat(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = s.add(sum, f(s.load(a), s.load(b)));
    }
    if !a_tail.is_empty() {
        let [a, b] = [a_tail, b_tail].map(|tail| {
            let mut filled = [fill; LANES];
            filled[..tail.len()].copy_from_slice(tail);
            filled
        });
        sum = s.add(sum, f(s.load(&a), s.load(&b)));
    }
    s.sum(sum)
}

/// The gradient for `x`, given `dy` for [`group_norm`](crate::group_norm)`(x)`.
///
/// Sums are taken in f64, over parts of an image that depend on its size only.
///
/// # Shapes
/// - `dy`, `x`, result: `[B, H, W, C]` as `shape` says
///
/// # Panics
/// If a length does not fit or the groups do not divide the channels.
#[must_use]
pub fn group_norm_backward(
    dy: &[f32],
    x: &[f32],
    shape: [usize; 4],
    norm: &GroupNorm<'_>,
    silu: bool,
) -> Vec<f32> {
    let isa = Isa::current();
    let [batch, height, width, channels] = shape;
    let positions = height * width;
    assert_eq!(x.len(), batch * positions * channels, "x of {shape:?}");
    assert_eq!(dy.len(), x.len(), "gradient of {shape:?}");
    norm.check(channels);
    if x.is_empty() {
        return Vec::new();
    }

    // Parts of an image: at least 64 pixels, at most 64 parts. Nothing else may set this.
    let step = positions.div_ceil(64).max(64);
    let parts = positions.div_ceil(step);
    let part = |index: usize| {
        let (image, part) = (index / parts, index % parts);
        let pixels = part * step..positions.min((part + 1) * step);
        let first = image * positions;
        (image, (first + pixels.start) * channels..(first + pixels.end) * channels)
    };
    let sums_of = |layers: Option<&[Layer]>| {
        let mut sums = vec![0.0_f64; batch * parts * 2 * channels];
        sums.par_chunks_exact_mut(2 * channels).enumerate().for_each(|(index, sums)| {
            let (image, range) = part(index);
            let (x, dy) = (&x[range.clone()], &dy[range]);
            with_scratch([channels], |[scratch]| match layers {
                Some(layers) => add_products(isa, [dy, x], Some(&layers[image]), scratch, sums),
                None => add_products(isa, [x, x], None, scratch, sums),
            });
        });
        sums
    };

    let moments = sums_of(None);
    let moments = moments.chunks_exact(parts * 2 * channels);
    let layers: Vec<Layer> = moments.map(|sums| Layer::new(norm, positions, sums, silu)).collect();
    let products = sums_of(Some(&layers));
    let products = products.chunks_exact(parts * 2 * channels);
    let lines: Vec<[Vec<f32>; 3]> = layers
        .iter()
        .zip(products)
        .map(|(layer, sums)| layer.line(norm, positions, sums))
        .collect();

    let mut output = Output::new(x.len());
    let memory = output.shared();
    parallel::for_each(batch * parts, 8 * x.len(), |index| {
        let (image, range) = part(index);
        // SAFETY: parts do not overlap; it is only written.
        let out = unsafe { memory.part(range.clone()) };
        let operands = [&dy[range.clone()], &x[range]];
        with_scratch([channels], |[scratch]| {
            combine(isa, operands, &layers[image], &lines[image], scratch, out);
        });
    });
    // SAFETY: the parts cover the output.
    unsafe { output.finish() }
}

/// The norm of one image as `x · factor + offset` of each channel.
struct Layer {
    factors: Vec<f32>,
    offsets: Vec<f32>,
    silu: bool,
    /// Mean and one over the deviation of each group.
    groups: Vec<(f64, f64)>,
}

/// The sums over a group's channels, and over all parts, of both halves of `sums`.
fn group_sums(sums: &[f64], channels: usize, group: std::ops::Range<usize>) -> (f64, f64) {
    sums.chunks_exact(2 * channels).fold((0.0, 0.0), |(first, second), part| {
        let (one, two) = part.split_at(channels);
        (
            first + one[group.clone()].iter().sum::<f64>(),
            second + two[group.clone()].iter().sum::<f64>(),
        )
    })
}

impl Layer {
    /// From the sums of `x` and of its squares.
    fn new(norm: &GroupNorm<'_>, positions: usize, sums: &[f64], silu: bool) -> Self {
        let channels = norm.weight.len();
        let width = channels / norm.groups;
        let count = (positions * width) as f64;
        let mut layer = Self { factors: vec![], offsets: vec![], silu, groups: vec![] };
        for group in (0..channels).step_by(width).map(|first| first..first + width) {
            let (sum, squares) = group_sums(sums, channels, group.clone());
            let mean = sum / count;
            let variance = (squares / count - mean * mean).max(0.0);
            let inverse = 1.0 / (variance + f64::from(norm.eps)).sqrt();
            layer.groups.push((mean, inverse));
            for channel in group {
                let factor = f64::from(norm.weight[channel]) * inverse;
                layer.factors.push(factor as f32);
                layer.offsets.push((f64::from(norm.bias[channel]) - mean * factor) as f32);
            }
        }
        layer
    }

    /// The gradient as `a · dz + b · x + c` of each channel, `dz` that for the norm's result,
    /// from the sums of `dz` and of `dz · x`.
    fn line(&self, norm: &GroupNorm<'_>, positions: usize, sums: &[f64]) -> [Vec<f32>; 3] {
        let channels = norm.weight.len();
        let width = channels / norm.groups;
        let count = (positions * width) as f64;
        let mut weighted = sums.to_vec();
        for half in weighted.chunks_exact_mut(channels) {
            for (sum, weight) in half.iter_mut().zip(norm.weight) {
                *sum *= f64::from(*weight);
            }
        }
        let [mut a, mut b, mut c] = [(); 3].map(|()| Vec::with_capacity(channels));
        for (index, &(mean, inverse)) in self.groups.iter().enumerate() {
            let group = index * width..(index + 1) * width;
            let (sum, product) = group_sums(&weighted, channels, group.clone());
            let first = sum / count;
            let second = (product - mean * sum) * inverse / count;
            let slope = inverse * inverse * second;
            for channel in group {
                a.push((inverse * f64::from(norm.weight[channel])) as f32);
                b.push(-slope as f32);
                c.push((slope * mean - inverse * first) as f32);
            }
        }
        [a, b, c]
    }
}

per_isa! {
    /// Adds to the halves of `sums`, channel by channel, the first operand and its products with
    /// the second. With a layer the first operand is taken back through its `SiLU` before.
    fn add_products(
        operands: [&[f32]; 2],
        layer: Option<&Layer>,
        scratch: &mut [f32],
        sums: &mut [f64],
    ) = add_products_body
}

#[inline(always)]
fn add_products_body<S: Simd>(
    s: S,
    [first, second]: [&[f32]; 2],
    layer: Option<&Layer>,
    scratch: &mut [f32],
    sums: &mut [f64],
) {
    let channels = sums.len() / 2;
    let (sums, products) = sums.split_at_mut(channels);
    let scratch = &mut scratch[..channels];
    for (first, second) in first.chunks_exact(channels).zip(second.chunks_exact(channels)) {
        let first = match layer {
            Some(layer) if layer.silu => {
                before_silu(s, [first, second], layer, scratch);
                &*scratch
            }
            _ => first,
        };
        for i in 0..channels {
            let (first, second) = (f64::from(first[i]), f64::from(second[i]));
            sums[i] += first;
            products[i] += first * second;
        }
    }
}

/// The gradient for what `SiLU` read, in one pixel.
#[inline(always)]
fn before_silu<S: Simd>(s: S, [dy, x]: [&[f32]; 2], layer: &Layer, out: &mut [f32]) {
    out.copy_from_slice(x);
    update_with(
        s,
        out,
        &layer.factors,
        #[inline(always)]
        |x, factor| s.mul(x, factor),
    );
    update_with(
        s,
        out,
        &layer.offsets,
        #[inline(always)]
        |x, offset| s.add(x, offset),
    );
    update_with(
        s,
        out,
        dy,
        #[inline(always)]
        |x, dy| s.mul(dy, slope(s, Activation::Silu, x)),
    );
}

per_isa! {
    fn combine(
        operands: [&[f32]; 2],
        layer: &Layer,
        line: &[Vec<f32>; 3],
        scratch: &mut [f32],
        out: &mut [f32],
    ) = combine_body
}

#[inline(always)]
fn combine_body<S: Simd>(
    s: S,
    [dy, x]: [&[f32]; 2],
    layer: &Layer,
    [a, b, c]: &[Vec<f32>; 3],
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let channels = a.len();
    let pixels = dy.chunks_exact(channels).zip(x.chunks_exact(channels));
    let scratch = &mut scratch[..channels];
    for (out, (dy, x)) in out.chunks_exact_mut(channels).zip(pixels) {
        if layer.silu {
            before_silu(s, [dy, x], layer, out);
        } else {
            out.copy_from_slice(dy);
        }
        update_with(
            s,
            out,
            a,
            #[inline(always)]
            |dz, a| s.mul(dz, a),
        );
        scratch.copy_from_slice(x);
        update_with(
            s,
            scratch,
            b,
            #[inline(always)]
            |x, b| s.mul(x, b),
        );
        update_with(
            s,
            scratch,
            c,
            #[inline(always)]
            |x, c| s.add(x, c),
        );
        update_with(
            s,
            out,
            scratch,
            #[inline(always)]
            |dz, rest| s.add(dz, rest),
        );
    }
}
