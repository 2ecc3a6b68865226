//! Convolutions on `[B, H, W, C]`, as a product of image patches and weights.
//!
//! Patches are gathered block by block while the product runs ([`Patches`]), so no copy of
//! the image is made. Weights stay in checkpoint order `[O, C, kh, kw]` and are reordered
//! as they are packed: a depth block is some channels with all their taps, tap by tap.
//!
//! Of the 3×3 convolutions, those of stride 1 go to [`crate::winograd`] unless they have very
//! few channels or columns.

use std::ops::Range;

use crate::buffer::{Output, Shared, count};
use crate::gemm::{Dense, Depth, Grid, Left, Right, Target, multiply};
use crate::isa::Isa;
use crate::linear::Finish;
use crate::math::Activation;
use crate::matrix::Matrix;
use crate::norm::folded;
use crate::pack::{Rows, pack};
use crate::winograd::{self, Winograd};

/// A convolution's weight and geometry.
#[derive(Clone, Copy, Debug)]
pub struct Conv<'a> {
    /// `[O, C · kernel²]`: checkpoint order `O, C, kh, kw`.
    pub weight: Matrix<'a>,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Distance between the patches.
    pub stride: usize,
    /// Zeros around the image: top, bottom, left, right.
    pub padding: [usize; 4],
    /// Doubles the image first (nearest neighbour), in the reads.
    pub upsample: bool,
}

/// What happens to a convolution's sums before they are stored: all of it is added.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConvEpilogue<'a> {
    /// `[O]`.
    pub bias: Option<&'a [f32]>,
    /// `[B, O]`, such as the projected time embedding.
    pub per_image: Option<&'a [f32]>,
    /// `[B, OH, OW, O]`.
    pub residual: Option<&'a [f32]>,
    /// Adds to what the output holds, in place of a residual.
    pub accumulate: bool,
}

/// A group norm folded into a convolution's reads: `x · factor + offset`, then `SiLU` where asked.
///
/// Padding stays zero: it surrounds the image after the norm.
#[derive(Clone, Copy, Debug)]
pub struct Fold<'a> {
    /// `[B, C]`.
    pub factors: &'a [f32],
    /// `[B, C]`.
    pub offsets: &'a [f32],
    /// Applied last.
    pub silu: bool,
}

impl Conv<'_> {
    /// The shape of the result for an image of this shape.
    ///
    /// # Panics
    /// If the weight is not for so many channels or the padded image is smaller than the
    /// kernel.
    #[must_use]
    pub fn output_shape(&self, [b, h, w, c]: [usize; 4]) -> [usize; 4] {
        let taps = self.kernel * self.kernel;
        assert_eq!(self.weight.cols, c * taps, "weight of a convolution on {c} channels");
        let factor = 1 + usize::from(self.upsample);
        let [top, bottom, left, right] = self.padding;
        let extent = |size: usize, before: usize, after: usize| {
            let padded = size * factor + before + after;
            assert!(padded >= self.kernel, "{size} pixels for a kernel of {}", self.kernel);
            (padded - self.kernel) / self.stride + 1
        };
        [b, extent(h, top, bottom), extent(w, left, right), self.weight.rows]
    }

    /// Whether it is a linear layer on pixels.
    fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == [0; 4] && !self.upsample
    }
}

/// A convolution, then the epilogue. Returns the image and its shape.
///
/// An image's result depends on that image and the layer only, bit for bit.
///
/// # Shapes
/// - `x`: `[B, H, W, C]` as `shape` says
/// - result: `[B, OH, OW, O]`
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn conv2d(
    x: &[f32],
    shape: [usize; 4],
    conv: &Conv<'_>,
    epilogue: &ConvEpilogue<'_>,
) -> (Vec<f32>, [usize; 4]) {
    conv2d_folded(x, shape, conv, None, epilogue)
}

/// As [`conv2d`], into `out`, with a group norm folded into the reads.
///
/// # Shapes
/// - `x`: `[B, H, W, C]` as `shape` says
/// - `out`: `[B, OH, OW, O]`
///
/// # Panics
/// If a length does not fit.
pub fn conv2d_into(
    out: &mut [f32],
    x: &[f32],
    shape: [usize; 4],
    conv: &Conv<'_>,
    fold: Option<&Fold<'_>>,
    epilogue: &ConvEpilogue<'_>,
) {
    let [_, height, ..] = conv.output_shape(shape);
    conv2d_rows_into(out, 0..height, x, shape, conv, fold, epilogue);
}

