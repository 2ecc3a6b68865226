//! Exponential, error function and the activations made of them, eight lanes at a time.

use crate::simd::Simd;

/// What a layer does to each output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `x · sigmoid(x)`.
    Silu,
    /// `x · Φ(x)` with the error function, the default elsewhere.
    Gelu,
    /// `x · sigmoid(1.702 x)`, as the first CLIP text encoder.
    QuickGelu,
}

/// `activation` of each lane.
#[inline(always)]
pub(crate) fn apply<S: Simd>(s: S, activation: Activation, x: S::V) -> S::V {
    match activation {
        Activation::None => x,
        Activation::Silu => s.mul(x, sigmoid(s, x)),
        Activation::Gelu => gelu(s, x),
        Activation::QuickGelu => s.mul(x, sigmoid(s, s.mul(x, s.splat(1.702)))),
    }
}

/// `eˣ` to 2 ulp. Zero below −87.33, where results would be subnormal; at most `e^88.3`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // Adding this leaves the integer nearest to x·log₂e, plus the exponent bias, in the low
    // bits of the mantissa.
    const MAGIC: f32 = 12_582_912.0 + 127.0; // 1.5·2²³
    // ln 2 in two parts; the first has few enough bits that its multiples are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // The Taylor series is good to 5e-9 on |r| ≤ ln2 / 2.
    const SERIES: [f32; 6] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0];

    let lowest = s.splat(-87.33);
    let clamped = s.min(s.max(x, lowest), s.splat(88.3));
    let shifted = s.mul_add(clamped, s.splat(std::f32::consts::LOG2_E), s.splat(MAGIC));
    let n = s.sub(shifted, s.splat(MAGIC));
    let r = s.mul_add(n, s.splat(-LN2_HIGH), clamped);
    let r = s.mul_add(n, s.splat(-LN2_LOW), r);
    let mut sum = s.splat(1.0 / 5040.0);
    for coefficient in SERIES {
        sum = s.mul_add(sum, r, s.splat(coefficient));
    }
    let fraction = s.mul_add(sum, r, s.splat(1.0));
    s.keep_where_at_least(s.mul(fraction, s.shift_into_exponent(shifted)), x, lowest)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// `x/2 · (1 + erf(x / √2))`.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    let erf = erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
    let half = s.mul(x, s.splat(0.5));
    s.mul_add(half, erf, half)
}

/// The error function: an odd rational fit, 2e-9 off in exact arithmetic, about 3e-7 in f32.
#[inline(always)]
fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    // Fitted to erf(x)/x on [0, 3.92] by reweighted least squares; beyond, erf is 1 in f32.
    const LIMIT: f32 = 3.92;
    const NUMERATOR: [f32; 7] = [
        -1.279_989_5e-8,
        4.609_246_2e-6,
        3.767_596e-4,
        3.838_636_3e-3,
        5.424_403_6e-2,
        1.851_356e-1,
        std::f32::consts::FRAC_2_SQRT_PI,
    ];
    const DENOMINATOR: [f32; 6] =
        [6.239_928e-5, 1.301_528_4e-3, 1.543_007_8e-2, 1.138_739e-1, 4.974_055_7e-1, 1.0];

    let x = s.min(s.max(x, s.splat(-LIMIT)), s.splat(LIMIT));
    let square = s.mul(x, x);
    let mut above = s.splat(NUMERATOR[0]);
    for coefficient in &NUMERATOR[1..] {
        above = s.mul_add(above, square, s.splat(*coefficient));
    }
    let mut below = s.splat(DENOMINATOR[0]);
    for coefficient in &DENOMINATOR[1..] {
        below = s.mul_add(below, square, s.splat(*coefficient));
    }
    s.div(s.mul(x, above), below)
}
