//! The statistics of group norm: mean and variance, from an image fed whole or band by band.

use crate::isa::{Isa, per_isa};
use crate::norm::{Factors, GroupNorm};
use crate::parallel;
use crate::simd::{LANES, Simd, padded};

/// Rows that are summed together. Nothing but the image may set this.
const STRIP: usize = 4;

/// Pixels whose sums stay in f32.
const RUN: usize = 64;

/// Sums and sums of squares of the channels of one image.
///
/// An image may come in bands of rows: the bits are those of the whole, because every strip of
/// four rows is summed by itself and strips are added in order.
///
/// Runs of 64 pixels are summed in f32, as distances from their own first pixel, and runs in
/// f64: a mean of a thousand deviations costs no accuracy, and nearly no element a conversion.
pub struct Moments {
    width: usize,
    channels: usize,
    pixels: usize,
    /// Of every channel the sum, then of every channel the sum of squares.
    sums: Vec<f64>,
}

impl Moments {
    /// Nothing yet of an image `width` pixels wide.
    ///
    /// # Panics
    /// If it has no width or no channels.
    #[must_use]
    pub fn new(width: usize, channels: usize) -> Self {
        assert!(width * channels > 0, "moments of {width} pixels of {channels} channels");
        Self { width, channels, pixels: 0, sums: vec![0.0; 2 * channels] }
    }

    /// Adds the next rows, `[rows, width, channels]`.
    ///
    /// # Panics
    /// If these are not whole rows, or an earlier band ended inside a strip of four.
    pub fn add_rows(&mut self, rows: &[f32]) {
        let isa = Isa::current();
        let channels = self.channels;
        let strip = STRIP * self.width;
        assert!(rows.len().is_multiple_of(self.width * channels), "whole rows of an image");
        assert!(self.pixels.is_multiple_of(strip), "only the last band ends inside a strip");
        let strips = rows.len().div_ceil(strip * channels);
        let mut sums = vec![0.0_f64; strips * 2 * channels];
        let shared = SharedSums(sums.as_mut_ptr());
        // About two multiplications an element, as `parallel` counts.
        parallel::for_each(strips, 2 * rows.len(), |index| {
            let shared = &shared;
            let start = index * strip * channels;
            let rows = &rows[start..rows.len().min(start + strip * channels)];
            // SAFETY: each task has its own `2 · channels` numbers of `sums`.
            let sums = unsafe {
                std::slice::from_raw_parts_mut(shared.0.add(index * 2 * channels), 2 * channels)
            };
            add_strip(isa, rows, sums);
        });
        for strip in sums.chunks_exact(2 * channels) {
            self.sums.iter_mut().zip(strip).for_each(|(all, strip)| *all += strip);
        }
        self.pixels += rows.len() / channels;
    }

    /// The group norm of this image, as factor and offset of each channel.
    ///
    /// # Panics
    /// If the norm is not for these channels.
    #[must_use]
    pub fn factors(&self, norm: &GroupNorm<'_>) -> Factors {
        let channels = self.channels;
        norm.check(channels);
        let width = channels / norm.groups;
        let count = (self.pixels * width) as f64;
        let mut result = Factors::default();
        let (sums, squares) = self.sums.split_at(channels);
        for group in 0..norm.groups {
            let members = group * width..(group + 1) * width;
            let mean = sums[members.clone()].iter().sum::<f64>() / count;
            let square = squares[members.clone()].iter().sum::<f64>() / count;
            let variance = (square - mean * mean).max(0.0);
            let inverse = 1.0 / (variance + f64::from(norm.eps)).sqrt();
            for channel in members {
                let factor = f64::from(norm.weight[channel]) * inverse;
                result.factors.push(factor as f32);
                result.offsets.push((f64::from(norm.bias[channel]) - mean * factor) as f32);
            }
        }
        result
    }
}

struct SharedSums(*mut f64);
// SAFETY: tasks use disjoint parts.
unsafe impl Sync for SharedSums {}

per_isa! {
    fn add_strip(x: &[f32], sums: &mut [f64]) = add_strip_body
}

