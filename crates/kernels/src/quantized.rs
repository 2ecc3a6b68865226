//! Linear layers in integers: 1.5 times the multiplications of f32 in the same time.
//!
//! Weights and activations are rounded to twelve bits, their products summed in integers, and
//! the sums scaled back to f32. AVX2 has no instruction for four 8-bit products that cannot
//! saturate; it has one for two 16-bit products (`vpmaddwd`), so eight bits would be no faster
//! than twelve, only sixteen times as coarse. The operands are rounded while they are packed:
//! nothing is stored, and a frozen weight stays where the file has it.
//!
//! **Scales.** The depth is cut into blocks of at most [`DEPTH_BLOCK`] inputs. Every row of
//! activations and every output of the weight has its own symmetric scale per block, greatest
//! magnitude ÷ [`LARGEST`]. A block that holds an infinity or NaN makes its row or its output
//! NaN. Activations far beyond their block's others would make those coarse, so they are
//! multiplied in f32; see [`outliers`].
//!
//! **No overflow.** A sum in integers spans one block: at most 512 · 2047² = 2,145,387,008,
//! which is below 2³¹ = 2,147,483,648. It is exact, so it is the same at every level.
//!
//! **Order of summation.** Blocks are added in f32, in order; see [`crate::gemm`].

mod outliers;

use std::ops::Range;
use std::sync::Mutex;

use crate::buffer::{Output, Shared, count, with_scratch};
use crate::gemm::{self, Depth, Grid, Target};
use crate::isa::{Isa, per_isa};
use crate::linear::{Branches, Epilogue, Finish, Gated, Gates, LowRank, gated_outputs};
use crate::matrix::{Dtype, Matrix, as_bytes};
use crate::parallel;
use crate::simd::{INTEGERS, Integers, LANES, bf16_to_f32, f16_to_f32};
use outliers::{Outlier, Outliers};

/// Longest depth block.
const DEPTH_BLOCK: usize = 512;
/// Greatest magnitude of an integer operand: twelve bits with the sign.
const LARGEST: i16 = 2047;
const _: () = assert!(DEPTH_BLOCK * (LARGEST as usize).pow(2) < 1 << 31);

/// Outputs of a panel: two vectors of sums. The branches' panels lie beside them.
const PANEL: usize = 2 * LANES;
const _: () = assert!(PANEL == crate::pack::PANEL);
/// What a panel holds for a pair of inputs: sixteen outputs, two numbers each.
const LINE: usize = 2 * PANEL;
/// Rows whose integers lie in turn, so that a tile reads one stream: those of its tallest tile.
const GROUP: usize = 6;
/// Rows multiplied before the next ones are fetched: with [`DEPTH_BLOCK`], 98 KB.
const ROW_BLOCK: usize = 16 * GROUP;
/// Rows that are rounded at once. Their integers are all that is kept of a layer.
const ROWS_AT_ONCE: usize = 512 * GROUP;

/// A linear layer in integers: [`linear`](crate::linear()) within about 0.1 %.
///
/// The error is that of rounding, relative to the root mean square of the result. A row's
/// result depends on that row and the layer only, bit for bit.
///
/// # Shapes
/// - `x`: `[rows, weight.cols()]`
/// - result: `[rows, weight.rows()]`
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn linear_quantized(
    x: &[f32],
    rows: usize,
    weight: Matrix<'_>,
    epilogue: &Epilogue<'_>,
) -> Vec<f32> {
    let isa = Isa::current();
    let outputs = weight.rows;
    assert_eq!(x.len(), rows * weight.cols, "x of a linear layer");
    let finish = Finish::new(rows, outputs, epilogue);
    let branches = Branches::new(x, rows, weight, epilogue.low_rank);
    let right = Right { weight, gated: false };
    let mut output = Output::new(count([rows, outputs]));
    let memory = output.shared();
    each_part(isa, x, rows, weight.cols, |left| {
        Grid::with_limits(left.rows, outputs, weight.cols, 768, 160).for_each(|rows, columns| {
            let first = left.first_row + rows.start;
            let start = first * outputs + columns.start;
            let target = Target { memory, start, stride: outputs, add: false };
            let finished = |done: Range<usize>| {
                let done = first + done.start..first + done.end;
                // SAFETY: this task's part, complete.
                unsafe { finish.apply(isa, memory, done, columns.clone()) };
            };
            let operands = (left, &right, &branches);
            let part = (rows, columns.clone());
            // SAFETY: tasks do not overlap.
            unsafe { sum(isa, operands, part, target, |up| up, finished) };
        });
    });
    // SAFETY: the parts cover the rows, and each grid its part.
    unsafe { output.finish() }
}

