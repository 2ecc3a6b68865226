//! Numbers of a picture, from its 8-bit red, green and blue, each with its source.
//!
//! All are sums in f64 in one fixed order: the same picture gives the same number, to the bit.
//! None of them knows what a picture shows.

mod blockiness;
mod colour;
mod focus;
mod noise;
mod similarity;
mod spectrum;

use unwrong::picture::Pixels;

use crate::follow::Fit;

pub use similarity::{psnr, ssim};

/// Which way the method's author claims a metric goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Sharper, more vivid.
    Higher,
    /// Less noise, fewer artifacts.
    Lower,
}

/// One number of one picture.
#[derive(Debug)]
pub struct Metric {
    /// The name in files and on the command line.
    pub name: &'static str,
    /// What counts as improved.
    pub better: Better,
    /// What is computed.
    pub what: &'static str,
    /// Who described it, and when.
    pub source: &'static str,
    /// What it does not show.
    pub blind: &'static str,
    measure: Measure,
}

/// What a metric is computed from.
#[derive(Debug)]
enum Measure {
    Pixels(fn(&Picture) -> f64),
    Fit(fn(&Fit) -> f64),
}

impl Metric {
    /// The number of a picture, finite; absent where it needs a fit and there is none.
    #[must_use]
    pub fn of(&self, picture: &Picture, fit: Option<&Fit>) -> Option<f64> {
        match self.measure {
            Measure::Pixels(measure) => Some(measure(picture)),
            Measure::Fit(measure) => fit.map(measure),
        }
    }

    /// Whether a difference to the baseline goes the way that the method's author claims.
    #[must_use]
    pub fn improves(&self, difference: f64) -> bool {
        match self.better {
            Better::Higher => difference > 0.0,
            Better::Lower => difference < 0.0,
        }
    }
}

/// The metrics of the pixels alone, in the order of the report.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "sharpness",
        better: Better::Higher,
        what: "variance of the Laplacian of the luma, 0 to 255, without the border",
        source: "Pech-Pacheco, Cristóbal, Chamorro-Martínez and Fernández-Valdivia 2000",
        blind: "noise and hard artifacts are sharp, too; a blurred background may be wanted",
        measure: Measure::Pixels(|picture| focus::laplacian_variance(&picture.luma)),
    },
    Metric {
        name: "tenengrad",
        better: Better::Higher,
        what: "mean squared gradient of the luma by Sobel's kernels, without the border",
        source: "Tenenbaum 1970; Krotkov 1987",
        blind: "follows contrast as much as focus",
        measure: Measure::Pixels(|picture| focus::tenengrad(&picture.luma)),
    },
    Metric {
        name: "high_frequency",
        better: Better::Higher,
        what: "share of the luma's spectral energy above 0.25 cycles per pixel, mean removed, \
               under a Hann window",
        source: "our cut; that energy falls with the square of the frequency: Field 1987",
        blind: "cannot tell detail from noise",
        measure: Measure::Pixels(|picture| spectrum::high_frequency_share(&picture.luma)),
    },
    Metric {
        name: "noise",
        better: Better::Lower,
        what: "standard deviation of white noise in the luma, estimated by a mask that is blind \
               to flat and sloping parts",
        source: "Immerkær 1996",
        blind: "fine texture counts as noise",
        measure: Measure::Pixels(|picture| noise::immerkaer(&picture.luma)),
    },
    Metric {
        name: "colourfulness",
        better: Better::Higher,
        what: "spread and mean of the opponent colours, σ + 0.3 μ",
        source: "Hasler and Süsstrunk 2003",
        blind: "more colour is not better colour",
        measure: Measure::Pixels(|picture| colour::colourfulness(&picture.pixels)),
    },
    Metric {
        name: "saturation",
        better: Better::Higher,
        what: "mean saturation of the HSV model, 0 to 1",
        source: "Smith 1978",
        blind: "dark pixels count as much as bright ones",
        measure: Measure::Pixels(|picture| colour::saturation(&picture.pixels)),
    },
    Metric {
        name: "contrast",
        better: Better::Higher,
        what: "standard deviation of the luma, 0 to 1",
        source: "Peli 1990",
        blind: "says nothing of where the contrast lies",
        measure: Measure::Pixels(|picture| focus::rms_contrast(&picture.luma)),
    },
    Metric {
        name: "blockiness",
        better: Better::Lower,
        what: "jumps of the luma on the lines of the 8×8 grid against jumps elsewhere, -1 to 1, \
               0 without a grid",
        source: "after Wang, Sheikh and Bovik 2002, here as a ratio",
        blind: "sees only a grid that starts in the corner, as JPEG's does",
        measure: Measure::Pixels(|picture| blockiness::blockiness(&picture.luma)),
    },
];

