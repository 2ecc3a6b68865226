//! Metrics and statistics equal what scikit-image, scipy, numpy and statsmodels compute:
//! `parity/eval.py` wrote the pictures, the samples and the values.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs;
use std::io::BufReader;
use std::path::PathBuf;

use serde_json::Value;
use unwrong::picture::Pixels;
use unwrong_eval::metrics::{METRICS, Picture, psnr, ssim};
use unwrong_eval::statistics::{Method, deviation, holm, mean, mean_interval, wilcoxon};

/// Both sides sum in f64, in another order; luma of 255 rounds at 1e-14.
const RELATIVE: f64 = 1e-9;
const ABSOLUTE: f64 = 1e-11;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/goldens")
}

fn goldens() -> Value {
    serde_json::from_str(&fs::read_to_string(folder().join("eval.json")).unwrap()).unwrap()
}

fn picture(name: &str) -> Picture {
    let file = fs::File::open(folder().join(format!("eval/{name}.png"))).unwrap();
    let mut decoder = png::Decoder::new(BufReader::new(file));
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    // Pillow writes a picture of grays and few colours as a smaller kind of PNG.
    let rgb = match info.color_type {
        png::ColorType::Rgb => bytes,
        png::ColorType::Grayscale => bytes.iter().flat_map(|gray| [*gray; 3]).collect(),
        other => panic!("{other:?}"),
    };
    Picture::new(Pixels::new(info.width, info.height, rgb).unwrap())
}

fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

#[track_caller]
fn close(ours: f64, golden: &Value, what: &str) {
    let golden = golden.as_f64().unwrap();
    let bound = ABSOLUTE + RELATIVE * golden.abs();
    assert!((ours - golden).abs() <= bound, "{what}: {ours}, the oracle has {golden}");
}

#[test]
fn every_metric_equals_the_oracles() {
    let goldens = goldens();
    let pictures = goldens["pictures"].as_object().unwrap();
    assert!(pictures.len() >= 7);
    for (name, values) in pictures {
        let picture = picture(name);
        assert_eq!(values.as_object().unwrap().len(), METRICS.len());
        for metric in METRICS {
            close(
                metric.of(&picture, None).unwrap(),
                &values[metric.name],
                &format!("{name}, {}", metric.name),
            );
        }
    }
}

#[test]
fn distances_between_pictures_equal_the_oracles() {
    for (names, values) in goldens()["pairs"].as_object().unwrap() {
        let (one, other) = names.split_once(' ').unwrap();
        let (one, other) = (picture(one), picture(other));
        close(psnr(&one, &other).unwrap(), &values["psnr"], names);
        close(ssim(&one, &other).unwrap(), &values["ssim"], names);
        assert_eq!((psnr(&one, &one), ssim(&one, &one)), (None, Some(1.0)));
    }
    let (one, small) = (picture("left"), picture("black"));
    assert_eq!((psnr(&one, &small), ssim(&one, &small)), (None, None));
}

#[test]
fn wilcoxon_equals_scipy() {
    let goldens = goldens();
    let mut methods = Vec::new();
    for (name, facts) in goldens["samples"].as_object().unwrap() {
        let differences = numbers(&facts["differences"]);
        let found = wilcoxon(&differences);
        let method = if found.method == Method::Exact { "exact" } else { "normal" };
        assert_eq!(method, facts["method"].as_str().unwrap(), "{name}");
        close(found.positive, &facts["positive"], name);
        close(found.p, &facts["p"], name);
        close(mean(&differences), &facts["mean"], name);
        if facts["deviation"].is_number() {
            close(deviation(&differences), &facts["deviation"], name);
        }
        methods.push(method);
    }
    assert!(methods.contains(&"exact") && methods.contains(&"normal"));
}

#[test]
fn the_bootstrap_interval_is_near_that_of_scipy() {
    // Another generator, and 10,000 draws against 400,000: an end lies within a fiftieth of the
    // interval's length in 99 of 100 cases.
    for (name, facts) in goldens()["samples"].as_object().unwrap() {
        if facts["interval"].is_null() {
            continue;
        }
        let [low, high] = mean_interval(&numbers(&facts["differences"]));
        let golden = numbers(&facts["interval"]);
        let length = golden[1] - golden[0];
        for (ours, golden) in [(low, golden[0]), (high, golden[1])] {
            let off = (ours - golden).abs() / length;
            assert!(off < 0.02, "{name}: {ours}, scipy has {golden}, {off} of the length");
        }
    }
}

#[test]
fn holm_equals_statsmodels() {
    for list in goldens()["corrections"].as_array().unwrap() {
        let golden = numbers(&list["holm"]);
        for (ours, golden) in holm(&numbers(&list["p"])).iter().zip(golden) {
            assert!((ours - golden).abs() < 1e-12, "{ours}, statsmodels has {golden}");
        }
    }
}

#[test]
fn the_documentation_names_every_metric_with_its_source() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/eval.md");
    let text = fs::read_to_string(path).unwrap();
    for metric in METRICS {
        let line = text.lines().find(|line| line.starts_with(&format!("| `{}`", metric.name)));
        assert!(line.unwrap_or_default().contains(metric.source), "{}", metric.name);
    }
    for variant in unwrong_eval::variant::DEFAULTS {
        assert!(text.contains(&format!("| `{variant}`")), "{variant}");
    }
}