/// The gated layer of a transformer block in integers; see
/// [`linear_geglu`](crate::linear_geglu()).
///
/// # Shapes
/// - `x`: `[rows, weight.cols()]`
/// - `weight`: rows are first all values, then all gates; `bias` and the branches alike
/// - result: `[rows, weight.rows() / 2]`
///
/// # Panics
/// If a length does not fit, or `weight` has an odd number of rows.
#[must_use]
pub fn linear_geglu_quantized(
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
    let branches = Branches::new(x, rows, weight, low_rank);
    let right = Right { weight, gated: true };
    let gated = |up| Gated { weight: up, outputs };
    let mut output = Output::new(count([rows, outputs]));
    let memory = output.shared();
    each_part(isa, x, rows, weight.cols, |left| {
        let grid = Grid::with_limits(left.rows, outputs, 2 * weight.cols, 384, 160);
        grid.for_each(|rows, columns| {
            // Panel after panel: sixteen values, their sixteen gates.
            let stride = 2 * columns.len().next_multiple_of(PANEL);
            let first = left.first_row + rows.start;
            with_scratch([rows.len() * stride], |[sums]| {
                let sums = Shared::of(sums);
                let target = Target { memory: sums, start: 0, stride, add: false };
                let wide = 2 * columns.start..2 * columns.start + stride;
                let finished = |done: Range<usize>| {
                    // SAFETY: this task's part of the output, and sums that are complete.
                    unsafe { gates.apply(isa, (sums, stride), done, memory, first, &columns) };
                };
                let operands = (left, &right, &branches);
                // SAFETY: the sums are this task's own.
                unsafe { sum(isa, operands, (rows, wide), target, gated, finished) };
            });
        });
    });
    // SAFETY: the parts cover the rows, and each grid its part.
    unsafe { output.finish() }
}

/// The product in integers, then the branches in f32; `finished` as [`multiply`]'s `done`.
///
/// # Safety
/// As [`multiply`].
unsafe fn sum<'a, R: gemm::Right>(
    isa: Isa,
    (left, right, branches): (&Left<'_>, &Right<'_>, &Branches<'a>),
    (rows, columns): (Range<usize>, Range<usize>),
    target: Target,
    wrap: impl Fn(Matrix<'a>) -> R,
    mut finished: impl FnMut(Range<usize>),
) {
    let part = (left.first_row + rows.start..left.first_row + rows.end, columns.clone());
    // SAFETY: passed on.
    unsafe {
        multiply(isa, (left, right), rows, columns, target, |done| {
            if branches.is_empty() {
                finished(done);
            }
        });
        branches.add(isa, part, target, wrap, finished);
    }
}

/// Pairs that hold `inputs`; half of the last one may be padding.
fn pairs(inputs: &Range<usize>) -> usize {
    inputs.len().div_ceil(2)
}

/// Rounded activations.
///
/// Block after block, group after group of [`GROUP`] rows: for each pair of inputs, the pairs of
/// the group's rows. Rows that are not there are zero.
struct Left<'a> {
    /// Number of the first row in the whole layer.
    first_row: usize,
    rows: usize,
    depth: Depth,
    integers: &'a [i16],
    /// Block after block, one number per row.
    scales: &'a [f32],
    outliers: Outliers,
}

impl Left<'_> {
    /// The groups of `rows`, which starts with a group, in the block `inputs`.
    fn groups(&self, inputs: &Range<usize>, rows: &Range<usize>) -> &[i16] {
        let (start, words) = place(self.rows, inputs, rows.start / GROUP);
        &self.integers[2 * start..][..2 * words * rows.len().div_ceil(GROUP)]
    }
}

/// Where a group starts in a block, and how long it is, in pairs.
fn place(rows: usize, inputs: &Range<usize>, group: usize) -> (usize, usize) {
    let words = GROUP * pairs(inputs);
    (rows.next_multiple_of(GROUP) * inputs.start / 2 + group * words, words)
}

