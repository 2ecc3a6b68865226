//! The LoRA tools next to kohya's: the same ranks, singular values and products.
//!
//! Goldens: sd-scripts 48d368f on two small files, written by `parity/check_lora_tools.py`.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use unwrong::lora::{BlockWeights, IntoModel, blocks, merge, merge_into, resize, scale};
use unwrong::lora::{Dtype, Keep, Made, Merge, Resize, ScaleIn, Writing};
use unwrong::request::LoraRequest;
use unwrong_models::lora::{LoraFile, LoraLayer};

/// Of the greatest singular value, and of the norm of the product.
const LIMIT: f64 = 1e-4;
/// The weights of blocks that the scripts had.
const BLOCKS: &str = "0.5,1,1,0.25,1,2,1,1,-1,1,1,0.75";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../../parity/goldens/lora_tools/{name}.safetensors"))
}

fn request(name: &str, scale: f64, blocks: Option<&str>) -> LoraRequest {
    let path = golden(name).display().to_string();
    let blocks = blocks.map(|blocks| blocks.parse().unwrap());
    LoraRequest { blocks, ..LoraRequest::new(path, scale) }
}

fn in_f32() -> Writing {
    Writing { dialect: None, dtype: Some(Dtype::F32) }
}

/// `alpha / rank · up · down`, row by row, with the number of columns.
fn product(layer: &LoraLayer) -> (Vec<f64>, usize) {
    let pair = layer.as_pair().unwrap();
    let (up, down) = (pair.up.values_f32(), pair.down.values_f32());
    let rank = layer.rank();
    let columns = down.len() / rank;
    let cell = |row: &[f32], column: usize| -> f64 {
        let parts = row.iter().enumerate();
        let sum: f64 =
            parts.map(|(i, part)| f64::from(*part) * f64::from(down[i * columns + column])).sum();
        layer.factor() * sum
    };
    let rows = up.chunks_exact(rank);
    (rows.flat_map(|row| (0..columns).map(move |column| cell(row, column))).collect(), columns)
}

/// Squares of singular values from the greatest down, by Jacobi's rotations: nothing that the
/// tools use.
fn squares(values: &[f64], columns: usize) -> Vec<f64> {
    let rows: Vec<&[f64]> = values.chunks_exact(columns).collect();
    let dot = |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
    let size = rows.len();
    let mut gram: Vec<Vec<f64>> =
        rows.iter().map(|one| rows.iter().map(|other| dot(one, other)).collect()).collect();
    for _ in 0..30 {
        for p in 0..size {
            for q in p + 1..size {
                if gram[p][q].abs() < 1e-300 {
                    continue;
                }
                let turn = 0.5 * (2.0 * gram[p][q]).atan2(gram[q][q] - gram[p][p]);
                let (sin, cos) = turn.sin_cos();
                for row in &mut gram {
                    (row[p], row[q]) = (cos * row[p] - sin * row[q], sin * row[p] + cos * row[q]);
                }
                let (one, other) = (gram[p].clone(), gram[q].clone());
                let pairs = || one.iter().zip(&other);
                gram[p] = pairs().map(|(one, other)| cos * one - sin * other).collect();
                gram[q] = pairs().map(|(one, other)| sin * one + cos * other).collect();
            }
        }
    }
    let mut squares: Vec<f64> = (0..size).map(|place| gram[place][place].max(0.0)).collect();
    squares.sort_by(|one, other| other.total_cmp(one));
    squares
}

#[track_caller]
fn assert_same(name: &str, made: &Made) {
    let theirs = LoraFile::open(&golden(name)).unwrap().to_layers().unwrap();
    let ours = LoraFile::parse(&made.bytes, name).unwrap().to_layers().unwrap();
    assert_eq!(ours.len(), theirs.len(), "{name}");
    for expected in theirs {
        let layer = ours
            .iter()
            .find(|layer| (layer.network, &layer.name) == (expected.network, &expected.name));
        let layer = layer.unwrap_or_else(|| panic!("{name} has no {}", expected.name));
        let what = format!("{name}: {}", layer.name);
        assert_eq!(layer.rank(), expected.rank(), "{what}");
        let shapes = |layer: &LoraLayer| -> Vec<Vec<usize>> {
            layer.tensors().iter().map(|tensor| tensor.shape().to_vec()).collect()
        };
        assert_eq!(shapes(layer), shapes(&expected), "{what}");
        let ((ours, columns), (theirs, _)) = (product(layer), product(&expected));
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
        let apart = square(&mut ours.iter().zip(&theirs).map(|(one, other)| one - other));
        let all = square(&mut theirs.iter().copied());
        assert!(apart.sqrt() <= LIMIT * all.sqrt(), "{what}: {} of {}", apart.sqrt(), all.sqrt());
        let (ours, theirs) = (squares(&ours, columns), squares(&theirs, columns));
        for (one, other) in ours.iter().zip(&theirs) {
            let apart = (one.sqrt() - other.sqrt()).abs();
            assert!(apart <= LIMIT * theirs[0].sqrt(), "{what}: {} {}", one.sqrt(), other.sqrt());
        }
    }
}

