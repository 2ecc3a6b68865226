//! Noise equals torch's, seed by seed and shape by shape.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![expect(clippy::print_stdout, reason = "the table of the largest differences")]

mod goldens;

use goldens::Goldens;
use unwrong::noise::{Gpu, Noise};
use unwrong::request::NoiseKind;

/// torch differs by as much from itself between its AVX2 and AVX-512 builds.
const TOLERANCE: f32 = 1e-6;
/// A device takes sine and cosine from its hardware tables.
const DEVICE_TOLERANCE: f32 = 4e-6;

#[test]
fn every_draw_of_every_generator_is_torchs() {
    compare(&Goldens::load("noise"), TOLERANCE);
}

#[test]
fn a_cuda_device_draws_the_numbers_of_our_cuda_generator() {
    compare(&Goldens::load("noise-cuda"), DEVICE_TOLERANCE);
}

fn compare(goldens: &Goldens, tolerance: f32) {
    let (mut cases, mut worst) = (0, 0.0f32);
    for case in goldens.facts["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let seed = case["seed"].as_u64().unwrap();
        let number = |key: &str| u32::try_from(case[key].as_u64().unwrap()).unwrap();
        let mut noise = match case["generator"].as_str().unwrap() {
            "torch-cpu" => Noise::new(NoiseKind::TorchCpu, seed),
            "torch-cuda" => Noise::torch_cuda(
                seed,
                Gpu {
                    multiprocessors: number("multiprocessors"),
                    threads_per_multiprocessor: number("threads_each"),
                },
            ),
            other => panic!("no generator `{other}`"),
        };
        for (k, shape) in case["shapes"].as_array().unwrap().iter().enumerate() {
            let shape = shape.as_array().unwrap();
            let len = shape.iter().map(|side| side.as_u64().unwrap()).product::<u64>();
            let drawn = noise.draw(usize::try_from(len).unwrap());
            let tensor = format!("{name}.{k}");
            let expected = goldens.values(&tensor);
            let thinned = goldens.thin(&tensor, &drawn);
            assert_eq!(thinned.len(), expected.len(), "{tensor}");
            for (i, (value, expected)) in thinned.iter().zip(&expected).enumerate() {
                let difference = (value - expected).abs();
                assert!(difference <= tolerance, "{tensor}[{i}] is {value}, torch has {expected}");
                worst = worst.max(difference);
            }
            let l2 = drawn.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            let expected = goldens.l2(&tensor);
            assert!(
                (l2 - expected).abs() <= f64::from(tolerance) * expected,
                "{tensor}: l2 {l2}, not {expected}"
            );
            cases += 1;
        }
    }
    assert!(cases >= 100, "only {cases} goldens");
    println!("noise: {cases} draws, largest difference {worst:e}");
}
