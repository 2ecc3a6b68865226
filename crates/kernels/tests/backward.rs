//! Every gradient against the plain reference, and the references against finite differences.

mod common;

use common::{Random, Stored, close, close_to, each_isa};
use proptest::prelude::*;
use unwrong_kernels::{
    Activation, Added, AttentionPass, AttentionShape, Conv, ConvEpilogue, Epilogue, GroupNorm,
    activate_backward, attention_backward, attention_with_log_sum, conv2d_backward,
    conv2d_filters_backward, geglu_backward, group_norm_backward, layer_norm_backward,
    linear_backward, linear_backward_onto, outer_sum, reference,
};

const ACTIVATIONS: [Activation; 4] =
    [Activation::None, Activation::Silu, Activation::Gelu, Activation::QuickGelu];

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        prop::sample::select(vec![1, 2, 5, 6, 7, 8, 9, 15, 16, 17, 24, 31, 33, 77, 97]),
        1_usize..40,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn of_a_linear_layer(
        rows in size(), inputs in size(),
        outputs in prop_oneof![size(), prop::sample::select(vec![383, 385, 770])],
        dtype in 0_usize..3, offset in 0_usize..4, seed: u64,
    ) {
        let mut random = Random(seed);
        let dy = random.numbers(rows * outputs);
        let weight = Stored::new(&mut random, dtype, offset, outputs, inputs);
        let expected = reference::linear_backward(&dy, rows, weight.matrix());
        each_isa(|| close(&linear_backward(&dy, rows, weight.matrix()), &expected, outputs));
    }

    #[test]
    fn of_a_linear_layer_with_a_branch_onto_what_is_there(
        rows in size(), inputs in size(), outputs in size(), rank in 1_usize..70, seed: u64,
    ) {
        let mut random = Random(seed);
        let (dy, hidden) = (random.numbers(rows * outputs), random.numbers(rows * rank));
        let weight = Stored::new(&mut random, 1, 0, outputs, inputs);
        let down = Stored::new(&mut random, 0, 0, rank, inputs);
        let there = random.numbers(rows * inputs);
        let expected: Vec<f32> = reference::linear_backward(&dy, rows, weight.matrix())
            .into_iter()
            .zip(reference::linear_backward(&hidden, rows, down.matrix()))
            .zip(&there)
            .map(|((a, b), c)| a + b + c)
            .collect();
        each_isa(|| {
            let (onto, branch) = (Some(there.clone()), Some((&hidden[..], down.matrix())));
            let found = linear_backward_onto(&dy, rows, weight.matrix(), Added { onto, branch });
            close(&found, &expected, outputs + rank + 1);
        });
    }

    #[test]
    fn of_a_thin_matrix(rows in size(), rank in 1_usize..9, width in prop_oneof![size(), Just(1030)], seed: u64) {
        let mut random = Random(seed);
        let (a, b) = (random.numbers(rows * rank), random.numbers(rows * width));
        let expected = reference::outer_sum(&a, &b, rows);
        each_isa(|| close(&outer_sum(&a, &b, rows), &expected, rows));
    }

    #[test]
    fn of_a_convolution(
        batch in 1_usize..3, h in 1_usize..10, w in 1_usize..10,
        channels in prop_oneof![1_usize..20, Just(41), Just(70)],
        outputs in prop_oneof![1_usize..20, Just(33)],
        kernel in prop::sample::select(vec![1_usize, 3]), stride in 1_usize..4,
        padding in prop::array::uniform4(0_usize..4), upsample: bool,
        dtype in 0_usize..3, offset in 0_usize..4, seed: u64,
    ) {
        let factor = 1 + usize::from(upsample);
        let [top, bottom, left, right] = padding;
        prop_assume!(h * factor + top + bottom >= kernel && w * factor + left + right >= kernel);
        let mut random = Random(seed);
        let taps = kernel * kernel;
        let weight = Stored::new(&mut random, dtype, offset, outputs, channels * taps);
        let conv = Conv { weight: weight.matrix(), kernel, stride, padding, upsample };
        let shape = [batch, h, w, channels];
        let dy = random.numbers(conv.output_shape(shape).iter().product());
        let x = random.numbers(shape.iter().product());
        let filters = reference::conv2d_filters_backward(&dy, &x, &conv, shape);
        let pixels = dy.len() / outputs;
        each_isa(|| close(&conv2d_filters_backward(&dy, &x, &conv, shape), &filters, pixels));
        let expected = reference::conv2d_backward(&dy, &conv, shape);
        each_isa(|| {
            // Winograd's factors cost up to a hundred roundings, of numbers as large as the sum of
            // all terms, not as the result.
            let terms = 8 * outputs * taps + 100;
            close(&conv2d_backward(&dy, &conv, shape), &expected, terms);
        });
    }

    #[test]
    fn of_attention(
        batch in 1_usize..3, heads in 1_usize..4,
        head_dim in prop::sample::select(vec![1_usize, 7, 8, 16, 17, 40, 64, 200]),
        query_tokens in size(), key_tokens in prop_oneof![size(), Just(257)],
        causal: bool, seed: u64,
    ) {
        let query_tokens = if causal { key_tokens } else { query_tokens };
        let shape = AttentionShape { batch, query_tokens, key_tokens, heads, head_dim };
        let mut random = Random(seed);
        let [q, dout] = [(); 2].map(|()| random.numbers(batch * query_tokens * heads * head_dim));
        let [k, v] = [(); 2].map(|()| random.numbers(batch * key_tokens * heads * head_dim));
        each_isa(|| {
            let (out, log_sums) = attention_with_log_sum(&q, &k, &v, shape, 0.7, causal);
            let (out, log_sums) = (&out, &log_sums);
            let pass =
                AttentionPass { q: &q, k: &k, v: &v, out, log_sums, shape, scale: 0.7, causal };
            let expected = reference::attention_backward(&pass, &dout);
            for (found, expected) in attention_backward(&pass, &dout).iter().zip(&expected) {
                close(found, expected, 8 * head_dim + query_tokens + key_tokens + 100);
            }
        });
    }

    #[test]
    fn of_a_group_norm(
        batch in 1_usize..3, positions in prop_oneof![2_usize..80, Just(200), Just(4200)],
        groups in 1_usize..5, width in 1_usize..9, silu: bool, seed: u64,
    ) {
        let channels = groups * width;
        let shape = [batch, 1, positions, channels];
        let mut random = Random(seed);
        let x: Vec<f32> =
            random.numbers(batch * positions * channels).iter().map(|x| x + 3.0).collect();
        let dy = random.numbers(x.len());
        let (weight, bias) = (&random.numbers(channels), &random.numbers(channels));
        let norm = GroupNorm { groups, eps: 1e-2, weight, bias };
        let expected = reference::group_norm_backward(&dy, &x, shape, &norm, silu);
        each_isa(|| {
            close_to(&group_norm_backward(&dy, &x, shape, &norm, silu), &expected, 1e-4);
        });
    }

    #[test]
    fn of_a_layer_norm(rows in size(), width in 2_usize..400, seed: u64) {
        let mut random = Random(seed);
        let x: Vec<f32> = random.numbers(rows * width).iter().map(|x| x + 3.0).collect();
        let dy = random.numbers(rows * width);
        let weight = random.numbers(width);
        let expected = reference::layer_norm_backward(&dy, &x, width, 1e-2, &weight);
        each_isa(|| {
            let found = layer_norm_backward(&dy, &x, width, 1e-2, &weight);
            close_to(&found, &expected, 1e-4);
        });
    }

    #[test]
    fn of_a_gated_layer(rows in size(), outputs in size(), seed: u64) {
        let mut random = Random(seed);
        let dy = random.numbers(rows * outputs);
        let halves: Vec<f32> =
            random.numbers(2 * rows * outputs).iter().map(|x| 4.0 * x).collect();
        let expected = reference::geglu_backward(&dy, &halves, outputs);
        each_isa(|| close_to(&geglu_backward(&dy, &halves, outputs), &expected, 2e-6));
    }
}