#[test]
fn a_resized_file_is_the_one_that_the_script_makes() {
    for (name, rank, conv_rank, keep) in [
        ("resize-rank", 3, Some(2), Keep::Rank),
        ("resize-fro", 5, None, Keep::Frobenius(0.95)),
        ("resize-cumulative", 5, None, Keep::Cumulative(0.8)),
        ("resize-ratio", 5, None, Keep::Ratio(4.0)),
    ] {
        let how = Resize { rank, conv_rank, keep };
        let (made, layers) = resize(&golden("a"), &how, in_f32()).unwrap();
        assert_eq!(layers.len(), made.layers);
        assert_same(name, &made);
    }
}

#[test]
fn merged_files_are_the_ones_that_the_scripts_make() {
    let svd = Merge::Svd { rank: 4, conv_rank: Some(3), clamp: None };
    for (name, scales, weights, how) in [
        ("merge-svd", [0.7, -0.3], None, svd),
        ("merge-svd-blocks", [0.7, -0.3], Some(BLOCKS), svd),
        ("merge-exact", [0.7, 0.3], None, Merge::Exact),
    ] {
        let loras = [request("a", scales[0], weights), request("b", scales[1], None)];
        assert_same(name, &merge(&loras, &how, "both", in_f32()).unwrap());
    }
}

#[test]
fn weighed_blocks_are_the_ones_that_the_script_weighs() {
    let weights: BlockWeights = BLOCKS.parse().unwrap();
    assert_same("blocks", &blocks(&golden("a"), &weights, Writing::default()).unwrap());
}

#[test]
fn merging_one_file_with_itself_changes_no_bit_of_its_matrices() {
    let loras = [request("a", 0.5, None), request("a", 0.5, None)];
    let made = merge(&loras, &Merge::Exact, "twice", Writing::default()).unwrap();
    let source = LoraFile::open(&golden("a")).unwrap().to_layers().unwrap();
    let twice = LoraFile::parse(&made.bytes, "twice").unwrap().to_layers().unwrap();
    for (one, two) in source.iter().zip(&twice) {
        let (first, second) = (one.as_pair().unwrap(), two.as_pair().unwrap());
        let down = first.down.bytes();
        assert_eq!(second.down.bytes(), [down, down].concat(), "{}", one.name);
        assert_eq!((second.up.dtype(), two.rank()), (first.up.dtype(), 2 * one.rank()));
        assert!((two.factor() - 0.5 * one.factor()).abs() < 1e-7);
    }
}

#[test]
fn a_factor_goes_into_alpha_or_into_the_matrices() {
    let source = LoraFile::open(&golden("a")).unwrap().to_layers().unwrap();
    for place in [ScaleIn::Alpha, ScaleIn::Weights] {
        let made = scale(&golden("a"), -0.5, place, Writing::default()).unwrap();
        let layers = LoraFile::parse(&made.bytes, "scaled").unwrap().to_layers().unwrap();
        for (one, other) in source.iter().zip(&layers) {
            let ((one, _), (other, _)) = (product(one), product(other));
            assert!(one.iter().zip(&other).all(|(one, other)| (-0.5 * one - other).abs() < 1e-12));
        }
    }
}

/// The demo model with its LoRA in it, in `folder/merged`; `progress` is called at each tensor.
fn into_demo(
    folder: &Path,
    force: bool,
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> unwrong::Result<()> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model");
    let lora = demo.join("wrong-lora.safetensors").display().to_string();
    let into = IntoModel { dtype: None, force, output: &folder.join("merged") };
    let loras = [LoraRequest::new(lora, 1.0)];
    merge_into(&demo.join("base"), &loras, into, &mut |_, _| progress()).map(|_| ())
}

#[test]
fn what_appears_while_a_model_is_written_is_not_replaced() {
    for force in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("merged/precious");
        let error = into_demo(folder.path(), force, &mut || {
            fs::create_dir_all(other.parent().unwrap()).unwrap();
            fs::write(&other, "precious").unwrap();
            ControlFlow::Continue(())
        });
        let error = error.unwrap_err();
        assert!(force || matches!(error, unwrong::Error::FileExists { .. }), "{error}");
        assert!(error.is_request_error(), "{error}");
        assert_eq!(fs::read_dir(other.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }
}

#[test]
fn a_merge_into_a_model_that_is_stopped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let stopped = into_demo(folder.path(), false, &mut || ControlFlow::Break(()));
    assert!(matches!(stopped, Err(unwrong::Error::Cancelled)));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
