//! Activations far beyond their row's others, which stay f32.
//!
//! In trained transformers a few channels of every token are tens of times the others, and the
//! weights that read them are as much smaller. Rounded with such a neighbour in one block, all
//! others would lose what the layer needs. So those few are left out of the integers and
//! multiplied as they are, after `LLM.int8()` (Dettmers et al. 2022, arXiv:2208.07339); there a
//! whole channel is an outlier or not, here each number is, so a row's result still depends on
//! that row alone.

use std::ops::Range;

use super::Right;
use crate::gemm::{Depth, Target};
use crate::isa::{Isa, per_isa};
use crate::pack::PANEL;
use crate::simd::{LANES, Simd, padded, update_with};

/// How many times the mean magnitude of its row's block an outlier exceeds: no more than one
/// number of twelve ever can.
const FAR: f32 = 12.0;
/// How many times it the greatest must exceed for outliers to be left out at all. Neither normally
/// distributed numbers do nor products of two of them, which gated layers make.
const WORTH: f32 = 24.0;

/// A number that stays out of the integers.
#[derive(Clone, Copy)]
pub(super) struct Outlier {
    pub(super) block: usize,
    pub(super) row: usize,
    pub(super) input: usize,
    pub(super) value: f32,
}

/// The magnitude beyond which numbers of `x`, whose greatest magnitude is given, are outliers;
/// `None` where there are none.
#[inline(always)]
pub(super) fn limit<S: Simd>(s: S, x: &[f32], greatest: f32) -> Option<f32> {
    let (chunks, tail) = x.as_chunks::<LANES>();
    let zero = s.splat(0.0);
    let mut sum = zero;
    for chunk in chunks.iter().chain([&padded(tail)]) {
        let v = s.load(chunk);
        sum = s.add(sum, s.max(v, s.sub(zero, v)));
    }
    let mean = s.sum(sum) * (1.0 / x.len() as f32);
    (greatest.is_finite() && greatest > WORTH * mean).then_some(FAR * mean)
}

/// The outliers of a part's rows.
pub(super) struct Outliers {
    blocks: Vec<Block>,
}

/// Those of one depth block, in the order of their rows and, within a row, of their inputs.
#[derive(Default)]
struct Block {
    /// The inputs that are an outlier in any row, in order.
    inputs: Vec<usize>,
    /// Where each row's outliers end; empty where the block has none.
    ends: Vec<usize>,
    /// Number of the input in `inputs`, and the value.
    values: Vec<(usize, f32)>,
}

impl Outliers {
    /// Sorts what was `found`, in any order, in `rows` rows.
    pub(super) fn new(mut found: Vec<Outlier>, rows: usize, depth: Depth) -> Self {
        found.sort_unstable_by_key(|outlier| (outlier.block, outlier.row, outlier.input));
        let mut blocks = Vec::new();
        for block in 0..depth.blocks().count() {
            let start = found.partition_point(|outlier| outlier.block < block);
            let end = found.partition_point(|outlier| outlier.block <= block);
            blocks.push(Block::new(&found[start..end], rows));
        }
        Self { blocks }
    }

    /// The most columns that any block asks for.
    pub(super) fn widest(&self) -> usize {
        self.blocks.iter().map(|block| block.inputs.len()).max().unwrap_or_default()
    }

    /// The weights of a block's outliers for `columns`, one input after the other.
    pub(super) fn gather(
        &self,
        block: usize,
        right: Right<'_>,
        columns: Range<usize>,
        weights: &mut [f32],
    ) {
        let inputs = &self.blocks[block].inputs;
        if inputs.is_empty() {
            return;
        }
        let wide = columns.len().next_multiple_of(PANEL);
        weights[..inputs.len() * wide].fill(0.0);
        for (first, start) in columns.step_by(PANEL).zip((0..).step_by(PANEL)) {
            for (j, output) in right.outputs(first).enumerate() {
                for (k, &input) in inputs.iter().enumerate() {
                    weights[k * wide + start + j] = right.weight.get(output, input);
                }
            }
        }
    }

    /// Adds a block's outliers of `rows` to the `columns` numbers of each that start at
    /// `target`'s start. `weights` are those that [`Self::gather`] wrote.
    ///
    /// # Safety
    /// Nobody else may touch that part of the target meanwhile.
    pub(super) unsafe fn add(
        &self,
        isa: Isa,
        block: usize,
        rows: Range<usize>,
        columns: usize,
        weights: &[f32],
        target: Target,
    ) {
        let block = &self.blocks[block];
        if !block.inputs.is_empty() {
            add_rows(isa, block, rows, columns, weights, target);
        }
    }
}

impl Block {
    fn new(found: &[Outlier], rows: usize) -> Self {
        if found.is_empty() {
            return Self::default();
        }
        let mut inputs: Vec<_> = found.iter().map(|outlier| outlier.input).collect();
        inputs.sort_unstable();
        inputs.dedup();
        let place = |input| inputs.binary_search(&input).expect("every input is listed");
        let values = found.iter().map(|outlier| (place(outlier.input), outlier.value)).collect();
        let ends = (0..rows).map(|row| found.partition_point(|outlier| outlier.row <= row));
        Self { ends: ends.collect(), values, inputs }
    }

    fn of_row(&self, row: usize) -> &[(usize, f32)] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.values[start..self.ends[row]]
    }
}

per_isa! {
    /// Only [`Outliers::add`] calls this, under its contract.
    fn add_rows(
        block: &Block,
        rows: Range<usize>,
        columns: usize,
        weights: &[f32],
        target: Target,
    ) = add_rows_body
}

#[inline(always)]
fn add_rows_body<S: Simd>(
    s: S,
    block: &Block,
    rows: Range<usize>,
    columns: usize,
    weights: &[f32],
    target: Target,
) {
    let wide = columns.next_multiple_of(PANEL);
    for (i, row) in rows.enumerate() {
        let start = target.start + i * target.stride;
        for &(input, value) in block.of_row(row) {
            // SAFETY: the caller's part of the target.
            let sums = unsafe { target.memory.part(start..start + columns) };
            let value = s.splat(value);
            update_with(
                s,
                sums,
                &weights[input * wide..][..columns],
                #[inline(always)]
                |sum, weight| s.mul_add(value, weight, sum),
            );
        }
    }
}
