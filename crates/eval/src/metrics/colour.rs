//! How colourful: Hasler and Süsstrunk's measure, and HSV's saturation.

use unwrong::picture::Pixels;

use super::{mean, moments};

/// `σ + 0.3 μ` of the opponent colours `R − G` and `(R + G) / 2 − B`.
///
/// Hasler and Süsstrunk 2003, "Measuring colourfulness in natural images", M⁽³⁾.
pub(super) fn colourfulness(pixels: &Pixels) -> f64 {
    let opponents = |opponent: fn([f64; 3]) -> f64| {
        let values = pixels.rgb().chunks_exact(3).map(|rgb| opponent(channels(rgb)));
        moments(&values.collect::<Vec<_>>())
    };
    let (red_green, spread_red_green) = opponents(|[r, g, _]| r - g);
    let (yellow_blue, spread_yellow_blue) = opponents(|[r, g, b]| 0.5 * (r + g) - b);
    (spread_red_green + spread_yellow_blue).sqrt() + 0.3 * red_green.hypot(yellow_blue)
}

/// Mean of `(max − min) / max`, black counting as 0.
///
/// Smith 1978, "Color gamut transform pairs".
pub(super) fn saturation(pixels: &Pixels) -> f64 {
    mean(pixels.rgb().chunks_exact(3).map(|rgb| {
        let [r, g, b] = channels(rgb);
        let (most, least) = (r.max(g).max(b), r.min(g).min(b));
        if most > 0.0 { (most - least) / most } else { 0.0 }
    }))
}

fn channels(rgb: &[u8]) -> [f64; 3] {
    [f64::from(rgb[0]), f64::from(rgb[1]), f64::from(rgb[2])]
}
