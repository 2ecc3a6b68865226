//! LoRA files in every dialect find their layers in the demo model; others are refused by name.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod shared;

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use shared::{Made, demo, root};
use unwrong_models::error::Error;
use unwrong_models::files::{Bytes, FrozenWeight, ModelParts};
use unwrong_models::lora::{
    Adapters, Applied, LayerAdapters, LoraFile, LowRank, Network, Targets, attach,
};

const NETWORKS: [(&str, Network); 3] = [
    ("unet", Network::Unet),
    ("text_encoder", Network::TextEncoder),
    ("text_encoder_2", Network::TextEncoder2),
];

fn targets() -> Targets {
    Targets::of(&ModelParts::open_folder(&demo("base")).unwrap())
}

fn of(adapters: &Adapters, network: Network) -> &LayerAdapters {
    match network {
        Network::Unet => &adapters.unet,
        Network::TextEncoder => &adapters.text_encoder,
        Network::TextEncoder2 => &adapters.text_encoder_2,
    }
}

fn golden(name: &str) -> LoraFile {
    LoraFile::open(&root().join(format!("parity/goldens/{name}.safetensors"))).unwrap()
}

fn attach_one(file: &LoraFile, scale: f64) -> Result<(Adapters, Applied), Error> {
    let (adapters, mut applied) = attach(&[(file.clone(), scale)], &targets())?;
    Ok((adapters, applied.remove(0)))
}

fn made(made: &Made) -> Result<LoraFile, Error> {
    LoraFile::parse(&Bytes::owned(made.bytes()), "made.safetensors")
}

/// The error of opening or attaching.
fn refusal(file: &Made) -> String {
    let error = made(file).and_then(|file| attach_one(&file, 1.0)).unwrap_err();
    assert!(matches!(error, Error::Lora { .. }), "{error:?}");
    error.to_string()
}

/// `scale · up · down`, flattened to a matrix.
fn product(low_rank: &LowRank) -> Vec<f32> {
    let matrix = |weight: &FrozenWeight| {
        let rows = weight.shape()[0];
        Tensor::from_vec(weight.values_f32(), (rows, weight.count() / rows), &Device::Cpu).unwrap()
    };
    let product = matrix(&low_rank.up).matmul(&matrix(&low_rank.down)).unwrap();
    let product = (product * f64::from(low_rank.scale)).unwrap();
    product.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn every_dialect_finds_the_layers_that_diffusers_finds() {
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(root().join("parity/goldens/lora.json")).unwrap())
            .unwrap();
    let files = index["files"].as_object().unwrap();
    assert!(files.len() >= 10, "the goldens lost files");
    for (name, facts) in files {
        let file = golden(name);
        let (adapters, applied) = attach_one(&file, 1.0).unwrap();
        assert_eq!(applied.unapplied, Vec::<String>::new(), "{name}");
        assert_eq!(applied.applied, applied.total, "{name}");
        assert_eq!(applied.total, file.tensors(), "{name}");

        let mut expected: Vec<&str> =
            facts["keys"].as_object().unwrap().values().map(|v| v.as_str().unwrap()).collect();
        expected.sort_unstable();
        let mut found = Vec::new();
        for (prefix, network) in NETWORKS {
            for (layer, adapter) in of(&adapters, network).iter() {
                assert_eq!(adapter.low_rank.len(), 1, "{name}: {layer}");
                // transformers 5 writes the first encoder without the prefix that LoRAs have.
                let layer = match prefix {
                    "unet" => layer.to_owned(),
                    _ => format!("text_model.{}", layer.trim_start_matches("text_model.")),
                };
                found.push(format!("{prefix}.{layer}"));
            }
        }
        found.sort_unstable();
        let expected: Vec<String> = expected.iter().map(|layer| with_text_model(layer)).collect();
        assert_eq!(found, expected, "{name}");
    }
}

fn with_text_model(layer: &str) -> String {
    match layer.split_once('.').unwrap() {
        (part @ ("text_encoder" | "text_encoder_2"), rest) => {
            format!("{part}.text_model.{}", rest.trim_start_matches("text_model."))
        }
        _ => layer.to_owned(),
    }
}

#[test]
fn the_same_file_in_two_dialects_means_the_same() {
    for (one, other) in [
        ("lora-2023-attention", "lora-peft-attention"),
        ("lora-2023-attention", "lora-diffusers-attention"),
        ("lora-kohya-attention", "lora-sgm-attention"),
        ("lora-kohya-attention-alphas", "lora-sgm-attention-alphas"),
        ("lora-2023-text", "lora-peft-text"),
    ] {
        let (one_adapters, _) = attach_one(&golden(one), 0.7).unwrap();
        let (other_adapters, _) = attach_one(&golden(other), 0.7).unwrap();
        for (_, network) in NETWORKS {
            let others = of(&other_adapters, network);
            assert_eq!(of(&one_adapters, network).len(), others.len(), "{one} {other}");
            for (layer, adapter) in of(&one_adapters, network).iter() {
                let twin = others.get(layer).unwrap();
                assert_eq!(
                    product(&adapter.low_rank[0]),
                    product(&twin.low_rank[0]),
                    "{one} {other} {layer}"
                );
            }
        }
    }
}

