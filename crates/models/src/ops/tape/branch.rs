//! The trained part of a layer: two thin products, with gradients for both matrices.

use std::borrow::Cow;

use candle_core::Tensor;
use unwrong_kernels as kernels;

use super::{Flow, with_values};
use crate::error::Result;
use crate::lora::{Branch, BranchGradients, Network, transposed};
use crate::ops::branch::mask;

/// What is trained of a layer.
#[derive(Clone, Copy)]
pub(crate) struct Trains<'a> {
    pub(crate) network: Network,
    /// The layer's checkpoint key without `.weight`.
    pub(crate) name: &'a str,
    /// Its matrices. Without dropout they are in the product's adapter too.
    pub(crate) branch: &'a Branch,
}

/// A branch that a layer keeps for its way back.
pub(super) struct Kept {
    network: Network,
    name: String,
    branch: Branch,
}

impl Kept {
    pub(super) fn of(trains: Trains<'_>) -> Self {
        let Trains { network, name, branch } = trains;
        Self { network, name: name.to_owned(), branch: branch.clone() }
    }

    /// What no fused operation knows: it leaves out part of its input.
    pub(super) fn has_dropout(&self) -> bool {
        self.branch.dropout.is_some()
    }

    /// Shows `body` the matrices.
    pub(super) fn with<R>(&self, body: impl FnOnce(&Thin<'_>) -> R) -> Result<R> {
        let branch = &self.branch;
        with_values([&branch.down, &branch.up], |[down, up]| {
            let rank = branch.down.dims()[0];
            body(&Thin {
                branch,
                down: kernels::Matrix::from_f32(rank, down.len() / rank, down),
                up: kernels::Matrix::from_f32(up.len() / rank, rank, up),
            })
        })
    }

    /// Hands in the gradients for the matrices.
    pub(super) fn found(&self, down: Vec<f32>, up: Vec<f32>, flow: &mut Flow) -> Result<()> {
        let like = |values: Vec<f32>, x: &Tensor| Tensor::from_vec(values, x.shape(), x.device());
        let (down, up) = (like(down, &self.branch.down)?, like(up, &self.branch.up)?);
        flow.found.insert(self.network, &self.name, BranchGradients { down, up });
        Ok(())
    }
}

/// The matrices of a branch; a convolution's `down` with all its taps in a row.
pub(super) struct Thin<'a> {
    branch: &'a Branch,
    /// `[rank, inputs]`.
    pub(super) down: kernels::Matrix<'a>,
    /// `[outputs, rank]`.
    pub(super) up: kernels::Matrix<'a>,
}

impl Thin<'_> {
    /// `x` without what is left out.
    pub(super) fn dropped<'x>(&self, x: &'x [f32]) -> Cow<'x, [f32]> {
        match self.branch.dropout {
            None => x.into(),
            Some(dropout) => mask(x.len(), dropout).zip(x).map(|(kept, x)| kept * x).collect(),
        }
    }

    /// The gradient for what was dropped from.
    pub(super) fn undropped(&self, mut dx: Vec<f32>) -> Vec<f32> {
        if let Some(dropout) = self.branch.dropout {
            let mask = mask(dx.len(), dropout);
            dx.iter_mut().zip(mask).for_each(|(dx, kept)| *dx *= kept);
        }
        dx
    }

    /// `scale · seen · downᵀ`, `[rows, rank]`: of a linear layer.
    pub(super) fn lowered(&self, seen: &[f32]) -> Vec<f32> {
        let rows = seen.len() / self.down.cols();
        self.scaled(kernels::linear(seen, rows, self.down, &kernels::Epilogue::default()))
    }

    /// Multiplied with the branch's scale.
    pub(super) fn scaled(&self, mut values: Vec<f32>) -> Vec<f32> {
        for value in &mut values {
            *value *= self.branch.scale as f32;
        }
        values
    }

    /// `hidden · upᵀ + onto`.
    pub(super) fn raised(&self, hidden: &[f32], onto: &[f32]) -> Vec<f32> {
        let epilogue = kernels::Epilogue { residual: Some(onto), ..Default::default() };
        kernels::linear(hidden, hidden.len() / self.up.cols(), self.up, &epilogue)
    }

    /// The gradient for `up`, where `hidden` is what it was multiplied with.
    pub(super) fn up_gradient(&self, hidden: &[f32], dy: &[f32]) -> Vec<f32> {
        let rows = hidden.len() / self.up.cols();
        transposed(&kernels::outer_sum(hidden, dy, rows), self.up.rows())
    }
}
