//! The gradients of attention, without a score matrix in memory.
//!
//! Weights are computed again from the logarithms of their sums. Queries own their gradient and
//! walk over blocks of keys; keys own theirs and their values' and walk over blocks of queries.
//! So no sum is split between threads, for one product of five more than strictly needed (seven).
//!
//! With `P` the weights, `dP = dO Vᵀ`, `D` the rows' sums of `dO ∘ O` and `dS = P ∘ (dP − D)`:
//! `dQ = scale · dS K`, `dK = scale · dSᵀ Q`, `dV = Pᵀ dO`. Dao et al. 2022, arXiv:2205.14135.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::panel::{
    QUERIES, Rows, add_columns, keys_len, multiply_rows, pack_keys, pack_lines, pack_values, read,
    store_lines, values_len, weights_len, write,
};
use super::{AttentionShape, split};
use crate::buffer::{Output, Shared, with_scratch};
use crate::isa::{Isa, per_isa};
use crate::math::exp2;
use crate::parallel;
use crate::simd::{LANES, Simd};

/// What [`attention_with_log_sum`](crate::attention_with_log_sum) was given, and gave.
#[derive(Clone, Copy, Debug)]
pub struct AttentionPass<'a> {
    /// `[B, query_tokens, heads · head_dim]`.
    pub q: &'a [f32],
    /// `[B, key_tokens, heads · head_dim]`.
    pub k: &'a [f32],
    /// As `k`.
    pub v: &'a [f32],
    /// The result, as `q`.
    pub out: &'a [f32],
    /// `[B, heads, query_tokens]`.
    pub log_sums: &'a [f32],
    /// Sizes.
    pub shape: AttentionShape,
    /// Factor of the scores.
    pub scale: f32,
    /// Whether a token sees itself and those before it only.
    pub causal: bool,
}

/// The gradients for `q`, `k` and `v`, given that for the result.
///
/// A query's gradient depends on that query and its sequence's keys and values only, a key's and
/// value's on theirs and the sequence's queries, bit for bit.
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn attention_backward(pass: &AttentionPass<'_>, dout: &[f32]) -> [Vec<f32>; 3] {
    let &AttentionPass { q, k, v, out, log_sums, shape, .. } = pass;
    let AttentionShape { batch, query_tokens, key_tokens, heads, head_dim } = shape;
    let (queries, keys) = (batch * query_tokens, batch * key_tokens);
    let width = heads * head_dim;
    for (numbers, tokens) in [(q, queries), (k, keys), (v, keys), (out, queries), (dout, queries)] {
        assert_eq!(numbers.len(), tokens * width, "operand of the gradient of {shape:?}");
    }
    assert_eq!(log_sums.len(), queries * heads, "log-sums of {shape:?}");
    assert!(!pass.causal || query_tokens == key_tokens, "causal attention of {shape:?}");

    let isa = Isa::current();
    let log_sums: Vec<f32> = log_sums.iter().map(|x| x * LOG2_E).collect();
    let dots = dots(isa, out, dout, shape);
    let [mut dq, mut dk, mut dv] = [q.len(), k.len(), v.len()].map(Output::new);
    let owned = [(true, [q, dout], [k, v]), (false, [k, v], [q, dout])];
    let memory = [[dq.shared(); 2], [dk.shared(), dv.shared()]];
    for ((by_queries, owners, others), memory) in owned.into_iter().zip(memory) {
        let gradient = Gradient {
            isa,
            pass,
            by_queries,
            owners,
            others,
            log_sums: &log_sums,
            dots: &dots,
            memory,
        };
        gradient.run();
    }
    // SAFETY: both have run, and write all that their tokens own.
    unsafe { [dq.finish(), dk.finish(), dv.finish()] }
}

/// `Σ dout · out` of each query of a head, `[B, heads, query_tokens]`.
fn dots(isa: Isa, out: &[f32], dout: &[f32], shape: AttentionShape) -> Vec<f32> {
    let AttentionShape { batch, query_tokens, heads, head_dim, .. } = shape;
    let mut dots = Output::new(batch * heads * query_tokens);
    let memory = dots.shared();
    parallel::for_each(batch * heads, 4 * out.len(), |index| {
        // SAFETY: each head has its own.
        let dots = unsafe { memory.part(index * query_tokens..(index + 1) * query_tokens) };
        for (query, dot) in dots.iter_mut().enumerate() {
            let token = index / heads * query_tokens + query;
            let start = (token * heads + index % heads) * head_dim;
            let row = start..start + head_dim;
            *dot = dot_of(isa, &out[row.clone()], &dout[row]);
        }
    });
    // SAFETY: every head has run.
    unsafe { dots.finish() }
}

