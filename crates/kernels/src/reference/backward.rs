//! The backward kernels again, in plain loops over f64.

use super::{activate_one, erf};
use crate::{Activation, AttentionPass, AttentionShape, Conv, GroupNorm, Matrix};

/// The second result of [`crate::attention_with_log_sum`].
#[must_use]
pub fn attention_log_sums(
    q: &[f32],
    k: &[f32],
    shape: AttentionShape,
    scale: f32,
    causal: bool,
) -> Vec<f32> {
    let mut out = Vec::new();
    for head in 0..shape.batch * shape.heads {
        for query in 0..shape.query_tokens {
            let scores = scores(q, k, shape, (head, query), scale, causal);
            let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|x| (x - greatest).exp()).sum();
            out.push((greatest + sum.ln()) as f32);
        }
    }
    out
}

/// The scores of the keys that a query of a head (counted over all sequences) sees.
fn scores(
    q: &[f32],
    k: &[f32],
    shape: AttentionShape,
    (head, query): (usize, usize),
    scale: f32,
    causal: bool,
) -> Vec<f64> {
    let AttentionShape { query_tokens, key_tokens, heads, head_dim, .. } = shape;
    let seen = if causal { query + 1 } else { key_tokens };
    let q = row(q, query_tokens, shape, (head / heads, head % heads, query));
    (0..seen)
        .map(|key| {
            let k = row(k, key_tokens, shape, (head / heads, head % heads, key));
            let products = (0..head_dim).map(|d| f64::from(q[d]) * f64::from(k[d]));
            f64::from(scale) * products.sum::<f64>()
        })
        .collect()
}

/// A token's channels of a head.
fn row(
    x: &[f32],
    tokens: usize,
    shape: AttentionShape,
    (image, head, token): (usize, usize, usize),
) -> &[f32] {
    let start = ((image * tokens + token) * shape.heads + head) * shape.head_dim;
    &x[start..start + shape.head_dim]
}

/// See [`crate::attention_backward`]; takes neither the result nor its log-sums.
#[must_use]
pub fn attention_backward(pass: &AttentionPass<'_>, dout: &[f32]) -> [Vec<f32>; 3] {
    let &AttentionPass { q, k, v, shape, scale, causal, .. } = pass;
    let AttentionShape { batch, query_tokens, key_tokens, heads, head_dim } = shape;
    let mut gradients = [q.len(), k.len(), v.len()].map(|length| vec![0.0; length]);
    for (head, query) in
        (0..batch * heads).flat_map(|head| (0..query_tokens).map(move |query| (head, query)))
    {
        let at = |tokens: usize, token: usize| {
            ((head / heads * tokens + token) * heads + head % heads) * head_dim
        };
        let scores = scores(q, k, shape, (head, query), scale, causal);
        let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|x| (x - greatest).exp()).sum();
        let weights: Vec<f64> = scores.iter().map(|x| (x - greatest).exp() / total).collect();
        let q_at = at(query_tokens, query);
        let slopes: Vec<f64> = (0..weights.len())
            .map(|key| {
                let v_at = at(key_tokens, key);
                (0..head_dim).map(|d| f64::from(dout[q_at + d]) * f64::from(v[v_at + d])).sum()
            })
            .collect();
        let mean: f64 = weights.iter().zip(&slopes).map(|(weight, slope)| weight * slope).sum();
        for (key, (weight, slope)) in weights.iter().zip(&slopes).enumerate() {
            let score = f64::from(scale) * weight * (slope - mean);
            for d in 0..head_dim {
                let k_at = at(key_tokens, key) + d;
                gradients[0][q_at + d] += score * f64::from(k[k_at]);
                gradients[1][k_at] += score * f64::from(q[q_at + d]);
                gradients[2][k_at] += weight * f64::from(dout[q_at + d]);
            }
        }
    }
    gradients.map(|gradient| gradient.into_iter().map(|x| x as f32).collect())
}

