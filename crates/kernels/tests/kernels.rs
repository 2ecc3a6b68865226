//! Every kernel against the plain reference, on awkward sizes, at every instruction level of
//! this machine.

mod common;

use common::{Random, Stored, close, each_isa};
use proptest::prelude::*;
use unwrong_kernels::{
    Activation, AttentionShape, Conv, ConvEpilogue, Dtype, Epilogue, Fold, GroupNorm, LowRank,
    Matrix, activate, attention, conv2d, conv2d_folded, conv2d_into, conv2d_rows_into, group_norm,
    layer_norm, linear, linear_geglu, reference,
};

const ACTIVATIONS: [Activation; 4] =
    [Activation::None, Activation::Silu, Activation::Gelu, Activation::QuickGelu];

/// Sizes around every tile and block boundary.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        prop::sample::select(vec![1, 2, 5, 6, 7, 8, 9, 15, 16, 17, 24, 31, 33, 77, 97]),
        1_usize..40,
    ]
}

/// Depths: around the vector width, and over one and two depth blocks.
fn depth() -> impl Strategy<Value = usize> {
    prop_oneof![size(), prop::sample::select(vec![383, 384, 385, 640, 770])]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn linear_equals_the_reference(
        rows in size(), inputs in depth(), outputs in size(), dtype in 0_usize..3,
        offset in 0_usize..4, bias: bool, residual: bool, activation in 0_usize..4, seed: u64,
    ) {
        let mut random = Random(seed);
        let x = random.numbers(rows * inputs);
        let weight = Stored::new(&mut random, dtype, offset, outputs, inputs);
        let (bias_values, residual_values) = (random.numbers(outputs), random.numbers(rows * outputs));
        let epilogue = Epilogue {
            bias: bias.then_some(&bias_values),
            activation: ACTIVATIONS[activation],
            residual: residual.then_some(&residual_values),
            ..Default::default()
        };
        let expected = reference::linear(&x, rows, weight.matrix(), &epilogue);
        each_isa(|| close(&linear(&x, rows, weight.matrix(), &epilogue), &expected, inputs));
    }

    #[test]
    fn geglu_equals_the_reference(
        rows in size(), inputs in depth(), outputs in size(), dtype in 0_usize..3,
        offset in 0_usize..4, bias: bool, seed: u64,
    ) {
        let mut random = Random(seed);
        let x = random.numbers(rows * inputs);
        let weight = Stored::new(&mut random, dtype, offset, 2 * outputs, inputs);
        let bias_values = random.numbers(2 * outputs);
        let bias = bias.then_some(bias_values.as_slice());
        let expected = reference::linear_geglu(&x, rows, weight.matrix(), bias, &[]);
        each_isa(|| close(&linear_geglu(&x, rows, weight.matrix(), bias, &[]), &expected, 8 * inputs));
    }

    #[test]
    fn low_rank_branches_equal_the_reference(
        rows in size(), inputs in depth(), outputs in size(), ranks in [1_usize..70, 1..20],
        activation in 0_usize..4, seed: u64,
    ) {
        let mut random = Random(seed);
        let x = random.numbers(rows * inputs);
        let weight = Stored::new(&mut random, 1, 0, 2 * outputs, inputs);
        let factors = ranks.map(|rank| {
            (random.numbers(rank * inputs), random.numbers(2 * outputs * rank))
        });
        let branch = |i: usize| LowRank {
            down: Matrix::from_f32(ranks[i], inputs, &factors[i].0),
            up: Matrix::from_f32(2 * outputs, ranks[i], &factors[i].1),
            scale: 0.7 - i as f32,
        };
        let low_rank = &[branch(0), branch(1)];
        let activation = ACTIVATIONS[activation];
        let epilogue = Epilogue { low_rank, activation, ..Default::default() };
        let terms = 4 * inputs * (ranks[0] + ranks[1]);
        let expected = reference::linear(&x, rows, weight.matrix(), &epilogue);
        each_isa(|| close(&linear(&x, rows, weight.matrix(), &epilogue), &expected, terms));
        let expected = reference::linear_geglu(&x, rows, weight.matrix(), None, low_rank);
        each_isa(|| {
            let found = linear_geglu(&x, rows, weight.matrix(), None, low_rank);
            close(&found, &expected, 32 * terms);
        });
    }

    #[test]
    fn convolution_equals_the_reference(
        batch in 1_usize..3, h in 1_usize..20, w in 1_usize..20,
        channels in prop_oneof![1_usize..20, Just(41), Just(90)],
        outputs in prop_oneof![1_usize..20, Just(33)],
        kernel in prop::sample::select(vec![1_usize, 3]), stride in 1_usize..3,
        padding in prop::array::uniform4(0_usize..3), upsample: bool,
        dtype in 0_usize..3, offset in 0_usize..4, extras: [bool; 3], seed: u64,
    ) {
        let factor = 1 + usize::from(upsample);
        let [top, bottom, left, right] = padding;
        prop_assume!(h * factor + top + bottom >= kernel && w * factor + left + right >= kernel);
        let mut random = Random(seed);
        let x = random.numbers(batch * h * w * channels);
        let inputs = channels * kernel * kernel;
        let weight = Stored::new(&mut random, dtype, offset, outputs, inputs);
        let conv = Conv { weight: weight.matrix(), kernel, stride, padding, upsample };
        let shape = [batch, h, w, channels];
        let output_shape = conv.output_shape(shape);
        let (bias, per_image) = (random.numbers(outputs), random.numbers(batch * outputs));
        let residual = random.numbers(output_shape.iter().product());
        let epilogue = ConvEpilogue {
            bias: extras[0].then_some(&bias),
            per_image: extras[1].then_some(&per_image),
            residual: extras[2].then_some(&residual),
            accumulate: false,
        };
        let (expected, _) = reference::conv2d(&x, shape, &conv, &epilogue);
        each_isa(|| {
            let (image, found_shape) = conv2d(&x, shape, &conv, &epilogue);
            assert_eq!(found_shape, output_shape);
            // Winograd's transforms add and subtract numbers that are larger than the result, most
            // for doubled images; without fused products each is rounded once more.
            close(&image, &expected, 16 * inputs + 100);
        });
    }

    #[test]
    fn attention_equals_the_reference(
        batch in 1_usize..3, heads in 1_usize..4,
        head_dim in prop::sample::select(vec![1_usize, 7, 8, 16, 17, 40, 64]),
        query_tokens in size(),
        key_tokens in prop_oneof![size(), prop::sample::select(vec![255, 256, 257, 600])],
        causal: bool, seed: u64,
    ) {
        let query_tokens = if causal { key_tokens } else { query_tokens };
        let shape = AttentionShape { batch, query_tokens, key_tokens, heads, head_dim };
        let mut random = Random(seed);
        let q = random.numbers(batch * query_tokens * heads * head_dim);
        let [k, v] = [(); 2].map(|()| random.numbers(batch * key_tokens * heads * head_dim));
        let expected = reference::attention(&q, &k, &v, shape, 1.5, causal);
        each_isa(|| close(&attention(&q, &k, &v, shape, 1.5, causal), &expected, 4 * head_dim + key_tokens));
    }

    #[test]
    fn group_norm_equals_the_reference(
        batch in 1_usize..3, height in prop_oneof![1_usize..20, Just(70)], width in 1_usize..60,
        groups in 1_usize..5, members in 1_usize..9, silu: bool, seed: u64,
    ) {
        let channels = groups * members;
        let shape = [batch, height, width, channels];
        let mut random = Random(seed);
        // Far from zero: the variance must survive it.
        let x: Vec<f32> =
            random.numbers(shape.iter().product()).iter().map(|x| x + 30.0).collect();
        let (weight, bias) = (random.numbers(channels), random.numbers(channels));
        let norm = GroupNorm { groups, eps: 1e-5, weight: &weight, bias: &bias };
        let expected = reference::group_norm(&x, shape, &norm, silu);
        each_isa(|| {
            // 30 + x itself is only good to 2e-6, times the factor.
            common::close_to(&group_norm(&x, shape, &norm, silu), &expected, 1e-4);
        });
    }

    #[test]
    fn a_folded_norm_is_the_norm_then_the_convolution(
        batch in 1_usize..3, h in 1_usize..10, w in 1_usize..10, channels in 1_usize..20,
        outputs in 1_usize..20, kernel in prop::sample::select(vec![1_usize, 3]),
        upsample: bool, silu: bool, accumulate: bool, seed: u64,
    ) {
        let mut random = Random(seed);
        let shape = [batch, h, w, channels];
        let x = random.numbers(shape.iter().product());
        let inputs = channels * kernel * kernel;
        let weight = Stored::new(&mut random, 0, 0, outputs, inputs);
        let padding = [kernel / 2; 4];
        let conv = Conv { weight: weight.matrix(), kernel, stride: 1, padding, upsample };
        let (factors, offsets) =
            (random.numbers(batch * channels), random.numbers(batch * channels));
        let fold = Fold { factors: &factors, offsets: &offsets, silu };
        let bias = random.numbers(outputs);
        let before = random.numbers(conv.output_shape(shape).iter().product());

        let affine = x.iter().enumerate().map(|(i, x)| {
            let channel = i / (h * w * channels) * channels + i % channels;
            x * factors[channel] + offsets[channel]
        });
        let activation = if silu { Activation::Silu } else { Activation::None };
        let read = reference::activate(&affine.collect::<Vec<_>>(), activation);
        let residual = accumulate.then_some(before.as_slice());
        let epilogue = ConvEpilogue { bias: Some(&bias), residual, ..Default::default() };
        let (expected, _) = reference::conv2d(&read, shape, &conv, &epilogue);
        each_isa(|| {
            let (found, _) = conv2d_folded(&x, shape, &conv, Some(&fold), &epilogue);
            close(&found, &expected, 8 * inputs);
            // The same bits in place.
            let mut out = before.clone();
            let epilogue = ConvEpilogue { residual: None, accumulate, ..epilogue };
            conv2d_into(&mut out, &x, shape, &conv, Some(&fold), &epilogue);
            common::same(&out, &found);
        });
    }

    #[test]
    fn layer_norm_equals_the_reference(
        rows in size(), width in 2_usize..400, seed: u64,
    ) {
        let mut random = Random(seed);
        let x = random.numbers(rows * width);
        let (weight, bias) = (random.numbers(width), random.numbers(width));
        let expected = reference::layer_norm(&x, width, 1e-5, &weight, &bias);
        each_isa(|| {
            common::close_to(&layer_norm(&x, width, 1e-5, &weight, &bias), &expected, 2e-5);
        });
    }
}

