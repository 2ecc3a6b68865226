//! Every kernel again, in plain loops over f64: the oracle of the fast ones.
//!
//! Same arguments, same shapes; nothing here is clever.

mod backward;

pub use backward::*;

use crate::{Activation, AttentionShape, Conv, ConvEpilogue, Epilogue, GroupNorm, LowRank, Matrix};

/// See [`crate::linear`].
#[must_use]
pub fn linear(x: &[f32], rows: usize, weight: Matrix<'_>, epilogue: &Epilogue<'_>) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows * weight.rows());
    for row in 0..rows {
        for output in 0..weight.rows() {
            let x = &x[row * weight.cols()..];
            let mut sum = dot(x, weight, output) + branches(x, epilogue.low_rank, output);
            sum += epilogue.bias.map_or(0.0, |bias| f64::from(bias[output]));
            sum = activate_one(sum, epilogue.activation);
            sum += epilogue.residual.map_or(0.0, |residual| f64::from(residual[out.len()]));
            out.push(sum as f32);
        }
    }
    out
}

/// See [`crate::linear_geglu`].
#[must_use]
pub fn linear_geglu(
    x: &[f32],
    rows: usize,
    weight: Matrix<'_>,
    bias: Option<&[f32]>,
    low_rank: &[LowRank<'_>],
) -> Vec<f32> {
    let outputs = weight.rows() / 2;
    let mut out = Vec::with_capacity(rows * outputs);
    for row in 0..rows {
        for output in 0..outputs {
            let [value, gate] = [output, outputs + output].map(|output| {
                let x = &x[row * weight.cols()..];
                dot(x, weight, output)
                    + branches(x, low_rank, output)
                    + bias.map_or(0.0, |bias| f64::from(bias[output]))
            });
            out.push((value * activate_one(gate, Activation::Gelu)) as f32);
        }
    }
    out
}

/// What the branches add to `output`.
fn branches(x: &[f32], low_rank: &[LowRank<'_>], output: usize) -> f64 {
    let branch = |branch: &LowRank<'_>| {
        let ranks = 0..branch.down.rows();
        let sum: f64 =
            ranks.map(|r| dot(x, branch.down, r) * f64::from(branch.up.get(output, r))).sum();
        f64::from(branch.scale) * sum
    };
    low_rank.iter().map(branch).sum()
}

/// See [`crate::linear_quantized`].
#[must_use]
pub fn linear_quantized(
    x: &[f32],
    rows: usize,
    weight: Matrix<'_>,
    epilogue: &Epilogue<'_>,
) -> Vec<f32> {
    let (depth, outputs) = (weight.cols(), weight.rows());
    let mut sums = vec![0.0; rows * outputs];
    let step = depth.div_ceil(depth.div_ceil(512).max(1)).next_multiple_of(16).max(16);
    for start in (0..depth).step_by(step) {
        let inputs = start..depth.min(start + step);
        let rounded: Vec<_> = (0..outputs)
            .map(|output| rounded(inputs.clone().map(|input| weight.get(output, input))))
            .collect();
        for (row, sums) in sums.chunks_exact_mut(outputs).enumerate() {
            let x = &x[row * depth..][inputs.clone()];
            let mean = x.iter().map(|x| x.abs()).sum::<f32>() / x.len() as f32;
            let greatest = x.iter().fold(0.0_f32, |greatest, x| greatest.max(x.abs()));
            let worth = x.iter().all(|x| x.is_finite()) && greatest > 24.0 * mean;
            let is_far = |x: f32| worth && x.abs() > 12.0 * mean;
            let near = x.iter().map(|&x| if is_far(x) { 0.0 } else { x });
            let (a, a_scale) = self::rounded(near);
            for (output, (sum, (b, b_scale))) in sums.iter_mut().zip(&rounded).enumerate() {
                let integer: i64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                *sum += integer as f64 * f64::from(*b_scale) * f64::from(a_scale);
                for (input, far) in inputs.clone().zip(x).filter(|(_, x)| is_far(**x)) {
                    *sum += f64::from(*far) * f64::from(weight.get(output, input));
                }
            }
        }
    }
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum += branches(&x[i / outputs * depth..], epilogue.low_rank, i % outputs);
        *sum += epilogue.bias.map_or(0.0, |bias| f64::from(bias[i % outputs]));
        *sum = activate_one(*sum, epilogue.activation);
        *sum += epilogue.residual.map_or(0.0, |residual| f64::from(residual[i]));
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// Numbers as integers up to 2047 and what one of them stands for.
fn rounded(numbers: impl Iterator<Item = f32>) -> (Vec<i64>, f32) {
    let numbers: Vec<_> = numbers.collect();
    if numbers.iter().any(|x| !x.is_finite()) {
        return (vec![0; numbers.len()], f32::NAN);
    }
    let greatest = numbers.iter().fold(0.0_f32, |greatest, x| greatest.max(x.abs()));
    let inverse = (2047.0 / greatest).min(f32::MAX);
    let integers = numbers.iter().map(|x| (x * inverse).round_ties_even() as i64).collect();
    (integers, 1.0 / inverse)
}

/// See [`crate::linear_geglu_quantized`].
#[must_use]
pub fn linear_geglu_quantized(
    x: &[f32],
    rows: usize,
    weight: Matrix<'_>,
    bias: Option<&[f32]>,
    low_rank: &[LowRank<'_>],
) -> Vec<f32> {
    let sums =
        linear_quantized(x, rows, weight, &Epilogue { low_rank, bias, ..Default::default() });
    let outputs = weight.rows() / 2;
    let gated = sums.chunks_exact(2 * outputs).flat_map(|row| {
        let (values, gates) = row.split_at(outputs);
        values.iter().zip(gates).map(|(value, gate)| {
            let gate = activate_one(f64::from(*gate), Activation::Gelu);
            (f64::from(*value) * gate) as f32
        })
    });
    gated.collect()
}

fn dot(x: &[f32], weight: Matrix<'_>, output: usize) -> f64 {
    (0..weight.cols()).map(|k| f64::from(x[k]) * f64::from(weight.get(output, k))).sum()
}

/// See [`crate::conv2d`].
#[must_use]
pub fn conv2d(
    x: &[f32],
    shape: [usize; 4],
    conv: &Conv<'_>,
    epilogue: &ConvEpilogue<'_>,
) -> (Vec<f32>, [usize; 4]) {
    let [_, h, w, channels] = shape;
    let output_shape = conv.output_shape(shape);
    let [batch, output_h, output_w, outputs] = output_shape;
    let factor = if conv.upsample { 2 } else { 1 };
    let size = conv.kernel;
    let mut out = Vec::new();
    for image in 0..batch {
        for oy in 0..output_h {
            for ox in 0..output_w {
                for output in 0..outputs {
                    let mut sum = 0.0;
                    for ky in 0..size {
                        for kx in 0..size {
                            let y = (oy * conv.stride + ky).wrapping_sub(conv.padding[0]);
                            let x_at = (ox * conv.stride + kx).wrapping_sub(conv.padding[2]);
                            if y >= h * factor || x_at >= w * factor {
                                continue;
                            }
                            let pixel = (image * h + y / factor) * w + x_at / factor;
                            for channel in 0..channels {
                                let tap = (channel * size + ky) * size + kx;
                                sum += f64::from(x[pixel * channels + channel])
                                    * f64::from(conv.weight.get(output, tap));
                            }
                        }
                    }
                    sum += epilogue.bias.map_or(0.0, |bias| f64::from(bias[output]));
                    sum += epilogue
                        .per_image
                        .map_or(0.0, |numbers| f64::from(numbers[image * outputs + output]));
                    sum += epilogue.residual.map_or(0.0, |numbers| f64::from(numbers[out.len()]));
                    out.push(sum as f32);
                }
            }
        }
    }
    (out, output_shape)
}

/// See [`crate::attention`].
#[must_use]
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: AttentionShape,
    scale: f32,
    causal: bool,
) -> Vec<f32> {
    let AttentionShape { batch, query_tokens, key_tokens, heads, head_dim } = shape;
    let width = heads * head_dim;
    let mut out = vec![0.0; q.len()];
    for image in 0..batch {
        for head in 0..heads {
            for query in 0..query_tokens {
                let q_at = (image * query_tokens + query) * width + head * head_dim;
                let seen = if causal { query + 1 } else { key_tokens };
                let at = |key: usize| (image * key_tokens + key) * width + head * head_dim;
                let scores: Vec<f64> = (0..seen)
                    .map(|key| {
                        let products = (0..head_dim)
                            .map(|d| f64::from(q[q_at + d]) * f64::from(k[at(key) + d]));
                        f64::from(scale) * products.sum::<f64>()
                    })
                    .collect();
                let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|x| (x - greatest).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..head_dim {
                    let sum: f64 = weights
                        .iter()
                        .enumerate()
                        .map(|(key, weight)| weight * f64::from(v[at(key) + d]))
                        .sum();
                    out[q_at + d] = (sum / total) as f32;
                }
            }
        }
    }
    out
}

/// See [`crate::group_norm`].
#[must_use]
pub fn group_norm(x: &[f32], shape: [usize; 4], norm: &GroupNorm<'_>, silu: bool) -> Vec<f32> {
    let [batch, height, width, channels] = shape;
    let (positions, members) = (height * width, channels / norm.groups);
    let mut out = vec![0.0; x.len()];
    for image in 0..batch {
        for group in 0..norm.groups {
            let indices: Vec<usize> = (0..positions)
                .flat_map(|p| (0..members).map(move |c| (p, group * members + c)))
                .map(|(p, c)| (image * positions + p) * channels + c)
                .collect();
            let values: Vec<f64> = indices.iter().map(|&i| f64::from(x[i])).collect();
            for (&i, value) in indices.iter().zip(normed(&values, norm.eps)) {
                let channel = i % channels;
                let y = value * f64::from(norm.weight[channel]) + f64::from(norm.bias[channel]);
                let activation = if silu { Activation::Silu } else { Activation::None };
                out[i] = activate_one(y, activation) as f32;
            }
        }
    }
    out
}

/// See [`crate::layer_norm`].
#[must_use]
pub fn layer_norm(x: &[f32], width: usize, eps: f32, weight: &[f32], bias: &[f32]) -> Vec<f32> {
    x.chunks_exact(width)
        .flat_map(|row| {
            let values: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
            let affine =
                |(i, y): (usize, f64)| (y * f64::from(weight[i]) + f64::from(bias[i])) as f32;
            normed(&values, eps).into_iter().enumerate().map(affine).collect::<Vec<_>>()
        })
        .collect()
}

fn normed(values: &[f64], eps: f32) -> Vec<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    values.iter().map(|x| (x - mean) / (variance + f64::from(eps)).sqrt()).collect()
}

/// See [`crate::activate`].
#[must_use]
pub fn activate(x: &[f32], activation: Activation) -> Vec<f32> {
    x.iter().map(|&x| activate_one(f64::from(x), activation) as f32).collect()
}

fn activate_one(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::None => x,
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
    }
}

/// The error function by its Maclaurin series; beyond 6 it is ±1 in f64.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    // e^(−x²) Σ 2ⁿ x^(2n+1) / (1·3·…·(2n+1)): all terms of one sign, so nothing cancels.
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}
