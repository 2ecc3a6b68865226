//! Linear layers in integers: against the plain reference, at the limits, and one result.

mod common;

use common::{Random, Stored, close, each_isa, on_any_threads, same};
use proptest::prelude::*;
use unwrong_kernels::{
    Activation, Epilogue, LowRank, Matrix, linear, linear_geglu, linear_geglu_quantized,
    linear_quantized, reference,
};

/// Makes all but one number of forty 5 to 500 times smaller than it: some are outliers now.
fn stretch(random: &mut Random, x: &mut [f32]) {
    let chances = random.numbers(x.len());
    for (x, chance) in x.iter_mut().zip(chances) {
        *x *= if chance > 0.95 { 0.01 + (chance - 0.95) * 19.0 } else { 0.002 };
    }
}

/// Sizes around every tile and block boundary.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        prop::sample::select(vec![1, 2, 5, 6, 7, 8, 9, 15, 16, 17, 24, 31, 33, 77, 97]),
        1_usize..40,
    ]
}

/// Depths: odd ones, around a group of sixteen, and over one and two depth blocks.
fn depth() -> impl Strategy<Value = usize> {
    prop_oneof![size(), prop::sample::select(vec![511, 512, 513, 640, 1025, 1280])]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn linear_equals_the_reference(
        rows in size(), inputs in depth(), outputs in size(), dtype in 0_usize..3,
        offset in 0_usize..4, bias: bool, residual: bool, activation in 0_usize..2,
        stretched: bool, seed: u64,
    ) {
        let mut random = Random(seed);
        let mut x = random.numbers(rows * inputs);
        if stretched {
            stretch(&mut random, &mut x);
        }
        let weight = Stored::new(&mut random, dtype, offset, outputs, inputs);
        let (bias_values, residual_values) = (random.numbers(outputs), random.numbers(rows * outputs));
        let epilogue = Epilogue {
            bias: bias.then_some(&bias_values),
            activation: [Activation::None, Activation::Silu][activation],
            residual: residual.then_some(&residual_values),
            ..Default::default()
        };
        let expected = reference::linear_quantized(&x, rows, weight.matrix(), &epilogue);
        each_isa(|| {
            // The integers are exact: what is left is the sum over blocks and the epilogue.
            close(&linear_quantized(&x, rows, weight.matrix(), &epilogue), &expected, 200);
        });
    }

    #[test]
    fn geglu_equals_the_reference(
        rows in size(), inputs in depth(), outputs in size(), dtype in 0_usize..3,
        offset in 0_usize..4, bias: bool, stretched: bool, seed: u64,
    ) {
        let mut random = Random(seed);
        let mut x = random.numbers(rows * inputs);
        if stretched {
            stretch(&mut random, &mut x);
        }
        let weight = Stored::new(&mut random, dtype, offset, 2 * outputs, inputs);
        let bias_values = random.numbers(2 * outputs);
        let bias = bias.then_some(bias_values.as_slice());
        let expected = reference::linear_geglu_quantized(&x, rows, weight.matrix(), bias, &[]);
        each_isa(|| {
            // A value's rounding is multiplied by its gate, and the other way round.
            close(&linear_geglu_quantized(&x, rows, weight.matrix(), bias, &[]), &expected, 1000);
        });
    }
}

/// Root mean square of the difference, relative to that of `expected`.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    let squares = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>();
    let difference = squares(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    (difference / squares(&mut expected.iter().copied())).sqrt()
}

#[test]
fn the_error_is_below_a_thousandth() {
    let (rows, inputs, outputs) = (64, 1280, 96);
    let mut random = Random(1);
    let x = random.numbers(rows * inputs);
    let weight = Stored::new(&mut random, 1, 0, 2 * outputs, inputs);
    let (weight, plain) = (weight.matrix(), Epilogue::default());
    each_isa(|| {
        let expected = linear(&x, rows, weight, &plain);
        let found = linear_quantized(&x, rows, weight, &plain);
        assert!(relative_error(&found, &expected) < 5e-4);
        let expected = linear_geglu(&x, rows, weight, None, &[]);
        let found = linear_geglu_quantized(&x, rows, weight, None, &[]);
        assert!(relative_error(&found, &expected) < 1e-3);
    });
}