#[test]
fn the_head_of_the_vae_is_512_wide() {
    let shape =
        AttentionShape { batch: 1, query_tokens: 150, key_tokens: 150, heads: 1, head_dim: 512 };
    let mut random = Random(3);
    let [q, k, v] = [(); 3].map(|()| random.numbers(150 * 512));
    let expected = reference::attention(&q, &k, &v, shape, 512_f32.powf(-0.5), false);
    each_isa(|| {
        close(&attention(&q, &k, &v, shape, 512_f32.powf(-0.5), false), &expected, 512);
    });
}

#[test]
fn activations_are_accurate_to_f32_from_end_to_end() {
    let x: Vec<f32> = (-12_000..=12_000).map(|i| i as f32 / 1000.0).collect();
    for activation in ACTIVATIONS {
        let expected = reference::activate(&x, activation);
        each_isa(|| {
            for ((x, found), expected) in x.iter().zip(activate(&x, activation)).zip(&expected) {
                let error = (found - expected).abs();
                // Exponents up to x² are rounded to f32, and the reference itself cancels far to
                // the left, where f64 leaves 1e-14.
                let allowed = (1e-6 + 1e-7 * x * x) * expected.abs() + 1e-14;
                assert!(error <= allowed, "{activation:?}({x}) is {found}, expected {expected}");
            }
        });
    }
}

