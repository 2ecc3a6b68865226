//! `unwrong lora`: files made of files, and what they draw.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Run, command, generate, pictures, unwrong};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn golden(name: &str) -> String {
    root().join("parity/goldens").join(name).display().to_string()
}

fn demo_lora() -> String {
    root().join("crates/demo/model/wrong-lora.safetensors").display().to_string()
}

fn demo_model() -> String {
    root().join("crates/demo/model/base").display().to_string()
}

fn lora(folder: &Path, line: &[&str]) -> Run {
    unwrong(folder, &[&["lora"], line].concat())
}

fn json(run: Run) -> Value {
    serde_json::from_str(&run.done().stdout).unwrap()
}

/// The picture of a cat with what is given beyond.
fn draw(folder: &Path, name: &str, more: &[&str]) -> Vec<u8> {
    let line = ["a cat", "--seed", "1", "--refiner", "none", "-o", name];
    generate(folder, &[&line[..], more].concat()).done();
    pictures::read(&folder.join(name)).rgb
}

/// The greatest step between two pictures.
fn apart(one: &[u8], other: &[u8]) -> u8 {
    one.iter().zip(other).map(|(one, other)| one.abs_diff(*other)).max().unwrap()
}

#[test]
fn a_hash_is_the_one_that_everybody_knows_the_file_by() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("abc"), "abc").unwrap();
    let hashes = json(lora(folder.path(), &["hash", "abc", "--json"]));
    assert_eq!(hashes["autov2"], "ba7816bf8f");
    // Of nothing: the file ends before the part that this one is of.
    assert_eq!(hashes["autov1"], "e3b0c442");
    assert_eq!(hashes["sshs_model_hash"], Value::Null);

    let line = ["scale", &demo_lora(), "0.5", "-o", "half.safetensors"];
    lora(folder.path(), &line).done();
    let hashes = json(lora(folder.path(), &["hash", "half.safetensors", "--json"]));
    assert_eq!(hashes["noted_model_hash"], hashes["sshs_model_hash"]);
    let tensors = hashes["sshs_model_hash"].as_str().unwrap();
    assert!(tensors.starts_with(hashes["autov3"].as_str().unwrap()), "{tensors}");

    let mut bytes = fs::read(folder.path().join("half.safetensors")).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(folder.path().join("changed.safetensors"), bytes).unwrap();
    let stderr = lora(folder.path(), &["hash", "changed.safetensors"]).done().stderr;
    assert!(stderr.contains("its tensors were changed since"), "{stderr}");
}

#[test]
fn half_the_lora_is_the_lora_at_half_its_scale() {
    let folder = tempfile::tempdir().unwrap();
    let line = ["scale", &demo_lora(), "-0.5", "-o", "half.safetensors"];
    let run = lora(folder.path(), &line).done();
    assert_eq!(run.stdout, "half.safetensors\n");
    let expected = draw(folder.path(), "a.png", &["--lora", &format!("{}:-0.5", demo_lora())]);
    assert!(draw(folder.path(), "b.png", &["--lora", "half.safetensors"]) == expected);
}

#[test]
fn blocks_weigh_the_same_in_a_file_and_in_a_request() {
    let folder = tempfile::tempdir().unwrap();
    let line = ["--weights", "IN=0,OUT=0.5", "-o", "blocks.safetensors"];
    let source = demo_lora();
    let line = [&["blocks", source.as_str()], &line[..]].concat();
    let stderr = lora(folder.path(), &line).done().stderr;
    assert!(stderr.contains("have weight 0 and are left out"), "{stderr}");
    let with = |more: &str| format!("{}{more}", demo_lora());
    let in_file = draw(folder.path(), "a.png", &["--lora", "blocks.safetensors"]);
    let in_request = draw(folder.path(), "b.png", &["--lora", &with(":blocks=IN=0,OUT=0.5")]);
    assert!(in_file == in_request);
    assert!(in_file != draw(folder.path(), "c.png", &["--lora", &with(":1")]));

    let report = json(lora(folder.path(), &["inspect", "blocks.safetensors", "--json"]));
    let blocks = report["blocks"].as_array().unwrap();
    assert!(!blocks.is_empty() && blocks.iter().all(|block| block.as_str().unwrap() >= "MID"));
}

