//! Gradients and optimiser steps against PyTorch and peft (`parity/stages/training.py`).

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

#[path = "../../models/tests/common/mod.rs"]
mod common;

use candle_core::{Device, Tensor};
use common::{Goldens, nhwc, root};
use serde::Deserialize;
use unwrong::pipeline::Options;
use unwrong::{Catalog, GenerateRequest, Pipeline};
use unwrong_models::files::{Folder, ModelParts, TextEncoderConfig, Weights};
use unwrong_models::lora::{Branch, Network, Targets, Trained};
use unwrong_models::ops::Ops;
use unwrong_models::text_encoder::TextEncoder;
use unwrong_models::unet::{Reading, Told, TrainingPass, Unet};
use unwrong_train::{
    AdamW, Layer, LayerChoice, OptimizerKind, OptimizerOptions, Prodigy, Sample, clip, loss,
};

#[derive(Clone, Copy, Deserialize)]
struct OptimizerFacts {
    lr: f64,
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    max_grad_norm: f64,
}

/// The demo's networks with the oracle's matrices, batch and conditioning.
struct Case {
    goldens: Goldens,
    unet: Unet,
    encoders: [(Network, TextEncoder); 2],
    layers: Vec<Layer>,
    rank: usize,
    scale: f64,
    noisy: Tensor,
    samples: Vec<Sample>,
    timesteps: Vec<f32>,
}

impl Case {
    fn open(goldens: &str, layers: LayerChoice) -> Self {
        let folder = root().join("crates/demo/model/base");
        let parts = ModelParts::open_folder(&Folder::disk(&folder)).unwrap();
        let unet = Unet::load(&parts.unet.0, &parts.unet.1).unwrap();
        let encoder = |network, parts: Option<&_>| {
            let (config, weights): &(TextEncoderConfig, Weights) = parts.unwrap();
            (network, TextEncoder::load(config, weights).unwrap())
        };
        let encoders = [
            encoder(Network::TextEncoder, parts.text_encoder.as_ref()),
            encoder(Network::TextEncoder2, parts.text_encoder_2.as_ref()),
        ];
        let layers = layers.layers(&Targets::of(&parts)).unwrap();
        let goldens = Goldens::open(goldens);
        let rank = goldens.fact("rank").as_u64().unwrap() as usize;
        let scale = goldens.fact("alpha").as_f64().unwrap() / rank as f64;
        let timesteps = serde_json::from_value(goldens.fact("timesteps").clone()).unwrap();
        let inputs = Goldens::open("training");
        let noise = nhwc(&inputs.tensor("input.noise"));
        let pictures: Vec<Vec<f32>> = noise.flatten_from(1).unwrap().to_vec2().unwrap();
        let sample = |target| Sample { timestep: 0, noisy: vec![], target, weight: 1.0 };
        let samples = pictures.into_iter().map(sample).collect();
        let noisy = nhwc(&inputs.tensor("noisy"));
        Self { goldens, unet, encoders, layers, rank, scale, noisy, samples, timesteps }
    }

    /// The matrices the oracle starts with, `down` and `up` of every layer in turn.
    fn start(&self) -> Vec<Vec<f32>> {
        let numbers = |seed: usize, count: usize, scale: f32| -> Vec<f32> {
            (0..count as u64).map(|index| scale * invented(seed as u64, index)).collect()
        };
        let matrices = self.layers.iter().enumerate().flat_map(|(number, layer)| {
            [
                numbers(2 * number, layer.down(self.rank).iter().product(), 0.1),
                numbers(2 * number + 1, layer.up(self.rank).iter().product(), 0.05),
            ]
        });
        matrices.collect()
    }

    /// Loss and gradients of matrices, told the features of a golden.
    fn gradients(&self, ops: Ops, tensors: &[Vec<f32>]) -> (f64, Vec<Vec<f32>>) {
        let inputs = Goldens::open("unet_base");
        let prompt_embeds = &inputs.tensor("input.encoder_hidden_states");
        let pooled_embeds = &inputs.tensor("input.text_embeds");
        self.gradients_told(ops, tensors, Told::Features { prompt_embeds, pooled_embeds })
    }

