//! Linear layers on frozen weights, with what follows them fused in.

use std::borrow::Cow;
use std::ops::Range;

use crate::buffer::{Output, Shared, count, with_scratch};
use crate::gemm::{Dense, Depth, Grid, Right, TASK_COLUMNS, TASK_ROWS, Target, multiply};
use crate::isa::{Isa, per_isa};
use crate::math::{Activation, apply, gelu};
use crate::matrix::Matrix;
use crate::pack::{PANEL, Rows, pack};
use crate::simd::{LANES, Simd, padded, update, update_with};

/// A low-rank branch beside a layer, such as a `LoRA`: `scale · (x · downᵀ) · upᵀ`.
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// `[rank, inputs]`.
    pub down: Matrix<'a>,
    /// `[outputs, rank]`.
    pub up: Matrix<'a>,
    /// What the branch is multiplied with.
    pub scale: f32,
}

/// What happens to a linear layer's sums before they are stored.
///
/// `activation(sum + branches + bias) + residual`, each part optional.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Summed with the layer's product.
    pub low_rank: &'a [LowRank<'a>],
    /// One number per output.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Added last: `[rows, outputs]`.
    pub residual: Option<&'a [f32]>,
}

/// A linear layer: `x · weightᵀ`, then the epilogue.
///
/// A row's result depends on that row and the layer only, bit for bit: not on the other rows,
/// their number, or the threads.
///
/// # Shapes
/// - `x`: `[rows, weight.cols()]`
/// - result: `[rows, weight.rows()]`
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn linear(x: &[f32], rows: usize, weight: Matrix<'_>, epilogue: &Epilogue<'_>) -> Vec<f32> {
    let isa = Isa::current();
    let outputs = weight.rows;
    assert_eq!(x.len(), rows * weight.cols, "x of a linear layer");
    let finish = Finish::new(rows, outputs, epilogue);
    let branches = Branches::new(x, rows, weight, epilogue.low_rank);
    let left = Dense { x, width: weight.cols };
    let mut output = Output::new(count([rows, outputs]));
    let memory = output.shared();
    Grid::new(rows, outputs, weight.cols).for_each(|rows, columns| {
        let start = rows.start * outputs + columns.start;
        let target = Target { memory, start, stride: outputs, add: false };
        let finished = |block: Range<usize>| {
            let block = rows.start + block.start..rows.start + block.end;
            // SAFETY: this task's part, complete.
            unsafe { finish.apply(isa, memory, block, columns.clone()) };
        };
        let part = (rows.clone(), columns.clone());
        // SAFETY: tasks do not overlap.
        unsafe { branches.multiply(isa, (&left, &weight), part, target, |up| up, finished) };
    });
    // SAFETY: the grid covers the output.
    unsafe { output.finish() }
}

/// The gated layer of a transformer block: `value · gelu(gate)`, halves of one linear layer.
///
/// # Shapes
/// - `x`: `[rows, weight.cols()]`
/// - `weight`: rows are first all values, then all gates; `bias` and the branches alike
/// - result: `[rows, weight.rows() / 2]`
///
/// # Panics
/// If a length does not fit, or `weight` has an odd number of rows.
#[must_use]
pub fn linear_geglu(
    x: &[f32],
    rows: usize,
    weight: Matrix<'_>,
    bias: Option<&[f32]>,
    low_rank: &[LowRank<'_>],
) -> Vec<f32> {
    let isa = Isa::current();
    assert_eq!(x.len(), rows * weight.cols, "x of a linear layer");
    let gates = &Gates::new(weight, bias);
    let outputs = gates.outputs;
    let gated = |weight| Gated { weight, outputs };
    let branches = Branches::new(x, rows, weight, low_rank);
    let left = Dense { x, width: weight.cols };
    let mut output = Output::new(count([rows, outputs]));
    let memory = output.shared();
    let grid = Grid::with_limits(rows, outputs, 2 * weight.cols, TASK_ROWS, TASK_COLUMNS / 2);
    grid.for_each(|rows, columns| {
        let panels = columns.len().div_ceil(PANEL);
        // Panel after panel: sixteen values, their sixteen gates.
        let stride = 2 * panels * PANEL;
        with_scratch([rows.len() * stride], |[sums]| {
            let sums = Shared::of(sums);
            let finished = |block: Range<usize>| {
                // SAFETY: this task's part of the output, and sums that are complete.
                unsafe { gates.apply(isa, (sums, stride), block, memory, rows.start, &columns) };
            };
            let target = Target { memory: sums, start: 0, stride, add: false };
            let virtual_columns = 2 * columns.start..2 * columns.start + stride;
            let part = (rows.clone(), virtual_columns);
            let operands = (&left, &gated(weight));
            // SAFETY: the sums are this task's own.
            unsafe { branches.multiply(isa, operands, part, target, gated, finished) };
        });
    });
    // SAFETY: the grid covers the output.
    unsafe { output.finish() }
}

/// What makes values and gates of sums: the end of a gated layer.
pub(crate) struct Gates<'a> {
    /// Results of a row.
    pub(crate) outputs: usize,
    /// All values' biases, then all gates'.
    bias: Cow<'a, [f32]>,
}