#[test]
fn the_wrong_lora_of_the_demo_is_applied_whole() {
    let parts = demo("");
    let file = LoraFile::open_in(&parts, "wrong-lora.safetensors").unwrap();
    let (_, applied) = attach_one(&file, 1.0).unwrap();
    assert_eq!((applied.applied, applied.unapplied.len()), (file.tensors(), 0));
}

const TO_Q: &str = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";

#[test]
fn the_scale_is_alpha_over_rank_of_each_layer() {
    let key = TO_Q.replace('.', "_");
    for (alpha, factor) in [(None, 1.0), (Some(94.0), 47.0), (Some(1.0), 0.5), (Some(0.5), 0.25)] {
        let mut file = Made::new();
        file.f32(&format!("lora_unet_{key}.lora_down.weight"), &[2, 64]);
        file.f32(&format!("lora_unet_{key}.lora_up.weight"), &[64, 2]);
        if let Some(alpha) = alpha {
            file.add(&format!("lora_unet_{key}.alpha"), "F16", &[], &half(alpha));
        }
        let (adapters, _) = attach_one(&made(&file).unwrap(), 0.5).unwrap();
        let scale = adapters.unet.get(TO_Q).unwrap().low_rank[0].scale;
        assert!((scale - 0.5 * factor).abs() < 1e-6, "{alpha:?}: {scale}");
    }
}

fn half(value: f32) -> [u8; 2] {
    half::f16::from_f32(value).to_le_bytes()
}

#[test]
fn an_alpha_may_be_a_whole_number() {
    let key = format!("lora_unet_{}", TO_Q.replace('.', "_"));
    let mut file = Made::new();
    file.f32(&format!("{key}.lora_down.weight"), &[2, 64]);
    file.f32(&format!("{key}.lora_up.weight"), &[64, 2]);
    file.add(&format!("{key}.alpha"), "I64", &[], &8_i64.to_le_bytes());
    let (adapters, applied) = attach_one(&made(&file).unwrap(), 1.0).unwrap();
    let scale = adapters.unet.get(TO_Q).unwrap().low_rank[0].scale;
    assert!((scale - 4.0).abs() < 1e-6);
    assert_eq!(applied.applied, 3);
}