per_isa! {
    fn dot_of(a: &[f32], b: &[f32]) -> f32 = dot_body
}

#[inline(always)]
fn dot_body<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let (a, a_tail) = a.as_chunks::<LANES>();
    let (b, b_tail) = b.as_chunks::<LANES>();
    let mut sum = s.splat(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = s.mul_add(s.load(a), s.load(b), sum);
    }
    s.sum(sum) + a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum::<f32>()
}

/// The gradients that one side's tokens own.
struct Gradient<'a> {
    isa: Isa,
    pass: &'a AttentionPass<'a>,
    /// Queries own `dq`, or keys `dk` and `dv`.
    by_queries: bool,
    /// `[q, dout]` or `[k, v]`.
    owners: [&'a [f32]; 2],
    /// The other pair.
    others: [&'a [f32]; 2],
    /// To the base 2.
    log_sums: &'a [f32],
    dots: &'a [f32],
    /// `[dq, unused]` or `[dk, dv]`.
    memory: [Shared; 2],
}

/// Tokens of the other side that are worked together; a matter of the layer only.
fn block_len(head_dim: usize) -> usize {
    (12_288 / head_dim.max(1) / 6 * 6).clamp(24, 96)
}

/// Floats of a panel: both operands, both results, log-sums and dots.
fn panel_len(head_dim: usize) -> usize {
    2 * (head_dim + head_dim.next_multiple_of(6) + 1) * QUERIES
}

impl Gradient<'_> {
    fn tokens(&self) -> (usize, usize) {
        let AttentionShape { query_tokens, key_tokens, .. } = self.pass.shape;
        if self.by_queries { (query_tokens, key_tokens) } else { (key_tokens, query_tokens) }
    }

    fn run(&self) {
        let AttentionShape { batch, heads, head_dim, .. } = self.pass.shape;
        let (owners, others) = self.tokens();
        let products = if self.by_queries { 3 } else { 4 };
        let work = products * batch * heads * owners * others * head_dim;
        let (step, parts) = split(owners, batch * heads, work);
        parallel::for_each(batch * heads * parts, work, |index| {
            let (head, part) = (index / parts, index % parts);
            let owners = part * step..owners.min((part + 1) * step);
            // SAFETY: tasks do not overlap; each writes all of its part.
            unsafe { self.task(head / heads, head % heads, owners) };
        });
    }

    /// Where a head's channels of a token begin.
    fn start(&self, token: usize, head: usize) -> usize {
        (token * self.pass.shape.heads + head) * self.pass.shape.head_dim
    }

    /// # Safety
    /// Nobody else may touch these owners' part of the gradients.
    unsafe fn task(&self, image: usize, head: usize, owners: Range<usize>) {
        let AttentionShape { heads, head_dim, query_tokens, .. } = self.pass.shape;
        let width = heads * head_dim;
        let (_, other_tokens) = self.tokens();
        let most = block_len(head_dim).min(other_tokens);
        let panel_len = panel_len(head_dim);
        let panels_of = || owners.clone().step_by(QUERIES);
        let lengths = [
            keys_len(most, head_dim),
            keys_len(most, head_dim),
            values_len(most, head_dim),
            values_len(most, head_dim),
            2 * weights_len(most),
            owners.len().div_ceil(QUERIES) * panel_len,
        ];
        let of_queries = (image * heads + head) * query_tokens;
        with_scratch(lengths, |[rows_0, rows_1, columns_0, columns_1, lines, panels]| {
            for (owner, panel) in panels_of().zip(panels.chunks_exact_mut(panel_len)) {
                let lanes = QUERIES.min(owners.end - owner);
                self.begin((image, head, owner), lanes, Panel::of(panel, head_dim));
            }
            for first in (0..other_tokens).step_by(most) {
                let count = most.min(other_tokens - first);
                let hidden = if self.by_queries {
                    first >= owners.end
                } else {
                    first + count <= owners.start
                };
                if self.pass.causal && hidden {
                    continue;
                }
                let at = self.start(image * other_tokens + first, head);
                let [one, two] = self.others.map(|numbers| (&numbers[at..], width));
                pack_keys(self.isa, one, head_dim, count, rows_0);
                pack_keys(self.isa, two, head_dim, count, rows_1);
                pack_values(one, head_dim, count, columns_0);
                if !self.by_queries {
                    pack_values(two, head_dim, count, columns_1);
                }
                let queries = of_queries + first..of_queries + first + count;
                for (owner, panel) in panels_of().zip(panels.chunks_exact_mut(panel_len)) {
                    let queries = queries.clone();
                    let block = Block {
                        rows: [rows_0, rows_1],
                        columns: [columns_0, columns_1],
                        count,
                        head_dim,
                        lanes: QUERIES.min(owners.end - owner),
                        queries: (!self.by_queries)
                            .then(|| (&self.log_sums[queries.clone()], &self.dots[queries])),
                        causal: self.pass.causal.then_some((owner, first)),
                    };
                    add_block(self.isa, &block, lines, panel);
                }
            }
            for (owner, panel) in panels_of().zip(panels.chunks_exact_mut(panel_len)) {
                let lanes = QUERIES.min(owners.end - owner);
                // SAFETY: these owners are this task's, by the caller.
                unsafe { self.finish((image, head, owner), lanes, Panel::of(panel, head_dim)) };
            }
        });
    }

    /// Fills a panel with what is known of its owners.
    fn begin(&self, (image, head, owner): (usize, usize, usize), lanes: usize, panel: Panel<'_>) {
        let AttentionShape { heads, head_dim, .. } = self.pass.shape;
        let (owner_tokens, _) = self.tokens();
        let at = self.start(image * owner_tokens + owner, head);
        let rows = self.owners.map(|numbers| (&numbers[at..], heads * head_dim));
        let scale = self.pass.scale * LOG2_E;
        let [first, second] = panel.operands;
        pack_lines(self.isa, rows[0], head_dim, lanes, scale, first);
        pack_lines(self.isa, rows[1], head_dim, lanes, 1.0, second);
        panel.results.into_iter().for_each(|results| results.fill(0.0));
        if self.by_queries {
            let of_head = (image * heads + head) * owner_tokens;
            for lane in 0..QUERIES {
                let query = of_head + owner + lane.min(lanes - 1);
                panel.log_sums[lane] = self.log_sums[query];
                panel.dots[lane] = self.dots[query];
            }
        }
    }

    /// Writes a panel's results.
    ///
    /// # Safety
    /// Nobody else may touch these owners' part of the gradients.
    unsafe fn finish(
        &self,
        (image, head, owner): (usize, usize, usize),
        count: usize,
        panel: Panel<'_>,
    ) {
        let AttentionShape { heads, head_dim, .. } = self.pass.shape;
        let (owner_tokens, _) = self.tokens();
        let start = self.start(image * owner_tokens + owner, head);
        let owned = if self.by_queries { 1 } else { 2 };
        let factors = [self.pass.scale, 1.0];
        for (which, results) in panel.results.into_iter().enumerate().take(owned) {
            let memory = self.memory[which];
            let out = Rows { memory, start, stride: heads * head_dim, head_dim, count };
            // SAFETY: the caller's promise.
            unsafe { store(self.isa, results, factors[which], out) };
        }
    }
}