/// As [`conv2d_into`], of a band: `rows` of the output, with the bits they have in the whole.
///
/// # Shapes
/// - `x`: `[B, H, W, C]` as `shape` says, the whole image
/// - `out`, and a residual: `[B, rows, OW, O]`
///
/// # Panics
/// If a length does not fit, or `rows` do not start at a multiple of four or are not all there.
pub fn conv2d_rows_into(
    out: &mut [f32],
    rows: Range<usize>,
    x: &[f32],
    shape: [usize; 4],
    conv: &Conv<'_>,
    fold: Option<&Fold<'_>>,
    epilogue: &ConvEpilogue<'_>,
) {
    let [images, height, width, outputs] = conv.output_shape(shape);
    assert!(rows.end <= height && rows.start.is_multiple_of(winograd::TILE), "band {rows:?}");
    let expected = count([images, rows.len(), width, outputs]);
    assert_eq!(out.len(), expected, "output of a convolution");
    // SAFETY: all of it is there and ours.
    unsafe { run(Shared::of(out), rows, x, shape, conv, fold, epilogue) };
}

/// # Safety
/// `memory` is as long as `rows` of the output and nobody else touches it; it holds numbers
/// where the epilogue accumulates.
unsafe fn run(
    memory: Shared,
    rows: Range<usize>,
    x: &[f32],
    shape: [usize; 4],
    conv: &Conv<'_>,
    fold: Option<&Fold<'_>>,
    epilogue: &ConvEpilogue<'_>,
) {
    assert_eq!(x.len(), shape.iter().product::<usize>(), "image of a convolution");
    let [images, _, width, outputs] = conv.output_shape(shape);
    let output_shape = [images, rows.len(), width, outputs];
    if output_shape.contains(&0) {
        return;
    }
    if let Some(fold) = fold {
        assert_eq!(fold.factors.len(), shape[0] * shape[3], "factors of a folded norm");
        assert_eq!(fold.offsets.len(), shape[0] * shape[3], "offsets of a folded norm");
    }
    let finish = &finish(output_shape, epilogue);
    let isa = Isa::current();
    let channels = shape[3];
    if winograd::is_for(conv, channels, output_shape[2]) {
        let first_row = rows.start;
        let layer = Winograd { isa, x, shape, conv, fold, first_row, output_shape, finish };
        // SAFETY: passed on.
        unsafe { layer.run(memory) };
        return;
    }
    if epilogue.accumulate {
        // In one piece, so that it is the sum that a residual would give.
        let fresh = ConvEpilogue { accumulate: false, ..*epilogue };
        let mut sums = Output::new(count(output_shape));
        // SAFETY: ours, and as long.
        unsafe { run(sums.shared(), rows, x, shape, conv, fold, &fresh) };
        // SAFETY: it was written whole.
        let sums = unsafe { sums.finish() };
        // SAFETY: ours, and written, by the caller.
        let out = unsafe { memory.part(0..sums.len()) };
        for (out, sum) in out.iter_mut().zip(&sums) {
            *out += sum;
        }
        return;
    }
    let normal;
    let x = match fold {
        Some(fold) => {
            normal = folded(x, shape, fold);
            &normal
        }
        None => x,
    };
    // SAFETY: passed on.
    unsafe {
        if conv.is_pointwise() && output_shape[1] == shape[1] {
            let left = Dense { x, width: channels };
            let depth = Depth::new(channels, 1);
            multiply_all(isa, (&left, &conv.weight), depth, output_shape, finish, memory);
        } else {
            let taps = conv.kernel * conv.kernel;
            let left = Patches { x, shape, conv: *conv, first_row: rows.start, output_shape };
            let right = Filters { weight: conv.weight, taps };
            let depth = Depth::new(channels, taps);
            multiply_all(isa, (&left, &right), depth, output_shape, finish, memory);
        }
    }
}

/// [`conv2d`] on an image read through a norm.
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn conv2d_folded(
    x: &[f32],
    shape: [usize; 4],
    conv: &Conv<'_>,
    fold: Option<&Fold<'_>>,
    epilogue: &ConvEpilogue<'_>,
) -> (Vec<f32>, [usize; 4]) {
    assert!(!epilogue.accumulate, "a fresh output holds nothing to add to");
    let output_shape = conv.output_shape(shape);
    let mut output = Output::new(count(output_shape));
    // SAFETY: it is written whole, and not read.
    unsafe { run(output.shared(), 0..output_shape[1], x, shape, conv, fold, epilogue) };
    // SAFETY: it was written whole.
    (unsafe { output.finish() }, output_shape)
}

