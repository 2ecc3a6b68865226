//! Frozen layers on the kernels, as functions of their inputs.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Shape, Storage, Tensor};
use unwrong_kernels as kernels;

use super::super::cpu::{input, kernel_activation, matrix};
use super::numbers;
use crate::error::Result;
use crate::layers::Extent;
use crate::ops::{Activation, Affine, Convolution, GroupNorm, Product, Window};

pub(super) fn linear(x: &Tensor, product: Product<'_>, extent: Extent) -> Result<Tensor> {
    let weight = product.weight.clone();
    let bias = numbers(product.bias);
    let (out, width) = (weight.shape()[0], weight.shape()[1..].iter().product::<usize>());
    let again = weight.clone();
    apply(
        "linear",
        x,
        move |x, dims| {
            let mut dims = dims.to_vec();
            *dims.last_mut().expect("a layer reads rows") = out;
            if extent == Extent::Outline {
                return (vec![0.0; x.len() / width * out], dims);
            }
            let epilogue = kernels::Epilogue { bias: bias.as_deref(), ..Default::default() };
            (kernels::linear(x, x.len() / width, matrix(&weight), &epilogue), dims)
        },
        move |dy, _, _| kernels::linear_backward(dy, dy.len() / out, matrix(&again)),
    )
}

pub(super) fn activate(x: Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::None => Ok(x),
        Activation::Geglu => {
            let outputs = x.dims().last().map_or(0, |width| width / 2);
            apply(
                "geglu",
                &x,
                move |halves, dims| {
                    let mut dims = dims.to_vec();
                    *dims.last_mut().expect("a layer writes rows") = outputs;
                    (kernels::geglu(halves, outputs), dims)
                },
                move |dy, halves, _| kernels::geglu_backward(dy, halves, outputs),
            )
        }
        Activation::Silu | Activation::Gelu | Activation::QuickGelu => {
            let activation = kernel_activation(activation);
            apply(
                "activate",
                &x,
                move |x, dims| (kernels::activate(x, activation), dims.to_vec()),
                move |dy, x, _| kernels::activate_backward(dy, x, activation),
            )
        }
    }
}

/// Without the norm and the residual.
pub(super) fn conv2d(x: &Tensor, conv: &Convolution<'_>, extent: Extent) -> Result<Tensor> {
    let Window { kernel, stride, padding, upsample } = conv.window;
    let weight = conv.product.weight.clone();
    let bias = numbers(conv.product.bias);
    let per_image = match conv.per_image {
        Some(tensor) => Some(tensor.flatten_all()?.to_vec1::<f32>()?),
        None => None,
    };
    let again = weight.clone();
    apply(
        "conv2d",
        x,
        move |x, dims| {
            let layer =
                kernels::Conv { weight: matrix(&weight), kernel, stride, padding, upsample };
            if extent == Extent::Outline {
                let dims = layer.output_shape(four(dims));
                return (vec![0.0; dims.iter().product()], dims.to_vec());
            }
            let epilogue = kernels::ConvEpilogue {
                bias: bias.as_deref(),
                per_image: per_image.as_deref(),
                ..Default::default()
            };
            let (y, dims) = kernels::conv2d(x, four(dims), &layer, &epilogue);
            (y, dims.to_vec())
        },
        move |dy, _, dims| {
            let layer = kernels::Conv { weight: matrix(&again), kernel, stride, padding, upsample };
            kernels::conv2d_backward(dy, &layer, four(dims))
        },
    )
}

pub(super) fn group_norm(x: &Tensor, norm: GroupNorm<'_>) -> Result<Tensor> {
    let GroupNorm { groups, affine, silu } = norm;
    let (weight, bias) = (affine.weight.values_f32(), affine.bias.values_f32());
    let numbers = Arc::new((weight, bias));
    let again = Arc::clone(&numbers);
    let eps = affine.eps as f32;
    apply(
        "group_norm",
        x,
        move |x, dims| {
            let norm = kernels::GroupNorm { groups, eps, weight: &numbers.0, bias: &numbers.1 };
            (kernels::group_norm(x, four(dims), &norm, silu), dims.to_vec())
        },
        move |dy, x, dims| {
            let norm = kernels::GroupNorm { groups, eps, weight: &again.0, bias: &again.1 };
            kernels::group_norm_backward(dy, x, four(dims), &norm, silu)
        },
    )
}