/// Rounds `x` and shows it to `body`, part by part.
fn each_part(isa: Isa, x: &[f32], rows: usize, depth: usize, body: impl Fn(&Left<'_>)) {
    let blocks = Depth::in_blocks(depth, DEPTH_BLOCK, INTEGERS);
    let count = blocks.blocks().count();
    for first_row in (0..rows).step_by(ROWS_AT_ONCE) {
        let rows = ROWS_AT_ONCE.min(rows - first_row);
        let x = &x[first_row * depth..(first_row + rows) * depth];
        let words = rows.next_multiple_of(GROUP) * pairs(&(0..depth));
        with_scratch([words, rows * count], |[integers, scales]| {
            let (to, scales_to) = (Shared::of(integers), Shared::of(scales));
            let rounding = Rounding { x, rows, depth: blocks, integers: to, scales: scales_to };
            let groups = rows.div_ceil(GROUP);
            let found = Mutex::new(Vec::new());
            parallel::for_each(groups, rows * depth, |group| {
                let outliers = round_group(isa, &rounding, group);
                if !outliers.is_empty() {
                    found.lock().expect("no holder panics").extend(outliers);
                }
            });
            let outliers = found.into_inner().expect("no holder panicked");
            let outliers = Outliers::new(outliers, rows, blocks);
            let integers = as_integers(integers);
            body(&Left { first_row, rows, depth: blocks, integers, scales, outliers });
        });
    }
}

/// The numbers of a part and where their integers go.
struct Rounding<'a> {
    x: &'a [f32],
    rows: usize,
    depth: Depth,
    integers: Shared,
    scales: Shared,
}

per_isa! {
    /// Rounds a group's rows, but for the outliers that are returned.
    fn round_group(rounding: &Rounding<'_>, group: usize) -> Vec<Outlier> = round_group_body
}

#[inline(always)]
fn round_group_body<S: Integers>(s: S, r: &Rounding<'_>, group: usize) -> Vec<Outlier> {
    let mut found = Vec::new();
    let rows = group * GROUP..r.rows.min((group + 1) * GROUP);
    for (block, inputs) in r.depth.blocks().enumerate() {
        let (start, words) = place(r.rows, &inputs, group);
        let scale = block * r.rows + rows.start;
        // SAFETY: every group and block has its own part.
        let (integers, scales) = unsafe {
            (r.integers.part(start..start + words), r.scales.part(scale..scale + rows.len()))
        };
        let mut x = [&[][..]; GROUP];
        let mut without: [Vec<f32>; GROUP] = Default::default();
        let mut greatest = [0.0; GROUP];
        for (i, row) in rows.clone().enumerate() {
            x[i] = &r.x[row * r.depth.units..][inputs.clone()];
            greatest[i] = F32::greatest(s, as_bytes(x[i]));
            let Some(limit) = outliers::limit(s, x[i], greatest[i]) else { continue };
            without[i].extend_from_slice(x[i]);
            for (input, number) in inputs.clone().zip(&mut without[i]) {
                if number.abs() > limit {
                    let value = std::mem::take(number);
                    found.push(Outlier { block, row, input, value });
                }
            }
            greatest[i] = F32::greatest(s, as_bytes(&without[i]));
        }
        let mut inverses = [0.0; GROUP];
        for i in 0..rows.len() {
            if !without[i].is_empty() {
                x[i] = &without[i];
            }
            let packing = Scale::of(greatest[i]);
            (scales[i], inverses[i]) = (packing.scale, packing.inverse);
        }
        round_block(s, &x, &inverses, as_integers_mut(integers));
    }
    found
}

/// Rounds one block of a group. Rows with no inverse are zero.
#[inline(always)]
fn round_block<S: Integers>(
    s: S,
    x: &[&[f32]; GROUP],
    inverses: &[f32; GROUP],
    integers: &mut [i16],
) {
    const PAIRS: usize = 2 * GROUP; // of one pair of inputs
    for (i, out) in integers.chunks_mut(LANES * PAIRS).enumerate() {
        let mut block = [s.zero(); LANES];
        for j in 0..GROUP {
            if inverses[j] > 0.0 {
                let bytes = &as_bytes(x[j])[i * INTEGERS * F32::SIZE..];
                block[j] = scaled(s, widen_group::<S, F32>(s, bytes), inverses[j]);
            }
        }
        // Each store covers eight rows; the next one overwrites what was too much.
        let mut whole = [0; LANES * PAIRS + INTEGERS - PAIRS];
        for (k, column) in s.transpose_pairs(block).into_iter().enumerate() {
            let place = whole[k * PAIRS..].first_chunk_mut().expect("the last one fits, too");
            s.store_integers(column, place);
        }
        out.copy_from_slice(&whole[..out.len()]);
    }
}

/// What an integer stands for, and its inverse.
#[derive(Clone, Copy)]
struct Scale {
    scale: f32,
    inverse: f32,
}

impl Scale {
    /// The scale of numbers up to `greatest`; NaN where that is not finite.
    #[inline(always)]
    fn of(greatest: f32) -> Self {
        if !greatest.is_finite() {
            return Self { scale: f32::NAN, inverse: 0.0 };
        }
        // The limit keeps zeros zero, and the smallest numbers from becoming infinite.
        let inverse = (f32::from(LARGEST) / greatest).min(f32::MAX);
        Self { scale: 1.0 / inverse, inverse }
    }
}

#[inline(always)]
fn load_two<S: Integers>(s: S, numbers: &[f32; PANEL]) -> [S::V; 2] {
    let (low, high) = numbers.split_at(LANES);
    [
        s.load(low.first_chunk().expect("half a panel is a vector")),
        s.load(high.first_chunk().expect("half a panel is a vector")),
    ]
}

#[inline(always)]
fn scaled<S: Integers>(s: S, [low, high]: [S::V; 2], inverse: f32) -> S::I {
    let factor = s.splat(inverse);
    s.round(s.mul(low, factor), s.mul(high, factor))
}

/// A frozen weight, rounded as it is packed.
#[derive(Clone, Copy)]
struct Right<'a> {
    weight: Matrix<'a>,
    /// Values and gates in turn, sixteen of each: column `32 p + j` is value `16 p + j`, and
    /// `32 p + 16 + j` its gate.
    gated: bool,
}