#[test]
fn extreme_activations_stay_finite() {
    let x = [-1e30, -200.0, -88.0, -0.0, 0.0, 88.0, 200.0, 1e30];
    for activation in ACTIVATIONS {
        let expected = reference::activate(&x, activation);
        each_isa(|| common::close_to(&activate(&x, activation), &expected, 1e-6));
    }
}

#[test]
fn softmax_survives_scores_of_any_size() {
    let shape =
        AttentionShape { batch: 1, query_tokens: 3, key_tokens: 300, heads: 1, head_dim: 8 };
    let mut random = Random(9);
    let q: Vec<f32> = random.numbers(24).iter().map(|x| x * 100.0).collect();
    let k: Vec<f32> = random.numbers(2400).iter().map(|x| x * 100.0).collect();
    let v = random.numbers(2400);
    let expected = reference::attention(&q, &k, &v, shape, 1.0, false);
    // Scores near 1e4 are good to 1e-3 only, and so are their exponentials.
    each_isa(|| common::close_to(&attention(&q, &k, &v, shape, 1.0, false), &expected, 1e-2));
}

#[test]
fn a_convolution_of_a_doubled_image_equals_the_reference_for_any_padding() {
    for padding in [[1; 4], [1, 0, 1, 2], [3, 1, 1, 1], [0, 1, 1, 1], [1, 1, 2, 0], [2; 4]] {
        let mut random = Random(11);
        let shape = [2, 7, 9, 40];
        let x = random.numbers(shape.iter().product());
        let weight = Stored::new(&mut random, 0, 0, 24, 9 * shape[3]);
        let conv = Conv { weight: weight.matrix(), kernel: 3, stride: 1, padding, upsample: true };
        let epilogue = ConvEpilogue::default();
        let (expected, _) = reference::conv2d(&x, shape, &conv, &epilogue);
        each_isa(|| close(&conv2d(&x, shape, &conv, &epilogue).0, &expected, 8 * 9 * shape[3]));
    }
}

#[test]
#[should_panic(expected = "do not fit into memory")]
fn a_product_of_nothing_with_more_results_than_memory_is_refused() {
    // 950 · outputs is 590 beyond the largest number.
    let outputs = 194_176_253_407_468_965;
    let weight = Matrix::new(Dtype::F32, outputs, 0, &[]);
    let _ = linear(&[], 950, weight, &Epilogue::default());
}

#[test]
fn images_of_nothing_stay_nothing() {
    let mut random = Random(12);
    let weight = Stored::new(&mut random, 0, 0, 24, 9 * 32);
    let conv =
        Conv { weight: weight.matrix(), kernel: 3, stride: 1, padding: [1; 4], upsample: false };
    let x = random.numbers(4 * 8 * 32);
    let none = ConvEpilogue::default();
    each_isa(|| {
        conv2d_rows_into(&mut [], 4..4, &x, [1, 4, 8, 32], &conv, None, &none);
        let numbers = [1.0; 32];
        let norm = GroupNorm { groups: 8, eps: 1e-5, weight: &numbers, bias: &numbers };
        assert!(group_norm(&[], [1, 0, 0, 32], &norm, true).is_empty());
    });
}