pub(super) fn layer_norm(x: &Tensor, affine: Affine<'_>) -> Result<Tensor> {
    let (weight, bias) = (affine.weight.values_f32(), affine.bias.values_f32());
    let again = weight.clone();
    let (eps, width) = (affine.eps as f32, weight.len());
    apply(
        "layer_norm",
        x,
        move |x, dims| (kernels::layer_norm(x, width, eps, &weight, &bias), dims.to_vec()),
        move |dy, x, _| kernels::layer_norm_backward(dy, x, width, eps, &again),
    )
}

pub(super) fn attention([q, k, v]: [&Tensor; 3], heads: usize, causal: bool) -> Result<Tensor> {
    let op = Attention { heads, causal, log_sums: Mutex::new(Vec::new()) };
    Ok(q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)?)
}

struct Attention {
    heads: usize,
    causal: bool,
    /// Of every query, from the forward pass.
    log_sums: Mutex<Vec<f32>>,
}

impl Attention {
    fn shape(&self, q: &[usize], k: &[usize]) -> (kernels::AttentionShape, f32) {
        let head_dim = q[2] / self.heads;
        let shape = kernels::AttentionShape {
            batch: q[0],
            query_tokens: q[1],
            key_tokens: k[1],
            heads: self.heads,
            head_dim,
        };
        (shape, 1.0 / (head_dim as f32).sqrt())
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
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
        let (q, k, v) = (input(s1, l1)?, input(s2, l2)?, input(s3, l3)?);
        let (shape, scale) = self.shape(q.dims, k.dims);
        let (y, log_sums) = kernels::attention_with_log_sum(
            q.values,
            k.values,
            v.values,
            shape,
            scale,
            self.causal,
        );
        *self.log_sums.lock().expect("nobody panics while holding it") = log_sums;
        Ok((CpuStorage::F32(y), Shape::from(q.dims)))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        dout: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (shape, scale) = self.shape(q.dims(), k.dims());
        let log_sums = self.log_sums.lock().expect("nobody panics while holding it");
        let causal = self.causal;
        let [dq, dk, dv] = with_values([q, k, v, out, dout], |[q, k, v, out, dout]| {
            let log_sums = &log_sums;
            let pass = kernels::AttentionPass { q, k, v, out, log_sums, shape, scale, causal };
            kernels::attention_backward(&pass, dout)
        })?;
        let like = |values: Vec<f32>, x: &Tensor| Tensor::from_vec(values, x.shape(), x.device());
        Ok((Some(like(dq, q)?), Some(like(dk, k)?), Some(like(dv, v)?)))
    }
}

/// `forward(x, dims)`, with `backward(dy, x, dims)` as its gradient for `x`.
fn apply<F, B>(name: &'static str, x: &Tensor, forward: F, backward: B) -> Result<Tensor>
where
    F: Fn(&[f32], &[usize]) -> (Vec<f32>, Vec<usize>) + Send + Sync + 'static,
    B: Fn(&[f32], &[f32], &[usize]) -> Vec<f32> + Send + Sync + 'static,
{
    Ok(x.contiguous()?.apply_op1(Frozen { name, forward, backward })?)
}

struct Frozen<F, B> {
    name: &'static str,
    forward: F,
    backward: B,
}

impl<F, B> CustomOp1 for Frozen<F, B>
where
    F: Fn(&[f32], &[usize]) -> (Vec<f32>, Vec<usize>),
    B: Fn(&[f32], &[f32], &[usize]) -> Vec<f32>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = input(s, l)?;
        let (y, dims) = (self.forward)(x.values, x.dims);
        Ok((CpuStorage::F32(y), Shape::from(dims)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dx = with_values([x, dy], |[x_values, dy]| (self.backward)(dy, x_values, x.dims()))?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// Shows `body` the numbers of tensors of the CPU, in row-major order.
pub(super) fn with_values<const N: usize, R>(
    tensors: [&Tensor; N],
    body: impl FnOnce([&[f32]; N]) -> R,
) -> candle_core::Result<R> {
    let mut dense = Vec::with_capacity(N);
    for tensor in tensors {
        dense.push(tensor.contiguous()?);
    }
    let held: Vec<_> = dense.iter().map(Tensor::storage_and_layout).collect();
    let mut values = [&[][..]; N];
    for (values, (storage, layout)) in values.iter_mut().zip(&held) {
        let Storage::Cpu(storage) = &**storage else {
            return Err(candle_core::Error::Msg("the kernels run on the CPU only".to_owned()));
        };
        *values = input(storage, layout)?.values;
    }
    Ok(body(values))
}

fn four(dims: &[usize]) -> [usize; 4] {
    dims.try_into().expect("an image has four axes")
}
