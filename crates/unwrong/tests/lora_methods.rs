//! The LoRA tools on files of every method: what they make does what the sum of the sources does.
//!
//! Files: `parity/goldens/method-*.safetensors`, by LyCORIS, PEFT and kohya's scripts.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use unwrong::lora::{Dtype, Keep, Made, Merge, Resize, ScaleIn, Writing, merge, resize, scale};
use unwrong::request::LoraRequest;
use unwrong_models::files::FrozenWeight;
use unwrong_models::lora::{LoraFile, LoraLayer, Network};

/// Files without DoRA.
const SUMMABLE: [&str; 11] = [
    "full",
    "kohya",
    "locon",
    "locon-tucker",
    "loha",
    "loha-tucker",
    "lokr",
    "lokr-both",
    "lokr-tucker",
    "lokr-whole",
    "norm",
];
/// Files with it.
const DORA: [&str; 5] = ["dora", "dora-columns", "loha-dora", "lokr-dora", "peft-dora"];
/// Of the length of a layer's difference.
const LIMIT: f64 = 1e-5;

/// What a file adds to each layer's weight, and to its bias.
type Sums = BTreeMap<(Network, String), (Vec<f64>, Vec<f64>)>;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../../parity/goldens/method-{name}.safetensors"))
}

fn layers(name: &str) -> Vec<LoraLayer> {
    LoraFile::open(&file(name)).unwrap().to_layers().unwrap()
}

fn read(made: &Made) -> Vec<LoraLayer> {
    LoraFile::parse(&made.bytes, "made").unwrap().to_layers().unwrap()
}

fn add(sums: &mut Sums, layers: &[LoraLayer], scale: f64) {
    let add = |sum: &mut Vec<f64>, values: &[f32]| {
        sum.resize(sum.len().max(values.len()), 0.0);
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum += scale * f64::from(*value);
        }
    };
    for layer in layers {
        let (weight, bias) = sums.entry((layer.network, layer.name.clone())).or_default();
        add(weight, &layer.delta());
        add(bias, &layer.bias.as_ref().map(FrozenWeight::values_f32).unwrap_or_default());
    }
}

#[track_caller]
fn assert_sums(what: &str, made: &[LoraLayer], expected: &Sums) {
    let mut found = Sums::new();
    add(&mut found, made, 1.0);
    let names = |sums: &Sums| sums.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(expected), "{what}");
    for (key, (weight, bias)) in expected {
        let (layer, (ours, our_bias)) = (&key.1, &found[key]);
        for (one, other) in [(ours, weight), (our_bias, bias)] {
            assert_eq!(one.len(), other.len(), "{what}: {layer}");
            let length = |values: &mut dyn Iterator<Item = f64>| {
                values.map(|value| value * value).sum::<f64>().sqrt()
            };
            let apart = length(&mut one.iter().zip(other.iter()).map(|(a, b)| a - b));
            let all = length(&mut other.iter().copied());
            assert!(apart <= LIMIT * all, "{what}: {layer}: {apart} of {all}");
        }
    }
}

/// Without convolutions, whose inputs bound the rank, as in kohya's scripts.
fn matrices(layers: Vec<LoraLayer>) -> Vec<LoraLayer> {
    layers.into_iter().filter(|layer| !layer.name.contains("conv")).collect()
}

fn requests(name: &str, scales: [f64; 2]) -> [LoraRequest; 2] {
    [(name, scales[0]), ("kohya", scales[1])]
        .map(|(name, scale)| LoraRequest::new(file(name).display().to_string(), scale))
}

const IN_F32: Writing = Writing { dialect: None, dtype: Some(Dtype::F32) };

#[test]
fn files_of_two_methods_merge_into_the_sum_of_both() {
    for name in SUMMABLE {
        let mut expected = Sums::new();
        add(&mut expected, &layers(name), 0.5);
        add(&mut expected, &layers("kohya"), -2.0);
        let made = merge(&requests(name, [0.5, -2.0]), &Merge::Exact, "both", IN_F32).unwrap();
        assert_sums(name, &read(&made), &expected);
    }
}

#[test]
fn in_all_its_ranks_a_merge_is_the_sum_too() {
    let how = Merge::Svd { rank: 1000, conv_rank: None, clamp: None };
    for name in SUMMABLE {
        let mut expected = Sums::new();
        add(&mut expected, &matrices(layers(name)), 0.5);
        add(&mut expected, &matrices(layers("kohya")), -2.0);
        let made = merge(&requests(name, [0.5, -2.0]), &how, "both", IN_F32).unwrap();
        assert_sums(name, &matrices(read(&made)), &expected);
    }
}

#[test]
fn in_all_its_ranks_a_file_of_any_method_stays_what_it_is() {
    let how = Resize { rank: 1000, conv_rank: None, keep: Keep::Rank };
    for name in SUMMABLE {
        let mut expected = Sums::new();
        add(&mut expected, &layers(name), 1.0);
        let (made, _) = resize(&file(name), &how, IN_F32).unwrap();
        assert_sums(name, &read(&made), &expected);
    }
}

#[test]
fn a_factor_counts_whatever_the_method() {
    for name in SUMMABLE {
        let mut expected = Sums::new();
        add(&mut expected, &layers(name), -0.75);
        for place in [ScaleIn::Alpha, ScaleIn::Weights] {
            let made = scale(&file(name), -0.75, place, IN_F32).unwrap();
            assert_sums(name, &read(&made), &expected);
        }
    }
}

#[test]
fn dora_is_added_to_nothing_and_says_why() {
    for name in DORA {
        let error = merge(&requests(name, [1.0, 1.0]), &Merge::Exact, "both", IN_F32);
        let error = error.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("has DoRA, whose effect depends on"), "{name}: {error}");
        let error = scale(&file(name), 0.5, ScaleIn::Alpha, IN_F32).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("cannot be scaled"), "{name}: {error}");
    }
}

#[test]
fn a_tucker_file_is_resized_and_merged_in_the_ranks_that_it_has() {
    let ranks = |made: &Made| read(made).iter().map(LoraLayer::rank).max();
    let own = layers("locon-tucker").iter().map(LoraLayer::rank).max();
    let how = Resize { rank: 1000, conv_rank: None, keep: Keep::Rank };
    assert_eq!(ranks(&resize(&file("locon-tucker"), &how, IN_F32).unwrap().0), own);
    let lora = LoraRequest::new(file("locon-tucker").display().to_string(), 0.5);
    assert_eq!(ranks(&merge(&[lora], &Merge::Exact, "half", IN_F32).unwrap()), own);
}
