//! How sharp, and how far from flat: Laplacian, Sobel, RMS contrast.

use super::{Luma, mean, moments};

/// Variance of the 4-neighbour Laplacian.
///
/// Pech-Pacheco, Cristóbal, Chamorro-Martínez and Fernández-Valdivia 2000, "Diatom
/// autofocusing in brightfield microscopy: a comparative study".
pub(super) fn laplacian_variance(luma: &Luma) -> f64 {
    const LAPLACIAN: [[f64; 3]; 3] = [[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]];
    moments(&luma.filtered(&LAPLACIAN).collect::<Vec<_>>()).1
}

/// Mean of the squared gradient.
///
/// Tenenbaum 1970, "Accommodation in computer vision"; Krotkov 1987, "Focusing".
pub(super) fn tenengrad(luma: &Luma) -> f64 {
    const ACROSS: [[f64; 3]; 3] = [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]];
    const DOWN: [[f64; 3]; 3] = [[-1.0, -2.0, -1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 1.0]];
    let gradients = luma.filtered(&ACROSS).zip(luma.filtered(&DOWN));
    mean(gradients.map(|(across, down)| across * across + down * down))
}

/// Standard deviation of the luma, of 1.
///
/// Peli 1990, "Contrast in complex images".
pub(super) fn rms_contrast(luma: &Luma) -> f64 {
    moments(&luma.values).1.sqrt() / 255.0
}