    /// Loss and gradients of matrices.
    fn gradients_told(
        &self,
        ops: Ops,
        tensors: &[Vec<f32>],
        told: Told<'_>,
    ) -> (f64, Vec<Vec<f32>>) {
        let mut trained = Trained::default();
        for (layer, [down, up]) in self.layers.iter().zip(tensors.as_chunks::<2>().0) {
            let matrix = |values: &[f32], shape: Vec<usize>| {
                Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
            };
            let down = matrix(down, layer.down(self.rank));
            let up = matrix(up, layer.up(self.rank));
            let branch = Branch { down, up, scale: self.scale, dropout: None };
            trained.insert(layer.network, &layer.name, branch);
        }
        let mut value = 0.0;
        let (trained, latents, timesteps) = (&trained, &self.noisy, &self.timesteps);
        let time_ids = &Goldens::open("unet_base").tensor("input.time_ids");
        let pass = TrainingPass { ops, trained, latents, timesteps, told, time_ids, keep: 0 };
        let found = self
            .unet
            .gradients(&pass, |answer| {
                let answers = answer.flatten_all()?.to_vec1::<f32>()?;
                let (sum, gradient) = loss(&answers, &self.samples, 1.0);
                value = sum;
                Ok(Tensor::from_vec(gradient, answer.shape(), answer.device())?)
            })
            .unwrap();
        assert_eq!(found.len(), self.layers.len());
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let gradients = self.layers.iter().flat_map(|layer| {
            let found = found.get(layer.network, &layer.name).unwrap();
            [flat(&found.down), flat(&found.up)]
        });
        (value, gradients.collect())
    }

    /// The largest distance from the golden `kind` of any matrix, relative to its length, as far
    /// as the golden has it.
    fn largest_difference(&self, kind: &str, tensors: &[Vec<f32>]) -> f64 {
        let mut most: f64 = 0.0;
        for (layer, pair) in self.layers.iter().zip(tensors.as_chunks::<2>().0) {
            for (which, found) in ["down", "up"].into_iter().zip(pair) {
                let name = format!("{kind}.{}.{which}", self.golden_name(layer));
                let shape = if which == "down" { Layer::down } else { Layer::up };
                let whole =
                    Tensor::from_slice(found, shape(layer, self.rank), &Device::Cpu).unwrap();
                self.goldens.compare(&name, &whole); // its shape, and the length of all of it
                let (mut distance, mut length) = (0.0, 0.0);
                for (place, expected) in self.goldens.kept(&name) {
                    distance += f64::from(found[place] - expected).powi(2);
                    length += f64::from(expected).powi(2);
                }
                most = most.max((distance / length).sqrt());
            }
        }
        most
    }

    /// What a golden calls a layer.
    fn golden_name(&self, layer: &Layer) -> String {
        let name = layer.name.trim_start_matches("text_model.");
        let whole = format!("{}/{name}", layer.network.part());
        if self.goldens.has(&format!("gradient.{whole}.up")) { whole } else { name.to_owned() }
    }
}

/// The demo, for its tokenizers.
fn pipeline() -> Pipeline {
    let request = GenerateRequest {
        model: Some(root().join("crates/demo/model/base").display().to_string()),
        refiner: Some("none".to_owned()),
        ..GenerateRequest::new("")
    };
    Pipeline::open(&request, &Catalog::new(), &Options::default()).unwrap()
}

/// A number in −1 … 1: those of splitmix64, as the oracle's script makes them.
fn invented(seed: u64, index: u64) -> f32 {
    let z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let z = z ^ (z >> 31);
    (z >> 40) as f32 / (1 << 23) as f32 - 1.0
}

#[test]
fn the_gradient_of_every_matrix_is_that_of_peft() {
    let case = Case::open("training", LayerChoice::default());
    let start = case.start();
    let losses: Vec<f64> = serde_json::from_value(case.goldens.fact("losses").clone()).unwrap();
    for ops in [Ops::Cpu, Ops::Reference] {
        let (value, gradients) = case.gradients(ops, &start);
        assert!((value / losses[0] - 1.0).abs() < 1e-5, "{value}, expected {}", losses[0]);
        let most = case.largest_difference("gradient", &gradients);
        println!("| LoRA gradients, {ops:?} | {most:.1e} |");
        assert!(most < 1e-3, "{ops:?}: {most}");
    }
}