#[test]
fn a_picture_keeps_the_scales_of_networks_and_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let asked =
        format!("{}:0.8:te1=-1:te2=0:blocks=OUT=0.25", golden("lora-kohya-text.safetensors"));
    let line = ["a cat", "--seed", "1", "--lora", &asked, "-o", "a.png", "--json"];
    let run = generate(folder.path(), &line).done();
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let expected = serde_json::json!({
        "path": golden("lora-kohya-text.safetensors"), "scale": 0.8,
        "text_encoder": -1.0, "text_encoder_2": 0.0,
        "blocks": "OUT00=0.25,OUT01=0.25,OUT02=0.25,OUT03=0.25,OUT04=0.25,OUT05=0.25,\
                   OUT06=0.25,OUT07=0.25,OUT08=0.25,OUT09=0.25,OUT10=0.25,OUT11=0.25",
    });
    assert_eq!(report["request"]["loras"][0], expected);
    assert!(run.stderr.contains("of them at scale 0"), "{}", run.stderr);
    fs::copy(
        golden("lora-kohya-text.safetensors"),
        folder.path().join("lora-kohya-text.safetensors"),
    )
    .unwrap();
    generate(folder.path(), &["--from", "a.png", "-o", "b.png"]).done();
    let read = |name: &str| pictures::read(&folder.path().join(name)).rgb;
    assert!(read("a.png") == read("b.png"));
    // Without the encoder at −1 it is another picture.
    let other = asked.replace("te1=-1", "te1=0");
    generate(folder.path(), &["a cat", "--seed", "1", "--lora", &other, "-o", "c.png"]).done();
    assert!(read("a.png") != read("c.png"));
}

#[test]
fn merged_files_do_what_they_did_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let first = format!("{}:0.7", demo_lora());
    let second = format!("{}:-0.5", golden("lora-kohya-text.safetensors"));
    let line = ["merge", &first, &second, "-o", "exact.safetensors", "--to", "kohya"];
    lora(folder.path(), &line).done();
    let line = ["merge", &first, &second, "--rank", "16", "-o", "svd.safetensors", "--to", "kohya"];
    lora(folder.path(), &[&line[..], &["--dtype", "f32"]].concat()).done();
    let expected = draw(folder.path(), "a.png", &["--lora", &first, "--lora", &second]);
    for file in ["exact.safetensors", "svd.safetensors"] {
        let picture = draw(folder.path(), &format!("{file}.png"), &["--lora", file]);
        assert!(apart(&picture, &expected) <= 1, "{file}");
    }
    let report = json(lora(folder.path(), &["inspect", "exact.safetensors", "--json"]));
    assert_eq!(report["metadata"]["ss_network_module"], "networks.lora");
    assert_eq!(report["title"], "exact");
}

#[test]
fn a_model_with_a_lora_in_it_draws_as_with_the_lora_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let scaled = format!("{}:0.7", demo_lora());
    let line = ["merge", &scaled, "--into", &demo_model(), "--dtype", "f32", "-o", "merged/"];
    let run = lora(folder.path(), &line).done();
    assert_eq!(run.stdout, "merged/\n");
    assert!(run.stderr.contains(": applied "), "{}", run.stderr);
    let with = draw(folder.path(), "a.png", &["--model", &demo_model(), "--lora", &scaled]);
    let merged = draw(folder.path(), "b.png", &["--model", "merged"]);
    assert!(apart(&with, &merged) <= 1);
    assert!(folder.path().join("merged/vae/config.json").is_file());

    // What is there is a model: replaced by force only.
    let again = lora(folder.path(), &line);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("exists"), "{}", again.stderr);
    lora(folder.path(), &[&line[..], &["--force"]].concat()).done();
    let names = fs::read_dir(folder.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.contains("part")).count(), 0);

    // And what was merged in comes out again.
    let line = ["extract", "--base", &demo_model(), "--tuned", "merged", "--energy", "0.9999"];
    let line = [&line[..], &["--min-diff", "0", "-o", "out.safetensors"]].concat();
    lora(folder.path(), &line).done();
    let out =
        draw(folder.path(), "c.png", &["--model", &demo_model(), "--lora", "out.safetensors"]);
    assert!(apart(&with, &out) <= 2, "{}", apart(&with, &out));
}