#[test]
fn of_activations_from_end_to_end() {
    let x: Vec<f32> = (-40_000..=40_000)
        .map(|i| i as f32 / 2000.0)
        .chain([-1e30, -200.0, -0.0, 200.0, 1e30, f32::INFINITY, f32::NEG_INFINITY])
        .collect();
    let dy = vec![1.0; x.len()];
    for activation in ACTIVATIONS {
        // Far out the reference meets ∞ · 0.
        let finite = x.len() - 2;
        let expected = reference::activate_backward(&dy[..finite], &x[..finite], activation);
        each_isa(|| {
            let found = activate_backward(&dy, &x, activation);
            close_to(&found[..finite], &expected, 1e-6);
            let left = if activation == Activation::None { 1.0 } else { 0.0 };
            close_to(&found[finite..], &[1.0, left], 1e-6);
        });
    }
}

/// Expects some of `gradient` to be the slope of `Σ dy · forward(x)`.
#[track_caller]
fn is_the_slope(x: &[f32], dy: &[f32], gradient: &[f32], forward: impl Fn(&[f32]) -> Vec<f32>) {
    const STEP: f32 = 1.0 / 128.0;
    assert_eq!(x.len(), gradient.len());
    let loss = |index: usize, step: f32| -> f64 {
        let mut x = x.to_vec();
        x[index] += step;
        forward(&x).iter().zip(dy).map(|(y, dy)| f64::from(*y) * f64::from(*dy)).sum()
    };
    for index in (0..x.len()).step_by(x.len().div_ceil(12)) {
        let slope = ((loss(index, STEP) - loss(index, -STEP)) / f64::from(2.0 * STEP)) as f32;
        let error = (slope - gradient[index]).abs();
        let found = gradient[index];
        assert!(error < 2e-3 * slope.abs().max(1.0), "{index}: {found}, the slope is {slope}");
    }
}

