//! Every key and shape of the real SDXL 1.0, in folders and in single files.
//!
//! The lists are `parity/goldens/keys.json`: what diffusers' own code and conversion make of
//! the published files. The files made from them here are all zeros and take no room.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod pickled;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use shared::{Made, demo, root, write_sparse};
use unwrong_models::error::Error;
use unwrong_models::files::{
    Folder, HiddenAct, ModelIndex, ModelKind, ModelParts, PredictionType, SchedulerConfig,
    TensorFile, TextEncoderConfig, UnetConfig, VaeParts, Weights,
};
use unwrong_models::lora::{Network, Targets};
use unwrong_models::text_encoder::TextEncoder;
use unwrong_models::unet::Unet;
use unwrong_models::vae::Vae;

type Keys = BTreeMap<String, Vec<usize>>;

fn goldens() -> Value {
    let text = std::fs::read(root().join("parity/goldens/keys.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

/// Keys and shapes of a part in diffusers' layout.
fn part(name: &str) -> Keys {
    serde_json::from_value(goldens()["diffusers"][name].clone()).unwrap()
}

/// Keys and shapes of a single file.
fn checkpoint(name: &str) -> Keys {
    let rows = goldens()["single_file"][name].as_object().unwrap().clone();
    let shape = |row: &Value| serde_json::from_value(row[0].clone()).unwrap();
    rows.iter().map(|(key, row)| (key.clone(), shape(row))).collect()
}

fn write(path: &Path, keys: &Keys) {
    write_sparse(path, keys.iter().map(|(key, shape)| (key.as_str(), shape.as_slice())));
}

fn open_checkpoint(keys: &Keys) -> Result<ModelParts, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(&path, keys);
    // The map outlives the name of the file.
    ModelParts::open_file(&path)
}

fn assert_same_keys(weights: &Weights, expected: &Keys) {
    let found: BTreeSet<&str> = weights.keys().collect();
    let expected_keys: BTreeSet<&str> = expected.keys().map(String::as_str).collect();
    let missing: Vec<_> = expected_keys.difference(&found).take(5).collect();
    let extra: Vec<_> = found.difference(&expected_keys).take(5).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing {missing:?}, extra {extra:?}");
    for (key, shape) in expected {
        weights.root().get(key, shape).unwrap();
    }
}

/// The networks ask for every key there is and for no other.
fn assert_networks_load(parts: &ModelParts, of_the_base: bool) {
    Unet::load(&parts.unet.0, &parts.unet.1).unwrap();
    for (config, weights) in [&parts.text_encoder, &parts.text_encoder_2].into_iter().flatten() {
        TextEncoder::load(config, weights).unwrap();
    }
    if let Some((config, weights)) = &parts.vae {
        Vae::load(config, weights).unwrap();
    }
    assert_eq!(parts.text_encoder.is_some(), of_the_base);
    for weights in parts.weights() {
        assert_eq!(weights.unused(), Vec::<String>::new());
    }
}

#[test]
fn the_base_as_a_single_file_has_every_key_that_diffusers_finds() {
    let parts = open_checkpoint(&checkpoint("base")).unwrap();
    assert_networks_load(&parts, true);
    assert_same_keys(&parts.unet.1, &part("unet_base"));
    assert_same_keys(&parts.text_encoder.as_ref().unwrap().1, &part("text_encoder"));
    assert_same_keys(&parts.text_encoder_2.as_ref().unwrap().1, &part("text_encoder_2"));
    assert_same_keys(&parts.vae.as_ref().unwrap().1, &part("vae"));
}

#[test]
fn the_refiner_as_a_single_file_has_every_key_that_diffusers_finds() {
    let mut keys = checkpoint("refiner");
    // The golden leaves the VAE out, which is the base's.
    keys.extend(checkpoint("base").into_iter().filter(|(key, _)| key.starts_with("first_stage")));
    let parts = open_checkpoint(&keys).unwrap();
    assert_networks_load(&parts, false);
    assert_same_keys(&parts.unet.1, &part("unet_refiner"));
    assert_same_keys(&parts.text_encoder_2.as_ref().unwrap().1, &part("text_encoder_2"));
    assert_same_keys(&parts.vae.as_ref().unwrap().1, &part("vae"));
}

/// `config.json` of both UNets, as published.
fn published_unet(refiner: bool) -> Value {
    let mut config = json!({
        "_class_name": "UNet2DConditionModel", "act_fn": "silu",
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280],
        "center_input_sample": false, "class_embed_type": null, "conv_in_kernel": 3,
        "conv_out_kernel": 3, "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "downsample_padding": 1, "dual_cross_attention": false, "flip_sin_to_cos": true,
        "freq_shift": 0, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-5, "norm_num_groups": 32,
        "only_cross_attention": false, "out_channels": 4,
        "projection_class_embeddings_input_dim": 2816, "sample_size": 128,
        "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "upcast_attention": null, "use_linear_projection": true,
    });
    if refiner {
        let map = config.as_object_mut().unwrap();
        for (field, value) in [
            ("attention_head_dim", json!([6, 12, 24, 24])),
            ("block_out_channels", json!([384, 768, 1536, 1536])),
            ("cross_attention_dim", json!(1280)),
            (
                "down_block_types",
                json!([
                    "DownBlock2D",
                    "CrossAttnDownBlock2D",
                    "CrossAttnDownBlock2D",
                    "DownBlock2D"
                ]),
            ),
            ("projection_class_embeddings_input_dim", json!(2560)),
            ("transformer_layers_per_block", json!(4)),
            (
                "up_block_types",
                json!(["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]),
            ),
        ] {
            map.insert(field.to_owned(), value);
        }
    }
    config
}

/// `config.json` of both text encoders, as published.
fn published_encoder(second: bool) -> Value {
    let (width, inner, layers, heads) =
        if second { (1280, 5120, 32, 20) } else { (768, 3072, 12, 12) };
    json!({
        "model_type": "clip_text_model", "bos_token_id": 0, "eos_token_id": 2,
        "hidden_act": if second { "gelu" } else { "quick_gelu" }, "hidden_size": width,
        "intermediate_size": inner, "layer_norm_eps": 1e-5, "max_position_embeddings": 77,
        "num_attention_heads": heads, "num_hidden_layers": layers, "projection_dim": width,
        "vocab_size": 49408,
    })
}

/// The demo model as a single file, by the golden's table: its keys are some of SDXL's, but
/// for the VAE, which has another shortcut and is left out.
fn demo_checkpoint(name: &str, parts: &BTreeMap<&str, TensorFile>) -> Vec<u8> {
    let mut made = Made::new();
    for (key, row) in goldens()["single_file"][name].as_object().unwrap() {
        let row = row.as_array().unwrap();
        let Some(file) = row[1].as_str().and_then(|part| parts.get(part)) else { continue };
        // transformers 5 writes the first encoder without the prefix.
        let weights: Option<Vec<_>> = row[3..]
            .iter()
            .map(|key| key.as_str().unwrap())
            .map(|key| (key, key.strip_prefix("text_model.").unwrap_or(key)))
            .map(|(key, bare)| file.weights().get(key).or_else(|| file.weights().get(bare)))
            .collect();
        let Some(weights) = weights else { continue };
        let mut shape = weights[0].shape().to_vec();
        let mut bytes: Vec<u8> =
            weights.iter().flat_map(|weight| weight.bytes().to_vec()).collect();
        match row[2].as_str().unwrap() {
            "same" => {}
            "stacked" => shape[0] *= 3,
            "convolution" => shape.extend([1, 1]),
            "transposed" => {
                shape.reverse();
                bytes = weights[0].transposed().bytes().to_vec();
            }
            how => panic!("{how}"),
        }
        made.add(key, "F16", &shape, &bytes);
    }
    made.bytes()
}

#[test]
fn the_demo_model_is_the_same_as_folder_and_as_single_file() {
    let file = |part: &str, name: &str| TensorFile::open_in(&demo(part), name).unwrap();
    let unet = "diffusion_pytorch_model.safetensors";
    for (name, kind) in [("base", ModelKind::Base), ("refiner", ModelKind::Refiner)] {
        let mut parts = BTreeMap::from([
            ("unet", file(&format!("{name}/unet"), unet)),
            ("text_encoder_2", file("base/text_encoder_2", "model.safetensors")),
        ]);
        if kind == ModelKind::Base {
            parts.insert("text_encoder", file("base/text_encoder", "model.safetensors"));
        }
        // A folder with the configs of all parts: the refiner's own, and what it shares.
        let configs = tempfile::tempdir().unwrap();
        for part in ["unet", "text_encoder", "text_encoder_2", "vae", "scheduler", ""] {
            let config = match part {
                "" => "model_index.json",
                "scheduler" => "scheduler_config.json",
                _ => "config.json",
            };
            let own = demo(name).join(part);
            let from = if own.exists(config) { own } else { demo("base").join(part) };
            std::fs::create_dir_all(configs.path().join(part)).unwrap();
            let text = from.read_text(config).unwrap();
            std::fs::write(configs.path().join(part).join(config), text).unwrap();
        }
        let path = configs.path().join("demo.safetensors");
        std::fs::write(&path, demo_checkpoint(name, &parts)).unwrap();
        let pickle = configs.path().join("demo.ckpt");
        std::fs::write(&pickle, pickled::written(&TensorFile::open(&path).unwrap())).unwrap();
        let configs = Folder::disk(configs.path());
        let opened = ModelParts::open_file_with_configs(&pickle, &configs).unwrap();
        assert_networks_load(&opened, kind == ModelKind::Base);
        let opened = ModelParts::open_file_with_configs(&path, &configs).unwrap();
        assert_eq!((opened.kind, opened.name.as_str()), (kind, "demo"));
        assert_networks_load(&opened, kind == ModelKind::Base);

        let split = [
            ("unet", Some(&opened.unet.1)),
            ("text_encoder", opened.text_encoder.as_ref().map(|(_, weights)| weights)),
            ("text_encoder_2", opened.text_encoder_2.as_ref().map(|(_, weights)| weights)),
            ("vae", opened.vae.as_ref().map(|(_, weights)| weights)),
        ];
        for (part, weights) in split {
            assert_eq!(weights.is_some(), parts.contains_key(part), "{part}");
            let Some(weights) = weights else { continue };
            assert_eq!(weights.keys().count(), parts[part].weights().len(), "{part}");
            for (key, weight) in parts[part].weights() {
                let root = weights.root();
                let place = if root.contains(key) { root } else { root.path("text_model") };
                let found = place.get(key, weight.shape()).unwrap();
                assert_eq!(found.bytes(), weight.bytes(), "{part} {key}");
            }
        }
    }
}

#[test]
fn configs_read_off_the_shapes_are_the_published_ones() {
    let base = open_checkpoint(&checkpoint("base")).unwrap();
    let refiner = open_checkpoint(&checkpoint("refiner")).unwrap();
    for (parts, is_refiner) in [(&base, false), (&refiner, true)] {
        let published =
            UnetConfig::parse(&published_unet(is_refiner).to_string(), "published").unwrap();
        let found = &parts.unet.0;
        assert_eq!(found.block_out_channels, published.block_out_channels);
        assert_eq!(found.cross_attention_dim, published.cross_attention_dim);
        for level in 0..found.levels() {
            assert_eq!(found.down_attention(level), published.down_attention(level));
            assert_eq!(found.up_attention(level), published.up_attention(level));
            // Depth and heads of a level without attention say nothing, the last but for the
            // middle block.
            if published.down_attention(level) || level + 1 == found.levels() {
                assert_eq!(found.heads[level], published.heads[level]);
                let depth = |config: &UnetConfig| config.transformer_layers_per_block[level];
                assert_eq!(depth(found), depth(&published));
            }
        }
        let second = published_encoder(true).to_string();
        let second = TextEncoderConfig::parse(&second, "published", true).unwrap();
        assert_eq!(parts.text_encoder_2.as_ref().unwrap().0, second);
    }
    let first = published_encoder(false).to_string();
    let first = TextEncoderConfig::parse(&first, "published", false).unwrap();
    assert_eq!(base.text_encoder.as_ref().unwrap().0, first);
    assert_eq!(first.hidden_act, HiddenAct::QuickGelu);

    assert_eq!((base.kind, &base.index), (ModelKind::Base, &ModelIndex::BASE));
    assert_eq!((refiner.kind, &refiner.index), (ModelKind::Refiner, &ModelIndex::REFINER));
    assert_eq!(base.scheduler, SchedulerConfig::sdxl());
    let vae = &base.vae.as_ref().unwrap().0;
    assert_eq!(vae.block_out_channels, [128, 256, 512, 512]);
    assert!((vae.scaling_factor - 0.13025).abs() < 1e-12);
    assert_eq!((vae.layers_per_block, vae.norm_num_groups), (2, 32));
}

/// The folder of the published base (or refiner), with weights written by `weights`.
fn published_folder(path: &Path, refiner: bool, weights: impl Fn(&Path, &str, &Keys)) {
    let text = |name: &str, value: Value| {
        let path = path.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, value.to_string()).unwrap();
    };
    text("unet/config.json", published_unet(refiner));
    let unet = if refiner { "unet_refiner" } else { "unet_base" };
    weights(&path.join("unet"), "diffusion_pytorch_model", &part(unet));
    text("text_encoder_2/config.json", published_encoder(true));
    weights(&path.join("text_encoder_2"), "model", &part("text_encoder_2"));
    if !refiner {
        text("text_encoder/config.json", published_encoder(false));
        weights(&path.join("text_encoder"), "model", &part("text_encoder"));
    }
    let vae = json!({
        "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
        "down_block_types": vec!["DownEncoderBlock2D"; 4], "scaling_factor": 0.13025,
        "up_block_types": vec!["UpDecoderBlock2D"; 4],
    });
    text("vae/config.json", vae);
    weights(&path.join("vae"), "diffusion_pytorch_model", &part("vae"));
    let scheduler = json!({
        "_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "timestep_spacing": "leading", "steps_offset": 1,
        "use_karras_sigmas": null,
    });
    text("scheduler/scheduler_config.json", scheduler);
    let index = json!({
        "_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": !refiner,
        "requires_aesthetics_score": refiner,
    });
    text("model_index.json", index);
}

#[test]
fn published_folders_load_in_the_fp16_variant_and_in_shards() {
    let whole = |folder: &Path, stem: &str, keys: &Keys| {
        write(&folder.join(format!("{stem}.fp16.safetensors")), keys);
    };
    let shards = |folder: &Path, stem: &str, keys: &Keys| {
        let mut map = BTreeMap::new();
        for shard in 0..2_usize {
            let name = format!("{stem}-0000{}-of-00002.safetensors", shard + 1);
            let own = keys.iter().enumerate().filter(|(i, _)| i % 2 == shard);
            let own: Keys = own.map(|(_, (key, shape))| (key.clone(), shape.clone())).collect();
            write(&folder.join(&name), &own);
            map.extend(own.into_keys().map(|key| (key, name.clone())));
        }
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
        let path = folder.join(format!("{stem}.safetensors.index.json"));
        std::fs::write(path, index.to_string()).unwrap();
    };
    for refiner in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        published_folder(folder.path(), refiner, whole);
        let parts = ModelParts::open_folder(&Folder::disk(folder.path())).unwrap();
        assert_networks_load(&parts, !refiner);

        let folder = tempfile::tempdir().unwrap();
        published_folder(folder.path(), refiner, shards);
        let parts = ModelParts::open_folder(&Folder::disk(folder.path())).unwrap();
        assert_networks_load(&parts, !refiner);
        assert_eq!(parts.scheduler, SchedulerConfig::sdxl());
    }
}

#[test]
fn an_index_may_not_point_outside_its_folder_nor_to_a_missing_key() {
    for (map, complaint) in [
        (json!({"conv_in.weight": "../unet.safetensors"}), "no name of a file"),
        (json!({"conv_in.weight": "/etc/passwd"}), "no name of a file"),
        (json!({"conv_in.weight": "absent.safetensors"}), "does not exist"),
        (json!({"conv_in.weight": "there.safetensors"}), "`conv_in.weight` is missing"),
        (json!({"conv_in.weight": 7}), "cannot understand"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        published_folder(folder.path(), false, |folder, stem, _| {
            write(&folder.join("there.safetensors"), &Keys::new());
            let index = json!({"weight_map": map}).to_string();
            std::fs::write(folder.join(format!("{stem}.safetensors.index.json")), index).unwrap();
        });
        let error = ModelParts::open_folder(&Folder::disk(folder.path())).unwrap_err();
        assert!(error.to_string().contains(complaint), "{error}");
    }
}

#[test]
fn the_second_encoder_of_a_checkpoint_is_told_from_its_place() {
    let mut keys = checkpoint("base");
    keys.retain(|key, _| !key.starts_with("conditioner.") && !key.starts_with("first_stage"));
    let parts = open_checkpoint(&keys).unwrap();
    assert_eq!(parts.kind, ModelKind::Base);
    assert!(parts.text_encoder.is_none() && parts.text_encoder_2.is_none() && parts.vae.is_none());

    let mut keys = checkpoint("refiner");
    keys.retain(|key, _| !key.starts_with("conditioner."));
    assert_eq!(open_checkpoint(&keys).unwrap().kind, ModelKind::Refiner);
}

#[test]
fn a_v_prediction_checkpoint_says_so_with_an_empty_tensor() {
    let mut keys = checkpoint("base");
    keys.insert("v_pred".to_owned(), vec![0]);
    let scheduler = open_checkpoint(&keys).unwrap().scheduler;
    assert_eq!(scheduler.prediction_type, PredictionType::VPrediction);
}

#[test]
fn what_is_no_sdxl_checkpoint_is_named_in_one_line() {
    let unet = |first: [usize; 4], context: usize, label: Option<usize>| {
        let start = "model.diffusion_model.";
        let attention = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight";
        let mut keys = Keys::from([
            (format!("{start}input_blocks.0.0.weight"), first.to_vec()),
            (format!("{start}{attention}"), vec![320, context]),
        ]);
        keys.extend(label.map(|width| (format!("{start}label_emb.0.0.weight"), vec![1280, width])));
        keys
    };
    let one = |key: &str| Keys::from([(key.to_owned(), vec![1, 1])]);
    for (keys, name) in [
        (unet([320, 4, 3, 3], 768, None), "Stable Diffusion 1"),
        (unet([320, 4, 3, 3], 1024, None), "Stable Diffusion 2"),
        (unet([320, 4, 3, 3], 1024, Some(1536)), "Stable Diffusion 2"),
        (unet([320, 9, 3, 3], 2048, Some(2816)), "inpainting"),
        (unet([320, 8, 3, 3], 2048, Some(2816)), "pix2pix"),
        (one("model.diffusion_model.double_blocks.0.img_attn.qkv.weight"), "Flux"),
        (one("double_blocks.0.img_attn.qkv.weight"), "Flux"),
        (one("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"), "Diffusion 3"),
        (one("lora_unet_conv_in.lora_down.weight"), "a LoRA"),
        (one("unet.conv_in.lora_A.weight"), "a LoRA"),
        (one("first_stage_model.decoder.mid.block_1.conv1.weight"), "a VAE"),
        (one("decoder.mid_block.resnets.0.conv1.weight"), "a VAE"),
        (one("clip_g"), "embedding"),
        (one("emb_params"), "embedding"),
        (one("down_blocks.0.resnets.0.conv1.weight"), "without its config"),
        (one("control_model.input_hint_block.0.weight"), "ControlNet"),
        (one("text_model.embeddings.token_embedding.weight"), "text encoder"),
        (one("something.else"), "`something.else`"),
        (Keys::new(), "without tensors"),
    ] {
        let error = open_checkpoint(&keys).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(name) && !message.contains('\n'), "{message}");
        assert!(matches!(error, Error::WrongModel { .. }), "{message}");
        let flag = [("a LoRA", "--lora"), ("a VAE", "--vae")];
        for (_, flag) in flag.into_iter().filter(|(found, _)| *found == name) {
            assert!(error.hint().unwrap().contains(flag), "{message}");
        }
    }
}

#[test]
fn a_checkpoint_like_sdxl_but_built_otherwise_says_what_differs() {
    let change = |change: &dyn Fn(&mut Keys)| {
        let mut keys = checkpoint("base");
        change(&mut keys);
        open_checkpoint(&keys).and_then(|parts| Unet::load(&parts.unet.0, &parts.unet.1)).err()
    };
    let gone =
        |part: &'static str| move |keys: &mut Keys| keys.retain(|key, _| !key.contains(part));
    for (error, complaint) in [
        (change(&gone("middle_block.1.")), "no attention in its middle block"),
        (change(&gone("input_blocks.5.")), "resnets"),
        (change(&gone("time_embed.0.weight")), "time_embedding.linear_1.weight"),
        (change(&gone("output_blocks.4.0.out_layers.3.bias")), "up_blocks.1.resnets.1.conv2.bias"),
    ] {
        let message = error.unwrap().to_string();
        assert!(message.contains(complaint), "{message}");
    }
}

#[test]
fn a_vae_opens_from_a_folder_a_model_and_a_file_of_either_layout() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let whole = |folder: &Path, stem: &str, keys: &Keys| {
        write(&folder.join(format!("{stem}.safetensors")), keys);
    };
    published_folder(path, false, whole);
    let first_stage = "first_stage_model.";
    let prefixed: Keys =
        checkpoint("base").into_iter().filter(|(key, _)| key.starts_with(first_stage)).collect();
    write(&path.join("prefixed.safetensors"), &prefixed);
    let bare =
        prefixed.iter().map(|(key, shape)| (key[first_stage.len()..].to_owned(), shape.clone()));
    write(&path.join("bare.safetensors"), &bare.collect());
    write(&path.join("checkpoint.safetensors"), &checkpoint("base"));
    write(&path.join("diffusers.safetensors"), &part("vae"));
    let old: Keys = part("vae").into_iter().map(|(key, shape)| (old_name(&key), shape)).collect();
    assert_ne!(old, part("vae"));
    write(&path.join("old.safetensors"), &old);

    let expected = VaeParts::open(&path.join("vae")).unwrap().config;
    for name in ["", "vae", "prefixed", "bare", "checkpoint", "diffusers", "old"] {
        let file = path.join(format!("{name}.safetensors"));
        let place = if file.exists() { file } else { path.join(name) };
        let vae = VaeParts::open(&place).unwrap();
        assert_eq!(vae.config, expected, "{name}");
        Vae::load(&vae.config, &vae.weights).unwrap();
        assert_eq!(vae.weights.unused(), Vec::<String>::new(), "{name}");
    }

    write(&path.join("lora.safetensors"), &Keys::from([("lora_unet_a.alpha".to_owned(), vec![1])]));
    let error = VaeParts::open(&path.join("lora.safetensors")).unwrap_err();
    assert!(error.to_string().contains("is a LoRA, expected a VAE"), "{error}");
}

