//! A full-size SDXL with random weights against diffusers, block by block, and what a step costs.
//!
//! `cargo xtask full-size` makes the model and the oracle's answers outside git and runs this;
//! `UNWRONG_FULL_SIZE` names the folder.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

mod common;

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use unwrong_models::files::{Folder, ModelParts};
use unwrong_models::layers::Run;
use unwrong_models::lora::{Adapters, LayerAdapters, LoraFile, Targets, attach};
use unwrong_models::ops::Ops;
use unwrong_models::unet::Unet;
use unwrong_models::vae::Vae;

use common::{Goldens, Row, nchw, nhwc};

/// Random weights make worse sums than trained ones.
const FULL_SIZE: f64 = 1e-3;

fn folder() -> PathBuf {
    std::env::var_os("UNWRONG_FULL_SIZE").expect("UNWRONG_FULL_SIZE names the folder").into()
}

fn check(part: &str) {
    let started = Instant::now();
    let memory = Memory::watch();
    let parts = ModelParts::open_folder(&Folder::disk(folder().join(part))).unwrap();
    let unet = Unet::load(&parts.unet.0, &parts.unet.1).unwrap();
    println!("{part}: opened in {:.3} s", started.elapsed().as_secs_f64());

    let goldens = Goldens::open_at(&folder(), "oracle");
    let input = |what: &str| goldens.tensor(&format!("{part}.input.{what}"));
    let latents = nhwc(&input("latents"));
    let timestep = goldens.fact("timestep").as_f64().unwrap() as f32;

    let none = LayerAdapters::default();
    let row = RefCell::new(Row::new(format!("full-size {part}, blocks"), FULL_SIZE));
    let prefix = format!("{part}.block.");
    let observer = |name: &str, output: &Tensor| {
        let golden = format!("{prefix}{name}");
        if goldens.has(&golden) {
            let output = if output.rank() == 4 { nchw(output) } else { output.clone() };
            row.borrow_mut().add(name, goldens.compare(&golden, &output));
        }
    };
    let run = Run { observer: Some(&observer), ..Run::new(Ops::Cpu, &none) };
    let embeds = input("encoder_hidden_states");
    let prepared = unet.prepare(&run, &embeds, &input("text_embeds"), &input("time_ids")).unwrap();
    let started = Instant::now();
    unet.forward(&run, &latents, timestep, &prepared).unwrap();
    println!("{part}: step in {:.1} s, compared", started.elapsed().as_secs_f64());
    println!("{part}: {}", memory.peaks());
    row.into_inner().print();
}

#[test]
#[ignore = "needs 10 GB of random weights: cargo xtask full-size"]
fn the_full_size_base_equals_diffusers_after_every_block() {
    check("base");
}

#[test]
#[ignore = "needs 10 GB of random weights: cargo xtask full-size"]
fn the_full_size_refiner_equals_diffusers_after_every_block() {
    check("refiner");
}

/// The forms in which the wrong-LoRA went round, and their tensors: only kohya's has alphas.
const WRONG_LORAS: [(&str, usize); 3] = [
    ("processors.safetensors", 1120),
    ("pytorch_lora_weights.bin", 1120),
    ("kohya.safetensors", 1680),
];

/// Opens and attaches one of them; the seconds of the fastest of three.
fn attach_wrong_lora(name: &str, tensors: usize, targets: &Targets) -> (Adapters, f64) {
    let path = folder().join("wrong-lora").join(name);
    let runs = (0..3).map(|_| {
        let started = Instant::now();
        let file = LoraFile::open(&path).unwrap();
        let (adapters, applied) = attach(&[(file, 1.0)], targets).unwrap();
        let seconds = started.elapsed().as_secs_f64();
        let [report] = &applied[..] else { panic!("one file, {} reports", applied.len()) };
        assert_eq!((report.applied, report.total), (tensors, tensors), "{:?}", report.unapplied);
        (adapters, seconds)
    });
    runs.min_by(|one, other| one.1.total_cmp(&other.1)).unwrap()
}