fn finish<'a>([b, h, w, outputs]: [usize; 4], epilogue: &ConvEpilogue<'a>) -> Finish<'a> {
    let &ConvEpilogue { bias, per_image, residual, accumulate } = epilogue;
    if let Some(bias) = bias {
        assert_eq!(bias.len(), outputs, "bias of a convolution");
    }
    if let Some(per_image) = per_image {
        assert_eq!(per_image.len(), b * outputs, "per-image addition of a convolution");
    }
    if let Some(residual) = residual {
        assert_eq!(residual.len(), b * h * w * outputs, "residual of a convolution");
    }
    let per_image = per_image.map(|numbers| (numbers, h * w));
    Finish { outputs, bias, per_image, activation: Activation::None, residual, accumulate }
}

/// # Safety
/// As [`run`].
unsafe fn multiply_all<L: Left, R: Right>(
    isa: Isa,
    operands: (&L, &R),
    depth: Depth,
    [b, h, w, outputs]: [usize; 4],
    finish: &Finish<'_>,
    memory: Shared,
) {
    let rows = b * h * w;
    Grid::new(rows, outputs, depth.total()).for_each(|rows, columns| {
        let start = rows.start * outputs + columns.start;
        let target = Target { memory, start, stride: outputs, add: false };
        let finished = |block: Range<usize>| {
            let block = rows.start + block.start..rows.start + block.end;
            // SAFETY: this task's part, complete.
            unsafe { finish.apply(isa, memory, block, columns.clone()) };
        };
        // SAFETY: tasks do not overlap.
        unsafe {
            multiply(isa, operands, depth, rows.clone(), columns.clone(), target, finished);
        };
    });
}

/// The patches of an image, one row per output pixel.
struct Patches<'a> {
    x: &'a [f32],
    shape: [usize; 4],
    conv: Conv<'a>,
    /// The output's first row in the whole layer's.
    first_row: usize,
    output_shape: [usize; 4],
}

impl Left for Patches<'_> {
    fn rows<'a>(
        &'a self,
        rows: Range<usize>,
        channels: Range<usize>,
        _reads: usize,
        scratch: &'a mut [f32],
    ) -> (&'a [f32], usize) {
        let width = channels.len();
        let depth = width * self.conv.kernel * self.conv.kernel;
        if depth == 0 {
            return (scratch, 0);
        }
        let [_, output_h, output_w, _] = self.output_shape;
        for (row, patch) in rows.zip(scratch.chunks_exact_mut(depth)) {
            let column = row % output_w;
            let line = self.first_row + row / output_w % output_h;
            let image = row / output_w / output_h;
            let mut taps = patch.chunks_exact_mut(width);
            for ky in 0..self.conv.kernel {
                let y = self.read(line, ky, self.conv.padding[0], self.shape[1]);
                for kx in 0..self.conv.kernel {
                    let x = self.read(column, kx, self.conv.padding[2], self.shape[2]);
                    let tap = taps.next().expect("a patch has kernel² taps");
                    if let (Some(y), Some(x)) = (y, x) {
                        let pixel = (image * self.shape[1] + y) * self.shape[2] + x;
                        let start = pixel * self.shape[3] + channels.start;
                        copy(&self.x[start..start + width], tap);
                    } else {
                        tap.fill(0.0);
                    }
                }
            }
        }
        (scratch, depth)
    }
}

impl Patches<'_> {
    /// Where tap `tap` of output position `position` reads, unless that is padding.
    #[inline(always)]
    fn read(&self, position: usize, tap: usize, before: usize, size: usize) -> Option<usize> {
        let padded = (position * self.conv.stride + tap).checked_sub(before)?;
        let source = if self.conv.upsample { padded / 2 } else { padded };
        (source < size).then_some(source)
    }
}

/// Copies eight at a time: the pieces are short, and a call to `memcpy` would cost more.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    let (from, from_tail) = from.as_chunks::<8>();
    let (to, to_tail) = to.as_chunks_mut::<8>();
    for (from, to) in from.iter().zip(to) {
        *to = *from;
    }
    for (from, to) in from_tail.iter().zip(to_tail) {
        *to = *from;
    }
}

/// A convolution's weight, whose depth blocks are reordered from `[channel, tap]` to
/// `[tap, channel]`.
struct Filters<'a> {
    weight: Matrix<'a>,
    taps: usize,
}

impl Right for Filters<'_> {
    fn pack(&self, isa: Isa, columns: Range<usize>, channels: Range<usize>, packed: &mut [f32]) {
        let Matrix { dtype, bytes, cols, .. } = self.weight;
        let rows = Rows { dtype, bytes, stride: cols };
        let width = channels.len();
        let places: Vec<u32> = (0..width)
            .flat_map(|channel| (0..self.taps).map(move |tap| (tap * width + channel) as u32))
            .collect();
        let inputs = channels.start * self.taps..channels.end * self.taps;
        pack(isa, rows, columns, inputs, Some(&places), None, packed);
    }
}