/// See [`crate::linear_backward`].
#[must_use]
pub fn linear_backward(dy: &[f32], rows: usize, weight: Matrix<'_>) -> Vec<f32> {
    let mut dx = Vec::with_capacity(rows * weight.cols());
    for dy in dy.chunks_exact(weight.rows()).take(rows) {
        for input in 0..weight.cols() {
            let terms = dy.iter().enumerate();
            let sum: f64 = terms
                .map(|(output, dy)| f64::from(*dy) * f64::from(weight.get(output, input)))
                .sum();
            dx.push(sum as f32);
        }
    }
    dx
}

/// See [`crate::outer_sum`].
#[must_use]
pub fn outer_sum(a: &[f32], b: &[f32], rows: usize) -> Vec<f32> {
    let (rank, width) = (a.len() / rows, b.len() / rows);
    let sum = |k: usize, column: usize| -> f64 {
        let term = |row| f64::from(a[row * rank + k]) * f64::from(b[row * width + column]);
        (0..rows).map(term).sum()
    };
    (0..rank * width).map(|index| sum(index / width, index % width) as f32).collect()
}

/// See [`crate::conv2d_filters_backward`].
#[must_use]
pub fn conv2d_filters_backward(
    dy: &[f32],
    x: &[f32],
    conv: &Conv<'_>,
    shape: [usize; 4],
) -> Vec<f32> {
    let [batch, h, w, channels] = shape;
    let [_, output_h, output_w, outputs] = conv.output_shape(shape);
    let factor = if conv.upsample { 2 } else { 1 };
    let mut gradient = Vec::new();
    for (output, channel) in (0..outputs).flat_map(|o| (0..channels).map(move |c| (o, c))) {
        for (ky, kx) in (0..conv.kernel).flat_map(|ky| (0..conv.kernel).map(move |kx| (ky, kx))) {
            let mut sum = 0.0;
            for (pixel, dy) in
                dy.chunks_exact(outputs).enumerate().take(batch * output_h * output_w)
            {
                let (image, place) = (pixel / (output_h * output_w), pixel % (output_h * output_w));
                let y = (place / output_w * conv.stride + ky).wrapping_sub(conv.padding[0]);
                let column = (place % output_w * conv.stride + kx).wrapping_sub(conv.padding[2]);
                if y < h * factor && column < w * factor {
                    let read = (image * h + y / factor) * w + column / factor;
                    sum += f64::from(dy[output]) * f64::from(x[read * channels + channel]);
                }
            }
            gradient.push(sum as f32);
        }
    }
    gradient
}

/// See [`crate::conv2d_backward`].
#[must_use]
pub fn conv2d_backward(dy: &[f32], conv: &Conv<'_>, shape: [usize; 4]) -> Vec<f32> {
    let [batch, h, w, channels] = shape;
    let [_, output_h, output_w, outputs] = conv.output_shape(shape);
    let factor = if conv.upsample { 2 } else { 1 };
    let size = conv.kernel;
    let mut dx = vec![0.0; batch * h * w * channels];
    let pixels = (0..batch)
        .flat_map(|image| (0..output_h).map(move |oy| (image, oy)))
        .flat_map(|(image, oy)| (0..output_w).map(move |ox| (image, oy, ox)));
    for (pixel, (image, oy, ox)) in pixels.enumerate() {
        for (ky, kx) in (0..size).flat_map(|ky| (0..size).map(move |kx| (ky, kx))) {
            let y = (oy * conv.stride + ky).wrapping_sub(conv.padding[0]);
            let x = (ox * conv.stride + kx).wrapping_sub(conv.padding[2]);
            if y >= h * factor || x >= w * factor {
                continue;
            }
            let read = (image * h + y / factor) * w + x / factor;
            for output in 0..outputs {
                let dy = f64::from(dy[pixel * outputs + output]);
                for channel in 0..channels {
                    let tap = (channel * size + ky) * size + kx;
                    dx[read * channels + channel] += dy * f64::from(conv.weight.get(output, tap));
                }
            }
        }
    }
    dx.into_iter().map(|x| x as f32).collect()
}

