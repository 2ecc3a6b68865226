//! The transforms of one row or column: of six pixels, three taps, or the sums that become four
//! outputs.
//!
//! Both sets follow the same construction over finite points `p` and infinity. Inputs: row `j`
//! holds the coefficients of the product of `z − q` over the points `q` but the j-th, the last row
//! those of all of them. Filters: row `j` is `[1, p, p²] / ∏ (p − q)`, the last row takes the last
//! tap. Outputs: row `i` holds the i-th powers of the points.

use super::{PATCH, TILE};
use crate::simd::Simd;

/// The points of a transform. Of six components, the first [`Points::COUNT`] count.
pub(super) trait Points {
    /// Components that are not always zero.
    const COUNT: usize;
    /// `Bᵀ d`.
    fn inputs<S: Simd>(s: S, d: [S::V; PATCH]) -> [S::V; PATCH];
    /// `G g`.
    fn filters<S: Simd>(s: S, g: [S::V; 3]) -> [S::V; PATCH];
    /// `Aᵀ m`.
    fn outputs<S: Simd>(s: S, m: [S::V; PATCH]) -> [S::V; TILE];
}

#[inline(always)]
fn of<S: Simd>(s: S, factor: f32, x: S::V, sum: S::V) -> S::V {
    s.mul_add(s.splat(factor), x, sum)
}

/// For any pixels: 0, 1, −1, ½, −2.
pub(super) struct Plain;

impl Points for Plain {
    const COUNT: usize = 6;

    #[inline(always)]
    fn inputs<S: Simd>(s: S, d: [S::V; PATCH]) -> [S::V; PATCH] {
        let a = s.sub(d[4], d[2]);
        let b = s.sub(d[3], d[1]);
        let zero = of(s, 1.5, b, s.add(of(s, -2.0, d[2], d[4]), d[0]));
        let one = of(s, 2.5, d[3], of(s, 0.5, d[2], s.sub(d[4], d[1])));
        let minus_one = of(s, -2.5, d[2], of(s, 0.5, d[3], s.add(d[4], d[1])));
        let half = of(s, 2.0, b, a);
        let minus_two = of(s, -0.5, b, a);
        let all = of(s, 1.5, a, s.add(of(s, -2.0, d[3], d[5]), d[1]));
        [zero, one, minus_one, half, minus_two, all]
    }

    #[inline(always)]
    fn filters<S: Simd>(s: S, g: [S::V; 3]) -> [S::V; PATCH] {
        let ends = s.add(g[0], g[2]);
        let one = s.mul(s.splat(1.0 / 3.0), s.add(ends, g[1]));
        let minus_one = s.mul(s.splat(-1.0 / 3.0), s.sub(ends, g[1]));
        // −16/15 · (g0 + g1 / 2 + g2 / 4), 1/15 · (g0 − 2 g1 + 4 g2)
        let half = s.mul(s.splat(-16.0 / 15.0), of(s, 0.25, g[2], of(s, 0.5, g[1], g[0])));
        let minus_two = s.mul(s.splat(1.0 / 15.0), of(s, 4.0, g[2], of(s, -2.0, g[1], g[0])));
        [g[0], one, minus_one, half, minus_two, g[2]]
    }

    #[inline(always)]
    fn outputs<S: Simd>(s: S, m: [S::V; PATCH]) -> [S::V; TILE] {
        let sum = s.add(m[1], m[2]);
        let difference = s.sub(m[1], m[2]);
        [
            s.add(s.add(s.add(m[3], m[4]), sum), m[0]),
            of(s, -2.0, m[4], of(s, 0.5, m[3], difference)),
            of(s, 4.0, m[4], of(s, 0.25, m[3], sum)),
            s.add(of(s, -8.0, m[4], of(s, 0.125, m[3], difference)), m[5]),
        ]
    }
}

/// For a doubled image, whose tiles read six pixels `a b b c c d`: 0, 1, ½, −½ and −1. The last
/// one's row of coefficients, `0 ¼ −¼ −1 1`, makes nothing of such pixels, so its component is
/// left out: 25 products in place of 36.
pub(super) struct Doubled;

impl Points for Doubled {
    const COUNT: usize = 5;

    #[inline(always)]
    fn inputs<S: Simd>(s: S, [a, b, _, c, _, d]: [S::V; PATCH]) -> [S::V; PATCH] {
        let difference = s.sub(c, b);
        let zero = of(s, 4.0, c, of(s, -5.0, b, a));
        let one = of(s, -0.5, b, s.add(c, c));
        let half = s.mul(s.splat(1.5), difference);
        let minus_half = s.mul(s.splat(0.5), difference);
        let all = of(s, 0.25, b, of(s, -1.25, c, d));
        [zero, one, half, minus_half, all, s.splat(0.0)]
    }

    #[inline(always)]
    fn filters<S: Simd>(s: S, g: [S::V; 3]) -> [S::V; PATCH] {
        let one = s.mul(s.splat(2.0 / 3.0), s.add(s.add(g[0], g[2]), g[1]));
        let even = of(s, 0.25, g[2], g[0]);
        let third = s.splat(-8.0 / 3.0);
        let half = s.mul(third, of(s, 0.5, g[1], even));
        let minus_half = s.mul(third, of(s, -0.5, g[1], even));
        [g[0], one, half, minus_half, g[2], s.splat(0.0)]
    }

    #[inline(always)]
    fn outputs<S: Simd>(s: S, m: [S::V; PATCH]) -> [S::V; TILE] {
        let sum = s.add(m[2], m[3]);
        let difference = s.sub(m[2], m[3]);
        [
            s.add(s.add(sum, m[1]), m[0]),
            of(s, 0.5, difference, m[1]),
            of(s, 0.25, sum, m[1]),
            s.add(of(s, 0.125, difference, m[1]), m[4]),
        ]
    }
}