#[test]
fn the_same_command_gives_the_same_bytes_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (demo_lora(), golden("lora-kohya-text.safetensors"));
    let run = |threads: &str, name: &str| {
        let line = ["lora", "merge", &first, &second, "--rank", "3", "-o", name];
        let mut command = command(folder.path(), &line);
        let run = Run::from(command.env("RAYON_NUM_THREADS", threads).output().unwrap());
        run.done();
        fs::read(folder.path().join(name)).unwrap()
    };
    // A file's title is its name.
    fs::create_dir(folder.path().join("one")).unwrap();
    assert!(run("1", "one/merged.safetensors") == run("4", "merged.safetensors"));
}

#[test]
fn fewer_ranks_keep_most_of_the_norm() {
    let folder = tempfile::tempdir().unwrap();
    let line = ["resize", &demo_lora(), "--rank", "2", "-o", "small.safetensors", "--json"];
    let run = lora(folder.path(), &line).done();
    for line in run.stdout.lines() {
        let layer: Value = serde_json::from_str(line).unwrap();
        assert!(layer["to"].as_u64().unwrap() <= 2, "{layer}");
        let kept = layer["kept"].as_f64().unwrap();
        assert!(kept > 0.0 && kept <= 1.0, "{layer}");
    }
    let report = json(lora(folder.path(), &["inspect", "small.safetensors", "--json"]));
    assert_eq!(report["metadata"]["ss_network_dim"], "2");
    let comment = report["metadata"]["ss_training_comment"].as_str().unwrap();
    assert!(comment.starts_with("dimension is resized from "), "{comment}");
}

#[test]
fn what_cannot_be_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("there.safetensors"), "precious").unwrap();
    let (file, model) = (demo_lora(), demo_model());
    let out = ["-o", "new.safetensors"];
    for (line, words) in [
        (vec!["scale", &file, "0"], "the factor is 0, expected a number that is not 0"),
        (vec!["scale", &file, "1e39"], "larger than F32 holds"),
        (vec!["scale", &file, "inf"], "the factor is inf"),
        (vec!["blocks", &file, "--weights", "1,1"], "it has 2 numbers"),
        (vec!["blocks", &file, "--weights", "ALL=0"], "nothing is left to write"),
        (vec!["resize", &file, "--rank", "0"], "the rank is 0, expected 1 or more"),
        (vec!["resize", &file, "--energy", "2"], "the part is 2, expected"),
        (vec!["resize", &file, "--ratio", "0.5"], "the ratio is 0.5, expected"),
        (vec!["resize", &file], "required"),
        (vec!["merge", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
        (vec!["merge", &file, "--rank", "4", "--clamp", "0.2"], "`clamp` is 0.2, expected"),
        (vec!["merge", &file, "--into", "nowhere"], "`nowhere` does not exist, expected a model"),
        (vec!["merge", &file, "--into", &file], "expected a single-file checkpoint"),
        (vec!["merge", &format!("{file}:NaN"), "--into", &model], "`lora scale` is NaN"),
        (vec!["extract", "--base", &model, "--tuned", &model, "--rank", "2"], "do not differ"),
        (vec!["extract", "--base", &model, "--tuned", "nowhere", "--rank", "2"], "does not exist"),
        (vec!["hash", "nowhere"], "nowhere does not exist"),
    ] {
        let more = if line[0] == "hash" { &[][..] } else { &out };
        let run = lora(folder.path(), &[&line[..], more].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{line:?}: {}", run.stderr);
        assert!(run.stderr.contains(words), "{line:?}: {}", run.stderr);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "{line:?}");
    }
    for line in [
        vec!["scale", &file, "2"],
        vec!["blocks", &file, "--weights", "OUT=0"],
        vec!["resize", &file, "--rank", "2"],
        vec!["merge", &file],
    ] {
        let run = lora(folder.path(), &[&line[..], &["-o", "there.safetensors"]].concat());
        assert!(run.stderr.contains("exists"), "{line:?}: {}", run.stderr);
    }
    assert_eq!(fs::read(folder.path().join("there.safetensors")).unwrap(), b"precious");
}
