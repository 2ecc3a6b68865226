//! A LoRA says the same in every dialect that it is written in, or is refused.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod shared;

use std::collections::BTreeMap;

use proptest::prelude::*;
use shared::{Made, demo, root};
use unwrong_models::Error;
use unwrong_models::files::{Bytes, Dtype, FrozenWeight, ModelParts};
use unwrong_models::lora::{Dialect, LoraFile, LoraLayer, Network, Targets, attach, write_lora};

const TO_Q: &str = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";
const Q_PROJ: &str = "text_model.encoder.layers.0.self_attn.q_proj";

fn parse(bytes: Vec<u8>) -> LoraFile {
    LoraFile::parse(&Bytes::owned(bytes), "made.safetensors").unwrap()
}

fn written(layers: &[LoraLayer], dialect: Dialect) -> Result<LoraFile, Error> {
    write_lora(layers, dialect, &BTreeMap::new()).map(parse)
}

/// A layer of 2 inputs and 3 outputs.
fn layer(network: Network, name: &str, rank: usize, alpha: f64, dtype: Dtype) -> LoraLayer {
    let values = |count: usize, step: f32| -> Vec<f32> {
        (0..count).map(|i| ((i + name.len()) as f32 * step).sin()).collect()
    };
    let down = FrozenWeight::rounded(&values(rank * 2, 0.7), dtype, &[rank, 2]);
    let up = FrozenWeight::rounded(&values(3 * rank, 1.3), dtype, &[3, rank]);
    LoraLayer::low_rank(network, name, down, up, alpha)
}

/// `alpha / rank · up · down`, flattened to a matrix, in f64.
fn product(layer: &LoraLayer) -> Vec<f64> {
    let pair = layer.as_pair().unwrap();
    let (down, up, rank) = (pair.down.values_f32(), pair.up.values_f32(), pair.rank());
    let inputs = down.len() / rank;
    let mut product = Vec::new();
    for row in up.chunks_exact(rank) {
        for input in 0..inputs {
            let terms = row
                .iter()
                .enumerate()
                .map(|(k, value)| f64::from(*value) * f64::from(down[k * inputs + input]));
            product.push(terms.sum::<f64>() * pair.alpha / rank as f64);
        }
    }
    product
}

/// Layers by network and name: what they do, and in which dtype.
type Meaning = BTreeMap<(Network, String), (Vec<f64>, Dtype, Dtype)>;

fn meaning(layers: &[LoraLayer]) -> Meaning {
    let entries = layers.iter().map(|layer| {
        let key = (layer.network, layer.name.clone());
        let pair = layer.as_pair().unwrap();
        (key, (product(layer), pair.down.dtype(), pair.up.dtype()))
    });
    entries.collect()
}

fn assert_same(found: &[LoraLayer], expected: &[LoraLayer], what: &str) {
    let (found, expected) = (meaning(found), meaning(expected));
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        expected.keys().collect::<Vec<_>>(),
        "{what}: layers"
    );
    for (key, (product, down, up)) in &expected {
        let (again, down_again, up_again) = &found[key];
        assert_eq!((down_again, up_again), (down, up), "{what}: dtypes of {key:?}");
        assert_eq!(again.len(), product.len(), "{what}: {key:?}");
        for (one, other) in again.iter().zip(product) {
            // Three times a third is rounded once more than one.
            assert!((one - other).abs() <= 1e-14 * other.abs(), "{what}: {key:?}: {one} {other}");
        }
    }
}

