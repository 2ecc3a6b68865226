//! Training: one file whatever interrupts it, and clear words before any work.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::{Run, SMALL, command, generate, unwrong};

/// Few small steps.
pub(super) const TRAINING: [&str; 15] = [
    "train",
    "set",
    "--trigger",
    "wrong",
    "--resolution",
    "64",
    "--steps",
    "6",
    "--accumulation",
    "1",
    "--batch",
    "2",
    "--checkpoint-every",
    "2",
    "-o",
];

pub(super) fn pictures(folder: &Path) {
    let set = ["wrongs", "--keywords", "blurry,ugly", "--guidance-scales", "8,13", "--seed", "0"];
    unwrong(folder, &[&set[..], &["-o", "set"], &SMALL].concat()).done();
    // The captions come from the flag.
    fs::remove_file(folder.join("set/metadata.jsonl")).unwrap();
}

pub(super) fn train(folder: &Path, output: &str, more: &[&str]) -> Run {
    unwrong(folder, &[&TRAINING[..], &[output], more].concat())
}

pub(super) fn bytes(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).unwrap()
}

#[test]
fn the_file_does_not_depend_on_threads_or_on_when_it_is_made() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    let run = train(folder.path(), "one.safetensors", &["--threads", "1"]).done();
    assert_eq!(run.stdout, "one.safetensors\n");
    fs::create_dir(folder.path().join("again")).unwrap();
    train(folder.path(), "again/one.safetensors", &["--threads", "3"]).done();
    let one = bytes(folder.path(), "one.safetensors");
    assert!(one == bytes(folder.path(), "again/one.safetensors"));
    // Its matrices are used: the picture is another one.
    for (name, more) in [("plain.png", &[][..]), ("lora.png", &["--lora", "one.safetensors"])] {
        let draw = ["generate", "a red apple", "--seed", "1", "-o", name];
        unwrong(folder.path(), &[&draw[..], &SMALL, more].concat()).done();
    }
    assert!(bytes(folder.path(), "plain.png") != bytes(folder.path(), "lora.png"));
}

#[test]
fn a_killed_training_comes_to_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    fs::create_dir(folder.path().join("killed")).unwrap();
    for optimizer in ["adamw", "prodigy"] {
        let (whole, killed) =
            (format!("{optimizer}.safetensors"), format!("killed/{optimizer}.safetensors"));
        let more = ["--optimizer", optimizer];
        train(folder.path(), &whole, &more).done();
        for step in [2, 4] {
            kill_after(folder.path(), &killed, &more, step);
        }
        // A run that was faster than the kill has left the file.
        if !folder.path().join(&killed).exists() {
            let run = train(folder.path(), &killed, &more).done();
            assert!(run.stderr.contains("goes on after step"), "{}", run.stderr);
        }
        assert!(bytes(folder.path(), &killed) == bytes(folder.path(), &whole), "{optimizer}");
    }
    assert!(
        bytes(folder.path(), "adamw.safetensors") != bytes(folder.path(), "prodigy.safetensors")
    );
}

/// Trains, and kills the training as soon as the checkpoint of a step is there.
fn kill_after(folder: &Path, output: &str, more: &[&str], step: u64) {
    let arguments = [&TRAINING[..], &[output], more].concat();
    let mut child =
        command(folder, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let work = Path::new(output).with_extension("training");
    let checkpoint =
        folder.join(work).join(format!("checkpoints/checkpoint-{step:08}.safetensors"));
    let started = Instant::now();
    while !checkpoint.exists() && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_mins(2), "no checkpoint appears");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_it_taken() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    train(folder.path(), "lora.safetensors", &[]).done();
    let whole = bytes(folder.path(), "lora.safetensors");
    let checkpoint =
        |step| format!("lora.training/checkpoints/checkpoint-0000000{step}.safetensors");
    let damage = |step| {
        let mut damaged = bytes(folder.path(), &checkpoint(step));
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        fs::write(folder.path().join(checkpoint(step)), damaged).unwrap();
    };
    for (damaged, instead) in
        [(&[6][..], "goes on after step 4 instead"), (&[4, 6], "begins anew instead")]
    {
        damaged.iter().copied().for_each(&damage);
        fs::remove_file(folder.path().join("lora.safetensors")).unwrap();
        let run = train(folder.path(), "lora.safetensors", &[]).done();
        for step in damaged {
            let name = checkpoint(*step);
            let said =
                format!("warning: the checkpoint `{name}` is damaged; the training {instead}\n");
            assert!(run.stderr.contains(&said), "{}", run.stderr);
        }
        assert!(whole == bytes(folder.path(), "lora.safetensors"));
    }
}

