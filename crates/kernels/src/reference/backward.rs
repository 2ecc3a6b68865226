//! The backward kernels again, in plain loops over f64.

use crate::AttentionShape;

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
