//! The reference operations for training: candle's graph has their backward.

use candle_core::Tensor;

use super::branch::mask;
use super::{Activation, Convolution, Image, Ops, Product, reference};
use crate::error::Result;
use crate::lora::Branch;

/// `activation(x · Wᵀ + b + branch(x)) + residual`.
pub(crate) fn linear(
    x: &Tensor,
    product: Product<'_>,
    branch: Option<&Branch>,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let mut y = super::linear(Ops::Reference, x, product, Activation::None, None)?;
    if let Some(branch) = branch {
        y = (y + low_rank(x, branch)?)?;
    }
    let y = reference::activate(&y, activation)?;
    match residual {
        Some(residual) => Ok((y + residual)?),
        None => Ok(y),
    }
}

/// A convolution, what its branch adds, and a residual.
pub(crate) fn conv2d(
    x: &Image,
    conv: &Convolution<'_>,
    branch: &Branch,
    residual: Option<Image>,
) -> Result<Image> {
    let y = super::conv2d(Ops::Reference, x, conv, residual)?.into_tensor()?;
    let x = x.to_tensor()?;
    let read = match conv.norm {
        Some(norm) => reference::group_norm(&x, norm)?,
        None => x,
    };
    let read = reference::padded(&dropped(&read, branch)?, conv.window)?;
    let hidden = read.conv2d(&branch.down, 0, conv.window.stride, 1, 1)?;
    let hidden = hidden.permute((0, 2, 3, 1))?.contiguous()?;
    let up = branch.up.flatten_from(1)?;
    Ok((y + (reference::matmul(&hidden, &up.t()?)? * branch.scale)?)?.into())
}

/// `scale · up · down · dropout(x)`.
fn low_rank(x: &Tensor, branch: &Branch) -> Result<Tensor> {
    let (down, up) = (branch.down.flatten_from(1)?, branch.up.flatten_from(1)?);
    let hidden = reference::matmul(&dropped(x, branch)?, &down.t()?)?;
    Ok((reference::matmul(&hidden, &up.t()?)? * branch.scale)?)
}

/// `x` without what the branch leaves out.
fn dropped(x: &Tensor, branch: &Branch) -> Result<Tensor> {
    match branch.dropout {
        Some(dropout) => {
            let mask = mask(x.elem_count(), dropout).collect::<Vec<_>>();
            Ok((x * Tensor::from_vec(mask, x.shape(), x.device())?)?)
        }
        None => Ok(x.clone()),
    }
}
