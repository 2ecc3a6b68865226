//! `weights: int8`: almost the same picture, repeatable, and refused where nobody computes it.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

use std::path::Path;

use unwrong::catalog::Catalog;
use unwrong::pipeline::{Options, Pipeline};
use unwrong::progress::Silent;
use unwrong::request::{GenerateRequest, Weights};
use unwrong_models::ops::Ops;

fn request(weights: Option<Weights>) -> GenerateRequest {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model");
    GenerateRequest {
        model: Some(model.display().to_string()),
        wrong: Some(1.0),
        seed: Some(7),
        steps: Some(10),
        weights,
        ..GenerateRequest::new("a red circle on a blue ground")
    }
}

fn pipeline(ops: Ops) -> Pipeline {
    let options = Options { ops: Some(ops), ..Options::default() };
    Pipeline::open(&request(None), &Catalog::new(), &options).unwrap()
}

#[test]
fn a_picture_in_integers_is_almost_the_exact_one_and_says_so() {
    let requests = [None, Some(Weights::Native), Some(Weights::Int8)].map(request);
    let pictures = pipeline(Ops::Cpu).generate(&requests, &mut Silent).unwrap();
    let [absent, native, int8] = [0, 1, 2].map(|i| pictures[i].pixels.rgb());
    assert_eq!(absent, native);
    let differences = native.iter().zip(int8).map(|(a, b)| f64::from(a.abs_diff(*b)));
    let mean = differences.sum::<f64>() / native.len() as f64;
    println!("demo picture in integers: mean difference {mean:.4} of 255");
    assert!(native != int8, "nothing was computed in integers");
    assert!(mean < 1.0, "{mean}");
    assert_eq!(pictures[2].embedded.request.weights, Some(Weights::Int8));
    assert_eq!(pictures[0].embedded.request.weights, None);
}

#[test]
fn integers_are_refused_where_only_plain_operations_run() {
    let pipeline = pipeline(Ops::Reference);
    let error = pipeline.generate(&[request(Some(Weights::Int8))], &mut Silent).unwrap_err();
    assert!(error.is_request_error());
    assert!(error.to_string().contains("`weights` is `int8`"), "{error}");
    assert!(error.hint().unwrap().contains("UNWRONG_OPS"));
}
