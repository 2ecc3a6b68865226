//! Overlapping tiles for pictures whose activations do not fit into memory.
//!
//! As diffusers' `tiled_decode`: tiles overlap by a quarter and are blended linearly. Here they
//! are spread evenly, so that none is a sliver at the edge.

use candle_core::{Device, Tensor};

use crate::error::Result;

/// Sides of tiles that are tried, in latents; the largest is the native size of SDXL.
///
/// Smaller ones show: a VAE's attention and norms see one tile only. Of 32 latents, tones of the
/// demo's pictures are 21 of 255 apart on average; of 64, less than 1.
const SIDES: [usize; 2] = [128, 64];

/// Bytes a pixel of the assembled picture and its conversion take.
const CANVAS: u64 = 64;

/// How a VAE works on an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiling {
    /// At once: the exact result.
    Whole,
    /// In overlapping square tiles, blended: close to the exact result.
    Tiles {
        /// In latents.
        side: usize,
    },
}

/// A plan for an image of some size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// How to work.
    pub tiling: Tiling,
    /// Bytes of activations that takes at most, as estimated.
    pub bytes: u64,
    /// Bytes that the whole at once takes.
    pub whole_bytes: u64,
}

impl Work {
    /// The whole where it fits into `budget`, else the largest tiles that do, else the smallest.
    pub(super) fn plan(
        [height, width]: [usize; 2],
        budget: Option<u64>,
        estimate: impl Fn(usize, usize) -> u64,
    ) -> Self {
        let whole_bytes = estimate(height, width);
        let fits = |bytes: u64| budget.is_none_or(|budget| bytes <= budget);
        let mut work = Self { tiling: Tiling::Whole, bytes: whole_bytes, whole_bytes };
        // Tiles also cost the picture they are assembled in.
        let pixels = (super::FACTOR * super::FACTOR) as u64 * height as u64 * width as u64;
        for side in SIDES {
            if fits(work.bytes) {
                break;
            }
            let bytes = estimate(height.min(side), width.min(side)) + CANVAS * pixels;
            if bytes < work.bytes {
                work = Self { tiling: Tiling::Tiles { side }, bytes, whole_bytes };
            }
        }
        work
    }
}

impl Tiling {
    /// Runs `network` on the tiles of `[B, H, W, C]` and blends what it returns.
    ///
    /// A latent is `output_unit` numbers wide in the result and `input_unit` in the input.
    pub(super) fn run(
        self,
        input: &Tensor,
        output_unit: usize,
        input_unit: usize,
        network: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let Self::Tiles { side } = self else { return network(input) };
        let (batch, height, width, _) = input.dims4()?;
        let rows = Axis::new(height / input_unit, side, output_unit);
        let columns = Axis::new(width / input_unit, side, output_unit);
        let mut canvas: Vec<f32> = Vec::new();
        let mut channels = 0;
        for &top in &rows.starts {
            for &left in &columns.starts {
                let tile = input
                    .narrow(1, top * input_unit, rows.side * input_unit)?
                    .narrow(2, left * input_unit, columns.side * input_unit)?
                    .contiguous()?;
                let output = network(&tile)?.to_device(&Device::Cpu)?;
                channels = output.dim(3)?;
                canvas.resize(batch * rows.len() * columns.len() * channels, 0.0);
                let output = output.flatten_all()?.to_vec1::<f32>()?;
                let lines = output.chunks_exact(columns.side * output_unit * channels);
                let height = rows.side * output_unit;
                for (index, line) in lines.enumerate() {
                    let row = top * output_unit + index % height;
                    let weight = rows.weight(top, index % height);
                    let pixel = (index / height * rows.len() + row) * columns.len();
                    let start = (pixel + left * output_unit) * channels;
                    let out = canvas[start..].chunks_exact_mut(channels);
                    for (x, (out, value)) in out.zip(line.chunks_exact(channels)).enumerate() {
                        let weight = weight * columns.weight(left, x);
                        out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
                    }
                }
            }
        }
        let shape = (batch, rows.len(), columns.len(), channels);
        Ok(Tensor::from_vec(canvas, shape, input.device())?)
    }
}

/// The tiles along one axis.
struct Axis {
    /// First latent of each tile.
    starts: Vec<usize>,
    /// Latents of a tile.
    side: usize,
    /// Numbers to a latent in the result.
    unit: usize,
    /// One over the sum of all tiles' ramps, for every number of the result.
    inverse: Vec<f32>,
}

