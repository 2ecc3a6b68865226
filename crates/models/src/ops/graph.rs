//! The reference operations for training: candle's graph has their backward.

use candle_core::Tensor;

use super::branch::mask;
use super::{Activation, Ops, Product, reference};
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

/// `scale · up · down · dropout(x)`.
fn low_rank(x: &Tensor, branch: &Branch) -> Result<Tensor> {
    let x = match branch.dropout {
        Some(dropout) => {
            let mask = mask(x.elem_count(), dropout).collect::<Vec<_>>();
            (x * Tensor::from_vec(mask, x.shape(), x.device())?)?
        }
        None => x.clone(),
    };
    let hidden = reference::matmul(&x, &branch.down.t()?)?;
    Ok((reference::matmul(&hidden, &branch.up.t()?)? * branch.scale)?)
}