impl Right<'_> {
    /// The outputs of the panel whose first column is `first`.
    fn outputs(&self, first: usize) -> Range<usize> {
        if !self.gated {
            return first..self.weight.rows.min(first + PANEL);
        }
        gated_outputs(first, self.weight.rows / 2)
    }
}

/// One block of a weight as panels.
struct Packed<'a> {
    /// Panel after panel: for each pair of inputs, a [`LINE`]. Outputs that are not there are
    /// zero.
    integers: &'a mut [i16],
    /// One number per column.
    scales: &'a mut [f32],
}

per_isa! {
    /// Packs `inputs` of the outputs that `columns` stand for.
    fn pack(
        right: Right<'_>,
        columns: Range<usize>,
        inputs: Range<usize>,
        packed: &mut Packed<'_>,
    ) = pack_body
}

#[inline(always)]
fn pack_body<S: Integers>(
    s: S,
    right: Right<'_>,
    columns: Range<usize>,
    inputs: Range<usize>,
    packed: &mut Packed<'_>,
) {
    match right.weight.dtype {
        Dtype::F32 => pack_of::<S, F32>(s, right, columns, inputs, packed),
        Dtype::F16 => pack_of::<S, F16>(s, right, columns, inputs, packed),
        Dtype::Bf16 => pack_of::<S, Bf16>(s, right, columns, inputs, packed),
    }
}

#[inline(always)]
fn pack_of<S: Integers, N: Number>(
    s: S,
    right: Right<'_>,
    columns: Range<usize>,
    inputs: Range<usize>,
    packed: &mut Packed<'_>,
) {
    let weight = right.weight;
    let panel_len = LINE * pairs(&inputs).max(1);
    let panels = packed.integers.chunks_exact_mut(panel_len);
    let scales = packed.scales.chunks_exact_mut(PANEL);
    for (first, (panel, scales)) in columns.step_by(PANEL).zip(panels.zip(scales)) {
        let outputs = right.outputs(first);
        let (vectors, _) = panel.as_chunks_mut::<INTEGERS>();
        for half in 0..2 {
            let mut rows = [&[][..]; LANES];
            let mut inverses = [0.0; LANES];
            for j in 0..LANES {
                let output = outputs.start + half * LANES + j;
                let mut packing = Scale { scale: 0.0, inverse: 0.0 };
                if output < outputs.end {
                    let start = output * weight.cols + inputs.start;
                    rows[j] = &weight.bytes[start * N::SIZE..(start + inputs.len()) * N::SIZE];
                    packing = Scale::of(N::greatest(s, rows[j]));
                }
                (scales[half * LANES + j], inverses[j]) = (packing.scale, packing.inverse);
            }
            pack_half::<S, N>(s, &rows, &inverses, &mut vectors[half..]);
        }
    }
}

