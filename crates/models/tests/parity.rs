//! Every network of the demo model against diffusers and transformers, block by block, on both
//! implementations of the operations.
//!
//! `cargo test --release -p unwrong-models --test parity -- --nocapture --test-threads 1`
//! prints the table: stage, tensors compared, largest difference relative to the largest value,
//! allowed, where.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use unwrong_models::files::{Folder, ModelParts};
use unwrong_models::layers::Run;
use unwrong_models::lora::{LayerAdapters, LoraFile, Targets, attach};
use unwrong_models::ops::Ops;
use unwrong_models::text_encoder::{TextEncoder, TokenRow};
use unwrong_models::unet::Unet;
use unwrong_models::vae::Vae;

use common::{Goldens, Row, nchw, nhwc, root};

/// Both sides compute in f32; what is left is the order of sums.
const F32: f64 = 1e-4;

const BOTH: [Ops; 2] = [Ops::Reference, Ops::Cpu];

/// Modules of diffusers that are no block here: fused into the next, or plain arithmetic.
const NOT_OBSERVED: [&str; 5] =
    ["time_proj", "add_time_proj", "conv_norm_out", "post_quant_conv", "quant_conv"];

fn parts(folder: &str) -> ModelParts {
    ModelParts::open_folder(&Folder::disk(root().join("crates/demo/model").join(folder))).unwrap()
}

