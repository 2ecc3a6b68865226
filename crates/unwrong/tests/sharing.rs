//! Pictures and calls share what they can, and nobody sees it in the result.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod demo;

use std::fs;

use candle_core::Tensor;
use demo::{pipeline, pipeline_with, root};
use unwrong::encode::ConditioningPair;
use unwrong::progress::{Part, Silent};
use unwrong::request::{LoraRequest, Size, Weights};
use unwrong::{GenerateRequest, Options, Pipeline};
use unwrong_models::ops::Ops;

/// Small and quick, with a step for each UNet.
fn request(prompt: &str) -> GenerateRequest {
    GenerateRequest {
        seed: Some(3),
        steps: Some(2),
        high_noise_fraction: Some(0.5),
        size: Some(Size { width: 64, height: 64 }),
        ..GenerateRequest::new(prompt)
    }
}

/// Every bit of what base and refiner are told.
fn bits(pipeline: &Pipeline, request: &GenerateRequest) -> Vec<u32> {
    let of = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let mut bits = Vec::new();
    for part in [Part::Base, Part::Refiner] {
        let ConditioningPair { positive, negative } = pipeline.condition(request, part).unwrap();
        for one in [positive, negative] {
            bits.extend(of(&one.prompt_embeds).into_iter().map(f32::to_bits));
            bits.extend(of(&one.pooled_embeds).into_iter().map(f32::to_bits));
        }
    }
    bits
}

#[test]
fn a_prompt_is_encoded_once_for_all_pictures_and_calls() {
    let pipeline = pipeline();
    let encode = |request: &GenerateRequest| -> Vec<f64> {
        let request = std::slice::from_ref(request);
        let pictures = pipeline.generate(request, &mut Silent).unwrap();
        pictures.iter().map(|picture| picture.timings.encode).collect()
    };
    let apple = request("a red apple");
    let two = encode(&GenerateRequest { count: Some(2), ..apple.clone() });
    assert!(two[0] > 0.0);
    assert_eq!(two[1..], [0.0]);
    let again = GenerateRequest { seed: Some(9), steps: Some(3), count: Some(2), ..apple.clone() };
    assert_eq!(encode(&again), [0.0; 2]);

    let wrong = GenerateRequest { wrong: Some(1.0), ..apple.clone() };
    let others = [
        request("a green apple"),
        GenerateRequest { negative_prompt: Some("dull".to_owned()), ..apple.clone() },
        GenerateRequest { size: Some(Size { width: 64, height: 72 }), ..apple.clone() },
        GenerateRequest { wrong: Some(0.5), ..wrong.clone() },
        wrong,
    ];
    for other in others {
        assert!(encode(&other)[0] > 0.0, "{other:?}");
    }
}

#[test]
fn a_picture_is_the_same_whatever_was_made_before() {
    let used = pipeline();
    let wrong = GenerateRequest { wrong: Some(1.0), ..request("a red apple") };
    used.generate(&[request("a red apple"), request("a boat"), wrong.clone()], &mut Silent)
        .unwrap();
    for request in [request("a red apple"), wrong] {
        let picture = |pipeline: &Pipeline| {
            let request = std::slice::from_ref(&request);
            pipeline.generate(request, &mut Silent).unwrap().remove(0).pixels
        };
        assert!(picture(&used).rgb() == picture(&pipeline()).rgb(), "{request:?}");
    }
}

#[test]
fn conditioning_is_the_same_to_the_bit_whatever_was_encoded_before() {
    let used = pipeline();
    let weighted = GenerateRequest {
        negative_prompt: Some("(dull)++, (dark blur)0.4".to_owned()),
        ..request("a (red)0.5 apple on a (wooden table)1.3")
    };
    // Rows that the last requests share with others, and rows that are the beginnings of them.
    for before in ["", "a", "a red apple", "a (red)0.5 apple on a (wooden table)1.3"] {
        bits(&used, &request(before));
    }
    for request in [weighted, request("a red apple"), request("a (red)0.5 apple")] {
        assert!(bits(&used, &request) == bits(&pipeline(), &request), "{request:?}");
    }
}

