//! How far two pictures are apart. Neither says which is the better one.

use super::{Luma, Picture, mean};

/// Radius and width of SSIM's window: 11×11, sigma 1.5.
const RADIUS: usize = 5;
const SIGMA: f64 = 1.5;
/// SSIM's constants for levels up to 255.
const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);

/// Peak signal-to-noise ratio over red, green and blue in decibels; none for equal pictures,
/// where it has no end, and for pictures of different sizes.
#[must_use]
pub fn psnr(one: &Picture, other: &Picture) -> Option<f64> {
    if !same_size(one, other) {
        return None;
    }
    let pairs = one.pixels.rgb().iter().zip(other.pixels.rgb());
    let error = mean(pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)));
    (error > 0.0).then(|| 10.0 * (255.0 * 255.0 / error).log10())
}

/// Mean structural similarity of the luma, 1 for equal pictures; none for pictures of different
/// sizes or with a side below 11 pixels.
///
/// Wang, Bovik, Sheikh and Simoncelli 2004, "Image quality assessment: from error visibility
/// to structural similarity", where the whole window lies inside the picture.
#[must_use]
pub fn ssim(one: &Picture, other: &Picture) -> Option<f64> {
    let (a, b) = (&one.luma, &other.luma);
    if !same_size(one, other) || a.width.min(a.height) <= 2 * RADIUS {
        return None;
    }
    let product = |left: &Luma, right: &Luma| {
        let values = left.values.iter().zip(&right.values).map(|(l, r)| l * r).collect();
        blurred(&Luma { values, ..*left })
    };
    let [mean_a, mean_b] = [a, b].map(blurred);
    let [squares_a, squares_b, products] = [product(a, a), product(b, b), product(a, b)];
    Some(mean((0..mean_a.len()).map(|at| {
        let (ma, mb) = (mean_a[at], mean_b[at]);
        let (va, vb) = (squares_a[at] - ma * ma, squares_b[at] - mb * mb);
        let covariance = products[at] - ma * mb;
        (2.0 * ma * mb + C1) * (2.0 * covariance + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
    })))
}

fn same_size(one: &Picture, other: &Picture) -> bool {
    (one.luma.width, one.luma.height) == (other.luma.width, other.luma.height)
}

/// The Gaussian means of all places where the window lies inside, row by row.
fn blurred(luma: &Luma) -> Vec<f64> {
    let window = gaussian();
    let columns = luma.width - 2 * RADIUS;
    let along = |values: &[f64]| values.iter().zip(&window).map(|(v, w)| v * w).sum::<f64>();
    let rows: Vec<f64> = luma
        .values
        .chunks_exact(luma.width)
        .flat_map(|row| row.windows(window.len()).map(along))
        .collect();
    let mut column = vec![0.0; window.len()];
    let mut means = Vec::with_capacity(columns * (luma.height - 2 * RADIUS));
    for y in 0..luma.height - 2 * RADIUS {
        for x in 0..columns {
            for (dy, value) in column.iter_mut().enumerate() {
                *value = rows[(y + dy) * columns + x];
            }
            means.push(along(&column));
        }
    }
    means
}

fn gaussian() -> Vec<f64> {
    let weight = |at: usize| {
        let distance = at as f64 - RADIUS as f64;
        (-distance * distance / (2.0 * SIGMA * SIGMA)).exp()
    };
    let weights: Vec<f64> = (0..=2 * RADIUS).map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}