impl<'a> Gates<'a> {
    /// # Panics
    /// If `weight` has an odd number of rows, or `bias` another number.
    pub(crate) fn new(weight: Matrix<'_>, bias: Option<&'a [f32]>) -> Self {
        assert_eq!(weight.rows % 2, 0, "a gated layer has as many gates as values");
        if let Some(bias) = bias {
            assert_eq!(bias.len(), weight.rows, "bias of a linear layer");
        }
        let bias = bias.map_or_else(|| vec![0.0; weight.rows].into(), Cow::Borrowed);
        Self { outputs: weight.rows / 2, bias }
    }

    /// Gates `rows` of the sums, each `stride` numbers long; number 0 of them is row `first` of
    /// the output.
    ///
    /// # Safety
    /// The sums are complete; nobody else touches them or these columns of these rows.
    pub(crate) unsafe fn apply(
        &self,
        isa: Isa,
        (sums, stride): (Shared, usize),
        rows: Range<usize>,
        output: Shared,
        first: usize,
        columns: &Range<usize>,
    ) {
        let (values, gates) = self.bias.split_at(self.outputs);
        let biases = (&values[columns.clone()], &gates[columns.clone()]);
        for row in rows {
            let start = (first + row) * self.outputs;
            // SAFETY: by the caller.
            let (out, sums) = unsafe {
                (
                    output.part(start + columns.start..start + columns.end),
                    sums.part(row * stride..(row + 1) * stride),
                )
            };
            gate_row(isa, sums, biases, out);
        }
    }
}

/// Low-rank branches of a layer, once `x · downᵀ` is known.
pub(crate) struct Branches<'a> {
    /// Per branch: `scale · x · downᵀ`, `[rows, rank]`, and `up`.
    branches: Vec<(Vec<f32>, Matrix<'a>)>,
}