#[test]
fn a_lora_file_that_was_replaced_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    let goldens = root().join("parity/goldens");
    let with = |name: &str| {
        let next = folder.path().join("next");
        fs::copy(goldens.join(name), &next).unwrap();
        fs::rename(&next, &path).unwrap();
    };
    let lora = LoraRequest::new(path.display().to_string(), 1.0);
    let request = GenerateRequest { loras: vec![lora], ..request("a red apple") };
    let pipeline = pipeline();
    let hash = || {
        let pictures = pipeline.generate(std::slice::from_ref(&request), &mut Silent).unwrap();
        pictures[0].embedded.loras[0].sha256.clone()
    };

    with("lora-diffusers-attention.safetensors");
    let first = hash();
    assert_eq!(hash(), first);
    with("lora-peft-text.safetensors");
    assert_ne!(hash(), first);
}

/// Pictures of one shape, with prompts of two lengths, guidance scales of their own and one with
/// a LoRA.
fn mixed() -> Vec<GenerateRequest> {
    let long = format!("a red apple{}", ", glossy".repeat(40));
    let mut requests: Vec<_> = ["a red apple", "a boat", &long, "a (cat)1.3", "a boat"]
        .into_iter()
        .enumerate()
        .map(|(place, prompt)| GenerateRequest {
            seed: Some(place as u64),
            guidance_scale: Some(5.0 + place as f64),
            ..request(prompt)
        })
        .collect();
    requests[3].negative_prompt = Some("dull".to_owned());
    requests[4].wrong = Some(1.0);
    requests.push(GenerateRequest { guidance_scale: Some(1.0), ..request("a dog") });
    requests
}

#[test]
fn a_picture_has_the_same_bits_alone_and_among_others() {
    for ops in [Ops::Cpu, Ops::Reference] {
        let pipeline = pipeline_with(&Options { ops: Some(ops), ..Options::default() });
        for weights in [Weights::Native, Weights::Int8] {
            if ops == Ops::Reference && weights == Weights::Int8 {
                continue;
            }
            let requests: Vec<_> = mixed()
                .into_iter()
                .map(|request| GenerateRequest { weights: Some(weights), ..request })
                .collect();
            assert!(pipeline.together(&requests[0]).unwrap() > requests.len());
            let among = pipeline.generate(&requests, &mut Silent).unwrap();
            for (request, among) in requests.iter().zip(among) {
                let alone = pipeline.generate(std::slice::from_ref(request), &mut Silent).unwrap();
                assert!(alone[0].pixels.rgb() == among.pixels.rgb(), "{ops:?} {request:?}");
            }
        }
    }
}

#[test]
fn the_second_encoder_may_read_another_prompt() {
    let pipeline = pipeline();
    let pair = |request: &GenerateRequest, part| pipeline.condition(request, part).unwrap();
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (one, other) = (request("a red apple"), request("a (boat)1.3"));
    let both = GenerateRequest {
        prompt_2: Some(other.prompt.clone()),
        negative_prompt_2: Some("dull".to_owned()),
        ..one.clone()
    };
    let [alone, second, mixed] = [&one, &other, &both].map(|request| pair(request, Part::Base));
    let width = 48; // Of the demo's first encoder; its second has 64.
    let columns = |tensor: &Tensor, from, count| values(&tensor.narrow(2, from, count).unwrap());
    let embeds = [&alone, &second, &mixed].map(|pair| &pair.positive.prompt_embeds);
    assert_eq!(columns(embeds[2], 0, width), columns(embeds[0], 0, width));
    assert_eq!(columns(embeds[2], width, 64), columns(embeds[1], width, 64));
    assert_eq!(values(&mixed.positive.pooled_embeds), values(&second.positive.pooled_embeds));

    // Without a first negative prompt the first encoder reads the empty text, not zeros.
    let negative =
        |text: &str| GenerateRequest { negative_prompt: Some(text.to_owned()), ..one.clone() };
    let [empty, dull] = [negative(""), negative("dull")].map(|request| pair(&request, Part::Base));
    let embeds = [&empty, &dull, &mixed].map(|pair| &pair.negative.prompt_embeds);
    assert_eq!(columns(embeds[2], 0, width), columns(embeds[0], 0, width));
    assert_eq!(columns(embeds[2], width, 64), columns(embeds[1], width, 64));

    // The refiner has one encoder, which reads the prompt.
    let [alone, mixed] = [&one, &both].map(|request| pair(request, Part::Refiner));
    assert_eq!(values(&mixed.positive.prompt_embeds), values(&alone.positive.prompt_embeds));
}
