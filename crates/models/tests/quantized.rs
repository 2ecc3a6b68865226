//! What the UNets lose when their linear layers are computed in integers.
//!
//! `cargo test --release -p unwrong-models --test quantized -- --nocapture` prints the prices:
//! root mean square of the difference of the outputs, relative to that of the exact one.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use half::f16;
use serde::Deserialize;
use unwrong_models::files::{Folder, FrozenWeight, ModelParts};
use unwrong_models::layers::Run;
use unwrong_models::lora::LayerAdapters;
use unwrong_models::ops::{self, Activation, Ops, Product};
use unwrong_models::unet::{Prepared, Unet};

use common::{Goldens, nhwc, root};

fn open(folder: &Path) -> Unet {
    let parts = ModelParts::open_folder(&Folder::disk(folder)).unwrap();
    Unet::load(&parts.unet.0, &parts.unet.1).unwrap()
}

fn prepare(unet: &Unet, ops: Ops, goldens: &Goldens, prefix: &str) -> Prepared {
    let input = |what: &str| goldens.tensor(&format!("{prefix}input.{what}"));
    let (embeds, pooled) = (input("encoder_hidden_states"), input("text_embeds"));
    let none = LayerAdapters::default();
    unet.prepare(&Run::new(ops, &none), &embeds, &pooled, &input("time_ids")).unwrap()
}

fn forward(unet: &Unet, ops: Ops, latents: &Tensor, prepared: &Prepared) -> Vec<f32> {
    let none = LayerAdapters::default();
    let output = unet.forward(&Run::new(ops, &none), latents, 501.0, prepared).unwrap();
    output.flatten_all().unwrap().to_vec1().unwrap()
}

/// The price of integers for one step, printed.
fn price(what: &str, unet: &Unet, latents: &Tensor, prepared: &Prepared) -> f64 {
    let exact = forward(unet, Ops::Cpu, latents, prepared);
    let rounded = forward(unet, Ops::Quantized, latents, prepared);
    let squares = |values: &mut dyn Iterator<Item = f32>| -> f64 {
        values.map(|value| f64::from(value).powi(2)).sum()
    };
    let difference = squares(&mut exact.iter().zip(&rounded).map(|(a, b)| a - b));
    let price = (difference / squares(&mut exact.iter().copied())).sqrt();
    println!("| {what} | {:.4} % |", 100.0 * price);
    price
}

#[test]
fn integers_change_the_demos_unets_by_less_than_half_a_percent() {
    for (folder, name) in [("base", "unet_base"), ("refiner", "unet_refiner")] {
        let unet = open(&root().join("crates/demo/model").join(folder));
        let goldens = Goldens::open(name);
        let prepared = prepare(&unet, Ops::Quantized, &goldens, "");
        let latents = nhwc(&goldens.tensor("input.latents"));
        let price = price(&format!("demo {folder}"), &unet, &latents, &prepared);
        assert!(price > 0.0, "nothing was computed in integers");
        assert!(price < 5e-3, "{price}");
    }
}

#[test]
fn the_tokens_of_a_picture_decide_and_not_the_batch() {
    let (inputs, outputs) = (40, 24);
    let values = |count: usize| noise([1, 1, 1, count]).flatten_all().unwrap();
    let weight = values(outputs * inputs).to_vec1::<f32>().unwrap();
    let weight = FrozenWeight::from_f32(&weight, &[outputs, inputs]);
    let product = Product { weight: &weight, bias: None, adapter: None };
    let linear = |ops, x: &Tensor| -> Vec<f32> {
        let y = ops::linear(ops, x, product, Activation::None, None).unwrap();
        y.flatten_all().unwrap().to_vec1().unwrap()
    };
    let many = values(4 * 64 * inputs).reshape((4, 64, inputs)).unwrap();
    let (exact, rounded) = (linear(Ops::Cpu, &many), linear(Ops::Quantized, &many));
    assert_ne!(exact, rounded);
    let alone = linear(Ops::Quantized, &many.narrow(0, 2, 1).unwrap());
    assert_eq!(alone, rounded[2 * 64 * outputs..3 * 64 * outputs]);
    // As many rows, but of eight pictures with few tokens each; and of no picture at all.
    let few = many.reshape((8, 32, inputs)).unwrap();
    assert_eq!(linear(Ops::Quantized, &few), exact);
    let embeddings = many.reshape((256, inputs)).unwrap();
    assert_eq!(linear(Ops::Quantized, &embeddings), exact);
}

/// Standard normal enough for a UNet: sums of four uniform numbers.
fn noise(shape: [usize; 4]) -> Tensor {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| ((0..4).map(|_| uniform()).sum::<f32>() - 2.0) * 3_f32.sqrt())
        .collect();
    Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap()
}

