//! Linear layers, frozen or with a trained branch beside them.

use candle_core::{Tensor, TensorId};
use unwrong_kernels as kernels;

use super::super::branch::mask;
use super::super::cpu::{self, Arithmetic, kernel_activation, matrix};
use super::{Backward, Flow, Tape, with_values};
use crate::error::Result;
use crate::files::FrozenWeight;
use crate::layers::Extent;
use crate::lora::{Adapter, Branch, BranchGradients};
use crate::ops::{Activation, Product};

/// What is trained of a layer.
#[derive(Clone)]
pub(crate) struct Trains<'a> {
    /// The layer's checkpoint key without `.weight`.
    pub(crate) name: &'a str,
    /// Its matrices. Without dropout they are in the product's adapter too.
    pub(crate) branch: &'a Branch,
}

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
            branch: trains.map(|Trains { name, branch }| (name.to_owned(), branch.clone())),
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
    branch: Option<(String, Branch)>,
}

impl Linear {
    /// `x · Wᵀ + b + branch(x) + residual`.
    fn sums(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let adapter = self.adapter.as_ref();
        let product = Product { weight: &self.weight, bias: self.bias.as_ref(), adapter };
        let sums = cpu::linear(x, product, Arithmetic::Floats, Activation::None, residual)?;
        let Some((_, branch)) = self.branch.as_ref().filter(|(_, b)| b.dropout.is_some()) else {
            return Ok(sums);
        };
        let values = with_values([x, &branch.down, &branch.up, &sums], |[x, down, up, sums]| {
            let thin = Thin::new(branch, down, up);
            let hidden = thin.hidden(&thin.dropped(x));
            let epilogue = kernels::Epilogue { residual: Some(sums), ..Default::default() };
            kernels::linear(&hidden, hidden.len() / thin.rank, thin.up, &epilogue)
        })?;
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
            (Some((name, branch)), Some(x)) => {
                let back = with_values([x, &branch.down, &branch.up], |[x, down, up]| {
                    Thin::new(branch, down, up).back(x, slope, weight, onto, self.x.is_some())
                })?;
                flow.found.insert(name.clone(), gradients(branch, back.down, back.up)?);
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

/// The matrices of a branch.
struct Thin<'a> {
    branch: &'a Branch,
    rank: usize,
    down: kernels::Matrix<'a>,
    up: kernels::Matrix<'a>,
}

/// What comes back through a layer with a branch.
struct Back {
    x: Option<Vec<f32>>,
    down: Vec<f32>,
    up: Vec<f32>,
}

impl<'a> Thin<'a> {
    fn new(branch: &'a Branch, down: &'a [f32], up: &'a [f32]) -> Self {
        let rank = branch.down.dims()[0];
        Self {
            branch,
            rank,
            down: kernels::Matrix::from_f32(rank, down.len() / rank, down),
            up: kernels::Matrix::from_f32(up.len() / rank, rank, up),
        }
    }

    /// `x` without what is left out.
    fn dropped<'x>(&self, x: &'x [f32]) -> std::borrow::Cow<'x, [f32]> {
        match self.branch.dropout {
            None => x.into(),
            Some(dropout) => mask(x.len(), dropout).zip(x).map(|(kept, x)| kept * x).collect(),
        }
    }

    /// `scale · x · downᵀ`, `[rows, rank]`.
    fn hidden(&self, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.down.cols();
        let mut hidden = kernels::linear(x, rows, self.down, &kernels::Epilogue::default());
        self.scale(&mut hidden);
        hidden
    }

    fn scale(&self, values: &mut [f32]) {
        values.iter_mut().for_each(|value| *value *= self.branch.scale as f32);
    }

    /// The gradients for the matrices and, if `wanted`, for `x`, added to `onto`.
    fn back(
        &self,
        x: &[f32],
        dy: &[f32],
        weight: kernels::Matrix<'_>,
        onto: Option<Vec<f32>>,
        wanted: bool,
    ) -> Back {
        let rows = dy.len() / weight.rows();
        let seen = self.dropped(x);
        let hidden = self.hidden(&seen);
        let mut d_hidden = kernels::linear_backward(dy, rows, self.up);
        self.scale(&mut d_hidden);
        let down = kernels::outer_sum(&d_hidden, &seen, rows);
        let up = transposed(&kernels::outer_sum(&hidden, dy, rows), weight.rows());
        let dx = wanted.then(|| match self.branch.dropout {
            None => {
                let branch = Some((&d_hidden[..], self.down));
                kernels::linear_backward_onto(dy, rows, weight, kernels::Added { onto, branch })
            }
            Some(dropout) => {
                let mut dx = kernels::linear_backward(&d_hidden, rows, self.down);
                dx.iter_mut().zip(mask(x.len(), dropout)).for_each(|(dx, kept)| *dx *= kept);
                onto.into_iter().flatten().zip(&mut dx).for_each(|(more, dx)| *dx += more);
                let onto = Some(dx);
                kernels::linear_backward_onto(
                    dy,
                    rows,
                    weight,
                    kernels::Added { onto, branch: None },
                )
            }
        });
        Back { x: dx, down, up }
    }
}

fn gradients(branch: &Branch, down: Vec<f32>, up: Vec<f32>) -> Result<BranchGradients> {
    let like = |values: Vec<f32>, x: &Tensor| Tensor::from_vec(values, x.shape(), x.device());
    Ok(BranchGradients { down: like(down, &branch.down)?, up: like(up, &branch.up)? })
}

/// Columns of a matrix with `width` of them, one after the other.
fn transposed(matrix: &[f32], width: usize) -> Vec<f32> {
    (0..width).flat_map(|column| matrix.iter().skip(column).step_by(width).copied()).collect()
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
