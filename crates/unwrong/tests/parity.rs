//! The whole line on the demo model against compel and diffusers: embeddings, latents at the
//! hand-over and at the end, pixels; on both implementations of the operations.
//!
//! `cargo test --release -p unwrong --test parity -- --nocapture --test-threads 1` prints the
//! table.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

#[path = "../../models/tests/common/mod.rs"]
mod common;

use std::cell::RefCell;
use std::ops::ControlFlow;

use candle_core::Tensor;
use serde_json::Value;
use unwrong::catalog::Catalog;
use unwrong::encode::Conditioning;
use unwrong::pipeline::{Options, Pipeline};
use unwrong::progress::{Event, Part};
use unwrong::request::{Crop, GenerateRequest, LoraRequest, Size};

use unwrong_models::ops::Ops;

use common::{Goldens, Row, root};

/// Embeddings: both sides compute in f32; what is left is the order of sums.
const EMBEDDINGS: f64 = 1e-4;
/// Latents after up to 30 steps, each of which amplifies the rounding of the last.
const LATENTS: f64 = 2e-3;

const BOTH: [Ops; 2] = [Ops::Reference, Ops::Cpu];

fn pipeline(request: &GenerateRequest, ops: Ops) -> Pipeline {
    let model = root().join("crates/demo/model").display().to_string();
    let request = GenerateRequest { model: Some(model), ..request.clone() };
    let options = Options { ops: Some(ops), ..Options::default() };
    Pipeline::open(&request, &Catalog::new(), &options).unwrap()
}

#[test]
fn embeddings_equal_compel() {
    BOTH.into_iter().for_each(check_embeddings);
}

fn check_embeddings(ops: Ops) {
    let goldens = Goldens::open("conditioning");
    let pipeline = pipeline(&GenerateRequest::new(""), ops);
    let mut base = Row::new(format!("embeddings, base, {ops:?}"), EMBEDDINGS);
    let mut refiner = Row::new(format!("embeddings, refiner, {ops:?}"), EMBEDDINGS);
    for (name, prompt) in goldens.fact("prompts").as_object().unwrap() {
        // What is not part of the syntax yet stays text here, and is interpreted there.
        if prompt["kind"] != "plain" || !prompt["error"].is_null() {
            continue;
        }
        let request = GenerateRequest {
            negative_prompt: prompt["negative_prompt"].as_str().map(str::to_owned),
            ..GenerateRequest::new(prompt["prompt"].as_str().unwrap())
        };
        for (part, prefix, row) in
            [(Part::Base, "", &mut base), (Part::Refiner, "refiner.", &mut refiner)]
        {
            let pair = pipeline.condition(&request, part).unwrap();
            let mut check = |what: &str, of: &Conditioning| {
                for (kind, tensor) in
                    [("prompt_embeds", &of.prompt_embeds), ("pooled_embeds", &of.pooled_embeds)]
                {
                    let golden = format!("{name}.{prefix}{what}{kind}");
                    if goldens.has(&golden) {
                        row.add(&golden, goldens.compare(&golden, tensor));
                    }
                }
            };
            check("", &pair.positive);
            if request.negative_prompt.is_some() {
                check("negative_", &pair.negative);
            }
        }
    }
    base.print();
    refiner.print();
}

#[test]
fn loras_on_the_text_encoders_give_the_embeddings_of_diffusers() {
    let goldens = Goldens::open("lora");
    let mut row = Row::new("embeddings with LoRA", EMBEDDINGS);
    let prompt = goldens.fact("prompt").as_str().unwrap();
    for (name, facts) in goldens.fact("files").as_object().unwrap() {
        for scale in goldens.fact("scales").as_array().unwrap() {
            let scale = scale.as_f64().unwrap();
            let stem = format!("{}.{scale:?}", facts["golden"].as_str().unwrap());
            if !goldens.has(&format!("{stem}.prompt_embeds")) {
                continue;
            }
            let path = root().join(format!("parity/goldens/{name}.safetensors"));
            let lora = LoraRequest::new(path.display().to_string(), scale);
            let request = GenerateRequest { loras: vec![lora], ..GenerateRequest::new(prompt) };
            let pair = pipeline(&request, Ops::Cpu).condition(&request, Part::Base).unwrap();
            for (what, tensor) in [
                ("prompt_embeds", &pair.positive.prompt_embeds),
                ("pooled_embeds", &pair.positive.pooled_embeds),
            ] {
                let golden = format!("{stem}.{what}");
                row.add(&golden, goldens.compare(&golden, tensor));
            }
        }
    }
    row.print();
}