#[test]
#[ignore = "needs 10 GB of random weights: cargo xtask full-size"]
fn the_wrong_lora_changes_the_full_size_base_as_in_diffusers_whatever_its_form() {
    let parts = ModelParts::open_folder(&Folder::disk(folder().join("base"))).unwrap();
    let targets = Targets::of(&parts);
    let opened = WRONG_LORAS.map(|(name, tensors)| {
        let (adapters, seconds) = attach_wrong_lora(name, tensors, &targets);
        println!("{name}: applied {tensors} of {tensors}, opened and attached in {seconds:.4} s");
        adapters
    });
    let file = LoraFile::open(&folder().join("wrong-lora").join(WRONG_LORAS[0].0)).unwrap();
    let rescaled = (0..3).map(|round| {
        let started = Instant::now();
        let (adapters, _) = attach(&[(file.clone(), 0.5 + f64::from(round))], &targets).unwrap();
        assert_eq!(adapters.unet.len(), 560);
        started.elapsed().as_secs_f64()
    });
    println!("another scale: {:.4} s", rescaled.fold(f64::INFINITY, f64::min));
    for other in &opened[1..] {
        assert_eq!(other.unet.len(), 560);
        for (layer, adapter) in opened[0].unet.iter() {
            let (one, same) = (&adapter.low_rank[0], &other.unet.get(layer).unwrap().low_rank[0]);
            assert_eq!(one.down.values_f32(), same.down.values_f32(), "{layer}");
            assert_eq!(one.up.values_f32(), same.up.values_f32(), "{layer}");
            assert_eq!(one.scale.to_bits(), same.scale.to_bits(), "{layer}");
        }
    }

    let goldens = Goldens::open_at(&folder().join("wrong-lora"), "oracle");
    let input = |what: &str| goldens.tensor(&format!("input.{what}"));
    let timestep = goldens.fact("timestep").as_f64().unwrap() as f32;
    let unet = Unet::load(&parts.unet.0, &parts.unet.1).unwrap();
    let (latents, embeds) = (nhwc(&input("latents")), input("encoder_hidden_states"));
    let output = |adapters: &LayerAdapters| {
        let run = Run::new(Ops::Cpu, adapters);
        let (pooled, sizes) = (input("text_embeds"), input("time_ids"));
        let prepared = unet.prepare(&run, &embeds, &pooled, &sizes).unwrap();
        nchw(&unet.forward(&run, &latents, timestep, &prepared).unwrap())
    };
    let with = output(&opened[0].unet);
    let mut row = Row::new("full-size base with the wrong-LoRA", FULL_SIZE);
    row.add("output", goldens.compare("output", &with));
    row.print();
    let without = output(&LayerAdapters::default());
    let norm =
        |tensor: &Tensor| tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    let change = norm(&(&with - &without).unwrap()) / norm(&without);
    println!("the LoRA changes the output by {:.1} %", 100.0 * change.sqrt());
    assert!(change.sqrt() > 0.05, "a LoRA that does nothing proves nothing");
}

/// Decodes and encodes one size, each within its estimate and `limit` bytes of memory.
fn check_vae([height, width]: [usize; 2], limit: u64) {
    let parts = ModelParts::open_folder(&Folder::disk(folder().join("base"))).unwrap();
    let (config, weights) = parts.vae.as_ref().unwrap();
    let vae = Vae::load(config, weights).unwrap();
    let none = LayerAdapters::default();
    let run = Run::new(Ops::Cpu, &none);
    let latents: Vec<f32> = (0..height * width * 4).map(|i| (i % 13) as f32 / 13.0 - 0.5).collect();
    let latents = Tensor::from_vec(latents, (1, height, width, 4), &Device::Cpu).unwrap();
    let watched = |what: &str, estimate: u64, body: &dyn Fn() -> Tensor| {
        let memory = Memory::watch();
        let started = Instant::now();
        let output = body();
        let seconds = started.elapsed().as_secs_f64();
        let peak = memory.anonymous.load(Ordering::Relaxed);
        let sum = output.abs().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        println!(
            "VAE {what} {}x{}: {seconds:.2} s, estimate {:.2} GB, {}; mean {sum}",
            8 * width,
            8 * height,
            estimate as f64 / 1e9,
            memory.peaks(),
        );
        assert!(peak <= estimate && peak <= limit, "{what} takes {peak} bytes");
        output
    };
    let estimate = vae.plan_decode([height, width], None).bytes;
    let pixels = watched("decode", estimate, &|| vae.decode(&run, &latents).unwrap());
    let estimate = vae.plan_encode([height, width], None).bytes;
    watched("encode", estimate, &|| vae.encode(&run, &pixels).unwrap().mean);
}

#[test]
#[ignore = "needs 10 GB of random weights: cargo xtask full-size"]
fn the_full_size_vae_stays_within_its_memory() {
    // The bar at the native size; other sizes against the estimate alone.
    check_vae([128, 128], 1_600_000_000);
    check_vae([25, 9], u64::MAX);
    check_vae([64, 64], u64::MAX);
    check_vae([88, 90], u64::MAX);
}

/// Peak memory of this process, sampled from `/proc`.
struct Memory {
    stop: Arc<AtomicBool>,
    anonymous: Arc<AtomicU64>,
}

impl Memory {
    fn watch() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let anonymous = Arc::new(AtomicU64::new(0));
        let (stopped, peak) = (Arc::clone(&stop), Arc::clone(&anonymous));
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                peak.fetch_max(status("RssAnon:"), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, anonymous }
    }

    fn peaks(&self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        format!(
            "peak anonymous {:.2} GB, peak resident {:.2} GB",
            gigabytes(self.anonymous.load(Ordering::Relaxed)),
            gigabytes(status("VmHWM:"))
        )
    }
}

/// A line of `/proc/self/status`, in bytes; 0 where there is no such file.
fn status(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|text| text.strip_prefix(line));
    value.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0)
        * 1024
}
