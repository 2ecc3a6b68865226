//! Every method of a LoRA file gives the result of the program that wrote it: LyCORIS, PEFT,
//! kohya's scripts. `parity/make_lora_methods.py` says how the goldens were made.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod shared;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use common::{Goldens, Row, nchw, nhwc};
use shared::{demo, root};
use unwrong_models::Run;
use unwrong_models::files::{
    Bytes, Dtype, FrozenWeight, ModelParts, TensorFile, Weights, safetensors_bytes,
};
use unwrong_models::lora::{Adapters, Dialect, LoraFile, LoraLayer, Targets, attach, write_lora};
use unwrong_models::ops::Ops;
use unwrong_models::text_encoder::{TextEncoder, TokenRow};
use unwrong_models::unet::Unet;

/// Of the largest value, on weights in f32.
const EXACT: f64 = 1e-4;
/// The same where weights that were replaced are rounded to the model's f16.
const ROUNDED: f64 = 1e-3;

fn parts() -> ModelParts {
    ModelParts::open_folder(&demo("base")).unwrap()
}

/// The demo model with its weights in f32, where nothing is rounded.
fn wide_parts() -> ModelParts {
    let wide = |file: &str| {
        let path = root().join("crates/demo/model/base").join(file);
        let file = TensorFile::open(&path).unwrap();
        let widened =
            |weight: &FrozenWeight| FrozenWeight::from_f32(&weight.values_f32(), weight.shape());
        let tensors: BTreeMap<String, FrozenWeight> =
            file.weights().iter().map(|(key, weight)| (key.clone(), widened(weight))).collect();
        let bytes = Bytes::owned(safetensors_bytes(&tensors, &BTreeMap::new()));
        Weights::of(TensorFile::parse(&bytes, "wide.safetensors").unwrap()).unwrap()
    };
    let mut parts = parts();
    parts.unet.1 = wide("unet/diffusion_pytorch_model.safetensors");
    let encoder = |name: &str| wide(&format!("{name}/model.safetensors"));
    parts.text_encoder.as_mut().unwrap().1 = encoder("text_encoder");
    parts.text_encoder_2.as_mut().unwrap().1 = encoder("text_encoder_2");
    parts
}

fn open(name: &str) -> LoraFile {
    LoraFile::open(&root().join(format!("parity/goldens/method-{name}.safetensors"))).unwrap()
}

/// The networks of a model, and what they are run with.
struct Networks {
    unet: Unet,
    encoders: [TextEncoder; 2],
    ids: Vec<Vec<u32>>,
    inputs: Goldens,
    timestep: f32,
}

impl Networks {
    fn of(parts: &ModelParts, goldens: &Goldens) -> Self {
        let encoder = |part: &Option<_>| {
            let (config, weights) = part.as_ref().unwrap();
            TextEncoder::load(config, weights).unwrap()
        };
        Self {
            unet: Unet::load(&parts.unet.0, &parts.unet.1).unwrap(),
            encoders: [encoder(&parts.text_encoder), encoder(&parts.text_encoder_2)],
            ids: serde_json::from_value(goldens.fact("ids").clone()).unwrap(),
            inputs: Goldens::open("unet_base"),
            timestep: goldens.fact("timestep").as_f64().unwrap() as f32,
        }
    }

    /// The UNet's output and both encoders' states, by the names of the goldens.
    fn run(&self, ops: Ops, adapters: &Adapters) -> Vec<(&'static str, Tensor)> {
        let run = Run::new(ops, &adapters.unet);
        let input = |name: &str| self.inputs.tensor(&format!("input.{name}"));
        let prepared = self
            .unet
            .prepare(
                &run,
                &input("encoder_hidden_states"),
                &input("text_embeds"),
                &input("time_ids"),
            )
            .unwrap();
        let latents = nhwc(&input("latents"));
        let output = self.unet.forward(&run, &latents, self.timestep, &prepared).unwrap();
        let mut results = vec![("output", nchw(&output))];
        let layers = [&adapters.text_encoder, &adapters.text_encoder_2];
        for (index, name) in ["text_encoder", "text_encoder_2"].into_iter().enumerate() {
            let run = Run::new(ops, layers[index]);
            let rows = [TokenRow { ids: &self.ids[index], mask: None, added: None }];
            let states = self.encoders[index].encode(&run, &rows, &Device::Cpu).unwrap();
            if let Some(pooled) = self.encoders[index].pool(&run, &states, &rows).unwrap() {
                results.push(("pooled", pooled));
            }
            results.push((name, states));
        }
        results
    }
}