impl<'a> Branches<'a> {
    pub(crate) fn new(
        x: &[f32],
        rows: usize,
        weight: Matrix<'_>,
        low_rank: &[LowRank<'a>],
    ) -> Self {
        let narrow = |branch: &LowRank<'a>| {
            let &LowRank { down, up, scale } = branch;
            assert_eq!(up.cols, down.rows, "rank of a low-rank branch");
            assert_eq!(up.rows, weight.rows, "outputs of a low-rank branch");
            let mut narrow = linear(x, rows, down, &Epilogue::default());
            for number in &mut narrow {
                *number *= scale;
            }
            (narrow, up)
        };
        Self { branches: low_rank.iter().map(narrow).collect() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.branches.is_empty()
    }

    /// As [`multiply`], with the branches' products added: their depth is one more block.
    ///
    /// # Safety
    /// As there.
    unsafe fn multiply<R: Right>(
        &self,
        isa: Isa,
        operands: (&Dense<'_>, &R),
        (rows, columns): (Range<usize>, Range<usize>),
        target: Target,
        right: impl Fn(Matrix<'a>) -> R,
        mut finished: impl FnMut(Range<usize>),
    ) {
        let depth = Depth::new(operands.0.width, 1);
        let part = (rows.clone(), columns.clone());
        // SAFETY: passed on.
        unsafe {
            multiply(isa, operands, depth, rows, columns, target, |block| {
                if self.is_empty() {
                    finished(block);
                }
            });
            self.add(isa, part, target, right, finished);
        }
    }

    /// Adds the branches' products to sums that are there. Does nothing where there are none.
    ///
    /// # Safety
    /// As [`multiply`].
    pub(crate) unsafe fn add<R: Right>(
        &self,
        isa: Isa,
        (rows, columns): (Range<usize>, Range<usize>),
        target: Target,
        right: impl Fn(Matrix<'a>) -> R,
        mut finished: impl FnMut(Range<usize>),
    ) {
        let mut last = self.branches.len();
        for (narrow, up) in &self.branches {
            last -= 1;
            let left = Dense { x: narrow, width: up.cols };
            let (depth, target) = (Depth::new(up.cols, 1), Target { add: true, ..target });
            let (rows, columns) = (rows.clone(), columns.clone());
            let up = right(*up);
            // SAFETY: passed on.
            unsafe {
                multiply(isa, (&left, &up), depth, rows, columns, target, |block| {
                    if last == 0 {
                        finished(block);
                    }
                });
            }
        }
    }
}

impl Right for Matrix<'_> {
    fn pack(&self, isa: Isa, columns: Range<usize>, units: Range<usize>, packed: &mut [f32]) {
        let rows = Rows { dtype: self.dtype, bytes: self.bytes, stride: self.cols };
        pack(isa, rows, columns, units, None, None, packed);
    }
}

/// Values and gates in turn, sixteen of each.
///
/// Virtual column `32 p + j` is value `16 p + j`, and `32 p + 16 + j` its gate.
pub(crate) struct Gated<'a> {
    pub(crate) weight: Matrix<'a>,
    pub(crate) outputs: usize,
}

impl Right for Gated<'_> {
    fn pack(&self, isa: Isa, columns: Range<usize>, units: Range<usize>, packed: &mut [f32]) {
        let matrix = self.weight;
        let rows = Rows { dtype: matrix.dtype, bytes: matrix.bytes, stride: matrix.cols };
        let panels = packed.chunks_exact_mut(PANEL * units.len().max(1));
        for (first, panel) in columns.step_by(PANEL).zip(panels) {
            let outputs = gated_outputs(first, self.outputs);
            let next = Some(gated_outputs(first + PANEL, self.outputs).start);
            pack(isa, rows, outputs, units.clone(), None, next, panel);
        }
    }
}

/// The outputs of the panel whose first virtual column is `first`; see [`Gated`]. None beyond the
/// last.
pub(crate) fn gated_outputs(first: usize, outputs: usize) -> Range<usize> {
    let value = (first / (2 * PANEL) * PANEL).min(outputs);
    let offset = if first.is_multiple_of(2 * PANEL) { 0 } else { outputs };
    offset + value..offset + outputs.min(value + PANEL)
}

per_isa! {
    /// Sums of values and gates, panel after panel, become `value · gelu(gate)`.
    fn gate_row(sums: &[f32], biases: (&[f32], &[f32]), out: &mut [f32]) = gate_row_body
}

#[inline(always)]
fn gate_row_body<S: Simd>(s: S, sums: &[f32], biases: (&[f32], &[f32]), out: &mut [f32]) {
    let (values, _) = sums.as_chunks::<LANES>();
    let biases = biases.0.chunks(LANES).zip(biases.1.chunks(LANES));
    for (i, (out, (value_bias, gate_bias))) in out.chunks_mut(LANES).zip(biases).enumerate() {
        // Two vectors of values, then their gates.
        let at = i / 2 * 4 + i % 2;
        let sums = (s.load(&values[at]), s.load(&values[at + 2]));
        if let Some(out) = out.first_chunk_mut::<LANES>()
            && let Some(value_bias) = value_bias.first_chunk()
            && let Some(gate_bias) = gate_bias.first_chunk()
        {
            s.store(gated(s, sums, value_bias, gate_bias), out);
        } else {
            let eight = gated(s, sums, &padded(value_bias), &padded(gate_bias));
            out.copy_from_slice(&s.lanes(eight)[..out.len()]);
        }
    }
}

#[inline(always)]
fn gated<S: Simd>(
    s: S,
    (value, gate): (S::V, S::V),
    value_bias: &[f32; LANES],
    gate_bias: &[f32; LANES],
) -> S::V {
    let value = s.add(value, s.load(value_bias));
    s.mul(value, gelu(s, s.add(gate, s.load(gate_bias))))
}

/// An epilogue whose lengths were checked.
pub(crate) struct Finish<'a> {
    pub(crate) outputs: usize,
    pub(crate) bias: Option<&'a [f32]>,
    /// Per-image numbers `[images, outputs]`, and how many rows an image has.
    pub(crate) per_image: Option<(&'a [f32], usize)>,
    pub(crate) activation: Activation,
    pub(crate) residual: Option<&'a [f32]>,
    /// Added onto what the output holds.
    pub(crate) accumulate: bool,
}

impl<'a> Finish<'a> {
    pub(crate) fn new(rows: usize, outputs: usize, epilogue: &Epilogue<'a>) -> Self {
        if let Some(bias) = epilogue.bias {
            assert_eq!(bias.len(), outputs, "bias of a linear layer");
        }
        if let Some(residual) = epilogue.residual {
            assert_eq!(residual.len(), rows * outputs, "residual of a linear layer");
        }
        let &Epilogue { bias, activation, residual, .. } = epilogue;
        Self { outputs, bias, per_image: None, activation, residual, accumulate: false }
    }

