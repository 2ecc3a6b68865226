//! Attention with a running softmax: no score matrix is ever whole in memory.
//!
//! A task takes some queries of one head through all keys, a block of keys at a time: scores
//! of the block, their exponentials against the greatest score so far, the sum of values
//! rescaled whenever that greatest score grows.
//!
//! Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135.

use std::ops::Range;

use crate::buffer::{Output, Shared, with_scratch};
use crate::gemm::{Product, multiply_block};
use crate::isa::{Isa, per_isa};
use crate::math::exp;
use crate::matrix::{Dtype, as_bytes};
use crate::pack::{PANEL, Rows, pack, packed_len};
use crate::parallel;
use crate::simd::{LANES, Simd, update};

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Tokens that ask.
    pub query_tokens: usize,
    /// Tokens that are looked at; there must be one.
    pub key_tokens: usize,
    /// Heads side by side in the last axis.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// Queries whose scores are computed together.
const QUERY_BLOCK: usize = 96;
/// Most queries of a task; enough to make packing keys and values cheap.
const TASK_QUERIES: usize = 768;

/// `softmax(scale · q kᵀ) v` for each head.
///
/// With `causal`, a token sees itself and those before it. A query's result depends on that
/// query and its sequence's keys and values only, bit for bit.
///
/// # Shapes
/// - `q`, result: `[B, query_tokens, heads · head_dim]`
/// - `k`, `v`: `[B, key_tokens, heads · head_dim]`
///
/// # Panics
/// If a length does not fit, there are no keys, or `causal` is asked for with different
/// numbers of queries and keys.
#[must_use]
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: AttentionShape,
    scale: f32,
    causal: bool,
) -> Vec<f32> {
    let isa = Isa::current();
    let AttentionShape { batch, query_tokens, key_tokens, heads, head_dim } = shape;
    let width = heads * head_dim;
    assert_eq!(q.len(), batch * query_tokens * width, "queries of {shape:?}");
    assert_eq!(k.len(), batch * key_tokens * width, "keys of {shape:?}");
    assert_eq!(v.len(), batch * key_tokens * width, "values of {shape:?}");
    assert!(key_tokens > 0, "attention needs something to look at");
    assert!(!causal || query_tokens == key_tokens, "causal attention of {shape:?}");

    let mut output = Output::new(q.len());
    let memory = output.shared();
    let work = 2 * batch * heads * query_tokens * key_tokens * head_dim;
    let wanted = parallel::wanted_tasks(work).div_ceil((batch * heads).max(1));
    let parts = query_tokens.div_ceil(TASK_QUERIES).max(wanted.min(query_tokens.div_ceil(192)));
    let step = query_tokens.div_ceil(parts.max(1)).next_multiple_of(6).max(6);
    let parts = query_tokens.div_ceil(step);
    parallel::for_each(batch * heads * parts, work, |index| {
        let (head, part) = (index / parts, index % parts);
        let queries = part * step..query_tokens.min((part + 1) * step);
        let task = Task { isa, q, k, v, shape, scale, causal, memory };
        // SAFETY: tasks do not overlap; each writes all of its part.
        unsafe { task.run(head / heads, head % heads, queries) };
    });
    // SAFETY: every task has run.
    unsafe { output.finish() }
}

struct Task<'a> {
    isa: Isa,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    shape: AttentionShape,
    scale: f32,
    causal: bool,
    memory: Shared,
}

/// Keys whose scores are computed together; a matter of the layer only.
fn key_block(head_dim: usize) -> usize {
    // Packed keys and values of a block, 64 KB each, stay in the second-level cache.
    (16_384 / head_dim.max(1) / PANEL * PANEL).clamp(64, 256)
}

