//! The operations as plain candle: differentiable, on every device, the oracle of the kernels.
//!
//! candle's convolution is NCHW and its `upsample_nearest2d` has a wrong backward, so this path
//! permutes around the first and spells the second with a broadcast. One layer's weight is
//! widened at a time.

use candle_core::{D, Device, Tensor};

use super::{Activation, Affine, Convolution, GroupNorm, Image, Mask, Product, Window};
use crate::error::Result;
use crate::files::FrozenWeight;

pub(super) fn linear(
    x: &Tensor,
    product: Product<'_>,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let device = x.device();
    let weight = flat(product.weight, device)?;
    let mut y = gained(matmul(x, &weight.t()?)?, product, device)?;
    if let Some(adapter) = product.adapter {
        for low_rank in &adapter.low_rank {
            let down = flat(&low_rank.down, device)?;
            let up = flat(&low_rank.up, device)?;
            let term = matmul(&matmul(x, &down.t()?)?, &up.t()?)?;
            y = (y + (term * f64::from(low_rank.scale))?)?;
        }
    }
    if let Some(bias) = product.bias {
        y = y.broadcast_add(&bias.to_tensor(device)?)?;
    }
    let y = activate(&y, activation)?;
    match residual {
        Some(residual) => Ok((y + residual)?),
        None => Ok(y),
    }
}

pub(super) fn conv2d(x: &Image, conv: &Convolution<'_>, residual: Option<Image>) -> Result<Image> {
    let &Convolution { product, window, norm, per_image } = conv;
    let x = match norm {
        Some(norm) => group_norm(&x.to_tensor()?, norm)?,
        None => x.to_tensor()?,
    };
    let device = x.device();
    let padded = padded(&x, window)?;
    let filters = |weight: &FrozenWeight| -> Result<Tensor> {
        let weight = weight.to_tensor(device)?;
        // A 1×1 convolution may be written as a matrix.
        Ok(if weight.rank() == 4 { weight } else { weight.unsqueeze(2)?.unsqueeze(3)? })
    };
    let mut y = padded.conv2d(&filters(product.weight)?, 0, window.stride, 1, 1)?;
    if let Some(gain) = product.gain() {
        y = y.broadcast_mul(&gain.to_tensor(device)?.reshape((1, (), 1, 1))?)?;
    }
    if let Some(adapter) = product.adapter {
        for low_rank in &adapter.low_rank {
            let (down, up) = (filters(&low_rank.down)?, filters(&low_rank.up)?);
            let term = padded.conv2d(&down, 0, window.stride, 1, 1)?.conv2d(&up, 0, 1, 1, 1)?;
            y = (y + (term * f64::from(low_rank.scale))?)?;
        }
    }
    let mut y = y.permute((0, 2, 3, 1))?.contiguous()?; // [B, H', W', O]
    if let Some(bias) = product.bias {
        y = y.broadcast_add(&bias.to_tensor(device)?)?;
    }
    if let Some(per_image) = per_image {
        y = y.broadcast_add(&per_image.unsqueeze(1)?.unsqueeze(1)?)?;
    }
    if let Some(residual) = residual {
        y = (y + residual.into_tensor()?)?;
    }
    Ok(y.into())
}

/// What a convolution reads of `[B, H, W, C]`, as `[B, C, H', W']`.
pub(super) fn padded(x: &Tensor, window: Window) -> Result<Tensor> {
    let x = if window.upsample { upsample_2x(x)? } else { x.clone() };
    let [top, bottom, left, right] = window.padding;
    let padded = x
        .permute((0, 3, 1, 2))?
        .contiguous()?
        .pad_with_zeros(2, top, bottom)?
        .pad_with_zeros(3, left, right)?;
    read_part(padded, window.kernel, window.stride)
}

/// Without the last row or column that a stride steps over: candle's backward takes height and
/// width to be alike in that.
fn read_part(mut image: Tensor, kernel: usize, stride: usize) -> Result<Tensor> {
    for axis in [2, 3] {
        let size = image.dim(axis)?;
        let over = size.saturating_sub(kernel) % stride;
        image = image.narrow(axis, 0, size - over)?;
    }
    Ok(image.contiguous()?)
}

pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: Mask<'_>,
) -> Result<Tensor> {
    let (batch, tokens, width) = q.dims3()?;
    let split = |t: &Tensor| -> Result<Tensor> {
        let (batch, tokens, width) = t.dims3()?;
        let t = t.reshape((batch, tokens, heads, width / heads))?;
        Ok(t.transpose(1, 2)?.contiguous()?) // [B, h, T, D]
    };
    let (q, k, v) = (split(q)?, split(k)?, split(v)?);
    let scale = 1.0 / ((width / heads) as f64).sqrt();
    let mut scores = (q.matmul(&k.t()?)? * scale)?; // [B, h, T, S]
    if !matches!(mask, Mask::None) {
        scores = scores.broadcast_add(&causal_mask(tokens, scores.device())?)?;
    }
    if let Mask::CausalKeys(rows) = mask {
        scores = scores.broadcast_add(&key_mask(rows, scores.device())?)?;
    }
    let output = softmax(&scores)?.matmul(&v)?;
    Ok(output.transpose(1, 2)?.reshape((batch, tokens, width))?)
}

pub(super) fn group_norm(x: &Tensor, norm: GroupNorm<'_>) -> Result<Tensor> {
    let GroupNorm { groups, affine, silu } = norm;
    let (batch, height, width, channels) = x.dims4()?;
    let grouped = x.reshape((batch, height * width, groups, channels / groups))?;
    let mean = grouped.mean_keepdim((1, 3))?;
    let centred = grouped.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim((1, 3))?;
    let normal = centred.broadcast_div(&(variance + affine.eps)?.sqrt()?)?;
    let y = scaled(&normal.reshape(x.shape())?, affine)?;
    if silu { Ok(y.silu()?) } else { Ok(y) }
}

pub(super) fn layer_norm(x: &Tensor, affine: Affine<'_>) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centred.broadcast_div(&(variance + affine.eps)?.sqrt()?)?;
    scaled(&normal, affine)
}

/// `[B, H, W, C]` → `[B, 2H, 2W, C]`, every pixel four times.
pub(super) fn upsample_2x(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let x = x.reshape((b, h, 1, w, 1, c))?.broadcast_as((b, h, 2, w, 2, c))?;
    Ok(x.contiguous()?.reshape((b, 2 * h, 2 * w, c))?)
}

pub(super) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    Ok(match activation {
        Activation::None => x.clone(),
        Activation::Silu => x.silu()?,
        Activation::Gelu => x.gelu_erf()?,
        Activation::QuickGelu => {
            let gate = ((x * -1.702)?.exp()? + 1.0)?;
            (x / gate)?
        }
        Activation::Geglu => {
            let half = x.dim(D::Minus1)? / 2;
            let value = x.narrow(D::Minus1, 0, half)?;
            let gate = x.narrow(D::Minus1, half, half)?;
            (value * gate.gelu_erf()?)?
        }
    })
}

fn softmax(scores: &Tensor) -> Result<Tensor> {
    let top = scores.max_keepdim(D::Minus1)?.detach();
    let weights = scores.broadcast_sub(&top)?.exp()?;
    Ok(weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?)
}

fn causal_mask(tokens: usize, device: &Device) -> Result<Tensor> {
    let mask: Vec<f32> = (0..tokens)
        .flat_map(|row| (0..tokens).map(move |key| if key > row { f32::NEG_INFINITY } else { 0.0 }))
        .collect();
    Ok(Tensor::from_vec(mask, (tokens, tokens), device)?)
}

/// `[B, 1, 1, S]`: minus infinity for the keys nobody may look at.
fn key_mask(rows: &[&[bool]], device: &Device) -> Result<Tensor> {
    let keys = rows.first().map_or(0, |row| row.len());
    let mask: Vec<f32> = rows
        .iter()
        .flat_map(|row| row.iter().map(|seen| if *seen { 0.0 } else { f32::NEG_INFINITY }))
        .collect();
    Ok(Tensor::from_vec(mask, (rows.len(), 1, 1, keys), device)?)
}

fn scaled(normal: &Tensor, affine: Affine<'_>) -> Result<Tensor> {
    let device = normal.device();
    let weight = affine.weight.to_tensor(device)?;
    let bias = affine.bias.to_tensor(device)?;
    Ok(normal.broadcast_mul(&weight)?.broadcast_add(&bias)?)
}

/// `x · m` for any number of leading axes of `x`.
pub(super) fn matmul(x: &Tensor, m: &Tensor) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let width = shape.pop().unwrap_or(1);
    shape.push(m.dim(1)?);
    Ok(x.reshape(((), width))?.matmul(m)?.reshape(shape)?)
}

/// A weight as a matrix: a 1×1 convolution is a linear layer.
fn flat(weight: &FrozenWeight, device: &Device) -> Result<Tensor> {
    let tensor = weight.to_tensor(device)?;
    Ok(if tensor.rank() == 2 { tensor } else { tensor.flatten_from(1)? })
}

fn gained(y: Tensor, product: Product<'_>, device: &Device) -> Result<Tensor> {
    match product.gain() {
        Some(gain) => Ok(y.broadcast_mul(&gain.to_tensor(device)?)?),
        None => Ok(y),
    }
}