#[test]
fn another_training_does_not_go_on_from_these_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    train(folder.path(), "lora.safetensors", &[]).done();
    fs::remove_file(folder.path().join("lora.safetensors")).unwrap();
    let run = train(folder.path(), "lora.safetensors", &["--rate", "0.5"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("`--rate 0.0001`, now it is `--rate 0.5`"), "{}", run.stderr);
    assert!(run.stderr.contains("--force"), "{}", run.stderr);
    let class = ["--class-dir", "set", "--class-prompt", "x"];
    let run = train(folder.path(), "lora.safetensors", &class);
    assert!(run.stderr.contains("without class pictures, now there are some"), "{}", run.stderr);
    // Another picture makes another training, too.
    fs::copy(folder.path().join("set/000.png"), folder.path().join("set/a.png")).unwrap();
    let run = train(folder.path(), "lora.safetensors", &[]);
    assert!(run.stderr.contains("other pictures or captions"), "{}", run.stderr);
    fs::remove_file(folder.path().join("set/a.png")).unwrap();
    // The same training has nothing left to do but to write its file. That bad files would be
    // refused does not make it another one.
    let run = train(folder.path(), "lora.safetensors", &["--strict"]).done();
    assert!(run.stderr.contains("goes on after step 6 of 6"), "{}", run.stderr);
    // What is there is kept, unless it shall be replaced.
    let run = train(folder.path(), "lora.safetensors", &[]);
    assert!(run.stderr.contains("`lora.safetensors` exists"), "{}", run.stderr);
    train(folder.path(), "lora.safetensors", &["--force"]).done();
}

#[test]
fn encoders_convolutions_and_embeddings_are_trained_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    let layers = "attention,feed-forward,convolutions,embeddings";
    let every = ["--layers", layers, "--train-text-encoder", "--text-encoder-rate", "5e-5"];
    let train_every = |threads| {
        train(folder.path(), "lora.safetensors", &[&every[..], &["--threads", threads]].concat())
    };
    train_every("1").done();
    let whole = bytes(folder.path(), "lora.safetensors");
    fs::remove_file(folder.path().join("lora.safetensors")).unwrap();
    let last = "lora.training/checkpoints/checkpoint-00000006.safetensors";
    fs::remove_file(folder.path().join(last)).unwrap();
    let run = train_every("3").done();
    assert!(run.stderr.contains("goes on after step 4"), "{}", run.stderr);
    assert!(whole == bytes(folder.path(), "lora.safetensors"));

    // All of it takes effect, in every dialect that has words for it.
    let convert = ["lora", "convert", "lora.safetensors", "--to", "peft", "-o", "peft.safetensors"];
    unwrong(folder.path(), &convert).done();
    for lora in ["lora.safetensors", "peft.safetensors"] {
        let draw = ["generate", "a red apple", "--seed", "1", "--force", "--json", "-o", "a.png"];
        let run = unwrong(folder.path(), &[&draw[..], &SMALL, &["--lora", lora]].concat()).done();
        let line: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(line["lora"][0]["applied"], line["lora"][0]["total"], "{line}");
    }
}

