//! What a training leaves to look at: samples, logs, the loss, a card. None of it changes the LoRA.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::train::{TRAINING, bytes, pictures, train};
use crate::{SMALL, command, unwrong};

/// Two prompts, drawn quickly.
const SAMPLES: [&str; 8] = [
    "--sample-prompt",
    "a red apple",
    "--sample-prompt",
    "a \"blue\" star",
    "--sample-every",
    "3",
    "--sample-steps",
    "1",
];

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn watching_a_training_changes_no_byte_of_its_lora() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    train(folder.path(), "plain.safetensors", &[]).done();
    fs::create_dir(folder.path().join("watched")).unwrap();
    let more = [&SAMPLES[..], &["--log-dir", "runs"]].concat();
    train(folder.path(), "watched/plain.safetensors", &more).done();
    let (plain, watched) = (folder.path(), folder.path().join("watched"));
    assert!(bytes(plain, "plain.safetensors") == bytes(&watched, "plain.safetensors"));
    for name in ["loss.svg", "loss.png"] {
        let name = format!("plain.training/{name}");
        assert!(bytes(plain, &name) == bytes(&watched, &name), "{name}");
    }
    let samples = names(&watched.join("plain.training/samples"));
    let steps = ["00000000", "00000003", "00000006"];
    let expected = steps.iter().flat_map(|step| [0, 1].map(|place| format!("{step}-{place}.png")));
    assert_eq!(samples, expected.collect::<Vec<_>>());
    assert_eq!(names(&folder.path().join("runs/plain")).len(), 1);
    assert!(!watched.join("plain.training/logs").exists());
    // The first is the model's own; the later ones are what `generate` draws with the LoRA.
    let drawn = |more: &[&str], name: &str| {
        let draw = ["generate", "a red apple", "--seed", "0", "--steps", "1", "-o", name];
        unwrong(plain, &[&draw[..], more].concat()).done();
        pixels(&plain.join(name))
    };
    let sample = |step: &str| pixels(&watched.join(format!("plain.training/samples/{step}-0.png")));
    assert!(drawn(&["--refiner", "none"], "a.png") == sample("00000000"));
    let lora = ["--refiner", "none", "--lora", "plain.safetensors"];
    assert!(drawn(&lora, "b.png") == sample("00000006"));
}

