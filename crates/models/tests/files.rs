//! Safetensors files that lie, end early or are something else; folders and configs.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod shared;

use proptest::prelude::*;
use serde_json::{Value, json};
use shared::{Made, demo, framed, root};
use unwrong_models::error::Error;
use unwrong_models::files::{
    Bytes, Folder, Foreign, ModelDefaults, ModelIndex, ModelParts, PredictionType, SchedulerConfig,
    TensorFile, TextEncoderConfig, UnetConfig, VaeConfig, Weights,
};
use unwrong_models::lora::LoraFile;

fn parse(bytes: &[u8]) -> Result<TensorFile, Error> {
    TensorFile::parse(&Bytes::owned(bytes.to_vec()), "test.safetensors")
}

fn small() -> Made {
    let mut file = Made::new();
    file.f32("a.weight", &[2, 3]);
    file.add("b.weight", "F16", &[2], &[0, 60, 0, 188]);
    file.add("position_ids", "I64", &[1], &[7; 8]);
    file
}

#[test]
fn a_good_file_gives_its_tensors() {
    let file = parse(&small().bytes()).unwrap();
    assert_eq!(file.weights()["b.weight"].values_f32(), [1.0, -1.0]);
    assert_eq!(file.weights()["a.weight"].shape(), [2, 3]);
    assert_eq!(file.names().count(), 3);
    assert_eq!(file.shape("position_ids"), Some(&[1][..]));
}

#[test]
fn every_prefix_of_a_file_is_refused() {
    let bytes = small().bytes();
    for end in 0..bytes.len() {
        let error = parse(&bytes[..end]).unwrap_err();
        match end {
            0 => assert!(matches!(error, Error::NotSafetensors { found: Foreign::Empty, .. })),
            1..8 => {
                assert!(matches!(error, Error::NotSafetensors { found: Foreign::TooShort, .. }));
            }
            _ => match error {
                Error::Truncated { have, need, .. } => {
                    assert_eq!(have, end as u64);
                    assert!(need > have && need <= bytes.len() as u64);
                }
                other => panic!("{end}: {other}"),
            },
        }
    }
    let error = parse(&[&bytes[..], &[0]].concat()).unwrap_err();
    assert!(error.to_string().contains("1 bytes follow after the last tensor"), "{error}");
}