#[test]
fn peft_files_have_their_alpha_in_the_header() {
    let mut file = Made::new();
    file.f32(&format!("unet.{TO_Q}.lora_A.weight"), &[4, 64]);
    file.f32(&format!("unet.{TO_Q}.lora_B.weight"), &[64, 4]);
    for (config, scale) in [
        (r#"{"unet.lora_alpha": 8, "unet.r": 4}"#, 2.0),
        (r#"{"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}}"#, 0.5),
        (r#"{"unet.lora_alpha": 8, "unet.use_rslora": true}"#, 4.0),
        (r#"{"text_encoder.lora_alpha": 8}"#, 1.0),
    ] {
        file.metadata = BTreeMap::from([("lora_adapter_metadata", config)]);
        let (adapters, _) = attach_one(&made(&file).unwrap(), 1.0).unwrap();
        let found = adapters.unet.get(TO_Q).unwrap().low_rank[0].scale;
        assert!((found - scale).abs() < 1e-6, "{config}: {found}");
    }
}

#[test]
fn time_embedding_and_first_and_last_convolution_are_found_under_kohyas_names() {
    let mut file = Made::new();
    let layers: [(&str, &str, &[usize], &[usize]); 6] = [
        ("conv_in", "conv_in", &[1, 4, 3, 3], &[32, 1, 1, 1]),
        ("conv_out", "conv_out", &[1, 32, 3, 3], &[4, 1, 1, 1]),
        ("time_embed_0", "time_embedding.linear_1", &[1, 32], &[128, 1]),
        ("time_embed_2", "time_embedding.linear_2", &[1, 128], &[128, 1]),
        ("label_emb_0_0", "add_embedding.linear_1", &[1, 256], &[128, 1]),
        ("add_embedding_linear_2", "add_embedding.linear_2", &[1, 128], &[128, 1]),
    ];
    for (key, _, down, up) in layers {
        file.f32(&format!("lora_unet_{key}.lora_down.weight"), down);
        file.f32(&format!("lora_unet_{key}.lora_up.weight"), up);
    }
    let (adapters, applied) = attach_one(&made(&file).unwrap(), 1.0).unwrap();
    assert_eq!((applied.applied, applied.total), (12, 12));
    for (_, layer, down, up) in layers {
        let low_rank = &adapters.unet.get(layer).unwrap().low_rank[0];
        assert_eq!((low_rank.down.shape(), low_rank.up.shape()), (down, up), "{layer}");
    }
}

#[test]
fn ldm_names_are_found_with_dots_as_well() {
    let layer = "output_blocks.5.1.transformer_blocks.0.attn2.to_out.0";
    for prefix in ["diffusion_model.", "model.diffusion_model.", "base_model.model."] {
        let mut file = Made::new();
        file.f32(&format!("{prefix}{layer}.lora_A.weight"), &[1, 64]);
        file.f32(&format!("{prefix}{layer}.lora_B.weight"), &[64, 1]);
        let (adapters, applied) = attach_one(&made(&file).unwrap(), 1.0).unwrap();
        let layer = "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_out.0";
        assert!(adapters.unet.get(layer).is_some(), "{prefix}");
        assert_eq!(applied.applied, 2);
    }
}

#[test]
fn a_scale_of_zero_leaves_nothing_behind_and_is_still_checked() {
    for scale in [0.0, -0.0] {
        let (adapters, applied) = attach_one(&golden("lora-kohya-text"), scale).unwrap();
        assert!(adapters.is_empty());
        assert_eq!(applied.applied, applied.total);
    }
    let mut file = Made::new();
    file.f32(&format!("unet.{TO_Q}.lora_A.weight"), &[1, 65]);
    file.f32(&format!("unet.{TO_Q}.lora_B.weight"), &[64, 1]);
    assert!(attach_one(&made(&file).unwrap(), 0.0).is_err());
}

#[test]
fn layers_of_two_files_are_added() {
    let files = [(golden("lora-kohya-attention"), 1.0), (golden("lora-peft-attention"), -0.5)];
    let (adapters, applied) = attach(&files, &targets()).unwrap();
    assert_eq!(applied.len(), 2);
    assert!(adapters.unet.iter().all(|(_, adapter)| adapter.low_rank.len() == 2));
}

#[test]
fn what_finds_no_layer_is_named() {
    let mut file = Made::new();
    file.f32(&format!("unet.{TO_Q}.lora_A.weight"), &[1, 64]);
    file.f32(&format!("unet.{TO_Q}.lora_B.weight"), &[64, 1]);
    file.f32("unet.down_blocks.9.attentions.0.to_q.lora_A.weight", &[1, 64]);
    file.f32("unet.down_blocks.9.attentions.0.to_q.lora_B.weight", &[64, 1]);
    file.f32("lora_unet_nowhere.alpha", &[1]);
    file.f32("bundle_emb.wrong.clip_l", &[1, 48]);
    let (_, applied) = attach_one(&made(&file).unwrap(), 1.0).unwrap();
    assert_eq!((applied.applied, applied.total), (2, 6));
    assert_eq!(applied.unapplied.len(), 4);
    assert!(applied.unapplied.iter().any(|line| line.contains("down_blocks.9")));
}

#[test]
fn loras_of_other_families_are_named_in_one_line() {
    let lora = |layer: &str, inputs: usize, outputs: usize| {
        let mut file = Made::new();
        file.f32(&format!("{layer}.lora_down.weight"), &[1, inputs]);
        file.f32(&format!("{layer}.lora_up.weight"), &[outputs, 1]);
        file
    };
    let attention = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k";
    for (file, family) in [
        (lora(attention, 768, 640), "Stable Diffusion 1"),
        (lora(attention, 1024, 640), "Stable Diffusion 2"),
        (lora(attention, 2048, 640), "2048 features"),
        (lora("lora_te_text_model_encoder_layers_0_mlp_fc1", 768, 3072), "one text encoder"),
        (lora("lora_unet_double_blocks_0_img_attn_proj", 3072, 3072), "Flux"),
        (lora("transformer.single_transformer_blocks.0.proj_out", 3072, 3072), "Flux"),
    ] {
        let message = refusal(&file);
        assert!(message.contains(family) && !message.contains('\n'), "{message}");
    }
}

#[test]
fn what_is_no_lora_is_named() {
    for (keys, kind) in [
        (vec!["model.diffusion_model.input_blocks.0.0.weight"], "checkpoint"),
        (vec!["decoder.mid_block.resnets.0.conv1.weight"], "VAE"),
        (vec!["clip_l", "clip_g"], "embedding"),
        (vec!["nothing.known"], "unknown kind"),
    ] {
        let mut file = Made::new();
        for key in keys {
            file.f32(key, &[320, 4, 3, 3]);
        }
        let message = refusal(&file);
        assert!(message.contains(kind), "{message}");
    }
}

#[test]
fn alphas_without_a_matrix_are_no_lora() {
    let mut file = Made::new();
    file.f32("lora_unet_conv_in.alpha", &[1]);
    let message = refusal(&file);
    assert!(message.ends_with("it has alphas and no matrix"), "{message}");
}

#[test]
fn other_methods_are_refused_by_name() {
    for (key, method) in [
        ("lora_unet_conv_in.oft_blocks", "OFT"),
        ("lora_unet_conv_in.a1.weight", "GLoRA"),
        ("lora_unet_conv_in.on_input", "IA3"),
        ("lora_unet_conv_in.set_weight", "replaced weights"),
        ("lora_unet_conv_in.lora_down.bias", "a bias before the up matrix"),
    ] {
        let mut file = Made::new();
        file.f32("lora_unet_conv_in.lora_down.weight", &[1, 4, 3, 3]);
        file.f32("lora_unet_conv_in.lora_up.weight", &[32, 1, 1, 1]);
        file.f32(key, &[1]);
        let message = refusal(&file);
        assert!(message.contains(method) && message.contains(key), "{message}");
    }
}

#[test]
fn damaged_layers_are_refused_with_their_key() {
    let down = format!("unet.{TO_Q}.lora_A.weight");
    let up = format!("unet.{TO_Q}.lora_B.weight");
    let two = |down_shape: &[usize], up_shape: &[usize]| {
        let mut file = Made::new();
        file.f32(&down, down_shape);
        file.f32(&up, up_shape);
        file
    };
    let mut half_only = Made::new();
    half_only.f32(&down, &[1, 64]);
    let mut twice = two(&[1, 64], &[64, 1]);
    twice.f32(&format!("unet.{TO_Q}.lora.down.weight"), &[1, 64]);
    let mut two_names = two(&[1, 64], &[64, 1]);
    let flat = TO_Q.replace('.', "_");
    two_names.f32(&format!("lora_unet_{flat}.lora_down.weight"), &[1, 64]);
    two_names.f32(&format!("lora_unet_{flat}.lora_up.weight"), &[64, 1]);
    for file in [
        two(&[1, 65], &[64, 1]),
        two(&[1, 64], &[63, 1]),
        two(&[2, 64], &[64, 1]),
        two(&[0, 64], &[64, 0]),
        two(&[1, 64, 3, 3], &[64, 1, 1, 1]),
        two(&[64], &[64, 1]),
        half_only,
        twice,
        two_names,
    ] {
        let message = refusal(&file);
        assert!(message.contains(TO_Q), "{message}");
    }
}

#[test]
fn a_value_that_is_no_number_is_refused_with_its_key() {
    for (dtype, bytes) in [
        ("F32", f32::NAN.to_le_bytes().to_vec()),
        ("F32", f32::INFINITY.to_le_bytes().to_vec()),
        ("F16", half::f16::NAN.to_le_bytes().to_vec()),
        ("BF16", half::bf16::NEG_INFINITY.to_le_bytes().to_vec()),
    ] {
        let key = format!("unet.{TO_Q}.lora_A.weight");
        let mut file = Made::new();
        file.add(&key, dtype, &[1, 64], &bytes.repeat(64));
        file.f32(&format!("unet.{TO_Q}.lora_B.weight"), &[64, 1]);
        assert!(refusal(&file).contains(&key));
    }
}

#[test]
fn numbers_in_a_format_that_is_not_read_are_named_by_it_alphas_too() {
    let layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q";
    let mut file = Made::new();
    file.add(&format!("{layer}.alpha"), "F8_E4M3", &[], &[64]);
    file.add(&format!("{layer}.lora_down.weight"), "F8_E4M3", &[1, 4], &[64; 4]);
    file.add(&format!("{layer}.lora_up.weight"), "F8_E4M3", &[4, 1], &[64; 4]);
    let error = made(&file).unwrap_err().to_string();
    assert!(error.contains("F8_E4M3"), "{error}");
}

#[test]
fn layers_that_no_sdxl_has_are_named_and_the_others_stay() {
    let mut file = Made::new();
    for layer in ["lora_unet_mid_block_attentions_0_proj_in", "lora_unet_nowhere_to_be_found"] {
        file.f32(&format!("{layer}.lora_down.weight"), &[1, 4]);
        file.f32(&format!("{layer}.lora_up.weight"), &[4, 1]);
    }
    let file = made(&file).unwrap();
    assert_eq!(file.to_layers().unwrap().len(), 1);
    let unknown = file.unknown();
    assert_eq!(unknown.len(), 2, "{unknown:?}");
    assert!(unknown[0].contains("nowhere") && unknown[0].contains("no layer of SDXL"));
}
