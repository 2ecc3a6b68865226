//! The exponential and the activations made of it, eight lanes at a time.

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
    const SERIES: [f32; 8] =
        [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

    let lowest = s.splat(-87.33);
    let clamped = s.min(s.max(x, lowest), s.splat(88.3));
    let shifted = s.mul_add(clamped, s.splat(std::f32::consts::LOG2_E), s.splat(MAGIC));
    let n = s.sub(shifted, s.splat(MAGIC));
    let r = s.mul_add(n, s.splat(-LN2_HIGH), clamped);
    let r = s.mul_add(n, s.splat(-LN2_LOW), r);
    let fraction = polynomial(s, &SERIES, r);
    s.keep_where_at_least(s.mul(fraction, s.shift_into_exponent(shifted)), x, lowest)
}

/// `2ˣ` to 2 ulp for `x` at most 0, exact where `x` is 0; zero below −126.5. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
    // As in `exp`. At −127 and below the exponent's bits are all zero, and so is the result.
    const MAGIC: f32 = 12_582_912.0 + 127.0; // 1.5·2²³
    // Fitted on |r| ≤ 1/2 by reweighted least squares: relative error 1e-7.
    #[expect(clippy::approx_constant, reason = "the fit's, not the logarithm")]
    const SERIES: [f32; 6] =
        [1.326_472_7e-3, 9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0];

    let clamped = s.max(s.splat(-127.0), x); // in this order a NaN passes
    let shifted = s.add(clamped, s.splat(MAGIC));
    let r = s.sub(clamped, s.sub(shifted, s.splat(MAGIC)));
    s.mul(polynomial(s, &SERIES, r), s.shift_into_exponent(shifted))
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// `x · Φ(x)`, which is `x/2 · (1 + erf(x / √2))`: half an ulp for positive `x`, relative
/// 1e-6 far to the left, where the form with the error function cancels.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    let zero = s.splat(0.0);
    let size = s.max(x, s.sub(zero, x));
    let (ratio, bell) = tail(s, size);
    s.sub(s.max(x, zero), s.mul(size, s.mul(ratio, bell)))
}

/// `R` and `e^(−t²/2)`, whose product is `Φ(−t)`, for `t` from 0 on.
#[inline(always)]
fn tail<S: Simd>(s: S, t: S::V) -> (S::V, S::V) {
    // R fitted on [0, 14] by reweighted least squares, relative error 6e-9. Beyond, Φ(−t) is
    // zero in f32.
    const LIMIT: f32 = 14.0;
    const ABOVE: [f32; 5] = [4.077_572_2e-3, 4.037_231e-2, 1.824_611_2e-1, 4.372_5e-1, 0.5];
    const BELOW: [f32; 6] =
        [1.022_082_9e-2, 1.012_051_9e-1, 4.674_272_3e-1, 1.199_287_8, 1.672_384_9, 1.0];

    let t = s.min(t, s.splat(LIMIT));
    let ratio = s.div(polynomial(s, &ABOVE, t), polynomial(s, &BELOW, t));
    (ratio, exp(s, s.mul(s.mul(t, t), s.splat(-0.5))))
}

/// The derivative of `activation` at each lane.
#[inline(always)]
pub(crate) fn slope<S: Simd>(s: S, activation: Activation, x: S::V) -> S::V {
    match activation {
        Activation::None => s.splat(1.0),
        Activation::Silu => sigmoid_slope(s, x),
        Activation::Gelu => gelu_slope(s, x),
        Activation::QuickGelu => sigmoid_slope(s, s.mul(x, s.splat(1.702))),
    }
}

/// The derivative of `x · sigmoid(f · x)` where `f · x` is `t`: `σ(t) · (1 + t · σ(−t))`.
#[inline(always)]
fn sigmoid_slope<S: Simd>(s: S, t: S::V) -> S::V {
    // Infinities would meet zeros below. In this order a NaN passes.
    let t = s.min(s.splat(1e4), s.max(s.splat(-1e4), t));
    let one = s.splat(1.0);
    let other = sigmoid(s, s.sub(s.splat(0.0), t));
    s.mul(sigmoid(s, t), s.mul_add(t, other, one))
}

/// `Φ(x) + x · φ(x)`.
#[inline(always)]
fn gelu_slope<S: Simd>(s: S, x: S::V) -> S::V {
    // 1 / √(2π)
    const DENSITY: f32 = 0.398_942_3;
    let zero = s.splat(0.0);
    let negated = s.sub(zero, x);
    let (ratio, bell) = tail(s, s.max(x, negated));
    let left = s.mul(ratio, bell); // Φ(−|x|)
    let right = s.sub(s.splat(1.0), left);
    let distribution = s.add(
        s.keep_where_at_least(left, zero, x),
        s.keep_where_at_least(right, x, s.splat(f32::from_bits(1))),
    );
    // The bell is computed at 14 at most. In this order a NaN passes.
    let x = s.min(s.splat(14.0), s.max(s.splat(-14.0), x));
    s.mul_add(s.mul(x, s.splat(DENSITY)), bell, distribution)
}

/// A polynomial in `x`, highest power first.
#[inline(always)]
fn polynomial<S: Simd>(s: S, coefficients: &[f32], x: S::V) -> S::V {
    let mut sum = s.splat(coefficients[0]);
    for coefficient in &coefficients[1..] {
        sum = s.mul_add(sum, x, s.splat(*coefficient));
    }
    sum
}
