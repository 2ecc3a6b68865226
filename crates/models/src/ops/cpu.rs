//! The operations as our kernels, plugged into candle as custom operations.
//!
//! None of them has a backward, so an input that tracks gradients is an error here: a silent
//! zero gradient is worse than a refusal.

mod conv;
mod doubled;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Tensor};
use unwrong_kernels as kernels;

use super::{Activation, Affine, GroupNorm, Product};
use crate::error::{Error, Result};
use crate::files::{Dtype, FrozenWeight};

pub(super) use self::conv::{Norm, conv2d};
pub(super) use self::doubled::doubled_half;

/// How the frozen part of a product is summed.
#[derive(Clone, Copy)]
pub(super) enum Arithmetic {
    Floats,
    /// Rounded operands, for more of them in the same time.
    Integers,
}

pub(super) fn linear(
    x: &Tensor,
    product: Product<'_>,
    arithmetic: Arithmetic,
    activation: Activation,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let (out, width) = matrix_dims(product.weight);
    let bias = product.bias.map(FrozenWeight::values_f32);
    let low_rank = product.adapter.map_or(&[][..], |adapter| &adapter.low_rank);
    let low_rank: Vec<_> = low_rank
        .iter()
        .map(|term| kernels::LowRank {
            down: matrix(&term.down),
            up: matrix(&term.up),
            scale: term.scale,
        })
        .collect();
    let plain = match arithmetic {
        Arithmetic::Floats => kernels::linear,
        Arithmetic::Integers => kernels::linear_quantized,
    };
    let gated = match arithmetic {
        Arithmetic::Floats => kernels::linear_geglu,
        Arithmetic::Integers => kernels::linear_geglu_quantized,
    };
    run("linear", x, residual, None, |x, residual, _| {
        let rows = x.values.len() / width;
        let residual = residual.map(|r| r.values);
        let mut dims = x.dims.to_vec();
        if let Some(last) = dims.last_mut() {
            *last = if activation == Activation::Geglu { out / 2 } else { out };
        }
        let weight = matrix(product.weight);
        if let Some(gain) = product.gain() {
            let y = plain(x.values, rows, weight, &kernels::Epilogue::default());
            let y = with_gain(y, x.values, &gain.values_f32(), &low_rank, bias.as_deref());
            return (finished(y, out, activation, residual), dims);
        }
        if activation == Activation::Geglu {
            let mut y = gated(x.values, rows, weight, bias.as_deref(), &low_rank);
            if let Some(residual) = residual {
                add_scaled(&mut y, residual, 1.0);
            }
            return (y, dims);
        }
        let activation = kernel_activation(activation);
        let epilogue =
            kernels::Epilogue { low_rank: &low_rank, bias: bias.as_deref(), activation, residual };
        (plain(x.values, rows, weight, &epilogue), dims)
    })
}

/// `gain ∘ y + Σ low rank + bias`: what the kernels do not fuse.
fn with_gain(
    mut y: Vec<f32>,
    x: &[f32],
    gain: &[f32],
    low_rank: &[kernels::LowRank<'_>],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let rows = y.len() / gain.len().max(1);
    multiply_rows(&mut y, gain);
    let none = kernels::Epilogue::default();
    for term in low_rank {
        let hidden = kernels::linear(x, rows, term.down, &none);
        add_scaled(&mut y, &kernels::linear(&hidden, rows, term.up, &none), term.scale);
    }
    if let Some(bias) = bias {
        y.chunks_exact_mut(bias.len().max(1)).for_each(|row| add_scaled(row, bias, 1.0));
    }
    y
}

/// What follows a layer's sums.
fn finished(
    y: Vec<f32>,
    outputs: usize,
    activation: Activation,
    residual: Option<&[f32]>,
) -> Vec<f32> {
    let mut y = match activation {
        Activation::None => y,
        Activation::Geglu => kernels::geglu(&y, outputs / 2),
        other => kernels::activate(&y, kernel_activation(other)),
    };
    if let Some(residual) = residual {
        add_scaled(&mut y, residual, 1.0);
    }
    y
}

/// Every row times the factors, number by number.
fn multiply_rows(y: &mut [f32], factors: &[f32]) {
    for row in y.chunks_exact_mut(factors.len().max(1)) {
        row.iter_mut().zip(factors).for_each(|(y, factor)| *y *= factor);
    }
}

pub(super) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    causal: bool,
) -> Result<Tensor> {
    run("attention", q, Some(k), Some(v), |q, k, v| {
        let (k, v) = (k.expect("given above"), v.expect("given above"));
        let shape = kernels::AttentionShape {
            batch: q.dims[0],
            query_tokens: q.dims[1],
            key_tokens: k.dims[1],
            heads,
            head_dim: q.dims[2] / heads,
        };
        let scale = 1.0 / (shape.head_dim as f32).sqrt();
        let y = kernels::attention(q.values, k.values, v.values, shape, scale, causal);
        (y, q.dims.to_vec())
    })
}