/// The greatest magnitude of 16-bit numbers, as bits: it is found before they are widened.
#[inline(always)]
fn greatest_half<S: Integers>(s: S, row: &[u8]) -> u16 {
    let (groups, rest) = row.as_chunks::<{ 2 * INTEGERS }>();
    let mut last = [0; 2 * INTEGERS];
    last[..rest.len()].copy_from_slice(rest);
    let mut magnitude = s.zero();
    for group in groups.iter().chain([&last]) {
        magnitude = s.greater_half(group, magnitude);
    }
    s.greatest_half(magnitude)
}

/// Packs eight outputs into every second vector of `vectors`. Those with no inverse are zero.
#[inline(always)]
fn pack_half<S: Integers, N: Number>(
    s: S,
    rows: &[&[u8]; LANES],
    inverses: &[f32; LANES],
    vectors: &mut [[i16; INTEGERS]],
) {
    for (group, vectors) in vectors.chunks_mut(2 * LANES).enumerate() {
        let mut block = [s.zero(); LANES];
        for j in 0..LANES {
            if inverses[j] > 0.0 {
                let row = &rows[j][group * INTEGERS * N::SIZE..];
                block[j] = scaled(s, widen_group::<S, N>(s, row), inverses[j]);
            }
        }
        let columns = s.transpose_pairs(block);
        for (column, vector) in columns.into_iter().zip(vectors.iter_mut().step_by(2)) {
            s.store_integers(column, vector);
        }
    }
}

/// The first sixteen numbers of `row`, zeros where it ends before.
#[inline(always)]
fn widen_group<S: Integers, N: Number>(s: S, row: &[u8]) -> [S::V; 2] {
    if row.len() >= INTEGERS * N::SIZE {
        return [N::eight(s, row), N::eight(s, &row[LANES * N::SIZE..])];
    }
    let mut padded = [0; INTEGERS * size_of::<f32>()];
    padded[..row.len()].copy_from_slice(row);
    [N::eight(s, &padded), N::eight(s, &padded[LANES * N::SIZE..])]
}

/// A stored number format, widened exactly.
trait Number {
    const SIZE: usize;
    /// The first eight numbers of `bytes`.
    fn eight<S: Integers>(s: S, bytes: &[u8]) -> S::V;
    /// The greatest magnitude of a row.
    fn greatest<S: Integers>(s: S, row: &[u8]) -> f32;
}

struct F32;
struct F16;
struct Bf16;

impl Number for F32 {
    const SIZE: usize = 4;

    #[inline(always)]
    fn eight<S: Integers>(s: S, bytes: &[u8]) -> S::V {
        s.widen_f32(bytes.first_chunk().expect("eight numbers are left"))
    }

    #[inline(always)]
    fn greatest<S: Integers>(s: S, row: &[u8]) -> f32 {
        let mut magnitude = s.zero();
        for start in (0..row.len()).step_by(INTEGERS * Self::SIZE) {
            let [low, high] = widen_group::<S, Self>(s, &row[start..]);
            magnitude = s.greater_magnitude(high, s.greater_magnitude(low, magnitude));
        }
        s.greatest_magnitude(magnitude)
    }
}

impl Number for F16 {
    const SIZE: usize = 2;

    #[inline(always)]
    fn eight<S: Integers>(s: S, bytes: &[u8]) -> S::V {
        s.widen_f16(bytes.first_chunk().expect("eight numbers are left"))
    }

    #[inline(always)]
    fn greatest<S: Integers>(s: S, row: &[u8]) -> f32 {
        f16_to_f32(greatest_half(s, row))
    }
}

impl Number for Bf16 {
    const SIZE: usize = 2;

    #[inline(always)]
    fn eight<S: Integers>(s: S, bytes: &[u8]) -> S::V {
        s.widen_bf16(bytes.first_chunk().expect("eight numbers are left"))
    }