/// Compares every file at every scale, and prints the table.
fn compare(parts: &ModelParts, ops: Ops, bound: f64) {
    let goldens = Goldens::open("lora_methods");
    let networks = Networks::of(parts, &goldens);
    let targets = Targets::of(parts);
    let scales: Vec<f64> = serde_json::from_value(goldens.fact("scales").clone()).unwrap();
    for (name, facts) in goldens.fact("files").as_object().unwrap() {
        let writer = facts["writer"].as_str().unwrap();
        let mut row = Row::new(format!("{name}, {writer}, {ops:?}"), bound);
        for scale in &scales {
            let (adapters, applied) = attach(&[(open(name), *scale)], &targets).unwrap();
            assert_eq!(applied[0].unapplied, Vec::<String>::new(), "{name}");
            assert_eq!(applied[0].applied, facts["tensors"].as_u64().unwrap() as usize, "{name}");
            for (part, tensor) in networks.run(ops, &adapters) {
                let golden = format!("{name}.{scale:?}.{part}");
                if goldens.has(&golden) {
                    row.add(&golden, goldens.compare(&golden, &tensor));
                }
            }
        }
        row.print();
    }
}

#[test]
fn every_method_gives_the_result_of_the_program_that_wrote_it() {
    let parts = wide_parts();
    compare(&parts, Ops::Cpu, EXACT);
    compare(&parts, Ops::Reference, EXACT);
}