/// The names of the VAE's attention in files of 2022.
fn old_name(key: &str) -> String {
    [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")]
        .into_iter()
        .fold(key.to_owned(), |key, (new, old)| key.replace(new, old))
}

#[test]
fn every_layer_of_sdxl_has_names_of_its_own_in_kohyas_dialect() {
    let parts = open_checkpoint(&checkpoint("base")).unwrap();
    let targets = Targets::of(&parts);
    let mut flat = BTreeSet::new();
    let mut layers = 0;
    for (layer, _) in targets.iter(Network::Unet) {
        layers += 1;
        assert!(flat.insert(layer.replace('.', "_")), "{layer}");
    }
    // 70 transformer blocks of 10 matrices, and the rest.
    assert!(layers > 700, "{layers}");
    assert_eq!(targets.iter(Network::TextEncoder).count(), 12 * 6);
    assert_eq!(targets.iter(Network::TextEncoder2).count(), 32 * 6 + 1);
}

#[test]
fn the_demo_model_opens_with_everything_in_use() {
    for (part, kind) in [("base", ModelKind::Base), ("refiner", ModelKind::Refiner)] {
        let parts = ModelParts::open_folder(&demo(part)).unwrap();
        assert_eq!(parts.kind, kind);
        Unet::load(&parts.unet.0, &parts.unet.1).unwrap();
        assert_eq!(parts.unet.1.unused(), Vec::<String>::new());
        assert_eq!(parts.text_encoder.is_some(), kind == ModelKind::Base);
    }
}

#[test]
fn parts_that_do_not_fit_each_other_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = |folder: &Path, stem: &str, keys: &Keys| {
        write(&folder.join(format!("{stem}.safetensors")), keys);
    };
    published_folder(folder.path(), false, whole);
    let refiner = published_unet(true).to_string();
    std::fs::write(folder.path().join("unet/config.json"), refiner).unwrap();
    let error = ModelParts::open_folder(&Folder::disk(folder.path())).unwrap_err();
    assert!(error.to_string().contains("1280 features with encoders that make 2048"), "{error}");
}

#[test]
fn a_folder_that_is_no_model_says_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let open = || ModelParts::open_folder(&Folder::disk(folder.path())).unwrap_err().to_string();
    assert!(open().contains("without `model_index.json`"), "{}", open());
    std::fs::write(folder.path().join("sdxl.safetensors"), Made::new().bytes()).unwrap();
    assert!(open().contains("`sdxl.safetensors`: name that file"), "{}", open());

    let pickle = |folder: &Path, stem: &str, _: &Keys| {
        std::fs::write(folder.join(format!("{stem}.bin")), "PK\x03\x04").unwrap();
    };
    published_folder(folder.path(), false, pickle);
    assert!(
        open().contains("diffusion_pytorch_model.bin, a pickled file: it is cut off"),
        "{}",
        open()
    );
    std::fs::write(folder.path().join("model_index.json"), r#"{"_class_name": "FluxPipeline"}"#)
        .unwrap();
    assert!(open().contains("FluxPipeline"), "{}", open());
    let absent = folder.path().join("absent");
    let error = ModelParts::open_folder(&Folder::disk(absent)).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}