    #[inline(always)]
    fn greatest<S: Integers>(s: S, row: &[u8]) -> f32 {
        bf16_to_f32(greatest_half(s, row))
    }
}

/// Computes `rows × columns` of the product into `target`, on this thread.
///
/// `done` is called with each block of rows (counted from the first row of the task) as soon
/// as it is complete and still in cache.
///
/// # Safety
/// Nobody else may touch that part of the target's memory meanwhile.
unsafe fn multiply(
    isa: Isa,
    (left, right): (&Left<'_>, &Right<'_>),
    rows: Range<usize>,
    columns: Range<usize>,
    target: Target,
    mut done: impl FnMut(Range<usize>),
) {
    let wide = columns.len().next_multiple_of(PANEL);
    let longest = left.depth.longest().max(1);
    let words = wide * pairs(&(0..longest));
    let exact = left.outliers.widest() * wide;
    with_scratch([words, wide, exact], |[integers, scales, exact]| {
        for (block, inputs) in left.depth.blocks().enumerate() {
            let mut packed = Packed { integers: as_integers_mut(integers), scales };
            pack(isa, *right, columns.clone(), inputs.clone(), &mut packed);
            left.outliers.gather(block, *right, columns.clone(), exact);
            for first in rows.clone().step_by(ROW_BLOCK) {
                let some = first..rows.end.min(first + ROW_BLOCK);
                let local = first - rows.start..some.end - rows.start;
                let product = Product {
                    a: left.groups(&inputs, &some),
                    a_scales: &left.scales[block * left.rows..][some.clone()],
                    panels: packed.integers,
                    panel_scales: packed.scales,
                    pairs: pairs(&inputs),
                    columns: columns.len(),
                    target: Target { start: target.start + local.start * target.stride, ..target },
                    accumulate: target.add || block > 0,
                };
                product.check();
                // SAFETY: `check` has seen that operands are in bounds; the target is ours alone
                // by the caller.
                unsafe {
                    multiply_block(isa, &product);
                    left.outliers.add(isa, block, some, columns.len(), exact, product.target);
                }
                if inputs.end == left.depth.units {
                    done(local);
                }
            }
        }
    });
}

/// Rows times packed panels.
struct Product<'a> {
    /// Groups of rows; see [`Left`].
    a: &'a [i16],
    /// One number per row.
    a_scales: &'a [f32],
    panels: &'a [i16],
    panel_scales: &'a [f32],
    pairs: usize,
    columns: usize,
    target: Target,
    /// Add to what is there, or replace it.
    accumulate: bool,
}

impl Product<'_> {
    /// Panics unless the operands are large enough, and small enough for the sums.
    fn check(&self) {
        assert!(self.pairs <= DEPTH_BLOCK / 2, "depth of a product");
        let groups = self.a_scales.len().div_ceil(GROUP);
        assert_eq!(self.a.len(), groups * GROUP * 2 * self.pairs, "rows of a product");
        let panels = self.columns.div_ceil(PANEL);
        assert!(panels * LINE * self.pairs <= self.panels.len(), "panels of a product");
        assert!(panels * PANEL <= self.panel_scales.len(), "scales of a product");
    }
}

per_isa! {
    fn run_block(product: &Product<'_>) = multiply_body
}

/// Multiplies, on this thread.
///
/// # Safety
/// [`Product::check`] must pass and nobody else may touch the target meanwhile.
unsafe fn multiply_block(isa: Isa, product: &Product<'_>) {
    run_block(isa, product);
}

/// Only [`multiply_block`] calls this, under its contract.
#[inline(always)]
fn multiply_body<S: Integers>(s: S, p: &Product<'_>) {
    let rows = p.a_scales.len();
    for first in (0..p.columns).step_by(PANEL) {
        let width = PANEL.min(p.columns - first);
        let panel = &p.panels[first / PANEL * LINE * p.pairs..][..LINE * p.pairs];
        let scales = p.panel_scales[first..].first_chunk().expect("checked");
        let mut row = 0;
        while row < rows {
            let height = S::TILE_ROWS.min(rows - row); // divides a group
            let tile = Tile { product: p, row, panel, scales, column: first, width };
            match height {
                6 => tile.run::<S, 6>(s),
                5 => tile.run::<S, 5>(s),
                4 => tile.run::<S, 4>(s),
                3 => tile.run::<S, 3>(s),
                2 => tile.run::<S, 2>(s),
                _ => tile.run::<S, 1>(s),
            }
            row += height;
        }
    }
}

/// One tile of a product: up to six rows, one panel.
struct Tile<'a> {
    product: &'a Product<'a>,
    row: usize,
    panel: &'a [i16],
    scales: &'a [f32; PANEL],
    column: usize,
    width: usize,
}