#[test]
fn replaced_weights_are_rounded_to_the_dtype_of_the_model_and_no_more() {
    compare(&parts(), Ops::Cpu, ROUNDED);
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn scale_zero_of_any_method_changes_not_a_bit_of_any_network() {
    let (parts, goldens) = (parts(), Goldens::open("lora_methods"));
    let networks = Networks::of(&parts, &goldens);
    let targets = Targets::of(&parts);
    let plain = networks.run(Ops::Cpu, &Adapters::default());
    let names: Vec<&String> = goldens.fact("files").as_object().unwrap().keys().collect();
    let files: Vec<_> = names.into_iter().map(|name| (open(name), 0.0)).collect();
    let (adapters, applied) = attach(&files, &targets).unwrap();
    assert!(adapters.is_empty());
    assert!(applied.iter().all(|one| one.applied == one.total));
    for ((part, one), (_, other)) in plain.iter().zip(networks.run(Ops::Cpu, &adapters)) {
        assert_eq!(bits(one), bits(&other), "{part}");
    }
}

#[test]
fn what_a_scale_does_never_depends_on_the_one_before() {
    let (parts, goldens) = (parts(), Goldens::open("lora_methods"));
    let networks = Networks::of(&parts, &goldens);
    let targets = Targets::of(&parts);
    let at = |scale: f64| {
        let files = [(open("lokr-dora"), scale), (open("dora"), scale), (open("norm"), 1.0)];
        let (adapters, _) = attach(&files, &targets).unwrap();
        let results = networks.run(Ops::Cpu, &adapters);
        results.iter().map(|(_, tensor)| bits(tensor)).collect::<Vec<_>>()
    };
    let first = at(0.7);
    assert_ne!(at(-0.3), first);
    assert_eq!(at(0.7), first);
}

#[test]
fn files_on_one_layer_change_what_the_files_before_left() {
    let parts = wide_parts();
    let targets = Targets::of(&parts);
    let goldens = Goldens::open("lora_methods");
    let networks = Networks::of(&parts, &goldens);
    // A plain difference in front of DoRA is stretched with the weight, one behind it is not.
    let run = |names: [&str; 2]| {
        let files = names.map(|name| (open(name), 0.5));
        let (adapters, _) = attach(&files, &targets).unwrap();
        networks.run(Ops::Cpu, &adapters)[0].1.clone()
    };
    let (before, after) = (run(["locon", "dora"]), run(["dora", "locon"]));
    assert_ne!(bits(&before), bits(&after));
    let difference = |one: &Tensor, other: &Tensor| {
        let most = |tensor: Tensor| {
            tensor.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
        };
        most((one - other).unwrap()) / most(one.clone())
    };
    // Plain differences add up in any order, dense or thin.
    let (one, other) = (run(["locon", "lokr-whole"]), run(["lokr-whole", "locon"]));
    assert!(difference(&one, &other) < 1e-5, "{}", difference(&one, &other));
    // Thin products and the dense weight of the same DoRA are the same.
    let both = ["dora", "full"].map(|name| (open(name), 1.0));
    let turned = ["full", "dora"].map(|name| (open(name), 1.0));
    for files in [both, turned] {
        let (adapters, _) = attach(&files, &targets).unwrap();
        let cpu = networks.run(Ops::Cpu, &adapters)[0].1.clone();
        let reference = networks.run(Ops::Reference, &adapters)[0].1.clone();
        assert!(difference(&cpu, &reference) < 1e-5, "{}", difference(&cpu, &reference));
    }
}

/// A layer's tensors, all of them, bit by bit.
type Everything = BTreeMap<(String, String), Vec<(Dtype, usize, Vec<u32>)>>;

fn everything(layers: &[LoraLayer]) -> Everything {
    let entries = layers.iter().map(|layer| {
        let tensors = layer.tensors().into_iter().map(|tensor| {
            let values = tensor.values_f32().into_iter().map(f32::to_bits).collect();
            (tensor.dtype(), tensor.count(), values)
        });
        let key = (layer.network.part().to_owned(), layer.name.clone());
        (key, tensors.collect())
    });
    entries.collect()
}

#[test]
fn every_method_comes_back_from_every_dialect_that_has_words_for_it() {
    let goldens = Goldens::open("lora_methods");
    let targets = Targets::of(&parts());
    let mut written = Vec::new();
    for name in goldens.fact("files").as_object().unwrap().keys() {
        let layers = open(name).to_layers().unwrap();
        for dialect in Dialect::ALL {
            let bytes = match write_lora(&layers, dialect, &BTreeMap::new()) {
                Ok(bytes) => bytes,
                Err(error) => {
                    assert_ne!(dialect, Dialect::Kohya, "{name}: {error}");
                    let hint = error.hint().unwrap();
                    assert!(hint.contains("kohya"), "{name}: {error}: {hint}");
                    continue;
                }
            };
            let file = LoraFile::parse(&Bytes::owned(bytes), "written.safetensors").unwrap();
            let again = file.to_layers().unwrap();
            let (found, expected) = (everything(&again), everything(&layers));
            assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
            // Where alphas differ, they are multiplied into `up`.
            let has_one_alpha = !["kohya", "locon", "locon-tucker"].contains(&name.as_str());
            if dialect == Dialect::Kohya && has_one_alpha {
                assert!(found == expected, "{name} as kohya");
            }
            for (one, other) in sorted(&again).into_iter().zip(sorted(&layers)) {
                assert_close(&one.delta(), &other.delta(), &format!("{name} as {dialect:?}"));
                let lengths =
                    |layer: &LoraLayer| layer.magnitude.as_ref().map(FrozenWeight::values_f32);
                assert_eq!(lengths(one), lengths(other), "{name} as {dialect:?}");
            }
            let (_, applied) = attach(&[(file, 1.0)], &targets).unwrap();
            assert_eq!(applied[0].applied, applied[0].total, "{name} as {dialect:?}");
            written.push(format!("{name} as {}", dialect.name()));
        }
    }
    written.retain(|one| !one.ends_with("as kohya"));
    let expected = ["dora as peft", "kohya as peft", "locon as peft", "peft-dora as peft"];
    assert_eq!(written, expected);
}

fn sorted(layers: &[LoraLayer]) -> Vec<&LoraLayer> {
    let mut sorted: Vec<_> = layers.iter().collect();
    sorted.sort_by_key(|layer| (layer.network, layer.name.clone()));
    sorted
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let most = expected.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
    for (one, other) in found.iter().zip(expected) {
        assert!((one - other).abs() <= 1e-6 * most, "{what}: {one} {other}");
    }
}