    /// Bias and per-image numbers of the eight outputs from `output` on, for one image.
    #[inline(always)]
    pub(crate) fn addends<S: Simd>(&self, s: S, image: usize, output: usize) -> S::V {
        let eight = |numbers: &[f32]| match numbers.first_chunk() {
            Some(eight) => s.load(eight),
            None => s.load(&padded(numbers)),
        };
        let mut sum = s.splat(0.0);
        if let Some(bias) = self.bias {
            sum = s.add(sum, eight(&bias[output..]));
        }
        if let Some((numbers, _)) = self.per_image {
            let numbers = &numbers[image * self.outputs..(image + 1) * self.outputs];
            sum = s.add(sum, eight(&numbers[output..]));
        }
        sum
    }

    /// Stores up to eight outputs, which are numbers `at` of the whole, with what comes last:
    /// the residual, or what the output holds. There is no activation.
    #[inline(always)]
    pub(crate) fn store<S: Simd>(&self, s: S, value: S::V, at: Range<usize>, out: &mut [f32]) {
        let residual = self.residual.map(|residual| &residual[at]);
        if let Some(eight) = out.first_chunk_mut::<LANES>() {
            let mut value = value;
            if let Some(residual) = residual.and_then(|numbers| numbers.first_chunk()) {
                value = s.add(value, s.load(residual));
            }
            if self.accumulate {
                value = s.add(value, s.load(eight));
            }
            s.store(value, eight);
            return;
        }
        let values = s.lanes(value);
        for (i, out) in out.iter_mut().enumerate() {
            let value = values[i] + residual.map_or(0.0, |residual| residual[i]);
            *out = if self.accumulate { value + *out } else { value };
        }
    }

    /// Finishes `rows × columns` of `memory`, whose rows are `outputs` long.
    ///
    /// # Safety
    /// That part must be written and nobody else may touch it meanwhile.
    pub(crate) unsafe fn apply(
        &self,
        isa: Isa,
        memory: Shared,
        rows: Range<usize>,
        columns: Range<usize>,
    ) {
        let nothing = self.bias.is_none() && self.per_image.is_none() && self.residual.is_none();
        if nothing && self.activation == Activation::None {
            return;
        }
        finish_rows(isa, self, memory, rows, columns);
    }
}

per_isa! {
    /// Only [`Finish::apply`] calls this, under its contract.
    fn finish_rows(
        finish: &Finish<'_>,
        memory: Shared,
        rows: Range<usize>,
        columns: Range<usize>,
    ) = finish_rows_body
}

#[inline(always)]
fn finish_rows_body<S: Simd>(
    s: S,
    finish: &Finish<'_>,
    memory: Shared,
    rows: Range<usize>,
    columns: Range<usize>,
) {
    for row in rows {
        let part = row * finish.outputs + columns.start..row * finish.outputs + columns.end;
        // SAFETY: see `Finish::apply`.
        let values = unsafe { memory.part(part.clone()) };
        if let Some(bias) = finish.bias {
            update_with(
                s,
                values,
                &bias[columns.clone()],
                #[inline(always)]
                |value, bias| s.add(value, bias),
            );
        }
        if let Some((numbers, rows_per_image)) = finish.per_image {
            let start = row / rows_per_image * finish.outputs;
            let numbers = &numbers[start + columns.start..start + columns.end];
            update_with(
                s,
                values,
                numbers,
                #[inline(always)]
                |value, number| s.add(value, number),
            );
        }
        // One loop per activation: the choice stays outside.
        match finish.activation {
            Activation::None => {}
            Activation::Silu => update(
                s,
                values,
                #[inline(always)]
                |x| apply(s, Activation::Silu, x),
            ),
            Activation::Gelu => update(
                s,
                values,
                #[inline(always)]
                |x| apply(s, Activation::Gelu, x),
            ),
            Activation::QuickGelu => update(
                s,
                values,
                #[inline(always)]
                |x| apply(s, Activation::QuickGelu, x),
            ),
        }
        if let Some(residual) = finish.residual {
            update_with(
                s,
                values,
                &residual[part],
                #[inline(always)]
                |value, residual| s.add(value, residual),
            );
        }
    }
}