#[test]
fn an_outlier_coarsens_nobody() {
    // A few inputs a hundred times the others and their weights as much smaller, as trained
    // transformers have them.
    let (rows, inputs, outputs) = (64, 1280, 96);
    let mut random = Random(1);
    let mut x = random.numbers(rows * inputs);
    let mut values = random.numbers(2 * outputs * inputs);
    for outlier in [7, 300, 1279] {
        x.iter_mut().skip(outlier).step_by(inputs).for_each(|x| *x *= 100.0);
        values.iter_mut().skip(outlier).step_by(inputs).for_each(|value| *value /= 100.0);
    }
    let (weight, plain) = (Matrix::from_f32(2 * outputs, inputs, &values), Epilogue::default());
    each_isa(|| {
        let expected = linear(&x, rows, weight, &plain);
        let found = linear_quantized(&x, rows, weight, &plain);
        assert!(relative_error(&found, &expected) < 2e-3);
        let expected = linear_geglu(&x, rows, weight, None, &[]);
        let found = linear_geglu_quantized(&x, rows, weight, None, &[]);
        assert!(relative_error(&found, &expected) < 4e-3);
    });
}

#[test]
fn branches_stay_exact() {
    let (rows, inputs, outputs) = (70, 700, 40);
    let mut random = Random(7);
    let x = random.numbers(rows * inputs);
    let weight = vec![0.0; 2 * outputs * inputs];
    let weight = Matrix::from_f32(2 * outputs, inputs, &weight);
    let (down, up) = (random.numbers(4 * inputs), random.numbers(2 * outputs * 4));
    let branch = LowRank {
        down: Matrix::from_f32(4, inputs, &down),
        up: Matrix::from_f32(2 * outputs, 4, &up),
        scale: 0.7,
    };
    let low_rank = [branch, LowRank { scale: -0.2, ..branch }];
    let epilogue = Epilogue { low_rank: &low_rank, ..Default::default() };
    each_isa(|| {
        let exact = linear(&x, rows, weight, &epilogue);
        same(&linear_quantized(&x, rows, weight, &epilogue), &exact);
        let exact = linear_geglu(&x, rows, weight, None, &low_rank);
        same(&linear_geglu_quantized(&x, rows, weight, None, &low_rank), &exact);
    });
}

#[test]
fn the_greatest_integers_do_not_overflow() {
    // Every product is 2047², and a block holds as many as ever.
    let inputs = 1024;
    let x = vec![2047.0; 7 * inputs];
    let values: Vec<f32> = (0..3 * inputs).map(|i| [2047.0, -2047.0][i / inputs % 2]).collect();
    let weight = Matrix::from_f32(3, inputs, &values);
    let block = (2047.0_f64 * 2047.0 * 512.0) as f32;
    let expected = [block + block, -block - block, block + block].repeat(7);
    each_isa(|| same(&linear_quantized(&x, 7, weight, &Epilogue::default()), &expected));
}

#[test]
fn integers_up_to_the_limit_are_exact() {
    let (rows, inputs, outputs) = (9, 301, 21);
    let mut random = Random(2);
    let mut integers = |count: usize, first: usize| -> Vec<f32> {
        let mut numbers: Vec<f32> =
            random.numbers(count).iter().map(|x| (x * 500.0).round()).collect();
        numbers.iter_mut().step_by(first).for_each(|x| *x = -2047.0);
        numbers
    };
    let (x, values) = (integers(rows * inputs, inputs), integers(outputs * inputs, inputs));
    let weight = Matrix::from_f32(outputs, inputs, &values);
    let expected = reference::linear(&x, rows, weight, &Epilogue::default());
    each_isa(|| same(&linear_quantized(&x, rows, weight, &Epilogue::default()), &expected));
}