/// Runs a network while comparing every block it shows with the golden `prefix + name`.
fn observed(goldens: &Goldens, prefix: &str, row: Row, ops: Ops, body: impl FnOnce(&Run<'_>)) {
    let none = LayerAdapters::default();
    let row = RefCell::new(row);
    let seen = RefCell::new(BTreeSet::new());
    let observer = |name: &str, output: &Tensor| {
        let golden = format!("{prefix}{name}");
        let output = if output.rank() == 4 { nchw(output) } else { output.clone() };
        row.borrow_mut().add(name, goldens.compare(&golden, &output));
        seen.borrow_mut().insert(golden);
    };
    body(&Run { observer: Some(&observer), ..Run::new(ops, &none) });

    for name in goldens.names().filter_map(|name| name.strip_prefix(prefix)) {
        let last = name.rsplit('.').next().unwrap();
        let expected = !NOT_OBSERVED.contains(&last);
        assert!(!expected || seen.borrow().contains(&format!("{prefix}{name}")), "{name} not seen");
    }
    row.into_inner().print();
}

fn check_unet(folder: &str, name: &str) {
    let parts = parts(folder);
    let unet = Unet::load(&parts.unet.0, &parts.unet.1).unwrap();
    let goldens = Goldens::open(name);
    let latents = nhwc(&goldens.tensor("input.latents"));
    let embeds = goldens.tensor("input.encoder_hidden_states");
    let pooled = goldens.tensor("input.text_embeds");
    let time_ids = goldens.tensor("input.time_ids");
    let blocks_at = goldens.fact("blocks_at").as_f64().unwrap() as f32;

    for ops in BOTH {
        observed(
            &goldens,
            "block.",
            Row::new(format!("{name}, blocks, {ops:?}"), F32),
            ops,
            |run| {
                let prepared = unet.prepare(run, &embeds, &pooled, &time_ids).unwrap();
                unet.forward(run, &latents, blocks_at, &prepared).unwrap();
            },
        );

        let none = LayerAdapters::default();
        let run = Run::new(ops, &none);
        let prepared = unet.prepare(&run, &embeds, &pooled, &time_ids).unwrap();
        let mut row = Row::new(format!("{name}, output, {ops:?}"), F32);
        for timestep in goldens.fact("timesteps").as_array().unwrap() {
            let timestep = timestep.as_f64().unwrap() as f32;
            let output = unet.forward(&run, &latents, timestep, &prepared).unwrap();
            let golden = format!("output.{timestep}");
            row.add(&golden, goldens.compare(&golden, &nchw(&output)));
        }
        let wide = nhwc(&goldens.tensor("input.latents.12x20"));
        let output = unet.forward(&run, &wide, blocks_at, &prepared).unwrap();
        row.add("output.12x20", goldens.compare("output.12x20", &nchw(&output)));
        row.print();
    }
}

#[test]
fn the_base_unet_equals_diffusers_after_every_block() {
    check_unet("base", "unet_base");
}

#[test]
fn the_refiner_unet_equals_diffusers_after_every_block() {
    check_unet("refiner", "unet_refiner");
}

#[test]
fn the_vae_decoder_equals_diffusers_after_every_block() {
    let parts = parts("base");
    let (config, weights) = parts.vae.as_ref().unwrap();
    let vae = Vae::load(config, weights).unwrap();
    let goldens = Goldens::open("vae");
    for ops in BOTH {
        let latents = nhwc(&goldens.tensor("decode.input"));
        let row = Row::new(format!("VAE decode, blocks, {ops:?}"), F32);
        observed(&goldens, "decode.block.", row, ops, |run| {
            let pixels = vae.decode(run, &latents).unwrap();
            goldens.compare("decode.output", &nchw(&pixels));
        });

        let none = LayerAdapters::default();
        let wide = nhwc(&goldens.tensor("decode.12x20.input"));
        let pixels = vae.decode(&Run::new(ops, &none), &wide).unwrap();
        let mut row = Row::new(format!("VAE decode, output, {ops:?}"), F32);
        row.add("decode.12x20", goldens.compare("decode.12x20.output", &nchw(&pixels)));
        row.print();
    }
}

#[test]
fn the_vae_encoder_equals_diffusers_after_every_block() {
    let parts = parts("base");
    let (config, weights) = parts.vae.as_ref().unwrap();
    let vae = Vae::load(config, weights).unwrap();
    let goldens = Goldens::open("vae");
    let pixels = ((goldens.tensor("encode.input") / 127.5).unwrap() - 1.0).unwrap();
    for ops in BOTH {
        let row = Row::new(format!("VAE encode, blocks, {ops:?}"), F32);
        let mut output = Row::new(format!("VAE encode, output, {ops:?}"), F32);
        observed(&goldens, "encode.block.", row, ops, |run| {
            let posterior = vae.encode(run, &pixels.unsqueeze(0).unwrap()).unwrap();
            output.add("mean", goldens.compare("encode.mean", &nchw(&posterior.mean)));
            output.add("std", goldens.compare("encode.std", &nchw(&posterior.std)));
        });
        output.print();
    }
}

#[test]
fn both_text_encoders_equal_transformers_after_every_layer() {
    let parts = parts("base");
    let goldens = Goldens::open("encoders");
    let encoders =
        [("text_encoder", &parts.text_encoder), ("text_encoder_2", &parts.text_encoder_2)];
    for ops in BOTH {
        for (name, encoder) in encoders {
            let (config, weights) = encoder.as_ref().unwrap();
            let encoder = TextEncoder::load(config, weights).unwrap();
            let mut row = Row::new(format!("{name}, {ops:?}"), F32);
            for (prompt, facts) in goldens.fact("prompts").as_object().unwrap() {
                let ids: Vec<u32> = serde_json::from_value(facts[name].clone()).unwrap();
                let golden = |what: &str| format!("{prompt}.{name}.{what}");

                let none = LayerAdapters::default();
                let states = RefCell::new(Vec::new());
                let observer = |_: &str, output: &Tensor| states.borrow_mut().push(output.clone());
                let run = Run { observer: Some(&observer), ..Run::new(ops, &none) };
                let rows = [TokenRow { ids: &ids, mask: None, added: None }];
                let penultimate = encoder.encode(&run, &rows, &Device::Cpu).unwrap();
                let pooled = encoder.pool(&run, &penultimate, &rows).unwrap();

                let states = states.borrow();
                // Embeddings, then every layer but the last.
                assert_eq!(states.len(), config.num_hidden_layers, "a layer was skipped");
                for (layer, state) in states.iter().enumerate() {
                    let golden = golden(&format!("hidden_states.{layer}"));
                    row.add(&golden, goldens.compare(&golden, state));
                }
                let golden_penultimate =
                    golden(&format!("hidden_states.{}", config.num_hidden_layers - 1));
                row.add("penultimate", goldens.compare(&golden_penultimate, &penultimate));
                assert_eq!(pooled.is_some(), config.has_projection);
                if let Some(pooled) = pooled {
                    row.add("pooled", goldens.compare(&golden("text_embeds"), &pooled));
                }
            }
            row.print();
        }
    }
}

#[test]
fn a_row_of_tokens_comes_out_the_same_alone_and_among_others() {
    let parts = parts("base");
    let (config, weights) = parts.text_encoder_2.as_ref().unwrap();
    let encoder = TextEncoder::load(config, weights).unwrap();
    let none = LayerAdapters::default();
    let run = Run::new(Ops::Cpu, &none);
    let bits = |tensor: &Tensor| -> Vec<u32> {
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };

    // More rows than go through the layers together; texts end in different places.
    let end = 49_407;
    let ids: Vec<Vec<u32>> = (0..19_u32)
        .map(|row| (0..77).map(|t| if t > 3 * row { end } else { 7 * row + t }).collect())
        .collect();
    let hides = |row: usize, token: usize| row % 3 == 1 && (4..9).contains(&token);
    let masks: Vec<Vec<bool>> =
        (0..19).map(|row| (0..77).map(|token| !hides(row, token)).collect()).collect();
    let rows: Vec<TokenRow<'_>> = (0..19)
        .map(|row| TokenRow {
            ids: &ids[row],
            mask: (row % 3 == 1).then_some(&*masks[row]),
            added: None,
        })
        .collect();
    let states = encoder.encode(&run, &rows, &Device::Cpu).unwrap();
    let pooled = encoder.pool(&run, &states, &rows).unwrap().unwrap();
    for (index, row) in rows.iter().enumerate() {
        let alone = encoder.encode(&run, &[*row], &Device::Cpu).unwrap();
        assert_eq!(bits(&alone), bits(&states.get(index).unwrap()), "row {index}");
        let alone = encoder.pool(&run, &alone, &[*row]).unwrap().unwrap();
        assert_eq!(bits(&alone), bits(&pooled.get(index).unwrap()), "pooled {index}");
    }

    // A token looks back only: a row may be cut short.
    let short = [TokenRow { ids: &ids[3][..23], mask: None, added: None }];
    let alone = encoder.encode(&run, &short, &Device::Cpu).unwrap();
    let begins = states.get(3).unwrap().narrow(0, 0, 23).unwrap();
    assert_eq!(bits(&alone), bits(&begins), "a row cut short");
}

/// The LoRA files of the goldens, and the demo model's own: name, stem of the goldens, scales.
fn lora_files(goldens: &Goldens) -> Vec<(PathBuf, String, Vec<f64>)> {
    let scales: Vec<f64> = serde_json::from_value(goldens.fact("scales").clone()).unwrap();
    let folder = root().join("parity/goldens");
    let files = goldens.fact("files").as_object().unwrap();
    let mut all: Vec<_> = files
        .iter()
        .map(|(name, facts)| {
            let stem = facts["golden"].as_str().unwrap().to_owned();
            (folder.join(format!("{name}.safetensors")), stem, scales.clone())
        })
        .collect();
    let own = root().join("crates/demo/model/wrong-lora.safetensors");
    all.push((own, "wrong".to_owned(), vec![1.0, 0.5, -0.7]));
    all
}

#[test]
fn every_lora_dialect_gives_the_output_of_diffusers() {
    let parts = parts("base");
    let unet = Unet::load(&parts.unet.0, &parts.unet.1).unwrap();
    let targets = Targets::of(&parts);
    let inputs = Goldens::open("unet_base");
    let goldens = Goldens::open("lora");
    let latents = nhwc(&inputs.tensor("input.latents"));
    let timestep = goldens.fact("timestep").as_f64().unwrap() as f32;
    for ops in BOTH {
        let mut row = Row::new(format!("base UNet with LoRA, {ops:?}"), F32);
        for (path, stem, scales) in lora_files(&goldens) {
            for scale in scales {
                let file = LoraFile::open(&path).unwrap();
                let (adapters, applied) = attach(&[(file, scale)], &targets).unwrap();
                assert_eq!(applied[0].applied, applied[0].total, "{applied:?}");
                let run = Run::new(ops, &adapters.unet);
                let prepared = unet
                    .prepare(
                        &run,
                        &inputs.tensor("input.encoder_hidden_states"),
                        &inputs.tensor("input.text_embeds"),
                        &inputs.tensor("input.time_ids"),
                    )
                    .unwrap();
                let output = unet.forward(&run, &latents, timestep, &prepared).unwrap();
                let golden = format!("{stem}.{scale:?}.output");
                row.add(&golden, goldens.compare(&golden, &nchw(&output)));
            }
        }
        row.print();
    }
}

#[test]
fn lora_scale_zero_changes_not_a_bit() {
    let parts = parts("base");
    let unet = Unet::load(&parts.unet.0, &parts.unet.1).unwrap();
    let inputs = Goldens::open("unet_base");
    let own = root().join("crates/demo/model/wrong-lora.safetensors");
    let loras = [(LoraFile::open(&own).unwrap(), 0.0)];
    let (adapters, applied) = attach(&loras, &Targets::of(&parts)).unwrap();
    assert_eq!(applied[0].applied, applied[0].total);
    let output = |adapters: &LayerAdapters| {
        let run = Run::new(Ops::Cpu, adapters);
        let prepared = unet
            .prepare(
                &run,
                &inputs.tensor("input.encoder_hidden_states"),
                &inputs.tensor("input.text_embeds"),
                &inputs.tensor("input.time_ids"),
            )
            .unwrap();
        let latents = nhwc(&inputs.tensor("input.latents"));
        let output = unet.forward(&run, &latents, 501.0, &prepared).unwrap();
        output.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(output(&adapters.unet)), bits(output(&LayerAdapters::default())));
}

#[test]
fn a_prompt_of_zeros_counts_the_same_beside_another() {
    let parts = parts("base");
    let unet = Unet::load(&parts.unet.0, &parts.unet.1).unwrap();
    let inputs = Goldens::open("unet_base");
    let none = LayerAdapters::default();
    let run = Run::new(Ops::Cpu, &none);
    let input = |name: &str| inputs.tensor(&format!("input.{name}")).narrow(0, 0, 1).unwrap();
    let latents = nhwc(&input("latents"));
    let [embeds, pooled, ids] = ["encoder_hidden_states", "text_embeds", "time_ids"].map(input);
    let twice = |tensor: &Tensor| Tensor::cat(&[tensor, tensor], 0).unwrap();
    let bits = |tensor: &Tensor| -> Vec<u32> {
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };

    let both = [embeds.zeros_like().unwrap(), embeds];
    let together = Tensor::cat(&both, 0).unwrap();
    let prepared = unet.prepare(&run, &together, &twice(&pooled), &twice(&ids)).unwrap();
    let together = unet.forward(&run, &twice(&latents), 501.0, &prepared).unwrap();
    for (index, alone) in both.iter().enumerate() {
        let prepared = unet.prepare(&run, alone, &pooled, &ids).unwrap();
        let alone = unet.forward(&run, &latents, 501.0, &prepared).unwrap();
        assert_eq!(bits(&alone), bits(&together.get(index).unwrap()), "prompt {index}");
    }
}

#[test]
fn a_fused_operation_refuses_a_tensor_that_tracks_gradients() {
    let parts = parts("base");
    let (config, weights) = parts.vae.as_ref().unwrap();
    let vae = Vae::load(config, weights).unwrap();
    let latents = Tensor::zeros((1, 2, 2, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    let latents = candle_core::Var::from_tensor(&latents).unwrap();
    let none = LayerAdapters::default();
    let decoded = |ops| vae.decode(&Run::new(ops, &none), latents.as_tensor());
    let error = decoded(Ops::Cpu).unwrap_err().to_string();
    assert!(error.contains("tracks gradients"), "{error}");
    let gradients = decoded(Ops::Reference).unwrap().sum_all().unwrap().backward().unwrap();
    let gradient = gradients.get(latents.as_tensor()).unwrap();
    let size = gradient.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(size > 0.0, "the reference path must carry gradients");
}