#[test]
fn every_lie_of_a_header_is_named() {
    let tensor = |dtype: &str, shape: Value, start: u64, end: u64| json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
    let one = |value: Value| json!({"a": value}).to_string();
    let two = |a: Value, b: Value| json!({"a": a, "b": b}).to_string();
    let huge = u64::MAX;
    for (header, complaint) in [
        (one(tensor("F32", json!([2]), 0, 4)), "does not fit its 4 bytes"),
        (one(tensor("F32", json!([huge, 2]), 0, 8)), "does not fit"),
        (one(tensor("F32", json!([1_u64 << 63, 2, 0]), 0, 0)), "does not fit"),
        (one(tensor("F99", json!([2]), 0, 8)), "unknown dtype `F99`"),
        (one(tensor("F4", json!([1]), 0, 0)), "does not fit"),
        (one(tensor("F32", json!([2]), 8, 0)), "before its start"),
        (one(tensor("F32", json!([1]), 4, 8)), "4 bytes before `a` belong to nothing"),
        (two(tensor("U8", json!([8]), 0, 8), tensor("U8", json!([4]), 4, 8)), "inside the tensor"),
        (two(tensor("U8", json!([2]), 0, 2), tensor("U8", json!([2]), 6, 8)), "4 bytes before `b`"),
        (one(json!({"dtype": "U8", "shape": [8]})), "data_offsets"),
        (one(json!(7)), "invalid type"),
        (one(tensor("F32", json!([-1]), 0, 4)), "invalid value"),
        (one(tensor("F32", json!([2.5]), 0, 4)), "invalid type"),
        (json!({"__metadata__": {"a": 1}}).to_string(), "invalid type"),
        (r#"{"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}, "a": 1}"#.into(), "twice"),
        (
            json!({"\u{1b}[2J": tensor("U8", json!([8]), 0, 8)}).to_string(),
            "`\\u{1b}[2J` is a name",
        ),
        (json!({"k".repeat(1001): tensor("U8", json!([8]), 0, 8)}).to_string(), "of 1001 bytes"),
        ("{".repeat(1000), "at line 1"),
        ("{\"a\":".repeat(1000), "at line 1"),
        ("{} x".into(), "trailing characters"),
    ] {
        let error = parse(&framed(&header, &[0; 8])).unwrap_err();
        assert!(matches!(error, Error::Header { .. }), "{header}: {error:?}");
        assert!(error.to_string().contains(complaint), "{header}: {error}");
    }
    let far = 1_u64 << 60;
    let error = parse(&framed(&one(tensor("U8", json!([far]), 0, far)), &[0; 8])).unwrap_err();
    assert!(matches!(error, Error::Truncated { need, .. } if need > far));
}

#[test]
fn a_header_as_long_as_the_world_is_no_header() {
    for length in [u64::MAX, 100_000_001, 1 << 40] {
        let bytes = [&length.to_le_bytes()[..], b"{\"a\":1}"].concat();
        let error = parse(&bytes).unwrap_err();
        assert!(matches!(error, Error::NotSafetensors { .. }), "{error}");
    }
    let bytes = [&1000_u64.to_le_bytes()[..], b"{\"a\":1}"].concat();
    assert!(matches!(parse(&bytes).unwrap_err(), Error::Truncated { have: 15, need: 1008, .. }));
}

#[test]
fn tensors_without_values_and_padded_headers_are_fine() {
    let mut file = Made::new();
    file.f32("empty", &[0, 4]);
    file.f32("scalar", &[]);
    file.f32("also.empty", &[3, 0]);
    let parsed = parse(&file.bytes()).unwrap();
    assert_eq!(parsed.weights()["empty"].count(), 0);
    assert_eq!(parsed.weights()["scalar"].shape(), [0_usize; 0]);
    parse(&framed("{}      ", &[])).unwrap();
}

proptest! {
    #[test]
    fn no_change_of_a_byte_makes_it_panic(at in 0_usize..200, byte: u8) {
        let mut bytes = small().bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(file) = parse(&bytes) {
            for weight in file.weights().values() {
                prop_assert_eq!(weight.values_f32().len(), weight.count());
            }
            let _ = LoraFile::parse(&Bytes::owned(bytes), "test");
        }
    }

    #[test]
    fn no_header_makes_it_panic(
        start in any::<u64>(), end in any::<u64>(), shape in prop::collection::vec(any::<u64>(), 0..5),
        dtype in prop::sample::select(vec!["F32", "F16", "BF16", "I64", "F4", "F6_E2M3", "X"]),
        data in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let tensor = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        let _ = parse(&framed(&json!({"a": tensor}).to_string(), &data));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
        let _ = parse(&framed(&String::from_utf8_lossy(&bytes), &bytes));
    }

    #[test]
    fn no_config_makes_it_panic(
        field in prop::sample::select(vec![
            "block_out_channels", "attention_head_dim", "norm_num_groups", "layers_per_block",
            "transformer_layers_per_block", "cross_attention_dim", "sample_size", "hidden_size",
            "num_attention_heads", "down_block_types", "scaling_factor", "addition_time_embed_dim",
        ]),
        value in prop::sample::select(vec![
            json!(null), json!(0), json!(-1), json!(1e300), json!(u64::MAX), json!([]), json!([0]),
            json!([[1]]), json!("x"), json!({}), json!([1, 2, 3]), json!(vec![1; 1000]), json!(1.5),
        ]),
    ) {
        for part in ["unet", "vae", "text_encoder"] {
            let mut config = config(part);
            config[field] = value.clone();
            let text = config.to_string();
            if let Ok(config) = UnetConfig::parse(&text, "test") {
                let channels = &config.block_out_channels;
                prop_assert!(channels.iter().all(|channels| channels % config.norm_num_groups == 0));
                prop_assert_eq!(config.heads.len(), channels.len());
                prop_assert_eq!(config.transformer_layers_per_block.len(), channels.len());
            }
            let _ = VaeConfig::parse(&text, "test");
            let _ = TextEncoderConfig::parse(&text, "test", true);
            let _ = SchedulerConfig::parse(&text, "test");
            let _ = ModelIndex::parse(&text, "test");
        }
    }
}

fn config(part: &str) -> Value {
    let text = demo("base").join(part).read_text("config.json").unwrap();
    serde_json::from_str(&text).unwrap()
}

fn unet_error(field: &str, value: Value) -> String {
    let mut config = config("unet");
    config[field] = value;
    UnetConfig::parse(&config.to_string(), "unet/config.json").unwrap_err().to_string()
}

#[test]
fn what_the_unet_does_not_do_is_refused_by_field_name() {
    for (field, value) in [
        ("addition_embed_type", json!("image")),
        ("addition_embed_type", json!(null)),
        ("class_embed_type", json!("timestep")),
        ("in_channels", json!(9)),
        ("out_channels", json!(8)),
        ("act_fn", json!("gelu")),
        ("mid_block_type", json!("UNetMidBlock2D")),
        ("resnet_time_scale_shift", json!("scale_shift")),
        ("encoder_hid_dim", json!(768)),
        ("reverse_transformer_layers_per_block", json!([[1], [2], [1]])),
        ("only_cross_attention", json!(true)),
        ("time_cond_proj_dim", json!(256)),
        ("attention_head_dim", json!([2, 5, 8])),
        ("attention_head_dim", json!([2, 4])),
        ("norm_num_groups", json!(0)),
        ("layers_per_block", json!([1, 2, 2])),
        ("cross_attention_dim", json!([64, 112, 112])),
        ("block_out_channels", json!([33, 64, 128])),
        ("addition_time_embed_dim", json!(31)),
        ("norm_eps", json!(0)),
    ] {
        let message = unet_error(field, value);
        assert!(message.contains(&format!("`{field}`")), "{message}");
        assert!(message.contains("unet/config.json") && message.contains("expected"), "{message}");
    }
    let message = unet_error("down_block_types", json!(["DownBlock2D", "AttnDownBlock2D", "X"]));
    assert!(message.contains("AttnDownBlock2D"), "{message}");
}

#[test]
fn numbers_for_all_blocks_may_be_written_once() {
    let mut config = config("unet");
    config["transformer_layers_per_block"] = json!(4);
    config["attention_head_dim"] = json!(2);
    config["layers_per_block"] = json!([2, 2, 2]);
    config["upcast_attention"] = json!(true);
    let config = UnetConfig::parse(&config.to_string(), "test").unwrap();
    assert_eq!(config.transformer_layers_per_block, [4, 4, 4]);
    assert_eq!(config.heads, [2, 2, 2]);
    assert_eq!(config.layers_per_block, 2);
}

#[test]
fn absent_fields_have_the_defaults_of_diffusers() {
    assert_eq!(ModelIndex::parse("{}", "test").unwrap(), ModelIndex::BASE);
    let scheduler = SchedulerConfig::parse("{}", "test").unwrap();
    assert_eq!((scheduler.num_train_timesteps, scheduler.steps_offset), (1000, 0));
    assert_eq!(scheduler.timestep_spacing, "linspace");
    assert_eq!(scheduler.prediction_type, PredictionType::Epsilon);
    let vae = r#"{"block_out_channels": [32, 32, 32, 32], "down_block_types": ["DownEncoderBlock2D",
        "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"], "up_block_types":
        ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}"#;
    let vae = VaeConfig::parse(vae, "test").unwrap();
    assert!((vae.scaling_factor - 0.18215).abs() < 1e-12 && vae.force_upcast);
}