fn pixels(path: &Path) -> Vec<u8> {
    let decoder = png::Decoder::new(std::io::BufReader::new(File::open(path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    pixels
}

#[test]
fn a_killed_training_leaves_the_same_curve_and_draws_no_sample_twice() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    let class = ["--class-dir", "set", "--class-prompt", "a picture", "--prior-weight", "0.5"];
    let more = [&SAMPLES[..], &class, &["--ema", "0.9"]].concat();
    train(folder.path(), "lora.safetensors", &more).done();
    let killed = folder.path().join("killed");
    fs::create_dir(&killed).unwrap();

    let arguments = [&TRAINING[..], &["killed/lora.safetensors"], &more].concat();
    let mut child = command(folder.path(), &arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let work = killed.join("lora.training");
    let started = Instant::now();
    while !work.join("samples/00000003-0.png").exists() && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_mins(2), "no sample appears");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let written = |name: &str| fs::metadata(work.join(name)).unwrap().modified().unwrap();
    let there = ["samples/00000000-0.png", "samples/00000003-0.png"];
    let before = there.map(written);
    if !killed.join("lora.safetensors").exists() {
        train(folder.path(), "killed/lora.safetensors", &more).done();
        assert_eq!(names(&work.join("logs")).len(), 2);
    }
    assert_eq!(there.map(written), before);
    assert!(bytes(folder.path(), "lora.safetensors") == bytes(&killed, "lora.safetensors"));
    let whole = folder.path().join("lora.training");
    let samples = names(&whole.join("samples"));
    assert_eq!(samples.len(), 6, "{samples:?}");
    let samples = samples.iter().map(|name| format!("samples/{name}"));
    for name in samples.chain(["loss.svg".to_owned(), "loss.png".to_owned()]) {
        assert!(bytes(&whole, &name) == bytes(&work, &name), "{name}");
    }
}

#[test]
fn the_running_mean_of_the_matrices_is_another_file() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    train(folder.path(), "plain.safetensors", &[]).done();
    // A mean that keeps nothing is the last step, but for rounding.
    train(folder.path(), "none.safetensors", &["--ema", "0"]).done();
    train(folder.path(), "mean.safetensors", &["--ema", "0.9"]).done();
    let numbers = |name| -> Vec<f32> {
        let bytes = bytes(folder.path(), name);
        let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        bytes[8 + header..]
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    };
    let plain = numbers("plain.safetensors");
    let distance = |name| {
        let other = numbers(name);
        assert_eq!(plain.len(), other.len());
        plain.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    let (none, mean) = (distance("none.safetensors"), distance("mean.safetensors"));
    assert!(none < 1e-6 && mean > 1e-5, "{none}, {mean}");
}

#[test]
fn the_card_says_what_the_lora_is_and_leaves_the_words_of_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    let more = [&SAMPLES[..], &["--preset", "wrong", "--license", "openrail++"]].concat();
    let more = [&more[..], &["--base-model", "somebody/sdxl"]].concat();
    train(folder.path(), "my lora.safetensors", &more).done();
    let card = fs::read_to_string(folder.path().join("my lora.md")).unwrap();
    let (front, body) = card.strip_prefix("---\n").unwrap().split_once("---\n").unwrap();
    let expected = r#"base_model: "somebody/sdxl"
library_name: "diffusers"
license: "openrail++"
instance_prompt: "wrong"
widget:
- text: "a red apple"
  parameters:
    negative_prompt: "wrong"
  output:
    url: "my%20lora.training/samples/00000006-0.png"
- text: "a \"blue\" star"
  parameters:
    negative_prompt: "wrong"
  output:
    url: "my%20lora.training/samples/00000006-1.png"
tags:
- text-to-image
- diffusers
- lora
- template:sd-lora
- stable-diffusion-xl
- stable-diffusion-xl-diffusers
- unwrong
"#;
    assert_eq!(front, expected);
    for part in [
        "# my lora\n",
        "`wrong` in the negative prompt",
        "--lora './my lora.safetensors' -n wrong",
        "negative_prompt=\"wrong\"",
        "`<lora:my lora:1>`",
        "| steps | 6 |",
    ] {
        assert!(body.contains(part), "{part} is not in\n{body}");
    }
    // Another training writes it anew, until it is somebody's own.
    train(folder.path(), "my lora.safetensors", &["--force"]).done();
    let path = folder.path().join("my lora.md");
    assert!(fs::read_to_string(&path).unwrap() != card);
    fs::write(&path, "mine").unwrap();
    let run = train(folder.path(), "my lora.safetensors", &["--force"]).done();
    assert!(run.stderr.contains("`my lora.md` is not ours"), "{}", run.stderr);
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn two_runs_in_one_folder_refuse_each_other() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    fs::write(folder.path().join("prompts.txt"), "a red apple\n").unwrap();
    let hold = |name: &str| {
        fs::create_dir(folder.path().join(name)).unwrap();
        let file = File::create(folder.path().join(name).join(".unwrong-lock")).unwrap();
        file.lock().unwrap();
        file
    };
    let held = hold("lora.training");
    let run = train(folder.path(), "lora.safetensors", &["--force"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("another run is at work in `lora.training`"), "{}", run.stderr);
    assert!(run.stderr.contains("hint: wait until it is done"), "{}", run.stderr);
    drop(held);
    train(folder.path(), "lora.safetensors", &[]).done();

    let evaluation = ["eval", "--prompts", "prompts.txt", "--seeds", "0", "-o", "eval"];
    let evaluation =
        [&evaluation[..], &SMALL, &["--variant", "none", "--variant", "word"]].concat();
    let held = hold("eval");
    let run = unwrong(folder.path(), &evaluation);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("another run is at work in `eval`"), "{}", run.stderr);
    drop(held);
    unwrong(folder.path(), &evaluation).done();
}

#[test]
fn a_training_that_does_not_fit_into_memory_is_refused_before_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    let run = train(folder.path(), "lora.safetensors", &["--memory", "0.01"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("0.01 GB may be used"), "{}", run.stderr);
    assert!(run.stderr.contains("--resolution"), "{}", run.stderr);
    assert!(!folder.path().join("lora.training/checkpoints").exists());
}

#[test]
fn samples_and_class_pictures_are_checked_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    fs::create_dir(folder.path().join("empty")).unwrap();
    let said = |more: &[&str], words: &str| {
        let run = train(folder.path(), "lora.safetensors", more);
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(run.stderr.contains(words), "{}", run.stderr);
        assert!(!folder.path().join("lora.training").exists(), "a folder was left behind");
    };
    said(&["--sample-every", "5"], "--sample-prompt");
    said(&["--sample-prompt", "a cat", "--sample-steps", "0"], "`--sample-steps` is 0");
    said(&["--class-dir", "empty"], "--class-prompt");
    said(&["--class-dir", "empty", "--class-prompt", "a cat"], "has no picture to train on");
    said(&["--prior-weight", "2"], "--class-dir");
    said(&["--ema", "1"], "`--ema` is 1, expected 0 to below 1");
}
