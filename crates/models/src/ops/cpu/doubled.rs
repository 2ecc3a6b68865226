//! The last and largest step up of a VAE, in bands: its doubled image is never whole.
//!
//! A first pass over the bands takes the norm's statistics, a second computes the bands anew
//! and everything that reads them. Bands start at multiples of four rows, where neither the
//! statistics nor a convolution can tell them from the whole.

use std::ops::Range;

use unwrong_kernels as kernels;

use super::conv::Norm;
use super::matrix;
use crate::error::Result;
use crate::files::FrozenWeight;
use crate::ops::{DoubledHalf, Image, Product};

/// What every band is aligned to.
const ALIGNMENT: usize = 4;

pub(in crate::ops) fn doubled_half(
    x: &Image,
    half: &DoubledHalf<'_>,
    rows: usize,
) -> Result<(Image, Image)> {
    assert!(rows > 0 && rows.is_multiple_of(ALIGNMENT), "bands of {rows} rows");
    let bands = Bands {
        rows,
        upsampler: &Layer::of(half.upsampler),
        norm: &Norm::of(half.norm),
        silu: half.norm.silu,
        conv: &Layer::of(half.conv),
        shortcut: &Layer::of(half.shortcut),
    };
    x.read("doubled_half", |values, [batch, height, width, channels]| {
        let outputs = bands.conv.weight.rows();
        let dims = [batch, 2 * height, 2 * width, outputs];
        let image = 4 * height * width * outputs;
        let (mut hidden, mut skip) = (vec![0.0; batch * image], vec![0.0; batch * image]);
        let images = values.chunks_exact((height * width * channels).max(1));
        let outputs =
            hidden.chunks_exact_mut(image.max(1)).zip(skip.chunks_exact_mut(image.max(1)));
        for (x, (hidden, skip)) in images.zip(outputs) {
            bands.run(&Source { x, shape: [height, width, channels] }, hidden, skip);
        }
        (Image::owned(hidden, dims), Image::owned(skip, dims))
    })
}

struct Bands<'a> {
    rows: usize,
    upsampler: &'a Layer<'a>,
    norm: &'a Norm,
    silu: bool,
    conv: &'a Layer<'a>,
    shortcut: &'a Layer<'a>,
}

/// The small image.
struct Source<'a> {
    x: &'a [f32],
    shape: [usize; 3],
}

impl Bands<'_> {
    fn run(&self, source: &Source<'_>, hidden: &mut [f32], skip: &mut [f32]) {
        let [height, width] = [2 * source.shape[0], 2 * source.shape[1]];
        let channels = self.upsampler.weight.rows();
        let outputs = self.conv.weight.rows();
        let (line, output_line) = (width * channels, width * outputs);
        // A band, and the rows before it that are still read: one of the convolution's halo
        // and four that it could not finish.
        let mut window = vec![0.0; (self.rows + ALIGNMENT + 1).min(height) * line];
        let bands = || (0..height).step_by(self.rows).map(|y| y..height.min(y + self.rows));

        let mut moments = kernels::Moments::new(width, channels);
        for rows in bands() {
            let band = &mut window[..rows.len() * line];
            self.upsample(source, rows, band);
            moments.add_rows(band);
        }
        let factors = moments.factors(&self.norm.kernel());
        let fold = factors.fold(self.silu);

        // `window` starts at row `first`; `hidden` is finished up to `done`.
        let (mut first, mut done) = (0, 0);
        for rows in bands() {
            let band = (rows.start - first) * line..(rows.end - first) * line;
            self.upsample(source, rows.clone(), &mut window[band.clone()]);
            let skip = &mut skip[rows.start * output_line..rows.end * output_line];
            self.shortcut.band(skip, &window[band], &rows, [height, width, channels], None);

            // The last row of a band is no whole halo for the rows above it.
            let end = if rows.end == height { height } else { rows.end - ALIGNMENT };
            let finished = done..end;
            if finished.is_empty() {
                continue;
            }
            let reads = self.conv.reads(&finished, height);
            let hidden = &mut hidden[finished.start * output_line..finished.end * output_line];
            let read = &window[(reads.start - first) * line..(reads.end - first) * line];
            self.conv.band(hidden, read, &finished, [height, width, channels], Some(&fold));
            done = end;
            let kept = done.saturating_sub(1);
            window.copy_within((kept - first) * line..(rows.end - first) * line, 0);
            first = kept;
        }
    }

    /// Rows of the doubled and convolved image.
    fn upsample(&self, source: &Source<'_>, rows: Range<usize>, out: &mut [f32]) {
        let [height, width, channels] = source.shape;
        let layer = self.upsampler;
        let halo = layer.kernel / 2;
        let conv = kernels::Conv {
            weight: layer.weight,
            kernel: layer.kernel,
            stride: 1,
            padding: [halo; 4],
            upsample: true,
        };
        let epilogue = layer.epilogue();
        let shape = [1, height, width, channels];
        kernels::conv2d_rows_into(out, rows, source.x, shape, &conv, None, &epilogue);
    }
}

