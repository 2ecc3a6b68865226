//! How much of JPEG's grid shows.

use super::{Luma, mean};

const BLOCK: usize = 8;

/// Jumps `a` across the grid's lines and `b` elsewhere as `(a − b) / (a + b)`, the mean of both
/// directions.
///
/// Wang, Sheikh and Bovik 2002, "No-reference perceptual quality assessment of JPEG compressed
/// images", compare the jumps across the lines with those inside; as this ratio they do not
/// depend on contrast.
pub(super) fn blockiness(luma: &Luma) -> f64 {
    let (width, height) = (luma.width, luma.height);
    let across = one_direction(width, |x| {
        Box::new((0..height).map(move |y| (luma.at(x, y) - luma.at(x - 1, y)).abs()))
    });
    let down = one_direction(height, |y| {
        Box::new((0..width).map(move |x| (luma.at(x, y) - luma.at(x, y - 1)).abs()))
    });
    f64::midpoint(across, down)
}

fn one_direction<'a>(
    lines: usize,
    jumps: impl Fn(usize) -> Box<dyn Iterator<Item = f64> + 'a>,
) -> f64 {
    let jumps_where = |on_grid: bool| {
        let chosen = (1..lines).filter(|line| line.is_multiple_of(BLOCK) == on_grid);
        mean(chosen.flat_map(&jumps))
    };
    let (grid, elsewhere) = (jumps_where(true), jumps_where(false));
    let sum = grid + elsewhere;
    if sum > 0.0 { (grid - elsewhere) / sum } else { 0.0 }
}