#[test]
fn schedulers_of_another_kind_are_refused_by_name() {
    for (field, value, complaint) in [
        ("_class_name", "EDMEulerScheduler", "EDMEulerScheduler"),
        ("_class_name", "FlowMatchEulerDiscreteScheduler", "FlowMatch"),
        ("prediction_type", "sample", "`sample`"),
    ] {
        let error = SchedulerConfig::parse(&json!({field: value}).to_string(), "test").unwrap_err();
        assert!(error.to_string().contains(complaint), "{error}");
    }
    let text = r#"{"prediction_type": "v_prediction", "use_karras_sigmas": null}"#;
    let config = SchedulerConfig::parse(text, "test").unwrap();
    assert_eq!(config.prediction_type, PredictionType::VPrediction);
}

#[test]
fn the_makers_recommendations_are_read_and_checked() {
    let text = "guidance_scale = 5\nsteps = 30\nwrong_lora = \"../wrong.safetensors\"\n";
    let defaults = ModelDefaults::parse(text, "unwrong.toml").unwrap();
    assert_eq!((defaults.guidance_scale, defaults.steps), (Some(5.0), Some(30)));
    assert_eq!(defaults.size, None);
    for (text, complaint) in [
        ("steps = 0", "`steps` is 0"),
        ("guidance_scale = nan", "`guidance_scale` is NaN"),
        ("guidance = 5", "unknown field `guidance`"),
        ("steps = \"many\"", "invalid type"),
        ("= =", "cannot understand unwrong.toml"),
    ] {
        let error = ModelDefaults::parse(text, "unwrong.toml").unwrap_err();
        assert!(error.to_string().contains(complaint), "{error}");
    }
}

