//! Linear layers on frozen weights, with what follows them fused in.

use std::ops::Range;

use crate::buffer::{Output, Shared, with_scratch};
use crate::gemm::{Dense, Depth, Grid, Right, Target, multiply};
use crate::isa::{Isa, per_isa};
use crate::math::{Activation, apply, gelu};
use crate::matrix::Matrix;
use crate::pack::{PANEL, Rows, pack};
use crate::simd::{Simd, update, update_with};

/// What happens to a linear layer's sums before they are stored.
///
/// `activation(sum + bias) + residual`, each part optional.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
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
    let left = Dense { x, width: weight.cols };
    let depth = Depth::new(weight.cols, 1);
    let mut output = Output::new(rows * outputs);
    let memory = output.shared();
    Grid::new(rows, outputs, weight.cols).for_each(|rows, columns| {
        let start = rows.start * outputs + columns.start;
        let target = Target { memory, start, stride: outputs };
        let finished = |block: Range<usize>| {
            let block = rows.start + block.start..rows.start + block.end;
            // SAFETY: this task's part, complete.
            unsafe { finish.apply(isa, memory, block, columns.clone()) };
        };
        // SAFETY: tasks do not overlap.
        unsafe {
            multiply(isa, (&left, &weight), depth, rows.clone(), columns.clone(), target, finished);
        };
    });
    // SAFETY: the grid covers the output.
    unsafe { output.finish() }
}

/// The gated layer of a transformer block: `value · gelu(gate)`, halves of one linear layer.
///
/// # Shapes
/// - `x`: `[rows, weight.cols()]`
/// - `weight`: rows are first all values, then all gates; `bias` alike
/// - result: `[rows, weight.rows() / 2]`
///
/// # Panics
/// If a length does not fit, or `weight` has an odd number of rows.
#[must_use]
pub fn linear_geglu(x: &[f32], rows: usize, weight: Matrix<'_>, bias: Option<&[f32]>) -> Vec<f32> {
    let isa = Isa::current();
    assert_eq!(x.len(), rows * weight.cols, "x of a linear layer");
    assert_eq!(weight.rows % 2, 0, "a gated layer has as many gates as values");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), weight.rows, "bias of a linear layer");
    }
    let outputs = weight.rows / 2;
    let gated = Gated { weight, outputs };
    let left = Dense { x, width: weight.cols };
    let depth = Depth::new(weight.cols, 1);
    let mut output = Output::new(rows * outputs);
    let memory = output.shared();
    let zeros = vec![0.0; if bias.is_none() { weight.rows } else { 0 }];
    let (value_bias, gate_bias) = bias.unwrap_or(&zeros).split_at(outputs);
    let grid = Grid::with_limits(rows, outputs, 2 * weight.cols, 384, 160);
    grid.for_each(|rows, columns| {
        let panels = columns.len().div_ceil(PANEL);
        // Panel after panel: sixteen values, their sixteen gates.
        let stride = 2 * panels * PANEL;
        with_scratch([rows.len() * stride], |[sums]| {
            let sums = Shared::of(sums);
            let finished = |block: Range<usize>| {
                for local in block {
                    let row = rows.start + local;
                    // SAFETY: this task's part of the output, and sums that are complete.
                    let (out, sums) = unsafe {
                        let start = row * outputs;
                        (
                            memory.part(start + columns.start..start + columns.end),
                            sums.part(local * stride..(local + 1) * stride),
                        )
                    };
                    let biases = (&value_bias[columns.clone()], &gate_bias[columns.clone()]);
                    gate_row(isa, sums, biases, out);
                }
            };
            let target = Target { memory: sums, start: 0, stride };
            let virtual_columns = 2 * columns.start..2 * columns.start + stride;
            // SAFETY: the sums are this task's own.
            unsafe {
                multiply(
                    isa,
                    (&left, &gated),
                    depth,
                    rows.clone(),
                    virtual_columns,
                    target,
                    finished,
                );
            }
        });
    });
    // SAFETY: the grid covers the output.
    unsafe { output.finish() }
}

/// Adds a low-rank branch, such as `LoRA`: `y += scale · (x · downᵀ) · upᵀ`.
///
/// # Shapes
/// - `y`: `[rows, up.rows()]`
/// - `x`: `[rows, down.cols()]`
/// - `down`: `[rank, inputs]`, `up`: `[outputs, rank]`
///
/// # Panics
/// If a length does not fit.
pub fn add_low_rank(
    y: &mut [f32],
    x: &[f32],
    rows: usize,
    down: Matrix<'_>,
    up: Matrix<'_>,
    scale: f32,
) {
    let isa = Isa::current();
    let outputs = up.rows;
    assert_eq!(up.cols, down.rows, "rank of a low-rank branch");
    assert_eq!(y.len(), rows * outputs, "y of a low-rank branch");
    let narrow = linear(x, rows, down, &Epilogue::default());
    let left = Dense { x: &narrow, width: down.rows };
    let depth = Depth::new(down.rows, 1);
    let memory = Shared::of(y);
    Grid::with_limits(rows, outputs, down.rows, 192, 320).for_each(|rows, columns| {
        let stride = columns.len();
        with_scratch([rows.len() * stride], |[sums]| {
            let sums = Shared::of(sums);
            let finished = |block: Range<usize>| {
                for local in block {
                    let start = (rows.start + local) * outputs;
                    // SAFETY: this task's part of y, and sums that are complete.
                    let (y, sums) = unsafe {
                        (
                            memory.part(start + columns.start..start + columns.end),
                            sums.part(local * stride..(local + 1) * stride),
                        )
                    };
                    add_scaled(isa, y, sums, scale);
                }
            };
            let target = Target { memory: sums, start: 0, stride };
            // SAFETY: the sums are this task's own.
            unsafe {
                multiply(isa, (&left, &up), depth, rows.clone(), columns.clone(), target, finished);
            }
        });
    });
}