impl Task<'_> {
    /// # Safety
    /// Nobody else may touch these queries' part of the output.
    unsafe fn run(&self, image: usize, head: usize, queries: Range<usize>) {
        let AttentionShape { query_tokens, key_tokens, heads, head_dim, .. } = self.shape;
        let width = heads * head_dim;
        let most_keys = key_block(head_dim).min(key_tokens);
        let most_queries = QUERY_BLOCK.min(queries.len());
        let stride = most_keys.next_multiple_of(PANEL);
        let lengths = [
            packed_len(most_keys, head_dim),
            packed_len(head_dim, most_keys),
            most_queries * stride,
            queries.len(),
            queries.len(),
        ];
        let first_query = (image * query_tokens + queries.start) * width + head * head_dim;
        with_scratch(lengths, |[keys, values, scores, greatest, sums]| {
            for first in (0..key_tokens).step_by(most_keys) {
                if self.causal && first >= queries.end {
                    break;
                }
                let count = most_keys.min(key_tokens - first);
                let start = (image * key_tokens + first) * width + head * head_dim;
                let bytes = as_bytes(&self.k[start..]);
                let rows = Rows { dtype: Dtype::F32, bytes, stride: width };
                pack(self.isa, rows, 0..count, 0..head_dim, None, keys);
                pack_values(&self.v[start..], width, head_dim, count, values);
                for local in (0..queries.len()).step_by(QUERY_BLOCK) {
                    let rows = QUERY_BLOCK.min(queries.len() - local);
                    if self.causal && first >= queries.start + local + rows {
                        continue; // all of these keys are in the future
                    }
                    let at = first_query + local * width;
                    let product = Product {
                        a: &self.q[at..],
                        a_stride: width,
                        rows,
                        panels: keys,
                        depth: head_dim,
                        columns: count,
                        c: scores.as_mut_ptr(),
                        c_stride: stride,
                        accumulate: false,
                    };
                    product.check(scores.len());
                    // SAFETY: `check` has seen that it fits; the scores are ours.
                    unsafe { multiply_block(self.isa, &product) };
                    let mut block = Scores {
                        values: &mut *scores,
                        stride,
                        count,
                        scale: self.scale,
                        first: first == 0,
                        visible: self.causal.then_some((queries.start + local + 1, first)),
                    };
                    let running =
                        (&mut greatest[local..local + rows], &mut sums[local..local + rows]);
                    let out =
                        Head { memory: self.memory, start: at, stride: width, width: head_dim };
                    softmax_block(self.isa, &mut block, running, out);
                    let product = Product {
                        a: scores,
                        a_stride: stride,
                        rows,
                        panels: values,
                        depth: count,
                        columns: head_dim,
                        c: self.memory.at(at),
                        c_stride: width,
                        accumulate: first > 0,
                    };
                    product.check(self.memory.after(at));
                    // SAFETY: `check` has seen that it fits; ours by the caller.
                    unsafe { multiply_block(self.isa, &product) };
                }
            }
            let out =
                Head { memory: self.memory, start: first_query, stride: width, width: head_dim };
            normalise(self.isa, &sums[..queries.len()], out);
        });
    }
}

/// Packs values: the panels' outputs are the head's channels, the inputs its keys.
fn pack_values(v: &[f32], stride: usize, head_dim: usize, keys: usize, packed: &mut [f32]) {
    let panels = packed.chunks_exact_mut(PANEL * keys);
    for (first, panel) in (0..head_dim).step_by(PANEL).zip(panels) {
        let (lines, _) = panel.as_chunks_mut::<PANEL>();
        let width = PANEL.min(head_dim - first);
        for (key, line) in lines.iter_mut().enumerate() {
            let start = key * stride + first;
            if let (PANEL, Some(channels)) = (width, v[start..].first_chunk::<PANEL>()) {
                *line = *channels;
            } else {
                line[..width].copy_from_slice(&v[start..start + width]);
                line[width..].fill(0.0);
            }
        }
    }
}