impl Axis {
    fn new(latents: usize, side: usize, unit: usize) -> Self {
        let side = side.min(latents);
        let between = (latents - side).div_ceil((side - side / 4).max(1));
        let place = |tile: usize| (tile * (latents - side)).checked_div(between).unwrap_or(0);
        let starts: Vec<usize> = (0..=between).map(place).collect();
        let mut axis = Self { starts, side, unit, inverse: vec![0.0; latents * unit] };
        for &start in &axis.starts {
            for i in 0..side * unit {
                axis.inverse[start * unit + i] += axis.ramp(start, i);
            }
        }
        axis.inverse.iter_mut().for_each(|sum| *sum = 1.0 / *sum);
        axis
    }

    /// Numbers of the result.
    fn len(&self) -> usize {
        self.inverse.len()
    }

    /// Rises from the tile's first number over a quarter of it and falls at its end; flat where
    /// the tile ends with the image.
    fn ramp(&self, start: usize, i: usize) -> f32 {
        let ramp = (self.side / 4 * self.unit).max(1) as f32;
        let rise = |distance: usize, inner: bool| {
            if inner { ((distance as f32 + 0.5) / ramp).min(1.0) } else { 1.0 }
        };
        let last = start + self.side == self.len() / self.unit;
        rise(i, start > 0).min(rise(self.side * self.unit - 1 - i, !last))
    }

    /// The part of number `i` of a tile in the result; all tiles' parts sum to 1.
    fn weight(&self, start: usize, i: usize) -> f32 {
        self.ramp(start, i) * self.inverse[start * self.unit + i]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_pixel_and_blend_to_the_image() -> Result<()> {
        // Sides of all kinds: smaller than a tile, equal, one more, a few, no multiple.
        for (height, width) in [(1, 1), (3, 40), (8, 9), (16, 33), (47, 20)] {
            for (output_unit, input_unit) in [(8, 1), (1, 8)] {
                let count = 2 * height * width * input_unit * input_unit * 3;
                let values: Vec<f32> = (0..count).map(|i| (i % 977) as f32).collect();
                let shape = (2, height * input_unit, width * input_unit, 3);
                let input = Tensor::from_vec(values, shape, &Device::Cpu)?;
                // Every output number is its input number (the first of eight, on the way down).
                let network = |tile: &Tensor| {
                    let (b, h, w, c) = tile.dims4()?;
                    if input_unit == 1 {
                        let tile = tile.reshape((b, h, 1, w, 1, c))?;
                        let tile = tile.broadcast_as((b, h, 8, w, 8, c))?.contiguous()?;
                        return Ok(tile.reshape((b, 8 * h, 8 * w, c))?);
                    }
                    let tile = tile.reshape((b, h / 8, 8, w / 8, 8, c))?;
                    let tile = tile.narrow(2, 0, 1)?.narrow(4, 0, 1)?.contiguous()?;
                    Ok(tile.reshape((b, h / 8, w / 8, c))?)
                };
                let whole = network(&input)?;
                for side in [8, 16] {
                    let tiles = Tiling::Tiles { side };
                    let blended = tiles.run(&input, output_unit, input_unit, network)?;
                    assert_eq!(blended.dims(), whole.dims());
                    let error = (blended - &whole)?.abs()?.max_all()?.to_scalar::<f32>()?;
                    assert!(error < 1e-3, "{height} × {width} in {side}: off by {error}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_seam_is_crossed_evenly() {
        // Two tiles that share a quarter: the second's part rises in equal steps.
        let axis = Axis::new(14, 8, 2);
        assert_eq!(axis.starts, [0, 6]);
        let parts: Vec<f32> = (0..4).map(|i| axis.weight(6, i)).collect();
        assert_eq!(parts, [0.125, 0.375, 0.625, 0.875]);
    }

    #[test]
    fn the_largest_work_that_fits_is_planned() {
        let estimate = |height: usize, width: usize| (height * width) as u64 * 1_000_000;
        let plan = |budget| Work::plan([300, 300], budget, estimate).tiling;
        assert_eq!(plan(None), Tiling::Whole);
        assert_eq!(plan(Some(90_000_000_000)), Tiling::Whole);
        assert_eq!(plan(Some(80_000_000_000)), Tiling::Tiles { side: 128 });
        assert_eq!(plan(Some(16_000_000_000)), Tiling::Tiles { side: 64 });
        // Nothing fits: the least is planned, and the caller sees what it takes.
        let least = Work::plan([300, 300], Some(1), estimate);
        assert_eq!(least.tiling, Tiling::Tiles { side: 64 });
        assert!(least.bytes > 1 && least.whole_bytes == 90_000_000_000);
    }
}