#[inline(always)]
fn add_strip_body<S: Simd>(s: S, x: &[f32], sums: &mut [f64]) {
    let channels = sums.len() / 2;
    let (sums, squares) = sums.split_at_mut(channels);
    let mut near = vec![[0.0_f32; LANES]; 2 * channels.div_ceil(LANES)];
    for run in x.chunks(RUN * channels) {
        near.fill([0.0; LANES]);
        let (near_sums, near_squares) = near.split_at_mut(channels.div_ceil(LANES));
        let first = &run[..channels];
        let mut fours = run.chunks_exact(4 * channels);
        for four in &mut fours {
            let (a, rest) = four.split_at(channels);
            let (b, rest) = rest.split_at(channels);
            let (c, d) = rest.split_at(channels);
            add_pixels(s, [a, b, c, d], first, near_sums, near_squares);
        }
        for pixel in fours.remainder().chunks_exact(channels) {
            add_pixels(s, [pixel], first, near_sums, near_squares);
        }

        // Σ x = n · first + Σ d and Σ x² = n · first² + 2 · first · Σ d + Σ d².
        let count = (run.len() / channels) as f64;
        let near = near_sums.as_flattened().iter().zip(near_squares.as_flattened());
        let far = sums.iter_mut().zip(squares.iter_mut());
        for (((near_sum, near_square), first), (sum, square)) in near.zip(first).zip(far) {
            let [first, near_sum, near_square] = [*first, *near_sum, *near_square].map(f64::from);
            *sum += count * first + near_sum;
            *square += near_square + first * (count * first + 2.0 * near_sum);
        }
    }
}

/// Adds the distances of `N` pixels from `first`, and their squares.
#[inline(always)]
fn add_pixels<S: Simd, const N: usize>(
    s: S,
    pixels: [&[f32]; N],
    first: &[f32],
    sums: &mut [[f32; LANES]],
    squares: &mut [[f32; LANES]],
) {
    let (whole, tail) = first.as_chunks::<LANES>();
    let (sums, last_sums) = sums.split_at_mut(whole.len());
    let (squares, last_squares) = squares.split_at_mut(whole.len());
    for i in 0..whole.len() {
        let mut values = [s.splat(0.0); N];
        for (value, pixel) in values.iter_mut().zip(pixels) {
            *value = s.load(&pixel.as_chunks::<LANES>().0[i]);
        }
        add_lanes(s, values, s.load(&whole[i]), &mut sums[i], &mut squares[i]);
    }
    if let ([sums], [squares]) = (last_sums, last_squares) {
        let mut values = [s.splat(0.0); N];
        for (value, pixel) in values.iter_mut().zip(pixels) {
            *value = s.load(&padded(pixel.as_chunks::<LANES>().1));
        }
        add_lanes(s, values, s.load(&padded(tail)), sums, squares);
    }
}

#[inline(always)]
fn add_lanes<S: Simd, const N: usize>(
    s: S,
    pixels: [S::V; N],
    first: S::V,
    sums: &mut [f32; LANES],
    squares: &mut [f32; LANES],
) {
    let (mut sum, mut square) = (s.load(sums), s.load(squares));
    for pixel in pixels {
        let distance = s.sub(pixel, first);
        sum = s.add(sum, distance);
        square = s.mul_add(distance, distance, square);
    }
    s.store(sum, sums);
    s.store(square, squares);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values around `mean`, reproducible.
    fn numbers(count: usize, mean: f32) -> Vec<f32> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..count).map(|_| mean + next()).collect()
    }

    #[test]
    fn bands_have_the_bits_of_the_whole() {
        for (height, width, channels) in [(1, 1, 3), (9, 7, 5), (24, 40, 16), (30, 33, 40)] {
            let x = numbers(height * width * channels, 3.0);
            for isa in Isa::available() {
                isa.scope(|| {
                    let mut whole = Moments::new(width, channels);
                    whole.add_rows(&x);
                    for rows in [4, 8, 20] {
                        let mut banded = Moments::new(width, channels);
                        x.chunks(rows * width * channels).for_each(|band| banded.add_rows(band));
                        assert_eq!((banded.pixels, &banded.sums), (whole.pixels, &whole.sums));
                    }
                });
            }
        }
    }

    #[test]
    fn a_mean_of_a_thousand_deviations_leaves_the_variance() {
        let (side, channels) = (96, 12);
        // A deviation of 1/√12, and a mean of 1000 times that.
        let x = numbers(side * side * channels, 288.7);
        let exact: f64 = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (f64::from(*x) - exact).powi(2)).sum::<f64>();
        let expected = 1.0 / (variance / x.len() as f64).sqrt();
        for isa in Isa::available() {
            isa.scope(|| {
                let mut moments = Moments::new(side, channels);
                moments.add_rows(&x);
                let (weight, bias) = (vec![1.0; channels], vec![0.0; channels]);
                let norm = GroupNorm { groups: 1, eps: 0.0, weight: &weight, bias: &bias };
                let Factors { factors, offsets } = moments.factors(&norm);
                let error = f64::from(factors[0]) / expected - 1.0;
                assert!(error.abs() < 1e-6, "factor off by {error:e}");
                let error = f64::from(offsets[0]) / (-exact * expected) - 1.0;
                assert!(error.abs() < 1e-6, "offset off by {error:e}");
            });
        }
    }

    #[test]
    #[should_panic(expected = "only the last band")]
    fn a_band_that_ends_inside_a_strip_is_the_last() {
        let mut moments = Moments::new(2, 1);
        moments.add_rows(&[0.0; 6]);
        moments.add_rows(&[0.0; 2]);
    }
}
