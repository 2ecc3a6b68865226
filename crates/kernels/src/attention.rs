//! Attention with a running softmax: no score matrix is ever whole in memory.
//!
//! A task takes some queries of one head through all keys, a block of keys at a time: scores
//! of the block, their exponentials against the greatest score so far, the sum of values
//! rescaled by how much that greatest score has grown. [`panel`] does this for 16 queries.
//!
//! Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135.

mod backward;
mod panel;

use std::f32::consts::LOG2_E;
use std::ops::Range;

use crate::buffer::{Output, Shared, with_scratch};
use crate::isa::Isa;
use crate::parallel;
use crate::simd::prefetch;
pub use backward::{AttentionPass, attention_backward};
use panel::{Block, QUERIES, attend, finish_panel, pack_lines, panel_len};
use panel::{keys_len, pack_keys, pack_values, values_len, weights_len};

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

/// Queries, keys or values that may lie in a wider matrix, such as the product of one layer
/// for all three.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// From the first number of the first token on.
    pub values: &'a [f32],
    /// From a token to the next, and from the last of a sequence to the next sequence's first.
    pub stride: usize,
}

impl Tokens<'_> {
    fn check(&self, what: &str, tokens: usize, width: usize) {
        let enough = tokens == 0 || (tokens - 1) * self.stride + width <= self.values.len();
        assert!(enough && self.stride >= width, "{what} of an attention: {tokens} × {width}");
    }
}

/// Most queries of a task; enough to make packing keys and values cheap.
const TASK_QUERIES: usize = 412 * QUERIES;
/// Fewest, where more tasks are wanted than that gives.
const FEWEST_QUERIES: usize = 12 * QUERIES;

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
/// If a length does not fit, there are no keys, heads have no numbers, or `causal` is asked for
/// with different numbers of queries and keys.
#[must_use]
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: AttentionShape,
    scale: f32,
    causal: bool,
) -> Vec<f32> {
    attention_strided(dense(q, k, v, shape), shape, scale, causal)
}

/// As [`attention`], with a stride for each of `[q, k, v]`; the result is dense.
///
/// # Panics
/// As [`attention`].
#[must_use]
pub fn attention_strided(
    qkv: [Tokens<'_>; 3],
    shape: AttentionShape,
    scale: f32,
    causal: bool,
) -> Vec<f32> {
    run(qkv, shape, scale, causal, None)
}

/// As [`attention`], and the logarithm of each query's sum of `exp(scale · q kᵀ)`.
///
/// # Shapes
/// - second result: `[B, heads, query_tokens]`
///
/// # Panics
/// As [`attention`].
#[must_use]
pub fn attention_with_log_sum(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: AttentionShape,
    scale: f32,
    causal: bool,
) -> (Vec<f32>, Vec<f32>) {
    let mut log_sums = Output::new(shape.batch * shape.heads * shape.query_tokens);
    let memory = log_sums.shared();
    let result = run(dense(q, k, v, shape), shape, scale, causal, Some(memory));
    // SAFETY: every query of every head has written its own.
    (result, unsafe { log_sums.finish() })
}

fn dense<'a>(q: &'a [f32], k: &'a [f32], v: &'a [f32], shape: AttentionShape) -> [Tokens<'a>; 3] {
    let AttentionShape { batch, query_tokens, key_tokens, heads, head_dim } = shape;
    let stride = heads * head_dim;
    assert_eq!(q.len(), batch * query_tokens * stride, "queries of {shape:?}");
    assert_eq!(k.len(), batch * key_tokens * stride, "keys of {shape:?}");
    assert_eq!(v.len(), batch * key_tokens * stride, "values of {shape:?}");
    [q, k, v].map(|values| Tokens { values, stride })
}