/// A convolution that keeps the size, band by band.
struct Layer<'a> {
    weight: kernels::Matrix<'a>,
    kernel: usize,
    bias: Option<Vec<f32>>,
}

impl<'a> Layer<'a> {
    fn of(product: Product<'a>) -> Self {
        Self {
            weight: matrix(product.weight),
            kernel: product.weight.shape().get(2).copied().unwrap_or(1),
            bias: product.bias.map(FrozenWeight::values_f32),
        }
    }

    fn epilogue(&self) -> kernels::ConvEpilogue<'_> {
        kernels::ConvEpilogue { bias: self.bias.as_deref(), ..Default::default() }
    }

    /// The rows that `rows` of the output look at.
    fn reads(&self, rows: &Range<usize>, height: usize) -> Range<usize> {
        let halo = self.kernel / 2;
        rows.start.saturating_sub(halo)..height.min(rows.end + halo)
    }

    /// Rows of the output from the rows they read, of an image of `[height, width, channels]`.
    fn band(
        &self,
        out: &mut [f32],
        x: &[f32],
        rows: &Range<usize>,
        [height, width, channels]: [usize; 3],
        fold: Option<&kernels::Fold<'_>>,
    ) {
        let halo = self.kernel / 2;
        let reads = self.reads(rows, height);
        let padding = [reads.start + halo - rows.start, rows.end + halo - reads.end, halo, halo];
        let conv = kernels::Conv {
            weight: self.weight,
            kernel: self.kernel,
            stride: 1,
            padding,
            upsample: false,
        };
        let epilogue = self.epilogue();
        let shape = [1, reads.len(), width, channels];
        kernels::conv2d_into(out, x, shape, &conv, fold, &epilogue);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::ops::{Affine, Convolution, GroupNorm, Ops, Window, conv2d, doubled_half};

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let number = |i: u32| {
            let i = i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503));
            (i >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count as u32).map(number).collect()
    }

    fn weight(shape: &[usize], seed: u32) -> FrozenWeight {
        FrozenWeight::from_f32(&numbers(shape.iter().product(), seed), shape)
    }

    fn bits(image: &Image) -> Result<Vec<u32>> {
        image.read("test", |values, _| values.iter().map(|value| value.to_bits()).collect())
    }

    #[test]
    fn bands_of_any_image_have_the_bits_of_the_whole() -> Result<()> {
        for (shape, middle, outputs, groups) in [
            ([1, 1, 1, 3], 4, 5, 2),
            ([2, 3, 5, 8], 6, 9, 3),
            ([1, 11, 4, 16], 40, 24, 8),
            ([3, 9, 17, 5], 64, 32, 32),
        ] {
            let weights = [
                weight(&[middle, shape[3], 3, 3], 1),
                weight(&[middle], 2),
                weight(&[outputs, middle, 3, 3], 3),
                weight(&[outputs], 4),
                weight(&[outputs, middle, 1, 1], 5),
                weight(&[middle], 6),
            ];
            let product = |weight, bias| Product { weight, bias: Some(bias), adapter: None };
            let affine = Affine { weight: &weights[1], bias: &weights[5], eps: 1e-6 };
            let half = DoubledHalf {
                upsampler: product(&weights[0], &weights[1]),
                norm: GroupNorm { groups, affine, silu: true },
                conv: product(&weights[2], &weights[3]),
                shortcut: product(&weights[4], &weights[3]),
            };
            let x = Tensor::from_vec(numbers(shape.iter().product(), 7), &shape[..], &Device::Cpu)?;
            let x = Image::from(x);

            let image = conv2d(Ops::Cpu, &x, &half.upsampled(), None)?;
            let conv = Convolution::plain(half.conv, Window::same(3));
            let conv = Convolution { norm: Some(half.norm), ..conv };
            let hidden = bits(&conv2d(Ops::Cpu, &image, &conv, None)?)?;
            let shortcut = Convolution::plain(half.shortcut, Window::same(1));
            let skip = bits(&conv2d(Ops::Cpu, &image, &shortcut, None)?)?;
            for rows in [4, 8, 32] {
                let (a, b) = doubled_half(Ops::Cpu, &x, &half, rows)?;
                assert_eq!(a.dims()?, [shape[0], 2 * shape[1], 2 * shape[2], outputs]);
                assert!(bits(&a)? == hidden && bits(&b)? == skip, "{shape:?} in {rows} rows");
            }
        }
        Ok(())
    }
}
