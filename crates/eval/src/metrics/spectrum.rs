//! How much of a picture is fine: the spectrum's energy above a cut.

use std::f64::consts::TAU;

use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

use super::{Luma, mean};

/// Half of the highest frequency that pixels can hold, in cycles per pixel.
const CUT: f64 = 0.25;
/// Energy per pixel, in squared levels, below which a picture is flat and the rest is rounding.
const FLAT: f64 = 1e-9;

/// Share of the spectral energy at more than [`CUT`] cycles per pixel in any direction.
///
/// The mean is removed, and a Hann window keeps the picture's edges from counting as detail.
/// Pictures of nature hold energy that falls with the square of the frequency: Field 1987,
/// "Relations between the statistics of natural images and the response properties of
/// cortical cells".
pub(super) fn high_frequency_share(luma: &Luma) -> f64 {
    let (width, height) = (luma.width, luma.height);
    let center = mean(luma.values.iter().copied());
    let (across, down) = (hann(width), hann(height));
    let windowed =
        luma.values.iter().enumerate().map(|(at, value)| {
            Complex::from((value - center) * across[at % width] * down[at / width])
        });
    let mut spectrum: Vec<Complex<f64>> = windowed.collect();
    transform(&mut spectrum, width, height);

    let (mut high, mut total) = (0.0, 0.0);
    for (at, value) in spectrum.iter().enumerate() {
        let energy = value.norm_sqr();
        total += energy;
        if frequency(at % width, width).hypot(frequency(at / width, height)) > CUT {
            high += energy;
        }
    }
    let pixels = (width * height) as f64;
    if total / (pixels * pixels) > FLAT { high / total } else { 0.0 }
}

/// Both directions, in place.
fn transform(values: &mut [Complex<f64>], width: usize, height: usize) {
    let mut planner = FftPlanner::new();
    let rows = planner.plan_fft_forward(width);
    values.chunks_exact_mut(width).for_each(|row| rows.process(row));
    let columns = planner.plan_fft_forward(height);
    let mut column = vec![Complex::default(); height];
    for x in 0..width {
        for (y, value) in column.iter_mut().enumerate() {
            *value = values[y * width + x];
        }
        columns.process(&mut column);
        for (y, value) in column.iter().enumerate() {
            values[y * width + x] = *value;
        }
    }
}

/// The periodic Hann window.
fn hann(count: usize) -> Vec<f64> {
    (0..count).map(|at| 0.5 - 0.5 * (TAU * at as f64 / count as f64).cos()).collect()
}

/// Cycles per pixel of a place in the spectrum, without its sign.
fn frequency(place: usize, count: usize) -> f64 {
    place.min(count - place) as f64 / count as f64
}
