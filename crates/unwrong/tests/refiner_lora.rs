//! A LoRA file that was trained for the refiner changes the refiner, and the base not by a bit.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod demo;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use demo::{pipeline, root};
use unwrong::progress::Event;
use unwrong::request::{LoraRequest, Size};
use unwrong::{GenerateRequest, Pipeline};
use unwrong_models::files::{Folder, FrozenWeight, ModelParts};
use unwrong_models::lora::{Dialect, LoraLayer, Network, Targets, write_lora};

/// A LoRA on the cross-attention of the demo's refiner and on its text encoder.
fn write_refiner_lora(path: &Path) -> usize {
    let parts =
        ModelParts::open_folder(&Folder::disk(root().join("crates/demo/model/refiner"))).unwrap();
    let targets = Targets::of(&parts);
    let numbers =
        |count: usize| -> Vec<f32> { (0..count).map(|i| (i as f32 * 0.7).sin()).collect() };
    let mut layers = Vec::new();
    for network in [Network::Unet, Network::TextEncoder2] {
        for (name, shape) in targets.iter(network) {
            if name.ends_with("attn2.to_k") || name.ends_with("self_attn.v_proj") {
                let down = FrozenWeight::from_f32(&numbers(2 * shape[1]), &[2, shape[1]]);
                let up = FrozenWeight::from_f32(&numbers(shape[0] * 2), &[shape[0], 2]);
                layers.push(LoraLayer::low_rank(network, name, down, up, 2.0));
            }
        }
    }
    fs::write(path, write_lora(&layers, Dialect::Peft, &BTreeMap::new()).unwrap()).unwrap();
    2 * layers.len()
}

/// The latents after every step, and what was said of LoRA files.
fn draw(pipeline: &Pipeline, loras: Vec<LoraRequest>) -> (Vec<Vec<f32>>, Vec<String>) {
    let request = GenerateRequest {
        seed: Some(3),
        steps: Some(4),
        high_noise_fraction: Some(0.5),
        size: Some(Size { width: 64, height: 64 }),
        loras,
        ..GenerateRequest::new("a cat")
    };
    let (mut latents, mut said) = (Vec::new(), Vec::new());
    let mut watch = |event: Event<'_>| {
        match event {
            Event::Step { latents: now, .. } => {
                latents.push(now.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            }
            Event::Notice { message } => said.push(message.to_owned()),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    pipeline.generate(&[request], &mut watch).unwrap();
    (latents, said)
}

#[test]
fn a_lora_for_the_refiner_changes_its_steps_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("refiner.safetensors");
    let tensors = write_refiner_lora(&path);
    let pipeline = pipeline();
    let lora = |scale| LoraRequest::new(path.display().to_string(), scale);
    let (without, _) = draw(&pipeline, Vec::new());
    let (with, said) = draw(&pipeline, vec![lora(1.0)]);
    let base = without.iter().zip(&with).take_while(|(one, other)| one == other).count();
    assert_eq!((base, with.len()), (2, 4), "two steps are the base's, two the refiner's");
    let applied = format!("LoRA `refiner.safetensors`: applied {tensors} of {tensors} tensors");
    assert!(said.contains(&applied), "{said:?}");
    assert!(draw(&pipeline, vec![lora(0.0)]).0 == without);

    // Beside one for the base, in the order of the request.
    let demo = root().join("crates/demo/model/wrong-lora.safetensors");
    let both = vec![lora(1.0), LoraRequest::new(demo.display().to_string(), 1.0)];
    let (both, said) = draw(&pipeline, both);
    assert!(both[0] != without[0] && both[3] != with[3]);
    let lora = said.iter().filter(|line| line.starts_with("LoRA ")).collect::<Vec<_>>();
    assert!(lora.len() == 2 && *lora[0] == applied, "{said:?}");
}

#[test]
fn without_a_refiner_its_lora_is_refused_with_what_it_is_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("refiner.safetensors");
    write_refiner_lora(&path);
    let base = root().join("crates/demo/model/base").display().to_string();
    let request = GenerateRequest {
        model: Some(base),
        loras: vec![LoraRequest::new(path.display().to_string(), 1.0)],
        ..GenerateRequest::new("a cat")
    };
    let pipeline = Pipeline::open(&request, &unwrong::Catalog::new(), &unwrong::Options::default());
    let drawn = pipeline.unwrap().generate(&[request], &mut unwrong::progress::Silent);
    let error = drawn.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("it is for a model whose prompts have"), "{error}");
}