pub(super) fn group_norm(x: &Tensor, norm: GroupNorm<'_>) -> Result<Tensor> {
    let (weight, bias) = (norm.affine.weight.values_f32(), norm.affine.bias.values_f32());
    run("group_norm", x, None, None, |x, _, _| {
        let shape = [x.dims[0], x.dims[1], x.dims[2], x.dims[3]];
        let GroupNorm { groups, affine, silu } = norm;
        let norm =
            kernels::GroupNorm { groups, eps: affine.eps as f32, weight: &weight, bias: &bias };
        (kernels::group_norm(x.values, shape, &norm, silu), x.dims.to_vec())
    })
}

pub(super) fn layer_norm(x: &Tensor, affine: Affine<'_>) -> Result<Tensor> {
    let (weight, bias) = (affine.weight.values_f32(), affine.bias.values_f32());
    run("layer_norm", x, None, None, |x, _, _| {
        let width = x.dims.last().copied().unwrap_or(1);
        (kernels::layer_norm(x.values, width, affine.eps as f32, &weight, &bias), x.dims.to_vec())
    })
}

pub(super) fn kernel_activation(activation: Activation) -> kernels::Activation {
    match activation {
        Activation::None | Activation::Geglu => kernels::Activation::None,
        Activation::Silu => kernels::Activation::Silu,
        Activation::Gelu => kernels::Activation::Gelu,
        Activation::QuickGelu => kernels::Activation::QuickGelu,
    }
}

/// Rows and columns of a weight seen as a matrix: all axes after the first are columns.
fn matrix_dims(weight: &FrozenWeight) -> (usize, usize) {
    let shape = weight.shape();
    (shape[0], shape[1..].iter().product())
}

pub(super) fn matrix(weight: &FrozenWeight) -> kernels::Matrix<'_> {
    let (rows, cols) = matrix_dims(weight);
    let dtype = match weight.dtype() {
        Dtype::F32 => kernels::Dtype::F32,
        Dtype::F16 => kernels::Dtype::F16,
        Dtype::Bf16 => kernels::Dtype::Bf16,
    };
    kernels::Matrix::new(dtype, rows, cols, weight.bytes())
}

fn add_scaled(y: &mut [f32], x: &[f32], scale: f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += scale * x);
}

/// One input of a kernel: its values in row-major order and its shape.
pub(super) struct Input<'a> {
    pub(super) values: &'a [f32],
    pub(super) dims: &'a [usize],
}

/// Runs `kernel` on one to three tensors as a candle custom operation.
fn run<F>(
    name: &'static str,
    a: &Tensor,
    b: Option<&Tensor>,
    c: Option<&Tensor>,
    kernel: F,
) -> Result<Tensor>
where
    F: Fn(Input<'_>, Option<Input<'_>>, Option<Input<'_>>) -> (Vec<f32>, Vec<usize>),
{
    if [Some(a), b, c].into_iter().flatten().any(Tensor::track_op) {
        return Err(Error::NoBackward { op: name });
    }
    let op = Kernel { name, swap: b.is_none(), kernel };
    let a = a.contiguous()?;
    Ok(match (b, c) {
        (None, None) => a.apply_op1_no_bwd(&op)?,
        (Some(one), None) | (None, Some(one)) => a.apply_op2_no_bwd(&one.contiguous()?, &op)?,
        (Some(b), Some(c)) => a.apply_op3_no_bwd(&b.contiguous()?, &c.contiguous()?, &op)?,
    })
}

struct Kernel<F> {
    name: &'static str,
    /// The single second input stands in the third place.
    swap: bool,
    kernel: F,
}

impl<F> Kernel<F>
where
    F: Fn(Input<'_>, Option<Input<'_>>, Option<Input<'_>>) -> (Vec<f32>, Vec<usize>),
{
    fn call(
        &self,
        a: Input<'_>,
        b: Option<Input<'_>>,
        c: Option<Input<'_>>,
    ) -> (CpuStorage, Shape) {
        let (values, dims) = (self.kernel)(a, b, c);
        (CpuStorage::F32(values), Shape::from(dims))
    }
}

pub(super) fn input<'a>(
    storage: &'a CpuStorage,
    layout: &'a Layout,
) -> candle_core::Result<Input<'a>> {
    let values = storage.as_slice::<f32>()?;
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| candle_core::Error::Msg("kernel input is not contiguous".to_owned()))?;
    Ok(Input { values: &values[start..end], dims: layout.dims() })
}

impl<F> CustomOp1 for Kernel<F>
where
    F: Fn(Input<'_>, Option<Input<'_>>, Option<Input<'_>>) -> (Vec<f32>, Vec<usize>),
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok(self.call(input(s, l)?, None, None))
    }
}

impl<F> CustomOp2 for Kernel<F>
where
    F: Fn(Input<'_>, Option<Input<'_>>, Option<Input<'_>>) -> (Vec<f32>, Vec<usize>),
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let second = Some(input(s2, l2)?);
        let first = input(s1, l1)?;
        let (b, c) = if self.swap { (None, second) } else { (second, None) };
        Ok(self.call(first, b, c))
    }
}

impl<F> CustomOp3 for Kernel<F>
where
    F: Fn(Input<'_>, Option<Input<'_>>, Option<Input<'_>>) -> (Vec<f32>, Vec<usize>),
{
    fn name(&self) -> &'static str {
        self.name
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
        Ok(self.call(input(s1, l1)?, Some(input(s2, l2)?), Some(input(s3, l3)?)))
    }
}