#[test]
fn gradients_of_encoders_convolutions_and_embeddings_are_those_of_peft() {
    let every = LayerChoice {
        attention: true,
        feed_forward: true,
        convolutions: true,
        embeddings: true,
        text_encoders: true,
    };
    let case = Case::open("training_networks", every);
    let of = |network| case.layers.iter().filter(move |layer| layer.network == network);
    assert!(Network::ALL.into_iter().all(|network| of(network).count() > 0));
    assert_eq!(case.goldens.names().count(), 2 * case.layers.len());

    let captions: Vec<String> =
        serde_json::from_value(case.goldens.fact("captions").clone()).unwrap();
    let pipeline = pipeline();
    let ids = [0, 1].map(|encoder| {
        let row = |caption: &String| pipeline.caption_ids(caption)[encoder].clone();
        captions.iter().map(row).collect::<Vec<_>>()
    });
    let readings = [0, 1].map(|index| {
        let (network, encoder) = &case.encoders[index];
        let expected = case.goldens.fact("ids")[network.part()].clone();
        assert_eq!(serde_json::to_value(&ids[index]).unwrap(), expected, "ids of {network:?}");
        Reading { network: *network, encoder, ids: &ids[index] }
    });
    let expected = case.goldens.fact("loss").as_f64().unwrap();
    for ops in [Ops::Cpu, Ops::Reference] {
        let told = Told::Captions(&readings);
        let (value, gradients) = case.gradients_told(ops, &case.start(), told);
        assert!((value / expected - 1.0).abs() < 1e-5, "{value}, expected {expected}");
        let most = case.largest_difference("gradient", &gradients);
        println!("| gradients of all networks, {ops:?} | {most:.1e} |");
        assert!(most < 1e-3, "{ops:?}: {most}");
    }
}

#[test]
fn ten_steps_end_where_peft_and_adamw_end() {
    let case = Case::open("training", LayerChoice::default());
    let facts: OptimizerFacts =
        serde_json::from_value(case.goldens.fact("optimizer").clone()).unwrap();
    let losses: Vec<f64> = serde_json::from_value(case.goldens.fact("losses").clone()).unwrap();
    assert!(losses[losses.len() - 1] < 0.9 * losses[0], "the oracle learns nothing");
    for ops in [Ops::Cpu, Ops::Reference] {
        let mut tensors = case.start();
        let sizes: Vec<_> = tensors.iter().map(Vec::len).collect();
        let OptimizerFacts { lr, betas, eps, weight_decay, max_grad_norm } = facts;
        let mut optimizer = AdamW::new(
            OptimizerOptions { kind: OptimizerKind::AdamW, betas, eps, weight_decay },
            &sizes,
        );
        for expected in &losses[..losses.len() - 1] {
            let (value, mut gradients) = case.gradients(ops, &tensors);
            assert!((value / expected - 1.0).abs() < 1e-3, "{value}, expected {expected}");
            clip(&mut gradients, max_grad_norm);
            optimizer.step(&mut tensors, &gradients, &vec![lr; sizes.len()]);
        }
        let most = case.largest_difference("end", &tensors);
        println!("| LoRA after ten steps, {ops:?} | {most:.1e} |");
        assert!(most < 1e-3, "{ops:?}: {most}");
    }
}

#[derive(Deserialize)]
struct ProdigyFacts {
    start: Vec<Vec<f32>>,
    target: Vec<Vec<f32>>,
    steepness: Vec<f32>,
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    warmup: u64,
    shown: Vec<ProdigyStep>,
}

#[derive(Deserialize)]
struct ProdigyStep {
    step: u64,
    distance: f64,
    values: Vec<Vec<f32>>,
}

/// `parity/make_prodigy.py`.
#[test]
fn prodigy_goes_where_prodigyopt_goes() {
    let text = std::fs::read_to_string(root().join("parity/goldens/prodigy.json")).unwrap();
    let facts: ProdigyFacts = serde_json::from_str(&text).unwrap();
    let ProdigyFacts { start, target, steepness, betas, eps, weight_decay, .. } = &facts;
    let (betas, eps, weight_decay) = (*betas, *eps, *weight_decay);
    let options = OptimizerOptions { kind: OptimizerKind::Prodigy, betas, eps, weight_decay };
    let mut optimizer = Prodigy::new(options, start);
    let mut tensors = start.clone();
    let (mut step, mut most) = (0, 0.0_f64);
    for shown in &facts.shown {
        while step < shown.step {
            let slopes = tensors.iter().zip(target).zip(steepness);
            let gradients: Vec<Vec<f32>> = slopes
                .map(|((x, goal), slope)| {
                    x.iter().zip(goal).map(|(x, y)| slope * (x - y)).collect()
                })
                .collect();
            let rate = (step as f64 / facts.warmup as f64).min(1.0);
            optimizer.step(&mut tensors, &gradients, rate);
            step += 1;
        }
        most = most.max((optimizer.distance() / shown.distance - 1.0).abs());
        for (found, expected) in tensors.iter().flatten().zip(shown.values.iter().flatten()) {
            most = most.max(f64::from((found - expected).abs()));
        }
    }
    let [first, last] = [&facts.shown[0], &facts.shown[facts.shown.len() - 1]];
    assert!(last.distance > 100.0 * first.distance, "the oracle found no rate");
    println!("| Prodigy against prodigyopt after {step} steps | {most:.1e} |");
    assert!(most < 1e-4, "{most}");
}