fn run(
    qkv: [Tokens<'_>; 3],
    shape: AttentionShape,
    scale: f32,
    causal: bool,
    log_sums: Option<Shared>,
) -> Vec<f32> {
    let isa = Isa::current();
    let AttentionShape { batch, query_tokens, key_tokens, heads, head_dim } = shape;
    let width = heads * head_dim;
    qkv[0].check("queries", batch * query_tokens, width);
    qkv[1].check("keys", batch * key_tokens, width);
    qkv[2].check("values", batch * key_tokens, width);
    assert!(key_tokens > 0, "attention needs something to look at");
    assert!(!causal || query_tokens == key_tokens, "causal attention of {shape:?}");

    assert!(head_dim > 0, "heads of no numbers");
    let mut output = Output::new(batch * query_tokens * width);
    let task = Task { isa, qkv, shape, scale, causal, memory: output.shared(), log_sums };
    let work = 2 * batch * heads * query_tokens * key_tokens * head_dim;
    // Heads that a task takes together.
    let together = if key_tokens <= key_block(head_dim) { heads_together(shape) } else { 1 };
    let groups = heads.div_ceil(together);
    let (step, parts) = split(query_tokens, batch * groups, work);
    parallel::for_each(batch * groups * parts, work, |index| {
        let (group, part) = (index / parts, index % parts);
        let queries = part * step..query_tokens.min((part + 1) * step);
        let (image, first) = (group / groups, group % groups * together);
        // SAFETY: tasks do not overlap; each writes all of its part.
        unsafe {
            if together == 1 {
                task.run(image, first, queries);
            } else {
                task.run_heads(image, first..heads.min(first + together), queries);
            }
        }
    });
    // SAFETY: every task has run.
    unsafe { output.finish() }
}

/// How many heads a task takes together where keys are few: their packed keys and values, 256 KB
/// at most, stay in the second-level cache, and neighbouring numbers of a query are read and
/// written together.
fn heads_together(shape: AttentionShape) -> usize {
    let most = 65_536 / (2 * shape.key_tokens * shape.head_dim).max(1);
    let groups = shape.heads.div_ceil(most.max(1)).max(1);
    shape.heads.div_ceil(groups).max(1)
}

/// How many of a head's tokens a task takes, and how many tasks that makes.
fn split(tokens: usize, heads: usize, work: usize) -> (usize, usize) {
    let wanted = parallel::wanted_tasks(work).div_ceil(heads.max(1));
    let most = tokens.div_ceil(FEWEST_QUERIES);
    let parts = tokens.div_ceil(TASK_QUERIES).max(wanted.min(most)).max(1);
    let step = tokens.div_ceil(parts).next_multiple_of(QUERIES).max(QUERIES);
    (step, tokens.div_ceil(step))
}

struct Task<'a> {
    isa: Isa,
    qkv: [Tokens<'a>; 3],
    shape: AttentionShape,
    scale: f32,
    causal: bool,
    memory: Shared,
    log_sums: Option<Shared>,
}

/// Keys whose scores are computed together; a matter of the layer only.
///
/// The scores of a panel with them (12 KB) stay in the first-level cache, packed keys and
/// values (192 KB at most) in the second-level one.
fn key_block(head_dim: usize) -> usize {
    (24_576 / head_dim.max(1) / 6 * 6).clamp(48, 192)
}

/// Sixteen queries of one head, or what is left of them.
#[derive(Clone, Copy)]
struct Place {
    image: usize,
    head: usize,
    query: usize,
    lanes: usize,
}

/// Packed keys and values of a block, and what their scores are written to.
struct Buffers<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    weights: &'a mut [f32],
}

