//! The trained part of a layer: two thin products, with gradients for both matrices.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use unwrong_kernels as kernels;

use super::super::cpu::input;
use super::super::reference;
use super::frozen::with_values;
use crate::error::Result;
use crate::lora::{Branch, Dropout};
use crate::ops::Ops;

/// `scale · up · down · dropout(x)`.
pub(super) fn forward(ops: Ops, x: &Tensor, branch: &Branch) -> Result<Tensor> {
    let Branch { down, up, scale, dropout } = branch;
    let x = match dropout {
        Some(dropout) => (x * mask(x, *dropout)?)?,
        None => x.clone(),
    };
    match ops {
        Ops::Reference => {
            let hidden = reference::matmul(&x, &down.t()?)?;
            Ok((reference::matmul(&hidden, &up.t()?)? * *scale)?)
        }
        Ops::Cpu | Ops::Quantized => {
            let op = LowRank { scale: *scale as f32 };
            Ok(x.contiguous()?.apply_op3(&down.contiguous()?, &up.contiguous()?, op)?)
        }
    }
}

/// Zeros where `x` is left out, else what the rest grows by.
fn mask(x: &Tensor, Dropout { probability, seed }: Dropout) -> Result<Tensor> {
    let kept = 1.0 / (1.0 - probability);
    let limit = (f64::from(probability) * 2_f64.powi(64)) as u64;
    let values: Vec<f32> = (0..x.elem_count() as u64)
        .map(|index| if mixed(seed, index) < limit { 0.0 } else { kept })
        .collect();
    Ok(Tensor::from_vec(values, x.shape(), x.device())?)
}

/// The number `index` of a stream: splitmix64 (Steele, Lea, Flood 2014).
fn mixed(seed: u64, index: u64) -> u64 {
    let z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

struct LowRank {
    scale: f32,
}

impl CustomOp3 for LowRank {
    fn name(&self) -> &'static str {
        "low_rank"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (x, down, up) = (input(s1, l1)?, input(s2, l2)?, input(s3, l3)?);
        let (rank, out) = (down.dims[0], up.dims[0]);
        let rows = x.values.len() / down.dims[1];
        let hidden = self.hidden(x.values, rows, down.values, rank);
        let none = kernels::Epilogue::default();
        let y =
            kernels::linear(&hidden, rows, kernels::Matrix::from_f32(out, rank, up.values), &none);
        let mut dims = x.dims.to_vec();
        *dims.last_mut().expect("a layer reads rows") = out;
        Ok((CpuStorage::F32(y), Shape::from(dims)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        down: &Tensor,
        up: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ((rank, inputs), out) = (down.dims2()?, up.dim(0)?);
        let rows = x.elem_count() / inputs;
        let [dx, d_down, d_up] = with_values([x, down, up, dy], |[x, down, up, dy]| {
            // [rows, rank]: what the thin middle was, and the gradient for it.
            let hidden = self.hidden(x, rows, down, rank);
            let up = kernels::Matrix::from_f32(out, rank, up);
            let mut d_hidden = kernels::linear_backward(dy, rows, up);
            scaled(&mut d_hidden, self.scale);

            let down = kernels::Matrix::from_f32(rank, inputs, down);
            let dx = kernels::linear_backward(&d_hidden, rows, down);
            // The sums over rows: products whose weight is the activations.
            let d_down = kernels::linear_backward(
                &transposed(&d_hidden, rank),
                rank,
                kernels::Matrix::from_f32(rows, inputs, x),
            );
            let d_up = kernels::linear_backward(
                &transposed(&hidden, rank),
                rank,
                kernels::Matrix::from_f32(rows, out, dy),
            );
            [dx, d_down, transposed(&d_up, out)]
        })?;
        let like = |values: Vec<f32>, x: &Tensor| Tensor::from_vec(values, x.shape(), x.device());
        Ok((Some(like(dx, x)?), Some(like(d_down, down)?), Some(like(d_up, up)?)))
    }
}

impl LowRank {
    /// `scale · x · downᵀ`, `[rows, rank]`.
    fn hidden(&self, x: &[f32], rows: usize, down: &[f32], rank: usize) -> Vec<f32> {
        let inputs = down.len() / rank;
        let down = kernels::Matrix::from_f32(rank, inputs, down);
        let mut hidden = kernels::linear(x, rows, down, &kernels::Epilogue::default());
        scaled(&mut hidden, self.scale);
        hidden
    }
}

fn scaled(values: &mut [f32], scale: f32) {
    for value in values {
        *value *= scale;
    }
}

/// Columns of a matrix with `width` of them, one after the other.
fn transposed(matrix: &[f32], width: usize) -> Vec<f32> {
    (0..width).flat_map(|column| matrix.iter().skip(column).step_by(width).copied()).collect()
}
