//! Convolutions: again a convolution, of the result's gradient with the filters turned around.
//!
//! The filters, with outputs and inputs exchanged and their taps reversed, are written once per
//! call in the weight's own format; then it runs at the speed of the forward one. A stride puts
//! zeros between the gradient's pixels. An upsampled image's gradient is summed two by two.

use rayon::prelude::*;

use super::linear::linear_backward;
use super::outer::outer_sum;
use crate::buffer::Output;
use crate::conv::{Conv, ConvEpilogue, conv2d};
use crate::matrix::Matrix;
use crate::parallel;

/// The gradient for a convolution's image, given `dy` for its result.
///
/// An image's gradient depends on that image and the layer only, bit for bit.
///
/// # Shapes
/// - `dy`: `[B, OH, OW, O]`, see [`Conv::output_shape`]
/// - result: `[B, H, W, C]` as `shape` says
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn conv2d_backward(dy: &[f32], conv: &Conv<'_>, shape: [usize; 4]) -> Vec<f32> {
    let output_shape @ [batch, output_h, output_w, outputs] = conv.output_shape(shape);
    let [_, h, w, channels] = shape;
    assert_eq!(dy.len(), output_shape.iter().product::<usize>(), "gradient of a convolution");
    let Conv { kernel, stride, padding, .. } = *conv;
    if kernel == 1 && stride == 1 && padding == [0; 4] && !conv.upsample {
        return linear_backward(dy, batch * output_h * output_w, conv.weight);
    }

    let bytes = turned(conv);
    let weight = Matrix::new(conv.weight.dtype, channels, outputs * kernel * kernel, &bytes);
    let mut turned = Conv { weight, kernel, stride: 1, padding: [0; 4], upsample: false };
    let factor = 1 + usize::from(conv.upsample);
    let (read_h, read_w) = (factor * h, factor * w);
    let none = ConvEpilogue::default();
    let dx = if stride == 1 && padding.iter().all(|&zeros| zeros < kernel) {
        turned.padding = padding.map(|zeros| kernel - 1 - zeros);
        conv2d(dy, output_shape, &turned, &none).0
    } else {
        let spread_shape = [batch, read_h + kernel - 1, read_w + kernel - 1, outputs];
        let spread = spread(dy, conv, output_shape, spread_shape);
        conv2d(&spread, spread_shape, &turned, &none).0
    };
    if conv.upsample { summed_by_two(&dx, shape) } else { dx }
}

/// The gradient for a convolution's filters: a thin one's, such as a `LoRA` trains.
///
/// # Shapes
/// - `dy`: `[B, OH, OW, O]`, see [`Conv::output_shape`]; `x`: `[B, H, W, C]` as `shape` says
/// - result: `[O, C, kernel, kernel]`
///
/// # Panics
/// If a length does not fit.
#[must_use]
pub fn conv2d_filters_backward(
    dy: &[f32],
    x: &[f32],
    conv: &Conv<'_>,
    shape: [usize; 4],
) -> Vec<f32> {
    let output_shape @ [batch, output_h, output_w, outputs] = conv.output_shape(shape);
    let [_, _, _, channels] = shape;
    assert_eq!(dy.len(), output_shape.iter().product::<usize>(), "gradient of a convolution");
    assert_eq!(x.len(), shape.iter().product::<usize>(), "image of a convolution");
    let taps = conv.kernel * conv.kernel;
    let mut gradient = vec![0.0; outputs * channels * taps];
    for tap in 0..taps {
        let seen = seen_by(tap, x, conv, shape, output_shape);
        let sums = outer_sum(dy, &seen, batch * output_h * output_w);
        for (place, sum) in gradient.iter_mut().skip(tap).step_by(taps).zip(sums) {
            *place = sum;
        }
    }
    gradient
}

/// What one tap reads for every output pixel, `[B, OH, OW, C]`.
fn seen_by(
    tap: usize,
    x: &[f32],
    conv: &Conv<'_>,
    [_, h, w, channels]: [usize; 4],
    [batch, output_h, output_w, _]: [usize; 4],
) -> Vec<f32> {
    let factor = 1 + usize::from(conv.upsample);
    let source = |place: usize, offset: usize, padding: usize, size: usize| {
        let position = (place * conv.stride + offset).checked_sub(padding)? / factor;
        (position < size).then_some(position)
    };
    let mut seen = Output::new(batch * output_h * output_w * channels);
    let memory = seen.shared();
    let line = output_w * channels;
    parallel::for_each(batch * output_h, 2 * batch * output_h * line, |index| {
        let (image, y) = (index / output_h, index % output_h);
        // SAFETY: each task has its own line; it is only written.
        let places = unsafe { memory.part(index * line..(index + 1) * line) };
        let y = source(y, tap / conv.kernel, conv.padding[0], h);
        for (x_place, place) in places.chunks_exact_mut(channels.max(1)).enumerate() {
            let column = source(x_place, tap % conv.kernel, conv.padding[2], w);
            if let (Some(y), Some(column)) = (y, column) {
                let start = ((image * h + y) * w + column) * channels;
                place.copy_from_slice(&x[start..start + channels]);
            } else {
                place.fill(0.0);
            }
        }
    });
    // SAFETY: the lines cover it.
    unsafe { seen.finish() }
}