impl Tile<'_> {
    /// Only [`multiply_body`] calls this, for `ROWS` rows that are there.
    #[inline(always)]
    fn run<S: Integers, const ROWS: usize>(&self, s: S) {
        let p = self.product;
        let group = &p.a[self.row / GROUP * GROUP * 2 * p.pairs..][..GROUP * 2 * p.pairs];
        let sums = self.sums::<S, ROWS>(s, group, self.row % GROUP);
        let [low, high] = load_two(s, self.scales);
        for (i, [low_sum, high_sum]) in sums.into_iter().enumerate() {
            let row = self.row + i;
            let scale = s.splat(p.a_scales[row]);
            let start = p.target.start + row * p.target.stride + self.column;
            // SAFETY: this task's part of the target.
            let out = unsafe { p.target.memory.part(start..start + self.width) };
            let scaled = [s.mul(s.floats(low_sum), low), s.mul(s.floats(high_sum), high)];
            if let Ok(out) = <&mut [f32; PANEL]>::try_from(&mut *out) {
                store(s, scale, scaled, p.accumulate, out);
            } else {
                let mut whole = [0.0; PANEL];
                if p.accumulate {
                    whole[..out.len()].copy_from_slice(out);
                }
                store(s, scale, scaled, p.accumulate, &mut whole);
                out.copy_from_slice(&whole[..out.len()]);
            }
        }
    }

    /// The integer sums of `ROWS` rows, from row `first` of a group on.
    #[inline(always)]
    fn sums<S: Integers, const ROWS: usize>(
        &self,
        s: S,
        group: &[i16],
        first: usize,
    ) -> [[S::I; 2]; ROWS] {
        let pairs = self.product.pairs;
        let (group, _) = group.as_chunks::<2>();
        let (lines, _) = self.panel.as_chunks::<INTEGERS>();
        assert!(first + ROWS <= GROUP && group.len() == GROUP * pairs && lines.len() == 2 * pairs);
        let mut sums = [[s.zero(); 2]; ROWS];
        for k in 0..pairs {
            // SAFETY: the lengths were just asserted.
            unsafe {
                let low = s.load_integers(lines.get_unchecked(2 * k));
                let high = s.load_integers(lines.get_unchecked(2 * k + 1));
                for (i, [low_sum, high_sum]) in sums.iter_mut().enumerate() {
                    let x = s.splat_pair(*group.get_unchecked(k * GROUP + first + i));
                    *low_sum = s.multiply_pairs(x, low, *low_sum);
                    *high_sum = s.multiply_pairs(x, high, *high_sum);
                }
            }
        }
        sums
    }
}

/// `out + scale · scaled`, or without `out` unless `accumulate`.
#[inline(always)]
fn store<S: Integers>(
    s: S,
    scale: S::V,
    [low, high]: [S::V; 2],
    accumulate: bool,
    out: &mut [f32; PANEL],
) {
    let (low, high) = if accumulate {
        let [old_low, old_high] = load_two(s, out);
        (s.mul_add(scale, low, old_low), s.mul_add(scale, high, old_high))
    } else {
        (s.mul(scale, low), s.mul(scale, high))
    };
    let (low_out, high_out) = out.split_at_mut(LANES);
    s.store(low, low_out.first_chunk_mut().expect("half a panel is a vector"));
    s.store(high, high_out.first_chunk_mut().expect("half a panel is a vector"));
}

/// Scratch as the integers it holds.
fn as_integers(words: &[f32]) -> &[i16] {
    // SAFETY: a word is two i16 without padding, of weaker alignment; any bits are integers.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), 2 * words.len()) }
}

/// Scratch as the integers it shall hold.
fn as_integers_mut(words: &mut [f32]) -> &mut [i16] {
    // SAFETY: as above; any bits are an f32, too.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), 2 * words.len()) }
}