#[test]
#[ignore = "needs 10 GB of random weights, and 5 more: cargo xtask full-size"]
fn integers_change_a_full_size_unet_with_outliers_by_less_than_two_percent() {
    let folder = std::env::var_os("UNWRONG_FULL_SIZE").expect("UNWRONG_FULL_SIZE names the folder");
    let folder = PathBuf::from(folder);
    let goldens = Goldens::open_at(&folder, "oracle");
    let latents = noise([1, 64, 64, 4]);
    let unet = open(&folder.join("base"));
    let prepared = prepare(&unet, Ops::Quantized, &goldens, "base.");
    let batch = goldens.tensor("base.input.time_ids").dim(0).unwrap();
    let latents = latents.repeat((batch, 1, 1, 1)).unwrap();
    let price_without = price("full-size base", &unet, &latents, &prepared);
    assert!(price_without < 2e-2, "{price_without}");

    let copy = tempfile::tempdir_in(&folder).unwrap();
    let base = copy.path().join("base");
    copy_folder(&folder.join("base"), &base);
    add_outliers(&base.join("unet/diffusion_pytorch_model.safetensors"));
    let unet = open(&base);
    let prepared = prepare(&unet, Ops::Quantized, &goldens, "base.");
    let price = price("full-size base with outlier channels", &unet, &latents, &prepared);
    assert!(price < 2e-2, "{price}");
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else if entry.path().to_string_lossy().contains("text_encoder") {
            std::os::unix::fs::symlink(entry.path(), target).unwrap();
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// A file of f16 weights whose tensors are changed in place.
struct WeightFile {
    file: File,
    start: u64,
    entries: BTreeMap<String, serde_json::Value>,
}

impl WeightFile {
    fn open(path: &Path) -> Self {
        let mut file = File::options().read(true).write(true).open(path).unwrap();
        let mut length = [0; 8];
        file.read_exact(&mut length).unwrap();
        let length = u64::from_le_bytes(length);
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).unwrap();
        let entries = serde_json::from_slice(&header).unwrap();
        Self { file, start: 8 + length, entries }
    }

    /// Multiplies the numbers of the last axis at some indices.
    fn scale(&mut self, name: &str, factors: &[(usize, f32)]) {
        let entry: Entry = serde_json::from_value(self.entries[name].clone()).unwrap();
        assert_eq!(entry.dtype, "F16");
        let mut bytes = vec![0; (entry.data_offsets[1] - entry.data_offsets[0]) as usize];
        self.file.seek(SeekFrom::Start(self.start + entry.data_offsets[0])).unwrap();
        self.file.read_exact(&mut bytes).unwrap();
        for row in bytes.chunks_exact_mut(2 * entry.shape.last().unwrap()) {
            for &(channel, factor) in factors {
                let place: &mut [u8; 2] = (&mut row[2 * channel..][..2]).try_into().unwrap();
                let value = f16::from_le_bytes(*place).to_f32();
                *place = f16::from_f32(value * factor).to_le_bytes();
            }
        }
        self.file.seek(SeekFrom::Start(self.start + entry.data_offsets[0])).unwrap();
        self.file.write_all(&bytes).unwrap();
    }
}

/// Makes a few channels of every normalised token 20 to 100 times the others, as trained
/// transformers have them, and the layers that read them expect it: their columns for those
/// channels are as much smaller.
fn add_outliers(weights: &Path) {
    let mut file = WeightFile::open(weights);
    let norms = ["norm1.weight", "norm2.weight", "norm3.weight"];
    let readers: [&[&str]; 3] = [
        &["attn1.to_q.weight", "attn1.to_k.weight", "attn1.to_v.weight"],
        &["attn2.to_q.weight"],
        &["ff.net.0.proj.weight"],
    ];
    let mut count = 0;
    for name in file.entries.keys().cloned().collect::<Vec<_>>() {
        let Some(which) = norms.iter().position(|norm| name.ends_with(norm)) else { continue };
        if !name.contains("transformer_blocks") {
            continue;
        }
        let entry: Entry = serde_json::from_value(file.entries[&name].clone()).unwrap();
        let outliers: Vec<(usize, f32)> = [20.0, 40.0, 60.0, 100.0]
            .into_iter()
            .enumerate()
            .map(|(k, factor)| ((k * 307 + 11) % entry.shape[0], factor))
            .collect();
        file.scale(&name, &outliers);
        let inverse: Vec<_> =
            outliers.iter().map(|&(channel, factor)| (channel, 1.0 / factor)).collect();
        let block = name.strip_suffix(norms[which]).unwrap();
        for reader in readers[which] {
            file.scale(&format!("{block}{reader}"), &inverse);
        }
        count += 1;
    }
    assert!(count > 0, "there are no transformer blocks");
}
