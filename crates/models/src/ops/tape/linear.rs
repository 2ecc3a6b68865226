//! Linear layers, frozen or with a trained branch beside them.

use std::borrow::Cow;

use candle_core::{Tensor, TensorId};
use unwrong_kernels as kernels;

use super::super::cpu::{self, Arithmetic, kernel_activation, matrix};
use super::branch::{Kept, Thin, Trains};
use super::{Backward, Flow, Tape, with_values};
use crate::error::Result;
use crate::files::FrozenWeight;
use crate::layers::Extent;
use crate::lora::Adapter;
use crate::ops::{Activation, Product};

impl Tape {
    /// `activation(x · Wᵀ + b + branch(x)) + residual`.
    ///
    /// Without dropout the product's adapter is the branch.
    pub(crate) fn linear(
        &self,
        x: &Tensor,
        product: Product<'_>,
        trains: Option<Trains<'_>>,
        activation: Activation,
        residual: Option<&Tensor>,
        extent: Extent,
    ) -> Result<Tensor> {
        let (wanted, onto) = (self.live(x), residual.and_then(|residual| self.live(residual)));
        if wanted.is_none() && trains.is_none() && onto.is_none() {
            return cpu::linear(x, product, Arithmetic::Floats, activation, residual);
        }
        let mut layer = Linear {
            x: wanted,
            residual: onto,
            weight: product.weight.clone(),
            bias: product.bias.cloned(),
            adapter: product.adapter.cloned(),
            activation,
            input: None,
            sums: None,
            branch: trains.map(Kept::of),
        };
        if layer.branch.is_some() || activation != Activation::None {
            layer.input = Some(x.clone());
        }
        let y = if extent == Extent::Outline {
            let mut dims = x.dims().to_vec();
            dims.splice(x.rank() - 1.., [product.weight.shape()[0]]);
            Tensor::zeros(dims, x.dtype(), x.device())?
        } else if activation == Activation::None {
            layer.sums(x, residual)?
        } else {
            let sums = layer.sums(x, None)?;
            let y = activate(&sums, activation)?;
            layer.sums = Some(sums);
            match residual {
                Some(residual) => (y + residual)?,
                None => y,
            }
        };
        self.record(&y, layer);
        Ok(y)
    }
}

struct Linear {
    /// Where gradients are wanted.
    x: Option<TensorId>,
    residual: Option<TensorId>,
    weight: FrozenWeight,
    bias: Option<FrozenWeight>,
    adapter: Option<Adapter>,
    activation: Activation,
    /// Where the branch's gradients or `sums` come from.
    input: Option<Tensor>,
    /// What the activation was applied to.
    sums: Option<Tensor>,
    branch: Option<Kept>,
}

impl Linear {
    /// `x · Wᵀ + b + branch(x) + residual`.
    fn sums(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let adapter = self.adapter.as_ref();
        let product = Product { weight: &self.weight, bias: self.bias.as_ref(), adapter };
        let sums = cpu::linear(x, product, Arithmetic::Floats, Activation::None, residual)?;
        let Some(branch) = self.branch.as_ref().filter(|branch| branch.has_dropout()) else {
            return Ok(sums);
        };
        let values = with_values([x, &sums], |[x, sums]| {
            branch.with(|thin| thin.raised(&thin.lowered(&thin.dropped(x)), sums))
        })??;
        Ok(Tensor::from_vec(values, sums.shape(), sums.device())?)
    }

    /// `dy` before the activation.
    fn before_activation(&mut self, dy: &[f32]) -> Result<Option<Vec<f32>>> {
        if self.activation == Activation::None {
            return Ok(None);
        }
        let sums = match (self.sums.take(), &self.input) {
            (None, Some(input)) => self.sums(input, None)?,
            (sums, _) => sums.expect("an activation keeps its input or that of the layer"),
        };
        with_values([&sums], |[sums]| {
            Some(match self.activation {
                Activation::Geglu => kernels::geglu_backward(dy, sums, self.weight.shape()[0] / 2),
                other => kernels::activate_backward(dy, sums, kernel_activation(other)),
            })
        })
    }
}

impl Backward for Linear {
    fn held(&self) -> Vec<&Tensor> {
        self.input.iter().chain(&self.sums).collect()
    }

    fn shed(&mut self) {
        self.sums = None;
    }

    fn backward(mut self: Box<Self>, dy: Vec<f32>, flow: &mut Flow) -> Result<()> {
        let before = self.before_activation(&dy)?;
        let slope = before.as_deref().unwrap_or(&dy);
        let weight = matrix(&self.weight);
        let rows = slope.len() / weight.rows();
        let onto = self.x.and_then(|x| flow.take(x));
        let dx = match (&self.branch, &self.input) {
            (Some(branch), Some(x)) => {
                let back = with_values([x], |[x]| {
                    branch.with(|thin| back(thin, [x, slope], weight, onto, self.x.is_some()))
                })??;
                branch.found(back.down, back.up, flow)?;
                back.x
            }
            _ => self.x.map(|_| {
                let added = kernels::Added { onto, branch: None };
                kernels::linear_backward_onto(slope, rows, weight, added)
            }),
        };
        if let (Some(x), Some(dx)) = (self.x, dx) {
            flow.add(x, dx);
        }
        if let Some(residual) = self.residual {
            flow.add(residual, dy);
        }
        Ok(())
    }
}

/// What comes back through a layer with a branch.
struct Back {
    x: Option<Vec<f32>>,
    down: Vec<f32>,
    up: Vec<f32>,
}

/// The gradients for a branch's matrices and, if `wanted`, for `x`, added to `onto`.
fn back(
    thin: &Thin<'_>,
    [x, dy]: [&[f32]; 2],
    weight: kernels::Matrix<'_>,
    onto: Option<Vec<f32>>,
    wanted: bool,
) -> Back {
    let rows = dy.len() / weight.rows();
    let seen = thin.dropped(x);
    let hidden = thin.lowered(&seen);
    let d_hidden = thin.scaled(kernels::linear_backward(dy, rows, thin.up));
    let down = kernels::outer_sum(&d_hidden, &seen, rows);
    let up = thin.up_gradient(&hidden, dy);
    let dx = wanted.then(|| {
        let mut added = kernels::Added { onto, branch: Some((&d_hidden[..], thin.down)) };
        if matches!(seen, Cow::Owned(_)) {
            let mut dx = thin.undropped(kernels::linear_backward(&d_hidden, rows, thin.down));
            added.onto.iter().flatten().zip(&mut dx).for_each(|(there, dx)| *dx += there);
            added = kernels::Added { onto: Some(dx), branch: None };
        }
        kernels::linear_backward_onto(dy, rows, weight, added)
    });
    Back { x: dx, down, up }
}

fn activate(sums: &Tensor, activation: Activation) -> Result<Tensor> {
    let mut dims = sums.dims().to_vec();
    let values = with_values([sums], |[sums]| match activation {
        Activation::Geglu => {
            let last = dims.last_mut().expect("a layer writes rows");
            *last /= 2;
            kernels::geglu(sums, *last)
        }
        other => kernels::activate(sums, kernel_activation(other)),
    })?;
    Ok(Tensor::from_vec(values, dims, sums.device())?)
}
