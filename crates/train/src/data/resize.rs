//! Lanczos with three lobes, to the bit what Pillow's `resize(size, LANCZOS)` does.
//!
//! That is what the other trainers resize with: in integers, columns first, rounded to bytes
//! between the passes, and in sRGB as the file has it (a resize in linear light would be a little
//! brighter where there is fine detail). Source: Pillow 13.0.0, `src/libImaging/Resample.c`.

use std::f64::consts::PI;

use image::RgbImage;
use unwrong::request::Size;

/// Reach of the filter in pixels, where it does not shrink.
const LOBES: f64 = 3.0;
/// Fraction bits of a weight: what 32 bits leave beside a byte, a sign and room to overshoot.
const FRACTION: u32 = 32 - 8 - 2;

/// The inputs of one output pixel.
struct Taps {
    first: usize,
    /// Fixed-point weights that sum to one.
    weights: Vec<i32>,
}

/// Resizes a picture to `[H, W, 3]`.
pub(super) fn resize(picture: &RgbImage, to: Size) -> Vec<u8> {
    let columns = columns(picture.as_raw(), picture.width() as usize, to.width as usize);
    rows(columns, picture.height() as usize, to.height as usize)
}

/// The first pass: every row gets another width.
fn columns(pixels: &[u8], from: usize, to: usize) -> Vec<u8> {
    if from == to {
        return pixels.to_vec();
    }
    let taps = taps(from, to);
    let mut resized = Vec::with_capacity(pixels.len() / from * to);
    for row in pixels.chunks_exact(from * 3) {
        for Taps { first, weights } in &taps {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[first * 3..].chunks_exact(3).zip(weights) {
                for (sum, byte) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*byte) * weight;
                }
            }
            resized.extend(sums.map(to_byte));
        }
    }
    resized
}

/// The second pass: every column gets another height.
fn rows(pixels: Vec<u8>, from: usize, to: usize) -> Vec<u8> {
    if from == to {
        return pixels;
    }
    let row_bytes = pixels.len() / from;
    let mut resized = Vec::with_capacity(row_bytes * to);
    let mut sums = vec![0; row_bytes];
    for Taps { first, weights } in taps(from, to) {
        sums.fill(HALF);
        for (row, weight) in pixels[first * row_bytes..].chunks_exact(row_bytes).zip(weights) {
            for (sum, byte) in sums.iter_mut().zip(row) {
                *sum += i32::from(*byte) * weight;
            }
        }
        resized.extend(sums.iter().copied().map(to_byte));
    }
    resized
}

/// `precompute_coeffs` and `normalize_coeffs_8bpc`.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    // Where it shrinks, the filter is widened: no detail falls between the taps.
    let widened = scale.max(1.0);
    let reach = LOBES * widened;
    let taps = |place: usize| {
        let centre = (place as f64 + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5) as usize).min(from);
        let weight = |at: usize| lanczos((at as f64 - centre + 0.5) / widened);
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / sum * f64::from(1 << FRACTION)).round() as i32;
        Taps { first, weights: weights.iter().map(fixed).collect() }
    };
    (0..to).map(taps).collect()
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
    if (-LOBES..LOBES).contains(&x) { sinc(x) * sinc(x / LOBES) } else { 0.0 }
}

/// One half, so that cutting off the fraction rounds.
const HALF: i32 = 1 << (FRACTION - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> FRACTION).clamp(0, 255) as u8
}