impl Task<'_> {
    /// Takes queries of one head through all keys, block by block.
    ///
    /// # Safety
    /// Nobody else may touch these queries' part of the output.
    unsafe fn run(&self, image: usize, head: usize, queries: Range<usize>) {
        let AttentionShape { key_tokens, head_dim, .. } = self.shape;
        let most_keys = key_block(head_dim).min(key_tokens);
        let panel_len = panel_len(head_dim);
        let lengths = [
            keys_len(most_keys, head_dim),
            values_len(most_keys, head_dim),
            weights_len(most_keys),
            queries.len().div_ceil(QUERIES) * panel_len,
        ];
        with_scratch(lengths, |[keys, values, weights, panels]| {
            for first in (0..key_tokens).step_by(most_keys) {
                if self.causal && first >= queries.end {
                    break;
                }
                let block = first..key_tokens.min(first + most_keys);
                self.pack(image, head, block.clone(), keys, values);
                let panels = panels.chunks_exact_mut(panel_len);
                for (query, panel) in queries.clone().step_by(QUERIES).zip(panels) {
                    let lanes = QUERIES.min(queries.end - query);
                    let place = Place { image, head, query, lanes };
                    if first == 0 {
                        // The next queries come while these are at work.
                        let next = query + lanes;
                        self.fetch(Place { query: next, ..place }, queries.end);
                    }
                    let mut buffers = Buffers { keys, values, weights };
                    // SAFETY: these queries are this task's, by the caller.
                    unsafe { self.advance(place, block.clone(), &mut buffers, panel) };
                }
            }
        });
    }

    /// Takes queries through all keys of several heads, which are one block each.
    ///
    /// # Safety
    /// Nobody else may touch these queries' part of the output.
    unsafe fn run_heads(&self, image: usize, heads: Range<usize>, queries: Range<usize>) {
        let AttentionShape { key_tokens, head_dim, .. } = self.shape;
        let (keys_len, values_len) =
            (keys_len(key_tokens, head_dim), values_len(key_tokens, head_dim));
        let lengths = [
            heads.len() * keys_len,
            heads.len() * values_len,
            weights_len(key_tokens),
            panel_len(head_dim),
        ];
        with_scratch(lengths, |[keys, values, weights, panel]| {
            let packed = keys.chunks_exact_mut(keys_len).zip(values.chunks_exact_mut(values_len));
            for (head, (keys, values)) in heads.clone().zip(packed) {
                self.pack(image, head, 0..key_tokens, keys, values);
            }
            for query in queries.clone().step_by(QUERIES) {
                let lanes = QUERIES.min(queries.end - query);
                let packed = keys.chunks_exact(keys_len).zip(values.chunks_exact(values_len));
                for (head, (keys, values)) in heads.clone().zip(packed) {
                    let place = Place { image, head, query, lanes };
                    let next = if head + 1 < heads.end {
                        Place { head: head + 1, ..place }
                    } else {
                        Place { head: heads.start, query: query + lanes, ..place }
                    };
                    self.fetch(next, queries.end);
                    let mut buffers = Buffers { keys, values, weights };
                    // SAFETY: these queries are this task's, by the caller.
                    unsafe { self.advance(place, 0..key_tokens, &mut buffers, panel) };
                }
            }
        });
    }

    /// Asks for a place's queries, of which there may be none before `end`.
    fn fetch(&self, place: Place, end: usize) {
        let AttentionShape { query_tokens, head_dim, .. } = self.shape;
        for query in place.query..end.min(place.query + QUERIES) {
            let start = self.start(self.qkv[0], place.image * query_tokens + query, place.head);
            let row = &self.qkv[0].values[start..start + head_dim];
            row.chunks(16).for_each(|line| prefetch(line.as_ptr()));
        }
    }

    fn start(&self, tokens: Tokens<'_>, token: usize, head: usize) -> usize {
        token * tokens.stride + head * self.shape.head_dim
    }

    /// Packs a block of keys and values.
    fn pack(
        &self,
        image: usize,
        head: usize,
        block: Range<usize>,
        keys: &mut [f32],
        values: &mut [f32],
    ) {
        let [_, k, v] = self.qkv;
        let token = image * self.shape.key_tokens + block.start;
        let k_at = (&k.values[self.start(k, token, head)..], k.stride);
        let v_at = (&v.values[self.start(v, token, head)..], v.stride);
        pack_keys(self.isa, k_at, self.shape.head_dim, block.len(), keys);
        pack_values(v_at, self.shape.head_dim, block.len(), values);
    }

    /// Takes a panel through a block of keys; with the first one it begins, with the last one
    /// that it sees its result is written.
    ///
    /// # Safety
    /// Nobody else may touch these queries' part of the output.
    unsafe fn advance(
        &self,
        place: Place,
        block: Range<usize>,
        buffers: &mut Buffers<'_>,
        panel: &mut [f32],
    ) {
        let AttentionShape { query_tokens, key_tokens, heads, head_dim, .. } = self.shape;
        let Place { image, head, query, lanes } = place;
        let q = self.qkv[0];
        let seen = if self.causal { query + lanes } else { key_tokens };
        if block.start >= seen {
            return;
        }
        let token = image * query_tokens + query;
        if block.start == 0 {
            let q_at = &q.values[self.start(q, token, head)..];
            let scale = self.scale * LOG2_E;
            pack_lines(self.isa, (q_at, q.stride), head_dim, lanes, scale, panel);
        }
        let view = Block {
            keys: buffers.keys,
            values: buffers.values,
            stride: block.len(),
            count: block.end.min(seen) - block.start,
            head_dim,
            lanes,
            first: block.start == 0,
            causal: self.causal.then_some((query, block.start)),
        };
        attend(self.isa, &view, buffers.weights, panel);
        if block.end >= seen {
            let out = (self.memory, (token * heads + head) * head_dim);
            let log_sums =
                self.log_sums.map(|memory| (memory, (image * heads + head) * query_tokens + query));
            // SAFETY: the caller's promise.
            unsafe { finish_panel(self.isa, self.shape, lanes, panel, out, log_sums) };
        }
    }
}