impl Right for Matrix<'_> {
    fn pack(&self, isa: Isa, columns: Range<usize>, units: Range<usize>, packed: &mut [f32]) {
        let rows = Rows { dtype: self.dtype, bytes: self.bytes, stride: self.cols };
        pack(isa, rows, columns, units, None, packed);
    }
}

/// Values and gates in turn, sixteen of each.
///
/// Virtual column `32 p + j` is value `16 p + j`, and `32 p + 16 + j` its gate.
struct Gated<'a> {
    weight: Matrix<'a>,
    outputs: usize,
}

impl Right for Gated<'_> {
    fn pack(&self, isa: Isa, columns: Range<usize>, units: Range<usize>, packed: &mut [f32]) {
        let matrix = self.weight;
        let rows = Rows { dtype: matrix.dtype, bytes: matrix.bytes, stride: matrix.cols };
        let panels = packed.chunks_exact_mut(PANEL * units.len().max(1));
        for (first, panel) in columns.step_by(PANEL).zip(panels) {
            let value = first / (2 * PANEL) * PANEL;
            let offset = if first % (2 * PANEL) == 0 { 0 } else { self.outputs };
            let outputs = offset + value..offset + self.outputs.min(value + PANEL);
            if outputs.len() <= PANEL / 2 {
                panel.fill(0.0); // a short panel leaves part of itself as it was
            }
            pack(isa, rows, outputs, units.clone(), None, panel);
        }
    }
}

per_isa! {
    fn gate_row(sums: &[f32], biases: (&[f32], &[f32]), out: &mut [f32]) = gate_row_body
}

#[inline(always)]
fn gate_row_body<S: Simd>(s: S, sums: &[f32], biases: (&[f32], &[f32]), out: &mut [f32]) {
    let biases = biases.0.chunks(PANEL).zip(biases.1.chunks(PANEL));
    let panels = sums.chunks_exact(2 * PANEL).zip(biases);
    for (out, (sums, (value_bias, gate_bias))) in out.chunks_mut(PANEL).zip(panels) {
        let (values, gates) = sums.split_at(PANEL);
        out.copy_from_slice(&gates[..out.len()]);
        update_with(
            s,
            out,
            gate_bias,
            #[inline(always)]
            |gate, bias| gelu(s, s.add(gate, bias)),
        );
        let mut biased = [0.0; PANEL];
        let biased = &mut biased[..out.len()];
        biased.copy_from_slice(&values[..out.len()]);
        update_with(
            s,
            biased,
            value_bias,
            #[inline(always)]
            |value, bias| s.add(value, bias),
        );
        update_with(
            s,
            out,
            biased,
            #[inline(always)]
            |gate, value| s.mul(value, gate),
        );
    }
}

per_isa! {
    fn add_scaled(y: &mut [f32], sums: &[f32], scale: f32) = add_scaled_body
}

#[inline(always)]
fn add_scaled_body<S: Simd>(s: S, y: &mut [f32], sums: &[f32], scale: f32) {
    update_with(
        s,
        y,
        sums,
        #[inline(always)]
        |y, sum| s.mul_add(s.splat(scale), sum, y),
    );
}

/// An epilogue whose lengths were checked.
pub(crate) struct Finish<'a> {
    pub(crate) outputs: usize,
    pub(crate) bias: Option<&'a [f32]>,
    /// Per-image numbers `[images, outputs]`, and how many rows an image has.
    pub(crate) per_image: Option<(&'a [f32], usize)>,
    pub(crate) activation: Activation,
    pub(crate) residual: Option<&'a [f32]>,
}

impl<'a> Finish<'a> {
    pub(crate) fn new(rows: usize, outputs: usize, epilogue: &Epilogue<'a>) -> Self {
        if let Some(bias) = epilogue.bias {
            assert_eq!(bias.len(), outputs, "bias of a linear layer");
        }
        if let Some(residual) = epilogue.residual {
            assert_eq!(residual.len(), rows * outputs, "residual of a linear layer");
        }
        let &Epilogue { bias, activation, residual } = epilogue;
        Self { outputs, bias, per_image: None, activation, residual }
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
