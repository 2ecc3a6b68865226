#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;

fn request() -> GenerateRequest {
    GenerateRequest::new("a red apple")
}

#[test]
fn absent_fields_stay_out_of_the_json() {
    assert_eq!(serde_json::to_string(&request()).unwrap(), r#"{"prompt":"a red apple"}"#);
}

#[test]
fn an_empty_negative_prompt_is_not_an_absent_one() {
    let empty = GenerateRequest { negative_prompt: Some(String::new()), ..request() };
    let text = serde_json::to_string(&empty).unwrap();
    assert_eq!(text, r#"{"prompt":"a red apple","negative_prompt":""}"#);
    assert_eq!(serde_json::from_str::<GenerateRequest>(&text).unwrap(), empty);
}

#[test]
fn a_full_request_survives_json() {
    let text = r#"{
        "prompt": "p", "negative_prompt": "n", "model": "m", "refiner": "none", "vae": "v",
        "loras": [{"path": "a"}, {"path": "b", "scale": -0.5}], "wrong": 0.0, "wrong_lora": "w",
        "seed": 18446744073709551615, "count": 1, "steps": 30, "guidance_scale": 7.5,
        "size": "1024x768", "scheduler": "euler", "high_noise_fraction": 0.8,
        "original_size": "1x1", "crop": "3,4", "target_size": "512x512",
        "negative_original_size": "2x2", "negative_crop": "5,6", "negative_target_size": "7x7",
        "aesthetic_score": 6.0, "negative_aesthetic_score": 2.5,
        "noise": "torch-cuda", "syntax": "plain", "long_prompt": "truncate", "weights": "int8"
    }"#;
    let request: GenerateRequest = serde_json::from_str(text).unwrap();
    request.check().unwrap();
    assert_eq!(request.seed, Some(u64::MAX));
    assert_eq!(request.crop, Some(Crop { x: 3, y: 4 }));
    assert_eq!(request.loras[0].scale.to_bits(), 1f64.to_bits());
    let again = serde_json::to_string(&request).unwrap();
    assert_eq!(serde_json::from_str::<GenerateRequest>(&again).unwrap(), request);
    assert_eq!(again.matches("\":").count(), 27 + 4, "a field was lost: {again}");
}

#[test]
fn an_unknown_field_is_refused_by_name() {
    let error = serde_json::from_str::<GenerateRequest>(r#"{"prompt":"p","cfg":7}"#).unwrap_err();
    assert!(error.to_string().contains("`cfg`"), "{error}");
}

#[test]
fn an_unknown_name_lists_the_names() {
    let error = "karras".parse::<SchedulerName>().unwrap_err();
    assert_eq!(error.to_string(), "`scheduler` is `karras`, expected one of: euler");
    for kind in NoiseKind::ALL {
        assert_eq!(kind.name().parse::<NoiseKind>().unwrap(), *kind);
    }
    let error = "torch".parse::<NoiseKind>().unwrap_err();
    assert_eq!(error.to_string(), "`noise` is `torch`, expected one of: torch-cpu, torch-cuda");
}

#[test]
fn a_size_that_is_no_multiple_of_eight_names_the_next_one() {
    let odd = GenerateRequest { size: Some(Size { width: 1020, height: 768 }), ..request() };
    let error = odd.check().unwrap_err();
    assert_eq!(error.to_string(), "width is 1020, which is not a multiple of 8");
    assert_eq!(error.hint().as_deref(), Some("try 1024"));
    assert!(error.is_request_error());
}

#[test]
fn sizes_that_are_no_sizes_are_refused() {
    for text in ["", "x", "1024", "1024x", "x8", "-8x8", "+8x8", "8x8x8", "4294967296x8", "8 x 8"] {
        assert!(text.parse::<Size>().is_err(), "{text}");
    }
    for (width, height) in [(0, 512), (512, 0), (56, 512), (512, 8200), (u32::MAX, u32::MAX)] {
        assert!(Size { width, height }.check().is_err(), "{width}x{height}");
    }
    assert_eq!("64x8192".parse::<Size>().unwrap(), Size { width: 64, height: 8192 });
}

#[test]
fn crops_that_are_no_crops_are_refused() {
    for text in ["", "1", "1,", ",1", "-1,0", "1,2,3", "1.5,2"] {
        assert!(text.parse::<Crop>().is_err(), "{text}");
    }
    assert_eq!("1, 2".parse::<Crop>().unwrap(), Crop { x: 1, y: 2 });
}

#[test]
fn a_lora_scale_follows_the_last_colon_if_it_is_a_number() {
    for (text, path, scale) in [
        ("wrong.safetensors", "wrong.safetensors", 1.0),
        ("wrong.safetensors:0.8", "wrong.safetensors", 0.8),
        ("wrong:-1", "wrong", -1.0),
        (r"C:\wrong.safetensors", r"C:\wrong.safetensors", 1.0),
        (r"C:\wrong.safetensors:2", r"C:\wrong.safetensors", 2.0),
        ("style:v2", "style:v2", 1.0),
    ] {
        let lora: LoraRequest = text.parse().unwrap();
        assert_eq!(lora, LoraRequest::new(path, scale), "{text}");
    }
    assert!("".parse::<LoraRequest>().is_err());
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let cases: [(&str, GenerateRequest); 11] = [
        ("`steps` is 0, expected 1 to 1000", GenerateRequest { steps: Some(0), ..request() }),
        ("`steps` is 1001", GenerateRequest { steps: Some(1001), ..request() }),
        ("`count` is 0", GenerateRequest { count: Some(0), ..request() }),
        ("`count` is 10001", GenerateRequest { count: Some(10_001), ..request() }),
        (
            "`guidance_scale` is NaN",
            GenerateRequest { guidance_scale: Some(f64::NAN), ..request() },
        ),
        (
            "`guidance_scale` is inf",
            GenerateRequest { guidance_scale: Some(f64::INFINITY), ..request() },
        ),
        ("`guidance_scale` is -1", GenerateRequest { guidance_scale: Some(-1.0), ..request() }),
        (
            "`high_noise_fraction` is 1.1",
            GenerateRequest { high_noise_fraction: Some(1.1), ..request() },
        ),
        ("`wrong` is NaN", GenerateRequest { wrong: Some(f64::NAN), ..request() }),
        (
            "`original_size` is 0",
            GenerateRequest { original_size: Some(Size { width: 0, height: 8 }), ..request() },
        ),
        (
            "`lora scale` is inf",
            GenerateRequest { loras: vec![LoraRequest::new("a", f64::INFINITY)], ..request() },
        ),
    ];
    for (expected, request) in cases {
        let error = request.check().unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}, expected {expected}");
        assert!(error.is_request_error());
    }
}

#[test]
fn the_last_seed_of_a_series_must_exist() {
    let last = GenerateRequest { seed: Some(u64::MAX), ..request() };
    last.check().unwrap();
    let beyond = GenerateRequest { count: Some(3), ..last };
    let error = beyond.check().unwrap_err();
    assert_eq!(error.hint().unwrap(), format!("try a seed up to {}", u64::MAX - 2));
    GenerateRequest { seed: Some(u64::MAX - 2), ..beyond }.check().unwrap();
}

#[test]
fn a_wrong_lora_needs_wrong() {
    let alone = GenerateRequest { wrong_lora: Some("w".to_owned()), ..request() };
    assert!(alone.check().unwrap_err().to_string().contains("`wrong` is not"));
    GenerateRequest { wrong: Some(0.0), ..alone }.check().unwrap();
}

#[test]
fn a_prompt_of_megabytes_is_refused() {
    let long = GenerateRequest::new("a ".repeat(MAX_PROMPT_BYTES));
    assert!(matches!(long.check(), Err(Error::PromptTooLong { field: "prompt", .. })));
}

#[test]
fn wrong_goes_in_front_of_what_the_user_wrote() {
    let negative = |wrong, text: Option<&str>| {
        let negative_prompt = text.map(str::to_owned);
        GenerateRequest { negative_prompt, wrong, ..request() }.full_negative_prompt()
    };
    assert_eq!(negative(None, None), None);
    assert_eq!(negative(None, Some("")), Some(String::new()));
    assert_eq!(negative(Some(1.0), None).as_deref(), Some("wrong"));
    assert_eq!(negative(Some(0.0), Some(" ")).as_deref(), Some("wrong"));
    assert_eq!(negative(Some(1.0), Some("dull")).as_deref(), Some("wrong, dull"));
}