#[test]
fn what_is_not_finite_is_not_hidden() {
    let (rows, inputs, outputs) = (8, 600, 20);
    let mut random = Random(3);
    for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = random.numbers(rows * inputs);
        let mut values = random.numbers(outputs * inputs);
        x[3 * inputs + 599] = poison;
        values[17 * inputs] = poison;
        let weight = Matrix::from_f32(outputs, inputs, &values);
        each_isa(|| {
            let y = linear_quantized(&x, rows, weight, &Epilogue::default());
            for (i, y) in y.into_iter().enumerate() {
                let poisoned = i / outputs == 3 || i % outputs == 17;
                assert_eq!(y.is_nan(), poisoned, "row {}, output {}", i / outputs, i % outputs);
            }
        });
    }
}

#[test]
fn zeros_and_numbers_of_any_size_are_fine() {
    let inputs = 48;
    for size in [0.0, f32::MIN_POSITIVE / 64.0, 1e-37, 1e-20, 1e20] {
        let x: Vec<f32> = Random(4).numbers(inputs).iter().map(|x| x * size).collect();
        let values = Random(5).numbers(3 * inputs);
        let weight = Matrix::from_f32(3, inputs, &values);
        let expected = reference::linear(&x, 1, weight, &Epilogue::default());
        each_isa(|| {
            let found = linear_quantized(&x, 1, weight, &Epilogue::default());
            for (found, expected) in found.iter().zip(&expected) {
                let allowed = 2e-3 * size + f32::MIN_POSITIVE;
                assert!((found - expected).abs() <= allowed, "{found}, expected {expected}");
            }
        });
    }
    assert!(
        linear_quantized(&[], 0, Matrix::from_f32(3, 2, &[1.0; 6]), &Epilogue::default())
            .is_empty()
    );
    let (empty, bias) = (Matrix::from_f32(3, 0, &[]), [1.0, 2.0, 3.0]);
    let epilogue = Epilogue { bias: Some(&bias), ..Default::default() };
    same(&linear_quantized(&[], 2, empty, &epilogue), &[1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
}

#[test]
fn a_row_does_not_know_the_others() {
    for (rows, inputs, outputs) in [(13, 40, 24), (500, 640, 330), (3100, 33, 40), (7, 900, 1300)] {
        let mut random = Random(6);
        let mut x = random.numbers(rows * inputs);
        stretch(&mut random, &mut x);
        let weight = Stored::new(&mut random, 1, 1, 2 * outputs, inputs);
        let bias = random.numbers(2 * outputs);
        let down = random.numbers(3 * inputs);
        let up = random.numbers(2 * outputs * 3);
        let low_rank = [LowRank {
            down: Matrix::from_f32(3, inputs, &down),
            up: Matrix::from_f32(2 * outputs, 3, &up),
            scale: 0.5,
        }];
        let epilogue = Epilogue {
            low_rank: &low_rank,
            bias: Some(&bias),
            activation: Activation::Gelu,
            residual: None,
        };
        let plain = |x: &[f32], rows| linear_quantized(x, rows, weight.matrix(), &epilogue);
        let gated = |x: &[f32], rows| {
            linear_geglu_quantized(x, rows, weight.matrix(), Some(&bias), &low_rank)
        };
        each_isa(|| {
            let whole = on_any_threads(|| plain(&x, rows));
            let whole_gated = on_any_threads(|| gated(&x, rows));
            for count in [1, 5, 6, 7] {
                same(&plain(&x[..count * inputs], count), &whole[..count * 2 * outputs]);
                same(&gated(&x[..count * inputs], count), &whole_gated[..count * outputs]);
                let last = &x[(rows - count) * inputs..];
                same(&plain(last, count), &whole[(rows - count) * 2 * outputs..]);
                same(&gated(last, count), &whole_gated[(rows - count) * outputs..]);
            }
        });
    }
}