/// See [`crate::layer_norm_backward`].
#[must_use]
pub fn layer_norm_backward(
    dy: &[f32],
    x: &[f32],
    width: usize,
    eps: f32,
    weight: &[f32],
) -> Vec<f32> {
    let rows = dy.chunks_exact(width).zip(x.chunks_exact(width));
    rows.flat_map(|(dy, x)| {
        let g: Vec<f64> =
            dy.iter().zip(weight).map(|(dy, weight)| f64::from(*dy) * f64::from(*weight)).collect();
        before_norm(&g, x, eps)
    })
    .collect()
}

/// See [`crate::group_norm_backward`].
#[must_use]
pub fn group_norm_backward(
    dy: &[f32],
    x: &[f32],
    shape: [usize; 4],
    norm: &GroupNorm<'_>,
    silu: bool,
) -> Vec<f32> {
    let [batch, height, width, channels] = shape;
    let (positions, members) = (height * width, channels / norm.groups);
    // What SiLU read.
    let normed = super::group_norm(x, shape, norm, false);
    let activation = if silu { Activation::Silu } else { Activation::None };
    let dz = activate_backward(dy, &normed, activation);
    let mut dx = vec![0.0; x.len()];
    for (image, group) in (0..batch).flat_map(|i| (0..norm.groups).map(move |group| (i, group))) {
        let indices: Vec<usize> = (0..positions)
            .flat_map(|p| (0..members).map(move |c| (p, group * members + c)))
            .map(|(p, c)| (image * positions + p) * channels + c)
            .collect();
        let g: Vec<f64> = indices
            .iter()
            .map(|&i| f64::from(dz[i]) * f64::from(norm.weight[i % channels]))
            .collect();
        let x: Vec<f32> = indices.iter().map(|&i| x[i]).collect();
        for (&i, gradient) in indices.iter().zip(before_norm(&g, &x, norm.eps)) {
            dx[i] = gradient;
        }
    }
    dx
}

/// The gradient for what was normed, given that for the normed.
fn before_norm(g: &[f64], x: &[f32], eps: f32) -> Vec<f32> {
    let count = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
    let inverse = 1.0 / (variance + f64::from(eps)).sqrt();
    let normed: Vec<f64> = x.iter().map(|&x| (f64::from(x) - mean) * inverse).collect();
    let first = g.iter().sum::<f64>() / count;
    let second = g.iter().zip(&normed).map(|(g, x)| g * x).sum::<f64>() / count;
    g.iter().zip(&normed).map(|(g, x)| ((g - first - x * second) * inverse) as f32).collect()
}

/// See [`crate::activate_backward`].
#[must_use]
pub fn activate_backward(dy: &[f32], x: &[f32], activation: Activation) -> Vec<f32> {
    dy.iter()
        .zip(x)
        .map(|(dy, x)| (f64::from(*dy) * slope(f64::from(*x), activation)) as f32)
        .collect()
}

/// See [`crate::geglu_backward`].
#[must_use]
pub fn geglu_backward(dy: &[f32], halves: &[f32], outputs: usize) -> Vec<f32> {
    let rows = dy.chunks_exact(outputs).zip(halves.chunks_exact(2 * outputs));
    rows.flat_map(|(dy, halves)| {
        let (values, gates) = halves.split_at(outputs);
        let dvalues = dy
            .iter()
            .zip(gates)
            .map(|(dy, gate)| f64::from(*dy) * activate_one(f64::from(*gate), Activation::Gelu));
        let dgates = dy.iter().zip(values).zip(gates).map(|((dy, value), gate)| {
            f64::from(*dy) * f64::from(*value) * slope(f64::from(*gate), Activation::Gelu)
        });
        dvalues.chain(dgates).map(|x| x as f32).collect::<Vec<_>>()
    })
    .collect()
}

fn slope(x: f64, activation: Activation) -> f64 {
    let sigmoid = |factor: f64| {
        let s = 1.0 / (1.0 + (-factor * x).exp());
        s + factor * x * s * (1.0 - s)
    };
    match activation {
        Activation::None => 1.0,
        Activation::Silu => sigmoid(1.0),
        Activation::QuickGelu => sigmoid(1.702),
        Activation::Gelu => {
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)) + x * density
        }
    }
}
