//! Linear layers: the same product, with the weight's columns as outputs.

use std::ops::Range;

use crate::buffer::Output;
use crate::gemm::{Dense, Depth, Grid, Right, Target, multiply};
use crate::isa::{Isa, per_isa};
use crate::matrix::{Dtype, Matrix};
use crate::pack::{PANEL, number};
use crate::simd::{LANES, Simd};

/// The gradient for a linear layer's input: `dy · weight`.
///
/// A row's result depends on that row and the layer only, bit for bit.
///
/// # Shapes
/// - `dy`: `[rows, weight.rows()]`
/// - result: `[rows, weight.cols()]`
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn linear_backward(dy: &[f32], rows: usize, weight: Matrix<'_>) -> Vec<f32> {
    linear_backward_onto(dy, rows, weight, Added::default())
}

/// What [`linear_backward_onto`] adds.
#[derive(Debug, Default)]
pub struct Added<'a> {
    /// `[rows, weight.cols()]`; its memory becomes the result's.
    pub onto: Option<Vec<f32>>,
    /// A second product, as of a low-rank branch: `[rows, rank]` and its weight
    /// `[rank, weight.cols()]`.
    pub branch: Option<(&'a [f32], Matrix<'a>)>,
}

/// As [`linear_backward`], with what is `added`.
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn linear_backward_onto(
    dy: &[f32],
    rows: usize,
    weight: Matrix<'_>,
    added: Added<'_>,
) -> Vec<f32> {
    let isa = Isa::current();
    let inputs = weight.cols;
    assert_eq!(dy.len(), rows * weight.rows, "gradient of a linear layer");
    let add = added.onto.is_some();
    let mut output = match added.onto {
        Some(onto) => {
            assert_eq!(onto.len(), rows * inputs, "what a gradient is added to");
            Output::of(onto)
        }
        None => Output::new(rows * inputs),
    };
    if let Some((hidden, down)) = added.branch {
        assert_eq!((hidden.len(), down.cols), (rows * down.rows, inputs), "gradient of a branch");
    }
    let whole = product(dy, weight);
    let branch = added.branch.map(|(hidden, down)| product(hidden, down));
    let memory = output.shared();
    Grid::new(rows, inputs, weight.rows).for_each(|rows, columns| {
        let start = rows.start * inputs + columns.start;
        let mut target = Target { memory, start, stride: inputs, add };
        for (left, right, depth) in [Some(&whole), branch.as_ref()].into_iter().flatten() {
            let part = (rows.clone(), columns.clone());
            // SAFETY: tasks do not overlap.
            unsafe { multiply(isa, (left, right), *depth, part.0, part.1, target, |_| {}) };
            target.add = true;
        }
    });
    // SAFETY: the grid covers the output.
    unsafe { output.finish() }
}

/// The operands of `dy · weight`, and how deep it is.
fn product<'a>(dy: &'a [f32], weight: Matrix<'a>) -> (Dense<'a>, Columns<'a>, Depth) {
    (Dense { x: dy, width: weight.rows }, Columns(weight), Depth::new(weight.rows, 1))
}

/// A weight whose columns are the outputs and whose rows the inputs.
struct Columns<'a>(Matrix<'a>);

impl Right for Columns<'_> {
    fn pack(&self, isa: Isa, columns: Range<usize>, units: Range<usize>, packed: &mut [f32]) {
        pack_columns(isa, self.0, columns, units, packed);
    }
}

per_isa! {
    /// Packs `columns` of the weight's rows `units`: lines are pieces of its rows already.
    fn pack_columns(
        weight: Matrix<'_>,
        columns: Range<usize>,
        units: Range<usize>,
        packed: &mut [f32],
    ) = pack_columns_body
}

#[inline(always)]
fn pack_columns_body<S: Simd>(
    s: S,
    weight: Matrix<'_>,
    columns: Range<usize>,
    units: Range<usize>,
    packed: &mut [f32],
) {
    let (lines, _) = packed.as_chunks_mut::<PANEL>();
    // Eight rows at a time: whole cache lines of each are used, and panels are written in turn.
    for first in units.clone().step_by(LANES) {
        for (panel, column) in columns.clone().step_by(PANEL).enumerate() {
            let width = PANEL.min(columns.end - column);
            for unit in first..units.end.min(first + LANES) {
                let line = &mut lines[panel * units.len() + unit - units.start];
                pack_line(s, weight, unit * weight.cols + column, width, line);
            }
        }
    }
}

/// `width` numbers from number `start` on, then zeros.
#[inline(always)]
fn pack_line<S: Simd>(
    s: S,
    weight: Matrix<'_>,
    start: usize,
    width: usize,
    line: &mut [f32; PANEL],
) {
    if width < PANEL {
        for (j, place) in line.iter_mut().enumerate() {
            *place = if j < width { number(weight.dtype, weight.bytes, start + j) } else { 0.0 };
        }
        return;
    }
    let (eights, _) = line.as_chunks_mut::<LANES>();
    let bytes = &weight.bytes[start * weight.dtype.size()..];
    match weight.dtype {
        Dtype::F32 => {
            for (eight, bytes) in eights.iter_mut().zip(bytes.as_chunks().0) {
                s.store(s.widen_f32(bytes), eight);
            }
        }
        Dtype::F16 => {
            for (eight, bytes) in eights.iter_mut().zip(bytes.as_chunks().0) {
                s.store(s.widen_f16(bytes), eight);
            }
        }
        Dtype::Bf16 => {
            for (eight, bytes) in eights.iter_mut().zip(bytes.as_chunks().0) {
                s.store(s.widen_bf16(bytes), eight);
            }
        }
    }
}