#[test]
fn linear_gradients_are_slopes() {
    let mut random = Random(1);
    let weight = Stored::new(&mut random, 1, 1, 19, 13);
    let (x, dy) = (random.numbers(5 * 13), random.numbers(5 * 19));
    let forward = |x: &[f32]| reference::linear(x, 5, weight.matrix(), &Epilogue::default());
    is_the_slope(&x, &dy, &linear_backward(&dy, 5, weight.matrix()), forward);
}

#[test]
fn convolution_gradients_are_slopes() {
    for (kernel, stride, padding, upsample) in [
        (3, 1, [1; 4], false),
        (3, 2, [0, 1, 0, 1], false),
        (3, 1, [1; 4], true),
        (1, 1, [0; 4], false),
    ] {
        let mut random = Random(2);
        let weight = Stored::new(&mut random, 0, 0, 6, 5 * kernel * kernel);
        let conv = Conv { weight: weight.matrix(), kernel, stride, padding, upsample };
        let shape = [2, 6, 8, 5];
        let x = random.numbers(shape.iter().product());
        let dy = random.numbers(conv.output_shape(shape).iter().product());
        is_the_slope(&x, &dy, &conv2d_backward(&dy, &conv, shape), |x| {
            reference::conv2d(x, shape, &conv, &ConvEpilogue::default()).0
        });
    }
}

#[test]
fn attention_gradients_are_slopes() {
    let shape =
        AttentionShape { batch: 2, query_tokens: 20, key_tokens: 20, heads: 2, head_dim: 9 };
    let mut random = Random(3);
    let [q, k, v, dout] = [(); 4].map(|()| random.numbers(2 * 20 * 18));
    for causal in [false, true] {
        let (out, log_sums) = attention_with_log_sum(&q, &k, &v, shape, 0.9, causal);
        let (out, log_sums) = (&out, &log_sums);
        let pass = AttentionPass { q: &q, k: &k, v: &v, out, log_sums, shape, scale: 0.9, causal };
        let [dq, dk, dv] = attention_backward(&pass, &dout);
        let forward =
            |q: &[f32], k: &[f32], v: &[f32]| reference::attention(q, k, v, shape, 0.9, causal);
        is_the_slope(&q, &dout, &dq, |q| forward(q, &k, &v));
        is_the_slope(&k, &dout, &dk, |k| forward(&q, k, &v));
        is_the_slope(&v, &dout, &dv, |v| forward(&q, &k, v));
    }
}

#[test]
fn norm_gradients_are_slopes() {
    let mut random = Random(4);
    let (x, dy) = (random.numbers(2 * 30 * 12), random.numbers(2 * 30 * 12));
    let (weight, bias) = (&random.numbers(12), &random.numbers(12));
    let (shape, norm) = ([2, 5, 6, 12], GroupNorm { groups: 3, eps: 1e-5, weight, bias });
    for silu in [false, true] {
        is_the_slope(&x, &dy, &group_norm_backward(&dy, &x, shape, &norm, silu), |x| {
            reference::group_norm(x, shape, &norm, silu)
        });
    }
    is_the_slope(&x, &dy, &layer_norm_backward(&dy, &x, 12, 1e-5, weight), |x| {
        reference::layer_norm(x, 12, 1e-5, weight, bias)
    });
}

#[test]
fn activation_gradients_are_slopes() {
    let mut random = Random(5);
    let x: Vec<f32> = random.numbers(60).iter().map(|x| 3.0 * x).collect();
    let dy = random.numbers(60);
    for activation in ACTIVATIONS {
        is_the_slope(&x, &dy, &activate_backward(&dy, &x, activation), |x| {
            reference::activate(x, activation)
        });
    }
    is_the_slope(&x, &dy[..30], &geglu_backward(&dy[..30], &x, 15), |x| {
        x.chunks_exact(30)
            .flat_map(|row| {
                let gates = reference::activate(&row[15..], Activation::Gelu);
                row[..15].iter().zip(gates).map(|(value, gate)| value * gate).collect::<Vec<_>>()
            })
            .collect()
    });
}