/// Where a head's result lies in the output.
#[derive(Clone, Copy)]
struct Head {
    memory: Shared,
    start: usize,
    stride: usize,
    width: usize,
}

impl Head {
    /// # Safety
    /// The row must be this task's, written, and referenced once.
    #[expect(clippy::mut_from_ref, reason = "one reference at a time is the caller's promise")]
    #[inline(always)]
    unsafe fn row(&self, row: usize) -> &mut [f32] {
        let start = self.start + row * self.stride;
        // SAFETY: the caller's promise.
        unsafe { self.memory.part(start..start + self.width) }
    }
}

/// Scores of some queries with a block of keys.
struct Scores<'a> {
    values: &'a mut [f32],
    stride: usize,
    count: usize,
    scale: f32,
    first: bool,
    /// Causal: how many keys the first query may see in all, and how many came before the block.
    visible: Option<(usize, usize)>,
}

per_isa! {
    /// Turns scores into weights against the greatest score so far, and rescales what was
    /// summed before when that has grown.
    fn softmax_block(
        block: &mut Scores<'_>,
        running: (&mut [f32], &mut [f32]),
        out: Head,
    ) = softmax_block_body
}

#[inline(always)]
fn softmax_block_body<S: Simd>(
    s: S,
    block: &mut Scores<'_>,
    (greatest, sums): (&mut [f32], &mut [f32]),
    out: Head,
) {
    let scale = s.splat(block.scale);
    let rows = block.values.chunks_exact_mut(block.stride);
    for (row, (scores, (greatest, sum))) in
        rows.zip(greatest.iter_mut().zip(sums.iter_mut())).enumerate()
    {
        // Hidden keys, and the rest of the last vector, weigh nothing.
        let seen = block.visible.map_or(block.count, |(visible, before)| {
            block.count.min((visible + row).saturating_sub(before))
        });
        let vectors = block.count.div_ceil(LANES);
        scores[seen..vectors * LANES].fill(f32::NEG_INFINITY);
        let (vectors, _) = scores[..vectors * LANES].as_chunks_mut::<LANES>();

        let mut most = s.splat(f32::NEG_INFINITY);
        for vector in &mut *vectors {
            let score = s.mul(s.load(vector), scale);
            s.store(score, vector);
            most = s.max(score, most);
        }
        let before = if block.first { f32::NEG_INFINITY } else { *greatest };
        let now = before.max(s.greatest(most));
        if now == f32::NEG_INFINITY {
            // Nothing seen yet: weights stay zero, not NaN.
            vectors.as_flattened_mut().fill(0.0);
            (*greatest, *sum) = (now, 0.0);
            continue;
        }
        let mut total = s.splat(0.0);
        let offset = s.splat(now);
        for vector in vectors {
            let weight = exp(s, s.sub(s.load(vector), offset));
            s.store(weight, vector);
            total = s.add(total, weight);
        }
        let total = s.sum(total);
        if block.first {
            *sum = total;
        } else {
            let shrink = s.lanes(exp(s, s.splat(before - now)))[0];
            *sum = *sum * shrink + total;
            if now > before {
                let shrink = s.splat(shrink);
                // SAFETY: this task's row, written with the first block of keys.
                let values = unsafe { out.row(row) };
                update(
                    s,
                    values,
                    #[inline(always)]
                    |value| s.mul(value, shrink),
                );
            }
        }
        *greatest = now;
    }
}

per_isa! {
    /// Divides each row of the result by its sum of weights.
    fn normalise(sums: &[f32], out: Head) = normalise_body
}

#[inline(always)]
fn normalise_body<S: Simd>(s: S, sums: &[f32], out: Head) {
    for (row, sum) in sums.iter().enumerate() {
        let factor = s.splat(1.0 / sum);
        // SAFETY: this task's row, complete.
        let values = unsafe { out.row(row) };
        update(
            s,
            values,
            #[inline(always)]
            |value| s.mul(value, factor),
        );
    }
}
