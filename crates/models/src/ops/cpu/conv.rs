//! Convolutions, with a norm folded into the reads and the residual in place.

use unwrong_kernels as kernels;

use super::{add_scaled, matrix, multiply_rows};
use crate::error::{Error, Result};
use crate::files::FrozenWeight;
use crate::ops::{Convolution, GroupNorm, Image, Window};

pub(in crate::ops) fn conv2d(
    x: &Image,
    conv: &Convolution<'_>,
    residual: Option<Image>,
) -> Result<Image> {
    let bias = conv.product.bias.map(FrozenWeight::values_f32);
    let per_image = match conv.per_image {
        Some(tensor) if tensor.track_op() => return Err(Error::NoBackward { op: "conv2d" }),
        Some(tensor) => Some(tensor.flatten_all()?.to_vec1::<f32>()?),
        None => None,
    };
    if let Some(gain) = conv.product.gain() {
        return gained(x, conv, per_image.as_deref(), residual, &gain.values_f32());
    }
    x.read("conv2d", |values, dims| {
        let factors = conv.norm.map(|norm| Norm::of(norm).factors(values, dims));
        let fold = factors.as_ref().zip(conv.norm).map(|(f, norm)| f.fold(norm.silu));
        let epilogue = kernels::ConvEpilogue {
            bias: bias.as_deref(),
            per_image: per_image.as_deref(),
            ..Default::default()
        };
        let layer = layer(conv.window, matrix(conv.product.weight));
        let run = |epilogue: &kernels::ConvEpilogue<'_>| {
            kernels::conv2d_folded(values, dims, &layer, fold.as_ref(), epilogue)
        };
        let (mut y, shape) = match residual.map(Image::into_owned) {
            None => run(&epilogue),
            Some(Ok((mut onto, shape))) => {
                let epilogue = kernels::ConvEpilogue { accumulate: true, ..epilogue };
                kernels::conv2d_into(&mut onto, values, dims, &layer, fold.as_ref(), &epilogue);
                (onto, shape)
            }
            Some(Err(shared)) => shared.read("conv2d", |residual, _| {
                run(&kernels::ConvEpilogue { residual: Some(residual), ..epilogue })
            })?,
        };
        add_low_rank(&mut y, values, dims, conv, fold.as_ref());
        Ok(Image::owned(y, shape))
    })?
}

/// The products that a LoRA adds.
fn add_low_rank(
    y: &mut [f32],
    x: &[f32],
    dims: [usize; 4],
    conv: &Convolution<'_>,
    fold: Option<&kernels::Fold<'_>>,
) {
    let low_rank = conv.product.adapter.map_or(&[][..], |adapter| &adapter.low_rank);
    for term in low_rank {
        let none = kernels::ConvEpilogue::default();
        let down = layer(conv.window, matrix(&term.down));
        let (hidden, [b, h, w, _]) = kernels::conv2d_folded(x, dims, &down, fold, &none);
        let plain = kernels::Epilogue::default();
        let up = kernels::linear(&hidden, b * h * w, matrix(&term.up), &plain);
        add_scaled(y, &up, term.scale);
    }
}

/// A convolution with a factor per output, which the kernels do not fuse.
fn gained(
    x: &Image,
    conv: &Convolution<'_>,
    per_image: Option<&[f32]>,
    residual: Option<Image>,
    gain: &[f32],
) -> Result<Image> {
    let (mut y, shape) = x.read("conv2d", |values, dims| {
        let factors = conv.norm.map(|norm| Norm::of(norm).factors(values, dims));
        let fold = factors.as_ref().zip(conv.norm).map(|(f, norm)| f.fold(norm.silu));
        let layer = layer(conv.window, matrix(conv.product.weight));
        let none = kernels::ConvEpilogue::default();
        let (mut y, shape) = kernels::conv2d_folded(values, dims, &layer, fold.as_ref(), &none);
        multiply_rows(&mut y, gain);
        add_low_rank(&mut y, values, dims, conv, fold.as_ref());
        (y, shape)
    })?;
    if let Some(bias) = conv.product.bias.map(FrozenWeight::values_f32) {
        y.chunks_exact_mut(bias.len()).for_each(|pixel| add_scaled(pixel, &bias, 1.0));
    }
    if let Some(per_image) = per_image {
        let images = y.chunks_exact_mut((shape[1] * shape[2] * shape[3]).max(1));
        for (image, shift) in images.zip(per_image.chunks_exact(shape[3])) {
            image.chunks_exact_mut(shift.len()).for_each(|pixel| add_scaled(pixel, shift, 1.0));
        }
    }
    if let Some(residual) = residual {
        residual.read("conv2d", |residual, _| add_scaled(&mut y, residual, 1.0))?;
    }
    Ok(Image::owned(y, shape))
}

fn layer(window: Window, weight: kernels::Matrix<'_>) -> kernels::Conv<'_> {
    let Window { kernel, stride, padding, upsample } = window;
    kernels::Conv { weight, kernel, stride, padding, upsample }
}

/// A group norm with its numbers widened.
pub(in crate::ops) struct Norm {
    groups: usize,
    eps: f32,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Norm {
    pub(in crate::ops) fn of(norm: GroupNorm<'_>) -> Self {
        let affine = norm.affine;
        Self {
            groups: norm.groups,
            eps: affine.eps as f32,
            weight: affine.weight.values_f32(),
            bias: affine.bias.values_f32(),
        }
    }

    pub(in crate::ops) fn kernel(&self) -> kernels::GroupNorm<'_> {
        let Self { groups, eps, weight, bias } = self;
        kernels::GroupNorm { groups: *groups, eps: *eps, weight, bias }
    }

    fn factors(&self, values: &[f32], dims: [usize; 4]) -> kernels::Factors {
        self.kernel().factors(values, dims)
    }
}