#[test]
fn weights_are_found_by_path_checked_by_shape_and_counted() {
    let weights = Weights::of(parse(&small().bytes()).unwrap()).unwrap();
    let a = weights.root().path("a");
    assert_eq!(a.name(), "a");
    assert_eq!(weights.unused(), ["a.weight", "b.weight"]);
    assert_eq!(a.get("weight", &[2, 3]).unwrap().shape(), [2, 3]);
    // A 1×1 convolution and a matrix are the same product.
    assert_eq!(a.get("weight", &[2, 3, 1, 1]).unwrap().shape(), [2, 3, 1, 1]);
    assert_eq!(weights.unused(), ["b.weight"]);
    assert!(a.try_get("bias", &[2]).unwrap().is_none() && !a.contains("bias"));
    assert_eq!(weights.modules()["a"], [2, 3]);

    let message = a.get("weight", &[3, 2]).unwrap_err().to_string();
    assert_eq!(message, "`a.weight` has shape [2, 3] in test.safetensors, expected [3, 2]");
    let message = a.get("bias", &[2]).unwrap_err().to_string();
    assert_eq!(message, "`a.bias` is missing in test.safetensors");
    let message = weights.root().get("position_ids", &[1]).unwrap_err().to_string();
    assert!(message.contains("stored as I64"), "{message}");
}

static FILES: &[(&str, &[u8])] = &[
    ("base/unet/config.json", b"{}"),
    ("base/model_index.json", b"{\"a\": 1}"),
    ("baseline.txt", b"\xFF"),
];

#[test]
fn an_embedded_folder_is_like_one_on_the_disk() {
    let disk = tempfile::tempdir().unwrap();
    for (name, bytes) in FILES {
        let path = disk.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    for folder in [Folder::embedded("demo", FILES), Folder::disk(disk.path())] {
        let base = folder.join("base");
        assert!(base.is_there() && !folder.join("bas").is_there());
        assert!(base.exists("model_index.json") && !base.exists("unet"));
        assert_eq!(base.list().unwrap(), ["model_index.json"]);
        assert_eq!(base.join("unet").read_text("config.json").unwrap(), "{}");
        assert_eq!(&*folder.join("base/unet").open("config.json").unwrap(), b"{}");
        assert!(matches!(base.open("absent").unwrap_err(), Error::NotFound { .. }));
        assert!(matches!(base.read_text("absent").unwrap_err(), Error::NotFound { .. }));
        assert!(folder.read_text("baseline.txt").unwrap_err().to_string().contains("UTF-8"));
        assert!(base.open("unet").is_err());
    }
    let embedded = Folder::embedded("demo", FILES).join("base");
    assert_eq!(embedded.display("a.json"), "demo/base/a.json (embedded)");
    assert_eq!(embedded.name(), "demo/base");
}

#[test]
fn a_model_is_named_after_its_folder() {
    for (path, name) in [
        ("models/sdxl-turbo", "sdxl-turbo"),
        ("models/demo/base", "demo/base"),
        ("hub/models--stabilityai--sdxl/snapshots/46f1e8", "stabilityai/sdxl"),
    ] {
        assert_eq!(Folder::disk(path).name(), name);
    }
}

#[test]
fn impostors_on_the_disk_are_named_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for (bytes, kind, hint) in [
        (&b""[..], "empty", "download"),
        (b"PK\x03\x04 and more than eight bytes", "cut off", "get it again"),
        (b"<!doctype html><title>Sign in</title>", "HTML page", "login"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs", "git lfs pull"),
        (b"GGUF\x03\0\0\0 and the rest", "GGUF", "original"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = ModelParts::open_file(&path).unwrap_err();
        assert!(error.to_string().contains(kind), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{error}");
    }
    let error = ModelParts::open_file(folder.path()).unwrap_err();
    assert!(error.to_string().contains("a folder, expected a file"), "{error}");
    let error = ModelParts::open_file(&folder.path().join("absent")).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }));
}

#[test]
fn a_refiner_of_the_repository_says_that_it_is_one() {
    let path = root().join("crates/demo/model/refiner");
    let parts = ModelParts::open_folder(&Folder::disk(path)).unwrap();
    assert_eq!(parts.index, ModelIndex::REFINER);
    assert!(parts.text_encoder.is_none());
    assert_eq!(parts.name, "model/refiner");
}