#[test]
fn pictures_equal_diffusers_from_the_first_step_to_the_pixels() {
    BOTH.into_iter().for_each(check_pictures);
}

fn check_pictures(ops: Ops) {
    let goldens = Goldens::open("picture");
    for (name, facts) in goldens.fact("pictures").as_object().unwrap() {
        let request = request(facts);
        let pipeline = pipeline(&request, ops);
        let base_steps = facts["base_timesteps"].as_array().unwrap().len();
        let mut row = Row::new(format!("picture {name}, latents, {ops:?}"), LATENTS);

        let latents = RefCell::new(Vec::<(Part, Tensor)>::new());
        let mut progress = |event: Event<'_>| {
            if let Event::Step { part, latents: now, .. } = event {
                latents.borrow_mut().push((part, now.clone()));
            }
            ControlFlow::Continue(())
        };
        let generation = pipeline.generate(&[request], &mut progress).unwrap().remove(0);

        let latents = latents.into_inner();
        let of_base = latents.iter().filter(|(part, _)| *part == Part::Base).count();
        assert_eq!(of_base, base_steps, "{name}: steps of the base");
        let refiner_steps = facts["refiner_timesteps"].as_array().map_or(0, Vec::len);
        assert_eq!(latents.len() - of_base, refiner_steps, "{name}: steps of the refiner");
        let mut check = |what: &str, at: Option<&(Part, Tensor)>| {
            let golden = format!("{name}.{what}");
            if let (true, Some((_, latents))) = (goldens.has(&golden), at) {
                row.add(&golden, goldens.compare(&golden, latents));
            }
        };
        if of_base > 0 {
            check("first_step", latents.first());
            check("handoff", latents.get(of_base - 1));
        }
        check("latents", latents.last());
        row.print();

        let golden = format!("{name}.pixels");
        let pixels = &generation.pixels.rgb();
        assert_eq!(pixels.len(), goldens.count(&golden), "{name}: size of the picture");
        let differences: Vec<f64> = goldens
            .kept(&golden)
            .map(|(index, golden)| f64::from((f32::from(pixels[index]) - golden).abs()))
            .collect();
        let mean = differences.iter().sum::<f64>() / differences.len() as f64;
        let within = differences.iter().filter(|d| **d <= 2.0).count() as f64;
        let within = within / differences.len() as f64;
        println!(
            "| picture {name}, pixels, {ops:?} | {} | mean {mean:.4} of 255 | {:.3} % within 2 |",
            differences.len(),
            100.0 * within
        );
        assert!(mean < 0.5, "{name}: mean pixel difference {mean}");
        assert!(within >= 0.999, "{name}: only {within} of the pixels are within 2");
    }
}

/// The request behind a golden picture; diffusers has heights first.
fn request(facts: &Value) -> GenerateRequest {
    let number = |name: &str| facts[name].as_f64();
    let pair = |name: &str| -> Option<(u32, u32)> {
        serde_json::from_value(facts["sizes"][name].clone()).ok()
    };
    let size = |name: &str| pair(name).map(|(height, width)| Size { width, height });
    let crop = |name: &str| pair(name).map(|(y, x)| Crop { x, y });
    let refine = facts["refine"].as_bool().unwrap();
    GenerateRequest {
        negative_prompt: facts["negative"].as_str().map(str::to_owned),
        seed: facts["seed"].as_u64(),
        steps: number("steps").map(|steps| steps as u32),
        guidance_scale: number("guidance"),
        high_noise_fraction: if refine { number("fraction") } else { None },
        refiner: if refine { None } else { Some("none".to_owned()) },
        size: Some(Size {
            width: number("width").unwrap() as u32,
            height: number("height").unwrap() as u32,
        }),
        loras: number("lora_scale")
            .map(|scale| {
                let path = root().join("crates/demo/model/wrong-lora.safetensors");
                LoraRequest::new(path.display().to_string(), scale)
            })
            .into_iter()
            .collect(),
        original_size: size("original_size"),
        crop: crop("crops_coords_top_left"),
        target_size: size("target_size"),
        negative_original_size: size("negative_original_size"),
        negative_crop: crop("negative_crops_coords_top_left"),
        negative_target_size: size("negative_target_size"),
        aesthetic_score: facts["scores"]["aesthetic_score"].as_f64(),
        negative_aesthetic_score: facts["scores"]["negative_aesthetic_score"].as_f64(),
        ..GenerateRequest::new(facts["prompt"].as_str().unwrap())
    }
}
