//! The operations with a backward, for training.
//!
//! On the reference path they are candle's. On the kernels' path each is one custom operation,
//! unfused: frozen weights have no gradient, so a product is a function of one tensor. An
//! operation captures frozen numbers only; a captured tensor that tracks would lose its
//! gradient silently, and is refused.

mod branch;
mod frozen;

use candle_core::Tensor;

use super::{Activation, Affine, Convolution, GroupNorm, Image, Mask, Ops, Product};
use super::{conv2d as fused_conv2d, reference};
use crate::error::{Error, Result};
use crate::files::FrozenWeight;
use crate::layers::{Extent, Run};
use crate::lora::Branch;

/// `activation(x · Wᵀ + b + branch(x)) + residual`.
pub(crate) fn linear(
    run: &Run<'_>,
    x: &Tensor,
    product: Product<'_>,
    branch: Option<&Branch>,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let ops = run.ops;
    let mut y = match ops {
        Ops::Reference => reference::linear(x, product, Activation::None, None)?,
        Ops::Cpu | Ops::Quantized => frozen::linear(x, product, run.extent)?,
    };
    if let Some(branch) = branch {
        y = (y + branch::forward(ops, x, branch)?)?;
    }
    let y = match ops {
        Ops::Reference => reference::activate(&y, activation)?,
        Ops::Cpu | Ops::Quantized => frozen::activate(y, activation)?,
    };
    match residual {
        Some(residual) => Ok((y + residual)?),
        None => Ok(y),
    }
}

/// A convolution whose own layer is not trained.
pub(crate) fn conv2d(
    ops: Ops,
    x: &Image,
    conv: &Convolution<'_>,
    residual: Option<Image>,
    extent: Extent,
) -> Result<Image> {
    let tracks = x.tracks() || residual.as_ref().is_some_and(Image::tracks);
    if ops == Ops::Reference || !tracks {
        return fused_conv2d(ops, x, conv, residual);
    }
    if conv.per_image.is_some_and(Tensor::track_op) {
        return Err(Error::NoBackward { op: "conv2d" });
    }
    let x = x.to_tensor()?;
    let x = match conv.norm {
        Some(norm) => group_norm(ops, &x, norm)?,
        None => x,
    };
    let y = frozen::conv2d(&x, conv, extent)?;
    match residual {
        Some(residual) => Ok((y + residual.into_tensor()?)?.into()),
        None => Ok(y.into()),
    }
}

/// `softmax(q · kᵀ / sqrt(D)) · v` for every head.
pub(crate) fn attention(
    ops: Ops,
    [q, k, v]: [&Tensor; 3],
    heads: usize,
    mask: Mask<'_>,
) -> Result<Tensor> {
    match (ops, mask) {
        (Ops::Cpu | Ops::Quantized, Mask::None) => frozen::attention([q, k, v], heads, false),
        (Ops::Cpu | Ops::Quantized, Mask::Causal) => frozen::attention([q, k, v], heads, true),
        _ => reference::attention(q, k, v, heads, mask),
    }
}

/// Group normalisation of `[B, H, W, C]`.
pub(crate) fn group_norm(ops: Ops, x: &Tensor, norm: GroupNorm<'_>) -> Result<Tensor> {
    match ops {
        Ops::Reference => reference::group_norm(x, norm),
        Ops::Cpu | Ops::Quantized => frozen::group_norm(x, norm),
    }
}

/// Layer normalisation over the last axis.
pub(crate) fn layer_norm(ops: Ops, x: &Tensor, affine: Affine<'_>) -> Result<Tensor> {
    match ops {
        Ops::Reference => reference::layer_norm(x, affine),
        Ops::Cpu | Ops::Quantized => frozen::layer_norm(x, affine),
    }
}

/// A frozen weight's numbers, for an operation to own.
fn numbers(weight: Option<&FrozenWeight>) -> Option<Vec<f32>> {
    weight.map(FrozenWeight::values_f32)
}