/// The filters as `[C, O · kernel²]`, each with its taps in reverse order.
fn turned(conv: &Conv<'_>) -> Vec<u8> {
    match conv.weight.dtype.size() {
        2 => turned_of::<2>(conv),
        _ => turned_of::<4>(conv),
    }
}

fn turned_of<const SIZE: usize>(conv: &Conv<'_>) -> Vec<u8> {
    // Channels whose filters are read together: whole pages of the weight.
    const CHANNELS: usize = 64;
    let Matrix { rows: outputs, cols, bytes, .. } = conv.weight;
    let taps = conv.kernel * conv.kernel;
    let row = outputs * taps;
    let (numbers, _) = bytes.as_chunks::<SIZE>();
    let mut turned = vec![0; bytes.len()];
    let (places, _) = turned.as_chunks_mut::<SIZE>();
    places.par_chunks_mut((CHANNELS * row).max(1)).enumerate().for_each(|(block, places)| {
        for output in 0..outputs {
            let filters = &numbers[output * cols + block * CHANNELS * taps..];
            let filters = filters.chunks_exact(taps).zip(places.chunks_exact_mut(row));
            for (filter, row) in filters {
                let places = &mut row[output * taps..(output + 1) * taps];
                for (place, number) in places.iter_mut().zip(filter.iter().rev()) {
                    *place = *number;
                }
            }
        }
    });
    turned
}

/// The gradient with zeros between its pixels and around, so that the turned convolution without
/// padding gives the gradient of all that the layer could read.
fn spread(
    dy: &[f32],
    conv: &Conv<'_>,
    [_, output_h, output_w, outputs]: [usize; 4],
    [batch, h, w, _]: [usize; 4],
) -> Vec<f32> {
    // Where a place of the spread image comes from; padding beyond the kernel crops it.
    let source = |place: usize, before: usize, size: usize| {
        let position = (place + before).checked_sub(conv.kernel - 1)?;
        let whole = position.is_multiple_of(conv.stride);
        (whole && position / conv.stride < size).then_some(position / conv.stride)
    };
    let mut spread = Output::new(batch * h * w * outputs);
    let memory = spread.shared();
    let line = w * outputs;
    parallel::for_each(batch * h, 2 * batch * h * line, |index| {
        let (image, y) = (index / h, index % h);
        // SAFETY: each task has its own line; it is only written.
        let places = unsafe { memory.part(index * line..(index + 1) * line) };
        let y = source(y, conv.padding[0], output_h);
        for (x, place) in places.chunks_exact_mut(outputs.max(1)).enumerate() {
            if let (Some(y), Some(x)) = (y, source(x, conv.padding[2], output_w)) {
                let start = ((image * output_h + y) * output_w + x) * outputs;
                place.copy_from_slice(&dy[start..start + outputs]);
            } else {
                place.fill(0.0);
            }
        }
    });
    // SAFETY: the lines cover it.
    unsafe { spread.finish() }
}

/// Sums each two by two pixels of an image twice as large as `shape`.
fn summed_by_two(large: &[f32], [batch, h, w, channels]: [usize; 4]) -> Vec<f32> {
    let mut output = Output::new(batch * h * w * channels);
    let memory = output.shared();
    let line = w * channels;
    parallel::for_each(batch * h, 4 * large.len(), |index| {
        // SAFETY: each task has its own line; it is only written.
        let sums = unsafe { memory.part(index * line..(index + 1) * line) };
        let (above, below) = large[4 * index * line..4 * (index + 1) * line].split_at(2 * line);
        let pairs = above.chunks_exact(2 * channels).zip(below.chunks_exact(2 * channels));
        for (sums, (above, below)) in sums.chunks_exact_mut(channels).zip(pairs) {
            for (channel, sum) in sums.iter_mut().enumerate() {
                let right = channels + channel;
                *sum = (above[channel] + above[right]) + (below[channel] + below[right]);
            }
        }
    });
    // SAFETY: the lines cover it.
    unsafe { output.finish() }
}
