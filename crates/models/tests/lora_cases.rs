//! Reports about LoRA files in other programs, each as a test that says what is right.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod shared;

use std::collections::BTreeMap;

use shared::{Made, demo, root};
use unwrong_models::Error;
use unwrong_models::files::{Bytes, FrozenWeight, ModelParts};
use unwrong_models::lora::{
    Adapters, Applied, Dialect, LoraFile, LoraLayer, LowRank, Targets, attach, write_lora,
};

const TO_Q: &str = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";
const CONV1: &str = "down_blocks.0.resnets.0.conv1";

fn targets() -> Targets {
    Targets::of(&ModelParts::open_folder(&demo("base")).unwrap())
}

fn parse(made: &Made) -> Result<LoraFile, Error> {
    LoraFile::parse(&Bytes::owned(made.bytes()), "made.safetensors")
}

fn attach_all(files: &[&Made]) -> Result<(Adapters, Vec<Applied>), Error> {
    let files: Result<Vec<(LoraFile, f64)>, Error> =
        files.iter().map(|made| Ok((parse(made)?, 1.0))).collect();
    attach(&files?, &targets())
}

/// The error of opening or attaching.
fn refusal(made: &Made) -> String {
    let message = attach_all(&[made]).unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

fn golden(name: &str) -> LoraFile {
    LoraFile::open(&root().join(format!("parity/goldens/{name}.safetensors"))).unwrap()
}

/// A pair of matrices in kohya's words, with an alpha.
fn kohya(made: &mut Made, layer: &str, shape: &[usize], rank: usize, alpha: Option<f32>) {
    let ones = vec![1; shape.len() - 2];
    made.f32(&format!("{layer}.lora_down.weight"), &[&[rank], &shape[1..]].concat());
    made.f32(&format!("{layer}.lora_up.weight"), &[&[shape[0], rank], &*ones].concat());
    if let Some(alpha) = alpha {
        made.add(&format!("{layer}.alpha"), "F32", &[], &alpha.to_le_bytes());
    }
}

fn scale(term: &LowRank) -> f32 {
    term.scale
}

fn assert_near(found: f32, expected: f32) {
    assert!((found - expected).abs() < 1e-6, "{found} {expected}");
}

/// diffusers: they became `conv.in…` and were dropped.
#[test]
fn kohyas_names_of_the_ends_and_the_time_embedding_are_found() {
    let mut made = Made::new();
    let layers: [(&str, &str, &[usize]); 4] = [
        ("conv_in", "conv_in", &[32, 4, 3, 3]),
        ("conv_out", "conv_out", &[4, 32, 3, 3]),
        ("time_embed_0", "time_embedding.linear_1", &[128, 32]),
        ("time_embed_2", "time_embedding.linear_2", &[128, 128]),
    ];
    for (key, _, shape) in layers {
        kohya(&mut made, &format!("lora_unet_{key}"), shape, 2, Some(1.0));
    }
    let (adapters, applied) = attach_all(&[&made]).unwrap();
    assert_eq!((applied[0].applied, applied[0].total), (12, 12));
    assert!(layers.iter().all(|(_, name, _)| adapters.unet.get(name).is_some()));
}

/// diffusers: "Network alpha is not consistent".
#[test]
fn alphas_of_94_and_123_in_one_file_each_count_for_their_layer() {
    let mut made = Made::new();
    let flat = TO_Q.replace('.', "_");
    kohya(&mut made, &format!("lora_unet_{flat}"), &[64, 64], 2, Some(94.0));
    let key = flat.replace("to_q", "to_k");
    kohya(&mut made, &format!("lora_unet_{key}"), &[64, 64], 3, Some(123.0));
    let (adapters, _) = attach_all(&[&made]).unwrap();
    let scale_of = |name: &str| scale(&adapters.unet.get(name).unwrap().low_rank[0]);
    assert_near(scale_of(TO_Q), 47.0);
    assert_near(scale_of(&TO_Q.replace("to_q", "to_k")), 41.0);
}

/// diffusers: "Module … is not a `LoRACompatible`".
#[test]
fn a_file_that_also_changes_convolutions_and_feed_forward_is_applied_whole() {
    let (adapters, applied) = attach(&[(golden("lora-sgm-everything"), 1.0)], &targets()).unwrap();
    assert_eq!((applied[0].applied, &applied[0].unapplied), (applied[0].total, &vec![]));
    for kind in [".ff.net.0.proj", ".ff.net.2", ".conv1", ".conv_shortcut", ".to_q"] {
        assert!(adapters.unet.iter().any(|(name, _)| name.ends_with(kind)), "{kind}");
    }
}

/// diffusers: the second of two files turned the picture to grey mush.
#[test]
fn alphas_of_both_text_encoders_count_in_two_files_at_once() {
    let file = |alpha: f32| {
        let mut made = Made::new();
        for (part, width) in [("te1", 48), ("te2", 64)] {
            let layer = format!("lora_{part}_text_model_encoder_layers_0_self_attn_q_proj");
            kohya(&mut made, &layer, &[width, width], 4, Some(alpha));
        }
        made
    };
    let (adapters, applied) = attach_all(&[&file(1.0), &file(2.0)]).unwrap();
    assert!(applied.iter().all(|one| one.applied == 6));
    for layers in [&adapters.text_encoder, &adapters.text_encoder_2] {
        let (_, adapter) = layers.iter().next().unwrap();
        let scales: Vec<f32> = adapter.low_rank.iter().map(scale).collect();
        assert_eq!(scales, [0.25, 0.5]);
    }
}

/// diffusers: `[768, 4]` met `[1280, 4]`. stable-diffusion.cpp: the keys
/// of the second encoder were unused.
#[test]
fn both_text_encoders_in_one_file_each_get_their_own() {
    let mut made = Made::new();
    for (part, width) in [("text_encoder", 48), ("text_encoder_2", 64)] {
        let layer = format!("{part}.text_model.encoder.layers.1.self_attn.q_proj");
        made.f32(&format!("{layer}.lora_linear_layer.down.weight"), &[4, width]);
        made.f32(&format!("{layer}.lora_linear_layer.up.weight"), &[width, 4]);
    }
    let (adapters, applied) = attach_all(&[&made]).unwrap();
    assert_eq!((applied[0].applied, applied[0].total), (4, 4));
    for (layers, width) in [(&adapters.text_encoder, 48), (&adapters.text_encoder_2, 64)] {
        assert_eq!(layers.len(), 1);
        assert_eq!(layers.iter().next().unwrap().1.low_rank[0].down.shape(), [4, width]);
    }
}

fn keys(bytes: Vec<u8>) -> Vec<String> {
    let file = unwrong_models::files::TensorFile::parse(&Bytes::owned(bytes), "written").unwrap();
    file.names().map(str::to_owned).collect()
}

/// diffusers and A1111: nobody else read the file of the 2023 script.
#[test]
fn the_file_of_the_2023_script_becomes_the_keys_that_a1111_reads() {
    let stem = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor";
    let mut made = Made::new();
    for layer in ["to_q_lora", "to_out_lora"] {
        made.f32(&format!("{stem}.{layer}.down.weight"), &[4, 64]);
        made.f32(&format!("{stem}.{layer}.up.weight"), &[64, 4]);
    }
    let layers = parse(&made).unwrap().to_layers().unwrap();
    let mut written = keys(write_lora(&layers, Dialect::Kohya, &BTreeMap::new()).unwrap());
    written.sort();
    let stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1";
    let mut expected: Vec<String> = ["to_out_0", "to_q"]
        .iter()
        .flat_map(|layer| {
            ["alpha", "lora_down.weight", "lora_up.weight"]
                .map(|end| format!("{stem}_{layer}.{end}"))
        })
        .collect();
    expected.sort();
    assert_eq!(written, expected);
    // And the other name of the same block is read, too.
    let mut sai = Made::new();
    let other = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q";
    kohya(&mut sai, other, &[64, 64], 4, Some(4.0));
    let layers = parse(&sai).unwrap().to_layers().unwrap();
    assert_eq!(layers[0].name, TO_Q);
}

/// diffusers: the converted file had no effect.
#[test]
fn peft_to_kohya_to_diffusers_leaves_every_difference_equal() {
    let layers = golden("lora-peft-text").to_layers().unwrap();
    let mut now = layers.clone();
    for dialect in [Dialect::Kohya, Dialect::Diffusers, Dialect::Peft] {
        let bytes = write_lora(&now, dialect, &BTreeMap::new()).unwrap();
        let file = LoraFile::parse(&Bytes::owned(bytes), "written.safetensors").unwrap();
        now = file.to_layers().unwrap();
        let deltas = |layers: &[LoraLayer]| {
            let deltas = layers.iter().map(|one| ((one.network, one.name.clone()), one.delta()));
            deltas.collect::<BTreeMap<_, _>>()
        };
        assert_eq!(deltas(&now), deltas(&layers), "{}", dialect.name());
    }
}

/// stable-diffusion.cpp: the alphas of SDXL-Lightning were skipped, and all was noise.
#[test]
fn an_alpha_divides_by_the_rank_and_a_missing_one_is_the_rank() {
    for (alpha, expected) in [(Some(8.0), 0.125), (None, 1.0), (Some(64.0), 1.0)] {
        let mut made = Made::new();
        kohya(&mut made, &format!("lora_unet_{}", TO_Q.replace('.', "_")), &[64, 64], 64, alpha);
        let (adapters, _) = attach_all(&[&made]).unwrap();
        assert_near(scale(&adapters.unet.get(TO_Q).unwrap().low_rank[0]), expected);
    }
}

/// ComfyUI: `<module>.dora_scale` was no key that it knew. The factors come out as written
/// down: lengths of `W + D` against the ones asked for.
#[test]
fn dora_gives_every_row_of_the_changed_weight_its_length() {
    let mut made = Made::new();
    let layer = format!("lora_unet_{}", TO_Q.replace('.', "_"));
    kohya(&mut made, &layer, &[64, 64], 2, Some(1.0));
    let lengths: Vec<u8> = (0..64).flat_map(|row| (1.0 + row as f32 / 8.0).to_le_bytes()).collect();
    made.add(&format!("{layer}.dora_scale"), "F32", &[64, 1], &lengths);
    let (adapters, applied) = attach_all(&[&made]).unwrap();
    assert_eq!((applied[0].applied, applied[0].total), (4, 4));
    let adapter = adapters.unet.get(TO_Q).unwrap();
    let gain = adapter.gain.as_ref().unwrap().values_f32();
    let [down, up] =
        [&adapter.low_rank[0].down, &adapter.low_rank[0].up].map(FrozenWeight::values_f32);
    let parts = ModelParts::open_folder(&demo("base")).unwrap();
    let weight = parts.unet.1.root().path(TO_Q).get("weight", &[64, 64]).unwrap().values_f32();
    for row in 0..64 {
        let changed = (0..64).map(|column| {
            let product: f32 = (0..2).map(|k| up[row * 2 + k] * down[k * 64 + column]).sum();
            gain[row] * weight[row * 64 + column] + product
        });
        let length = changed.map(|value| value * value).sum::<f32>().sqrt();
        let expected = 1.0 + row as f32 / 8.0;
        assert!((length - expected).abs() < 1e-4 * expected, "{row}: {length} {expected}");
    }
}

/// diffusers: `latent-consistency/lcm-lora-sdxl` had unexpected keys.
#[test]
fn resnets_their_time_projection_and_downsamplers_are_applied() {
    let mut made = Made::new();
    let layers: [(&str, &[usize]); 4] = [
        ("down_blocks_0_resnets_0_conv1", &[32, 32, 3, 3]),
        ("down_blocks_0_resnets_0_time_emb_proj", &[32, 128]),
        ("down_blocks_0_downsamplers_0_conv", &[32, 32, 3, 3]),
        ("down_blocks_1_resnets_0_conv_shortcut", &[64, 32, 1, 1]),
    ];
    for (key, shape) in layers {
        kohya(&mut made, &format!("lora_unet_{key}"), shape, 8, Some(8.0));
    }
    let (adapters, applied) = attach_all(&[&made]).unwrap();
    assert_eq!((applied[0].applied, applied[0].total, adapters.unet.len()), (12, 12, 4));
}

/// diffusers, Fooocus, kohya, a1111-sd-webui-lycoris: `HeaderTooLarge`.
#[test]
fn what_is_no_safetensors_file_is_said_to_be_what_it_is() {
    let said = |bytes: &[u8]| {
        let error = LoraFile::parse(&Bytes::owned(bytes.to_vec()), "lora.safetensors").unwrap_err();
        assert!(error.hint().is_some(), "{error}");
        error.to_string()
    };
    assert!(said(b"<!DOCTYPE html><html><body>login</body>").contains("an HTML page"));
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 23\n";
    assert!(said(pointer).contains("a git-lfs pointer"));
    let mut made = Made::new();
    kohya(&mut made, "lora_unet_conv_in", &[32, 4, 3, 3], 1, None);
    let bytes = made.bytes();
    let cut = said(&bytes[..bytes.len() - 5]);
    let (have, need) = (bytes.len() - 5, bytes.len());
    assert!(cut.contains(&format!("{have} bytes, its header asks for {need}")), "{cut}");
}

/// Endings of keys, with shapes.
type Tensors = [(&'static str, &'static [usize])];

#[test]
fn layers_of_lycoris_that_are_damaged_are_refused_with_their_key() {
    let (conv, linear) = ("lora_unet_conv_in", "lora_unet_mid_block_attentions_0_proj_in");
    let cases: [(&str, &Tensors); 11] = [
        (conv, &[("lokr_w1", &[400, 400]), ("lokr_w2", &[400, 400])]),
        (linear, &[("lokr_w1", &[0, 4]), ("lokr_w2", &[8, 9])]),
        (
            linear,
            &[
                ("hada_w1_a", &[128, 2, 3, 3]),
                ("hada_w1_b", &[2, 128]),
                ("hada_w2_a", &[128, 2]),
                ("hada_w2_b", &[2, 128]),
            ],
        ),
        (conv, &[("hada_w1_a", &[32, 2]), ("hada_w1_b", &[2, 36]), ("hada_w2_a", &[32, 2])]),
        (conv, &[("lokr_w1", &[4, 4])]),
        (conv, &[("lokr_w1", &[4, 4]), ("lokr_w2", &[8, 9]), ("lokr_w2_a", &[8, 1])]),
        (conv, &[("lokr_w1", &[4, 4]), ("lokr_w2", &[8, 10])]),
        (linear, &[("diff", &[128, 127])]),
        (linear, &[("diff", &[128, 128]), ("hada_w1_a", &[128, 2])]),
        (linear, &[("w_norm", &[128])]),
        (linear, &[("dora_scale", &[128, 1])]),
    ];
    for (layer, tensors) in cases {
        let mut made = Made::new();
        for (end, shape) in tensors {
            made.f32(&format!("{layer}.{end}"), shape);
        }
        let message = refusal(&made);
        assert!(message.contains(layer), "{tensors:?}: {message}");
    }
}

#[test]
fn lengths_and_biases_of_another_size_are_refused() {
    for (end, shape) in
        [("dora_scale", vec![63, 1]), ("dora_scale", vec![1, 65]), ("diff_b", vec![63])]
    {
        let mut made = Made::new();
        let layer = format!("lora_unet_{}", TO_Q.replace('.', "_"));
        kohya(&mut made, &layer, &[64, 64], 2, None);
        made.f32(&format!("{layer}.{end}"), &shape);
        assert!(refusal(&made).contains(end));
    }
}

#[test]
fn a_value_that_is_no_number_is_refused_wherever_it_is() {
    let parts: [(&str, &[usize]); 5] = [
        ("hada_w1_a", &[64, 2]),
        ("hada_w1_b", &[2, 64]),
        ("hada_w2_a", &[64, 2]),
        ("hada_w2_b", &[2, 64]),
        ("dora_scale", &[64, 1]),
    ];
    let layer = format!("lora_unet_{}", TO_Q.replace('.', "_"));
    for (bad, _) in parts {
        let mut made = Made::new();
        for (end, shape) in parts {
            let key = format!("{layer}.{end}");
            if end == bad {
                let count: usize = shape.iter().product();
                made.add(&key, "F32", shape, &f32::INFINITY.to_le_bytes().repeat(count));
            } else {
                made.f32(&key, shape);
            }
        }
        let message = refusal(&made);
        assert!(message.contains(&format!("{layer}.{bad}")), "{message}");
    }
    let mut made = Made::new();
    kohya(&mut made, &layer, &[64, 64], 2, Some(f32::NAN));
    assert!(refusal(&made).contains(&format!("`{layer}.alpha` is not one finite number")));
}

#[test]
fn a_layer_with_alpha_zero_does_nothing_and_is_named() {
    let mut made = Made::new();
    let layer = format!("lora_unet_{}", TO_Q.replace('.', "_"));
    kohya(&mut made, &layer, &[64, 64], 2, Some(0.0));
    kohya(&mut made, "lora_unet_conv_in", &[32, 4, 3, 3], 2, Some(1.0));
    let (adapters, applied) = attach_all(&[&made]).unwrap();
    assert!(adapters.unet.get(TO_Q).is_none());
    assert_eq!((applied[0].applied, applied[0].total, applied[0].unapplied.len()), (3, 6, 3));
    assert!(applied[0].unapplied.iter().all(|line| line.contains("alpha is 0")));
}

#[test]
fn a_bad_file_behind_a_good_one_leaves_nothing_applied() {
    let mut good = Made::new();
    kohya(&mut good, "lora_unet_conv_in", &[32, 4, 3, 3], 2, None);
    let mut bad = good.clone();
    kohya(&mut bad, &format!("lora_unet_{}", CONV1.replace('.', "_")), &[32, 31, 3, 3], 2, None);
    let error = attach_all(&[&good, &bad]).unwrap_err().to_string();
    assert!(error.contains(CONV1), "{error}");
}

#[test]
fn a_bias_reaches_a_layer_that_has_none() {
    let mut made = Made::new();
    made.f32(&format!("unet.{TO_Q}.lora_A.weight"), &[2, 64]);
    made.f32(&format!("unet.{TO_Q}.lora_B.weight"), &[64, 2]);
    made.f32(&format!("unet.{TO_Q}.lora_B.bias"), &[64]);
    made.metadata = BTreeMap::from([("lora_adapter_metadata", r#"{"unet.lora_alpha": 1}"#)]);
    let (adapters, applied) = attach_all(&[&made]).unwrap();
    assert_eq!((applied[0].applied, applied[0].total), (3, 3));
    let bias = adapters.unet.get(TO_Q).unwrap().bias.as_ref().unwrap().values_f32();
    // Half of what the file has: alpha counts for it, too.
    assert_near(bias[1], 0.5 * 0.7_f32.sin());
}

#[test]
fn other_families_are_told_from_their_first_key() {
    for (key, family) in [
        ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", "Stable Diffusion 3"),
        ("lora_te3_encoder_block_0_layer_0.lora_up.weight", "Stable Diffusion 3"),
        ("diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight", "Flux"),
        ("lycoris_double_blocks_0_img_attn_qkv.lokr_w1", "Flux"),
        ("diffusion_model.blocks.0.cross_attn.k.lora_A.weight", "Wan"),
        ("lora_prior_unet_down_blocks_0.lora_up.weight", "Stable Cascade"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "transformer"),
        ("control_model.input_hint_block.0.weight", "ControlNet"),
        ("text_model.embeddings.token_embedding.weight", "text encoder"),
        ("emb_params", "textual-inversion"),
    ] {
        let mut made = Made::new();
        made.f32(key, &[4, 4]);
        let message = refusal(&made);
        assert!(message.contains(family), "{key}: {message}");
    }
}

#[test]
fn a_lora_of_the_projection_and_of_the_label_embedding_finds_its_layer() {
    let parts = ModelParts::open_folder(&demo("base")).unwrap();
    let weights = &parts.text_encoder_2.as_ref().unwrap().1;
    let shape = weights.modules()["text_projection"].clone();
    let mut made = Made::new();
    kohya(&mut made, "lora_te2_text_projection", &shape, 2, Some(1.0));
    kohya(&mut made, "lora_unet_label_emb_0_0", &[128, 256], 2, Some(1.0));
    let (adapters, applied) = attach_all(&[&made]).unwrap();
    assert_eq!((applied[0].applied, applied[0].total), (6, 6));
    assert!(adapters.text_encoder_2.get("text_projection").is_some());
    assert!(adapters.unet.get("add_embedding.linear_1").is_some());
}
