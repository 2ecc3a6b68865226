//! Normalisations.

use candle_core::{Tensor, TensorId};
use unwrong_kernels as kernels;

use super::super::cpu::{self, Norm};
use super::{Backward, Flow, Tape, four, with_values};
use crate::error::Result;
use crate::ops::{Affine, GroupNorm};

impl Tape {
    /// Group normalisation of `[B, H, W, C]`.
    pub(crate) fn group_norm(&self, x: &Tensor, norm: GroupNorm<'_>) -> Result<Tensor> {
        let y = cpu::group_norm(x, norm)?;
        if let Some(wanted) = self.live(x) {
            let (norm, silu) = (Norm::of(norm), norm.silu);
            self.record(&y, Group { wanted, norm, silu, x: x.clone() });
        }
        Ok(y)
    }

    /// Layer normalisation over the last axis.
    pub(crate) fn layer_norm(&self, x: &Tensor, affine: Affine<'_>) -> Result<Tensor> {
        let y = cpu::layer_norm(x, affine)?;
        if let Some(wanted) = self.live(x) {
            let (weight, eps) = (affine.weight.values_f32(), affine.eps as f32);
            self.record(&y, Layer { wanted, weight, eps, x: x.clone() });
        }
        Ok(y)
    }
}

struct Group {
    wanted: TensorId,
    norm: Norm,
    silu: bool,
    x: Tensor,
}

impl Backward for Group {
    fn held(&self) -> Vec<&Tensor> {
        vec![&self.x]
    }

    fn backward(self: Box<Self>, dy: Vec<f32>, flow: &mut Flow) -> Result<()> {
        let dims = four(self.x.dims());
        let dx = with_values([&self.x], |[x]| {
            kernels::group_norm_backward(&dy, x, dims, &self.norm.kernel(), self.silu)
        })?;
        flow.add(self.wanted, dx);
        Ok(())
    }
}

struct Layer {
    wanted: TensorId,
    weight: Vec<f32>,
    eps: f32,
    x: Tensor,
}

impl Backward for Layer {
    fn held(&self) -> Vec<&Tensor> {
        vec![&self.x]
    }

    fn backward(self: Box<Self>, dy: Vec<f32>, flow: &mut Flow) -> Result<()> {
        let Self { wanted, weight, eps, x } = *self;
        let dx = with_values([&x], |[x]| {
            kernels::layer_norm_backward(&dy, x, weight.len(), eps, &weight)
        })?;
        flow.add(wanted, dx);
        Ok(())
    }
}