/// What the model says of prompt and picture, where it is asked to: behind [`METRICS`].
pub const FOLLOW: &[Metric] = &[
    Metric {
        name: "follows",
        better: Better::Higher,
        what: "1 where the model's own denoising loss is lowest under the picture's own prompt, \
               0 where it is under one of the other prompts that it was shown",
        source: "Li, Prabhudesai, Duggal, Brown and Pathak 2023",
        blind: "the model that drew the picture judges it, and only between these prompts",
        measure: Measure::Fit(|fit| f64::from(fit.margin() > 0.0)),
    },
    Metric {
        name: "follow_margin",
        better: Better::Higher,
        what: "lowest loss under another prompt less the loss under the own one, in percent of \
               the latter",
        source: "the same, as a number",
        blind: "a picture that is easier to denoise is no better picture",
        measure: Measure::Fit(Fit::margin),
    },
];

/// Every metric, in the order of the numbers of a picture.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    METRICS.iter().chain(FOLLOW)
}

/// A metric and its place in [`all`].
#[must_use]
pub fn named(name: &str) -> Option<(usize, &'static Metric)> {
    all().enumerate().find(|(_, metric)| metric.name == name)
}

/// A picture and its luma.
#[derive(Debug)]
pub struct Picture {
    pixels: Pixels,
    luma: Luma,
}

impl Picture {
    /// Takes pixels and computes their luma.
    #[must_use]
    pub fn new(pixels: Pixels) -> Self {
        let luma = Luma::of(&pixels);
        Self { pixels, luma }
    }

    /// The pixels.
    #[must_use]
    pub fn pixels(&self) -> &Pixels {
        &self.pixels
    }
}

/// Brightness of every pixel, 0 to 255, `[H, W]`: `0.299 R + 0.587 G + 0.114 B` of the coded
/// values (ITU-R BT.601), not rounded.
#[derive(Debug)]
struct Luma {
    width: usize,
    height: usize,
    values: Vec<f64>,
}

impl Luma {
    fn of(pixels: &Pixels) -> Self {
        let luma = |rgb: &[u8]| {
            0.299 * f64::from(rgb[0]) + 0.587 * f64::from(rgb[1]) + 0.114 * f64::from(rgb[2])
        };
        Self {
            width: pixels.width() as usize,
            height: pixels.height() as usize,
            values: pixels.rgb().chunks_exact(3).map(luma).collect(),
        }
    }

    fn at(&self, x: usize, y: usize) -> f64 {
        self.values[y * self.width + x]
    }

    /// A 3×3 sum around every pixel that has all eight neighbours, row by row.
    fn filtered<'a>(&'a self, kernel: &'a [[f64; 3]; 3]) -> impl Iterator<Item = f64> + 'a {
        let (columns, rows) = (self.width.saturating_sub(2), self.height.saturating_sub(2));
        (0..rows).flat_map(move |y| {
            (0..columns).map(move |x| {
                let rows = kernel.iter().enumerate().map(|(dy, row)| {
                    row.iter().enumerate().map(|(dx, k)| k * self.at(x + dx, y + dy)).sum::<f64>()
                });
                rows.sum::<f64>()
            })
        })
    }
}

/// Mean of the values, 0 if there are none.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0u64);
    for value in values {
        sum += value;
        count += 1;
    }
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// Mean and variance of a population, in two passes.
fn moments(values: &[f64]) -> (f64, f64) {
    let center = mean(values.iter().copied());
    (center, mean(values.iter().map(|value| (value - center).powi(2))))
}