#[test]
fn what_cannot_be_trained_is_said_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("set")).unwrap();
    let said = |more: &[&str], words: &str| {
        let run = train(folder.path(), "lora.safetensors", more);
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(run.stderr.contains(words), "{}", run.stderr);
    };
    said(&[], "has no picture to train on");
    let untitled = ["train", "plain", "-o", "lora.safetensors"];
    fs::create_dir(folder.path().join("plain")).unwrap();
    generate(folder.path(), &["a cat", "-o", "plain/cat.png"]).done();
    let run = unwrong(folder.path(), &untitled);
    assert!(run.stderr.contains("give one caption for all that have none: `--trigger wrong`"));
    fs::write(folder.path().join("plain/dog.png"), "no picture").unwrap();
    let run = unwrong(folder.path(), &[&untitled[..], &["--trigger", "x", "--strict"]].concat());
    assert!(run.stderr.contains("leave `--strict` out"), "{}", run.stderr);
    said(&["--rank", "0"], "`--rank` is 0, expected 1 to 1024");
    for rate in ["nan", "inf", "0", "1.1e6"] {
        said(&["--rate", rate], "expected a number above 0, at most 1000000");
    }
    for alpha in ["0", "1e-300", "1e-7", "1e7", "nan"] {
        said(&["--alpha", alpha], "expected 0.000001 to 1000000");
    }
    for weight in ["-1", "1e7"] {
        let class = ["--class-dir", "set", "--class-prompt", "x", "--prior-weight", weight];
        said(&class, "expected 0 to 1000000");
    }
    said(&["--dropout", "1"], "`--dropout` is 1, expected 0 to below 1");
    said(
        &["--train-text-encoders", "--text-encoder-rate", "0"],
        "`--text-encoder-rate` is 0, expected a number above 0, at most 1000000",
    );
    for length in ["-1", "inf"] {
        said(&["--max-grad-norm", length], "expected a finite number above 0, or 0 for any length");
    }
    said(&["--snr-gamma", "0"], "`--snr-gamma` is 0, expected a number above 0");
    said(&["--noise-offset", "-1"], "`--noise-offset` is -1, expected 0 to 1");
    let sample = ["--sample-prompt", "a cat", "--sample-steps"];
    said(&[&sample[..], &["0"]].concat(), "`--sample-steps` is 0, expected 1 to 1000");
    fs::write(folder.path().join("file"), "").unwrap();
    for place in ["file", "file/logs"] {
        said(&["--log-dir", place], "error: `file` is a file, expected a folder");
    }
    fs::rename(folder.path().join("plain/cat.png"), folder.path().join("set/cat.png")).unwrap();
    said(&["--class-dir", "plain", "--class-prompt", "x"], "1 picture: 1 at 64x64\n");
    said(&["--layers", "convolutions", "--format", "diffusers"], "in 2023 only attention");
    let run = unwrong(folder.path(), &["train", "nowhere", "-o", "lora.safetensors"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let run = unwrong(folder.path(), &["train", "set", "-o", "lora.bin"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains(".safetensors"), "{}", run.stderr);
    assert!(!folder.path().join("lora.training").exists(), "a folder was left behind");
}

#[test]
fn a_loss_that_is_no_number_ends_the_training_and_keeps_its_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    let diverges = ["--rate", "1e6", "--alpha", "1e6", "--max-grad-norm", "0"];
    let run = train(folder.path(), "lora.safetensors", &diverges);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    // The loss itself or its gradient, whichever is the first.
    assert!(run.stderr.contains(" of step 2 is "), "{}", run.stderr);
    assert!(run.stderr.contains(", which is no finite number"), "{}", run.stderr);
    assert!(run.stderr.contains("lower `--rate`"), "{}", run.stderr);
    assert!(!folder.path().join("lora.safetensors").exists());
}

#[test]
fn a_last_step_that_makes_no_numbers_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    let set = ["train", "set", "--trigger", "wrong", "--resolution", "64", "--accumulation", "1"];
    let last = ["--steps", "1", "--weight-decay", "1e300", "-o", "lora.safetensors"];
    let run = unwrong(folder.path(), &[&set[..], &last].concat());
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{}", run.stderr);
    assert!(run.stderr.contains("error: a number in the matrices of step 1 is "), "{}", run.stderr);
    assert!(!folder.path().join("lora.safetensors").exists());
    let checkpoints = folder.path().join("lora.training/checkpoints");
    assert_eq!(fs::read_dir(checkpoints).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn an_interrupted_training_is_put_aside_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    let mut arguments = [&TRAINING[..], &["lora.safetensors"]].concat();
    let steps = arguments.iter().position(|word| *word == "--steps").unwrap();
    arguments[steps + 1] = "100000";
    let child = command(folder.path(), &arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let checkpoints = folder.path().join("lora.training/checkpoints");
    let started = Instant::now();
    while !checkpoints.join("checkpoint-00000002.safetensors").exists() {
        assert!(started.elapsed() < Duration::from_mins(2), "no checkpoint appears");
        std::thread::sleep(Duration::from_millis(2));
    }
    let pid = child.id().to_string();
    std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
    let run = Run::from(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stdout.as_str()), (Some(130), ""), "{}", run.stderr);
    assert!(run.stderr.contains("the last checkpoint is"), "{}", run.stderr);
    assert!(run.stderr.contains("the same command goes on"), "{}", run.stderr);
    assert!(!folder.path().join("lora.safetensors").exists());
}