/// The parts of a panel's memory: sixteen owners.
struct Panel<'a> {
    operands: [&'a mut [f32]; 2],
    results: [&'a mut [f32]; 2],
    log_sums: &'a mut [f32],
    dots: &'a mut [f32],
}

impl<'a> Panel<'a> {
    fn of(memory: &'a mut [f32], head_dim: usize) -> Self {
        let (first, rest) = memory.split_at_mut(head_dim * QUERIES);
        let (second, rest) = rest.split_at_mut(head_dim * QUERIES);
        let length = head_dim.next_multiple_of(6) * QUERIES;
        let (first_result, rest) = rest.split_at_mut(length);
        let (second_result, rest) = rest.split_at_mut(length);
        let (log_sums, dots) = rest.split_at_mut(QUERIES);
        Self { operands: [first, second], results: [first_result, second_result], log_sums, dots }
    }
}

/// A block of the other side's tokens, and how a panel looks at it.
struct Block<'a> {
    /// Both operands, see [`pack_keys`].
    rows: [&'a [f32]; 2],
    /// Both operands, see [`pack_values`].
    columns: [&'a [f32]; 2],
    count: usize,
    head_dim: usize,
    lanes: usize,
    /// Log-sums and dots of the block's tokens, where these are queries.
    queries: Option<(&'a [f32], &'a [f32])>,
    /// Causal: the positions of the panel's and of the block's first token.
    causal: Option<(usize, usize)>,
}

per_isa! {
    /// Adds a block's part of the gradients to a panel's results; `lines` is scratch.
    fn add_block(block: &Block<'_>, lines: &mut [f32], panel: &mut [f32]) = add_block_body
}

#[inline(always)]
fn add_block_body<S: Simd>(s: S, block: &Block<'_>, lines: &mut [f32], panel: &mut [f32]) {
    let panel = Panel::of(panel, block.head_dim);
    if block.lanes <= LANES {
        add_block_of::<S, 1>(s, block, lines, panel);
    } else {
        add_block_of::<S, 2>(s, block, lines, panel);
    }
}

#[inline(always)]
fn add_block_of<S: Simd, const VECTORS: usize>(
    s: S,
    block: &Block<'_>,
    lines: &mut [f32],
    panel: Panel<'_>,
) {
    let &Block { rows, columns, count, head_dim, .. } = block;
    let (weights, slopes) = lines.split_at_mut(weights_len(count));
    let [queries, douts] = &panel.operands;
    multiply_rows::<S, VECTORS>(s, (rows[0], count), head_dim, queries, weights, None);
    multiply_rows::<S, VECTORS>(s, (rows[1], count), head_dim, douts, slopes, None);
    if let Some((owner, first)) = block.causal {
        hide(&mut weights[..count * QUERIES], owner, first, block.queries.is_none());
    }

    let (weight_lines, _) = weights[..count * QUERIES].as_chunks_mut::<QUERIES>();
    let (slope_lines, _) = slopes[..count * QUERIES].as_chunks_mut::<QUERIES>();
    let mut log_sums: [S::V; VECTORS] = read(s, panel.log_sums);
    let mut dots: [S::V; VECTORS] = read(s, panel.dots);
    for (index, (weights, slopes)) in weight_lines.iter_mut().zip(slope_lines).enumerate() {
        if let Some((log_sum, dot)) = block.queries {
            log_sums = [s.splat(log_sum[index]); VECTORS];
            dots = [s.splat(dot[index]); VECTORS];
        }
        let (mut powers, mut scaled) = (read(s, weights), read(s, slopes));
        for j in 0..VECTORS {
            powers[j] = exp2(s, s.sub(powers[j], log_sums[j]));
            scaled[j] = s.mul(powers[j], s.sub(scaled[j], dots[j]));
        }
        write::<S, VECTORS>(s, powers, weights);
        write::<S, VECTORS>(s, scaled, slopes);
    }

    let [first, second] = panel.results;
    let as_before = Some([s.splat(1.0); VECTORS]);
    add_columns(s, (columns[0], count, count), head_dim, slopes, first, as_before);
    if block.queries.is_some() {
        add_columns(s, (columns[1], count, count), head_dim, weights, second, as_before);
    }
}

/// Hides scores of keys that come after their query.
#[inline(always)]
fn hide(scores: &mut [f32], owner: usize, first: usize, by_queries: bool) {
    let (lines, _) = scores.as_chunks_mut::<QUERIES>();
    for (token, line) in (first..).zip(lines) {
        let hidden = if by_queries {
            0..token.saturating_sub(owner).min(QUERIES) // queries before this key
        } else {
            (token + 1).saturating_sub(owner).min(QUERIES)..QUERIES // keys after this query
        };
        line[hidden].fill(f32::NEG_INFINITY);
    }
}

/// # Safety
/// The rows must be the caller's.
unsafe fn store(isa: Isa, results: &[f32], factor: f32, out: Rows) {
    per_isa! {
        fn run(results: &[f32], factor: f32, out: Rows) = store_body
    }
    run(isa, results, factor, out);
}

/// Only [`store`] calls this, under its contract.
#[inline(always)]
fn store_body<S: Simd>(s: S, results: &[f32], factor: f32, out: Rows) {
    // SAFETY: the caller's promise.
    unsafe { store_lines(s, results, &[factor; QUERIES], out) };
}