#[test]
fn every_golden_says_the_same_in_every_dialect() {
    let targets = Targets::of(&ModelParts::open_folder(&demo("base")).unwrap());
    let mut refused = Vec::new();
    let names = std::fs::read_dir(root().join("parity/goldens")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names
        .filter_map(|name| {
            let name = name.strip_prefix("lora-")?.strip_suffix(".safetensors")?;
            Some(name.to_owned())
        })
        .collect();
    names.sort();
    assert!(names.len() >= 10, "the goldens lost files");
    for name in &names {
        let golden =
            LoraFile::open(&root().join(format!("parity/goldens/lora-{name}.safetensors")))
                .unwrap();
        let layers = golden.to_layers().unwrap();
        let wide: Vec<LoraLayer> = layers.iter().map(LoraLayer::widened).collect();
        for (dialect, dtype, layers) in Dialect::ALL
            .into_iter()
            .flat_map(|dialect| [(dialect, "f16", &layers), (dialect, "f32", &wide)])
        {
            let what = format!("{name} as {} in {dtype}", dialect.name());
            let file = match written(layers, dialect) {
                Ok(file) => file,
                Err(error @ Error::LoraDialect { .. }) => {
                    assert!(error.hint().is_some(), "{what}: {error}");
                    refused.push(what);
                    continue;
                }
                Err(error) => panic!("{what}: {error}"),
            };
            assert_same(&file.to_layers().unwrap(), layers, &what);
            let (_, reports) = attach(&[(file, 1.0)], &targets).unwrap();
            assert_eq!(reports[0].applied, reports[0].total, "{what}");
            assert_eq!(reports[0].unapplied, Vec::<String>::new(), "{what}");
        }
    }
    // The dialect of 2023 has no words for more than attention and for alpha. Half of the
    // smallest numbers in f16 is none in f16, and a third is exact in neither.
    let expected = [
        "kohya-attention as diffusers in f16",
        "kohya-attention-alphas as diffusers in f16",
        "kohya-attention-alphas as diffusers in f32",
        "kohya-most as diffusers in f16",
        "kohya-most as diffusers in f32",
        "kohya-text as diffusers in f16",
        "kohya-text-alphas as diffusers in f16",
        "kohya-text-alphas as diffusers in f32",
        "peft-everything as diffusers in f16",
        "peft-everything as diffusers in f32",
        "sgm-attention as diffusers in f16",
        "sgm-attention-alphas as diffusers in f16",
        "sgm-attention-alphas as diffusers in f32",
        "sgm-everything as diffusers in f16",
        "sgm-everything as diffusers in f32",
        "sgm-everything-alphas as diffusers in f16",
        "sgm-everything-alphas as diffusers in f32",
    ];
    assert_eq!(refused, expected);
}

#[test]
fn every_layer_of_sdxl_has_one_name_whoever_writes_it() {
    let text = std::fs::read(root().join("parity/goldens/keys.json")).unwrap();
    let keys: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let module = |key: &str| key.strip_suffix(".weight").map(str::to_owned);
    for (ours, theirs) in [("unet_base", "base"), ("unet_refiner", "refiner")] {
        let layers = keys["diffusers"][ours].as_object().unwrap();
        // Norms have no matrix.
        let matrix = |shape: &serde_json::Value| shape.as_array().unwrap().len() > 1;
        let layers = layers.iter().filter(|(_, shape)| matrix(shape));
        let layers: Vec<String> = layers.filter_map(|(key, _)| module(key)).collect();
        let flat = layers.iter().map(|layer| (layer.clone(), layer.replace('.', "_")));
        let ldm = keys["single_file"][theirs].as_object().unwrap().iter();
        let ldm = ldm.filter_map(|(key, about)| {
            let key = module(key.strip_prefix("model.diffusion_model.")?)?;
            let layer = module(about[3].as_str()?)?;
            matrix(&about[0]).then(|| (layer, key.replace('.', "_")))
        });
        let ldm: Vec<_> = ldm.collect();
        assert_eq!(ldm.len(), layers.len(), "{theirs}");
        assert_names(Network::Unet, "lora_unet_", flat.chain(ldm));
    }
    for (part, network, prefix) in [
        ("text_encoder", Network::TextEncoder, "lora_te1_"),
        ("text_encoder_2", Network::TextEncoder2, "lora_te2_"),
    ] {
        let layers = keys["diffusers"][part].as_object().unwrap().keys();
        let layers = layers.filter(|key| !key.contains("norm") && !key.contains("embed"));
        let layers: Vec<String> = layers.filter_map(|key| module(key)).collect();
        let flat = layers.iter().map(|layer| (layer.clone(), layer.replace('.', "_")));
        assert_names(network, prefix, flat);
    }
}

/// Checks pairs of a checkpoint name and how kohya writes it.
fn assert_names(network: Network, prefix: &str, pairs: impl Iterator<Item = (String, String)>) {
    for (layer, flat) in pairs {
        let mut file = Made::new();
        file.f32(&format!("{prefix}{flat}.lora_down.weight"), &[1, 2]);
        file.f32(&format!("{prefix}{flat}.lora_up.weight"), &[3, 1]);
        let found = parse(file.bytes()).to_layers().unwrap().remove(0);
        assert_eq!((found.network, found.name.as_str()), (network, layer.as_str()), "{flat}");
    }
}

#[test]
fn a_layer_that_no_sdxl_has_is_refused_by_its_key() {
    let mut file = Made::new();
    file.f32("lora_unet_down_blocks_0_secret.lora_down.weight", &[1, 2]);
    file.f32("lora_unet_down_blocks_0_secret.lora_up.weight", &[3, 1]);
    let error = parse(file.bytes()).to_layers().unwrap_err();
    assert!(error.to_string().contains("lora_unet_down_blocks_0_secret"), "{error}");
}

#[test]
fn bytes_are_the_same_each_time_and_keep_the_metadata() {
    let mut metadata = BTreeMap::from([
        ("ss_output_name".to_owned(), "wrong".to_owned()),
        ("modelspec.title".to_owned(), "wrong".to_owned()),
        ("lora_adapter_metadata".to_owned(), r#"{"unet.lora_alpha": 99}"#.to_owned()),
    ]);
    let layers = [
        layer(Network::Unet, TO_Q, 2, 1.0, Dtype::F16),
        layer(Network::TextEncoder, Q_PROJ, 2, 1.0, Dtype::F16),
    ];
    let mut turned = layers.clone();
    turned.reverse();
    for dialect in Dialect::ALL {
        let bytes = write_lora(&layers, dialect, &metadata).unwrap();
        assert_eq!(bytes, write_lora(&turned, dialect, &metadata).unwrap());
        let file = parse(bytes.clone());
        assert_same(&file.to_layers().unwrap(), &layers, dialect.name());
        // A config that no longer holds is not kept.
        let mut expected = metadata.clone();
        expected.remove("lora_adapter_metadata");
        expected.insert("format".to_owned(), "pt".to_owned());
        assert_eq!(file.metadata(), &expected);
        let again = write_lora(&file.to_layers().unwrap(), dialect, file.metadata()).unwrap();
        assert!(again == bytes, "{} written again", dialect.name());
    }
    metadata.clear();
    let small = write_lora(&layers, Dialect::Peft, &metadata).unwrap();
    assert_eq!(parse(small).metadata().len(), 1);
}

#[test]
fn what_cannot_be_folded_is_said_in_pefts_config() {
    let layers = [
        layer(Network::Unet, TO_Q, 3, 1.0, Dtype::F16),
        layer(Network::Unet, "conv_in", 2, 5.0, Dtype::F16),
        layer(Network::TextEncoder, Q_PROJ, 3, 2.0, Dtype::F16),
    ];
    let file = written(&layers, Dialect::Peft).unwrap();
    let config: serde_json::Value =
        serde_json::from_str(&file.metadata()["lora_adapter_metadata"]).unwrap();
    assert_eq!(config["unet.r"], 3);
    assert_eq!(config["unet.rank_pattern"], serde_json::json!({"conv_in": 2}));
    assert_eq!(config["unet.alpha_pattern"], serde_json::json!({"conv_in": 5.0}));
    assert_eq!(config["text_encoder.lora_alpha"], 2.0);
    assert_same(&file.to_layers().unwrap(), &layers, "peft");
}

#[test]
fn layers_that_contradict_themselves_are_refused() {
    let good = layer(Network::Unet, TO_Q, 2, 2.0, Dtype::F32);
    let flat = LoraLayer { name: TO_Q.replace('.', "_"), ..good.clone() };
    let pair = good.as_pair().unwrap().clone();
    let with = |up: FrozenWeight, alpha| {
        LoraLayer::low_rank(Network::Unet, TO_Q, pair.down.clone(), up, alpha)
    };
    let ranks = with(FrozenWeight::from_f32(&[0.0; 3], &[3, 1]), 2.0);
    let alpha = with(pair.up.clone(), f64::NAN);
    let name = LoraLayer { name: "nowhere".to_owned(), ..good.clone() };
    for (layers, word) in [
        (vec![good.clone(), flat], "twice"),
        (vec![ranks], "share no rank"),
        (vec![alpha], "NaN"),
        (vec![name], "nowhere"),
        (vec![], "no layers"),
    ] {
        let error = written(&layers, Dialect::Kohya).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

const NAMES: [(Network, &str); 9] = [
    (Network::Unet, TO_Q),
    (Network::Unet, "mid_block.attentions.0.transformer_blocks.3.attn2.to_out.0"),
    (Network::Unet, "up_blocks.0.attentions.2.proj_in"),
    (Network::Unet, "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj"),
    (Network::Unet, "add_embedding.linear_2"),
    (Network::Unet, "up_blocks.1.upsamplers.0.conv"),
    (Network::TextEncoder, Q_PROJ),
    (Network::TextEncoder2, "text_model.encoder.layers.31.mlp.fc2"),
    (Network::TextEncoder2, "text_projection"),
];

prop_compose! {
    fn any_layer()(
        place in 0..NAMES.len(),
        rank in 1_usize..9,
        alpha in prop::sample::select(vec![0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 4.5, 8.0, -16.0, 100.0]),
        dtype in prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::Bf16]),
        values in prop::collection::vec(-2.0_f32..2.0, 9 * (2 + 3)),
    ) -> LoraLayer {
        let (network, name) = NAMES[place];
        let down = FrozenWeight::rounded(&values[..rank * 2], dtype, &[rank, 2]);
        let up = FrozenWeight::rounded(&values[rank * 2..rank * 5], dtype, &[3, rank]);
        LoraLayer::low_rank(network, name, down, up, alpha)
    }
}

proptest! {
    #[test]
    fn from_dialect_to_dialect_nothing_is_lost(
        layers in prop::collection::vec(any_layer(), 1..6),
        path in prop::collection::vec(prop::sample::select(Dialect::ALL.to_vec()), 1..5),
    ) {
        let mut layers = layers;
        layers.sort_by(|one, other| (one.network, &one.name).cmp(&(other.network, &other.name)));
        layers.dedup_by(|one, other| (one.network, &one.name) == (other.network, &other.name));
        let mut now = layers.clone();
        for dialect in path {
            match written(&now, dialect) {
                Ok(file) => now = file.to_layers().unwrap(),
                Err(error) => {
                    // Only the dialect of 2023 lacks words.
                    prop_assert_eq!(dialect, Dialect::Diffusers);
                    prop_assert!(error.hint().is_some());
                    continue;
                }
            }
            assert_same(&now, &layers, dialect.name());
        }
    }
}
