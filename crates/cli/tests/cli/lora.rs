//! `unwrong lora`: what is in a file, and the same picture from every dialect.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{generate, pictures, unwrong};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn demo_lora() -> String {
    root().join("crates/demo/model/wrong-lora.safetensors").display().to_string()
}

#[test]
fn every_dialect_draws_the_same_picture() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = demo_lora();
    let draw = |lora: &str, name: &str| {
        generate(folder.path(), &["a cat", "--seed", "1", "--lora", lora, "-o", name]).done();
        pictures::read(&folder.path().join(name))
    };
    let expected = draw(&source, "source.png");
    for dialect in ["kohya", "peft", "diffusers", "peft", "kohya"] {
        let (file, picture) = (format!("{dialect}.safetensors"), format!("{dialect}.png"));
        let line = ["lora", "convert", &source, "--to", dialect, "-o", &file, "--force"];
        let run = unwrong(folder.path(), &line).done();
        assert_eq!(run.stdout.trim_end(), file);
        fs::remove_file(folder.path().join(&picture)).ok();
        assert!(draw(&file, &picture) == expected, "{dialect} draws another picture");
        source = file;
    }
}

#[test]
fn a_file_becomes_half_as_large_in_half_precision() {
    let folder = tempfile::tempdir().unwrap();
    let lora = demo_lora();
    let convert = |source: &str, dtype: &str, name: &str| {
        let line = ["lora", "convert", source, "--to", "peft", "--dtype", dtype, "-o", name];
        unwrong(folder.path(), &line).done();
        fs::metadata(folder.path().join(name)).unwrap().len()
    };
    let wide = convert(&lora, "f32", "wide.safetensors");
    let half = convert("wide.safetensors", "f16", "half.safetensors");
    assert!(10 * half < 6 * wide, "{half} of {wide} bytes");
    // f32 holds what f16 held: the way back gives the numbers that there were.
    convert(&lora, "f16", "same.safetensors");
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(read("half.safetensors") == read("same.safetensors"));
}

#[test]
fn a_file_that_exists_and_a_dialect_without_words_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("there.safetensors"), "precious").unwrap();
    let (lora, more) = (demo_lora(), root().join("parity/goldens/lora-kohya-most.safetensors"));
    let more = more.display().to_string();
    for (line, word) in [
        (vec![lora.as_str(), "--to", "peft", "-o", "there.safetensors"], "exists"),
        (vec![&more, "--to", "diffusers", "-o", "new.safetensors"], "hint: write it as `peft`"),
        (vec!["nowhere.safetensors", "--to", "peft", "-o", "new.safetensors"], "nowhere"),
        (vec![&lora, "--to", "a1111", "-o", "new.safetensors"], "a1111"),
    ] {
        let run = unwrong(folder.path(), &[&["lora", "convert"], &line[..]].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
        assert!(run.stderr.contains(word), "{}", run.stderr);
    }
    assert_eq!(fs::read(folder.path().join("there.safetensors")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_was_given_is_not_advised() {
    let folder = tempfile::tempdir().unwrap();
    crate::train::pictures(folder.path());
    // A third of most numbers is none that f32 holds.
    let third = ["--rank", "3", "--alpha", "1"];
    crate::train::train(folder.path(), "lora.safetensors", &third).done();
    let convert = |more: &[&str], name: &str| {
        let line = ["lora", "convert", "lora.safetensors", "--to", "peft", "-o", name];
        unwrong(folder.path(), &[&line[..], more].concat()).done().stderr
    };
    let header = "note: alpha is in the header as PEFT's config";
    for (more, name) in [(&["--dtype", "f32"][..], "a.safetensors"), (&[], "b.safetensors")] {
        let stderr = convert(more, name);
        assert!(stderr.contains(header) && stderr.contains("; `--to kohya` has"), "{stderr}");
    }
    let stderr = convert(&["--dtype", "f16"], "c.safetensors");
    assert!(stderr.contains(header) && stderr.contains("; `--dtype f32` puts"), "{stderr}");
}

#[test]
fn inspect_counts_and_measures() {
    let folder = tempfile::tempdir().unwrap();
    let golden = root().join("parity/goldens/lora-kohya-text.safetensors").display().to_string();
    let run = unwrong(folder.path(), &["lora", "inspect", &golden, "--json"]).done();
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["dialects"], serde_json::json!(["kohya"]));
    assert_eq!(report["ranks"], serde_json::json!([{"value": 2, "layers": report["layers"]}]));
    assert_eq!(report["alphas"][0]["value"], 1.0);
    assert_eq!(report["bytes"], fs::metadata(&golden).unwrap().len());
    let layers = |key: &str| -> u64 {
        report[key].as_array().unwrap().iter().map(|one| one["layers"].as_u64().unwrap()).sum()
    };
    assert_eq!(layers("modules"), report["layers"].as_u64().unwrap());
    assert_eq!(layers("norms"), report["layers"].as_u64().unwrap());
    for norms in report["norms"].as_array().unwrap() {
        let (mean, greatest) =
            (norms["mean"].as_f64().unwrap(), norms["greatest"].as_f64().unwrap());
        assert!(0.0 < mean && mean <= greatest, "{norms}");
    }

    let demo = unwrong(folder.path(), &["lora", "inspect", &demo_lora()]).done().stdout;
    let family = "for         a model with the SDXL base's layers in other widths (prompts of 112";
    assert!(demo.starts_with(family), "{demo}");
    let text = unwrong(folder.path(), &["lora", "inspect", &golden]).done().stdout;
    for word in
        ["rank        2\n", "alpha       1\n", "text_encoder_2", "feed-forward", "format: pt"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
}
