//! `unwrong lora merge --into` and `extract`: what they touch, and what they say they leave out.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Run, files, unwrong};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model")
}

fn demo_lora() -> String {
    demo().join("wrong-lora.safetensors").display().to_string()
}

/// The demo model as a user's own, `NAME` in a folder.
fn own_model(folder: &Path, name: &str) {
    files::copy(&demo().join("base"), &folder.join(name));
}

fn merge(folder: &Path, line: &[&str]) -> Run {
    unwrong(folder, &[&["lora", "merge", &demo_lora(), "--into"], line].concat())
}

#[track_caller]
fn refused(run: &Run, words: &str) {
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
    assert!(run.stderr.contains(words), "{}", run.stderr);
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Changes the last bytes of a tensor in a safetensors file.
fn change(file: &Path, tensor: &str) {
    let mut bytes = fs::read(file).unwrap();
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let end = header[tensor]["data_offsets"][1].as_u64().unwrap();
    let end = 8 + length + usize::try_from(end).unwrap();
    bytes[end - 2] ^= 0x55;
    fs::write(file, bytes).unwrap();
}

#[test]
fn what_is_not_the_programs_own_is_not_deleted_by_force() {
    let folder = tempfile::tempdir().unwrap();
    own_model(folder.path(), "model");
    merge(folder.path(), &["model", "-o", "merged/"]).done();
    let foreign = ["ink.safetensors", "notes/a.txt", ".hidden", "unet/other.fp16.safetensors"];
    fs::create_dir(folder.path().join("merged/notes")).unwrap();
    for name in foreign {
        fs::write(folder.path().join("merged").join(name), name).unwrap();
        let run = merge(folder.path(), &["model", "-o", "merged/", "--force"]);
        refused(&run, &format!("holds what the new model would not have: `{name}`"));
        assert!(run.stderr.contains("hint: give the name of a new folder"), "{}", run.stderr);
        assert_eq!(fs::read_to_string(folder.path().join("merged").join(name)).unwrap(), name);
        fs::remove_file(folder.path().join("merged").join(name)).unwrap();
    }
    merge(folder.path(), &["model", "-o", "merged/", "--force"]).done();
    assert_eq!(names(folder.path()), ["merged", "model"]);
}

#[test]
fn the_model_itself_and_what_is_in_or_around_it_is_no_place_for_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    own_model(folder.path(), "all/model");
    for (output, words) in [
        ("all/model", "is the model itself"),
        ("all/../all/model/", "is the model itself"),
        ("all/model/new", "lies within the model's folder"),
        ("all/model/new/deep", "lies within the model's folder"),
        ("all", "holds the model's folder"),
    ] {
        for force in [&[][..], &["--force"]] {
            let line = [&["all/model", "-o", output], force].concat();
            refused(&merge(folder.path(), &line), words);
        }
    }
    assert_eq!(names(&folder.path().join("all/model")), names(&demo().join("base")));
    assert_eq!(names(folder.path()), ["all"]);
}

#[test]
fn a_file_name_a_link_and_the_built_in_model_are_refused_early() {
    let folder = tempfile::tempdir().unwrap();
    own_model(folder.path(), "model");
    let run = merge(folder.path(), &["model", "-o", "new.safetensors"]);
    refused(&run, "is the name of a file, and the model is a folder");
    let lora = demo_lora();
    for line in [
        &["merge", &lora, "--into", "demo", "-o", "new"][..],
        &["extract", "--base", "demo", "--tuned", "model", "--rank", "2", "-o", "new"],
        &["extract", "--base", "model", "--tuned", "demo", "--rank", "2", "-o", "new"],
    ] {
        let run = unwrong(folder.path(), &[&["lora"], line].concat());
        refused(&run, "`demo` is built into the program, and has no files");
    }
    assert_eq!(names(folder.path()), ["model"]);
    #[cfg(unix)]
    {
        fs::create_dir(folder.path().join("far")).unwrap();
        std::os::unix::fs::symlink("far", folder.path().join("link")).unwrap();
        for output in ["link", "link/"] {
            let run = merge(folder.path(), &["model", "-o", output, "--force"]);
            refused(&run, "`link` is a link, expected a folder's name");
        }
        assert_eq!(names(folder.path()), ["far", "link", "model"]);
    }
}

#[test]
fn a_cut_is_for_merging_by_rank_only() {
    let folder = tempfile::tempdir().unwrap();
    let lora = demo_lora();
    let line = ["lora", "merge", &lora, "-o", "new"];
    for more in [&["--exact"][..], &["--into", "model"], &[]] {
        for option in [["--clamp", "0.99"], ["--conv-rank", "2"]] {
            let line = [&line[..], more, &option].concat();
            refused(&unwrong(folder.path(), &line), option[0]);
        }
    }
}

#[test]
fn a_copied_recommendation_names_only_a_wrong_lora_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    own_model(folder.path(), "model");
    let recommended =
        |model: &str| fs::read_to_string(folder.path().join(model).join("unwrong.toml")).unwrap();
    merge(folder.path(), &["model", "-o", "new/merged"]).done();
    let text = recommended("new/merged");
    assert!(!text.contains("wrong_lora ="), "{text}");
    assert!(text.contains("wrong_lora_scale = 1.0") && text.contains("steps = 30"), "{text}");

    fs::copy(demo_lora(), folder.path().join("wrong-lora.safetensors")).unwrap();
    merge(folder.path(), &["model", "-o", "merged"]).done();
    assert_eq!(recommended("merged"), recommended("model"));
}

#[test]
fn an_extraction_says_truly_what_it_never_takes() {
    let folder = tempfile::tempdir().unwrap();
    own_model(folder.path(), "model");
    own_model(folder.path(), "tuned");
    let unet = folder.path().join("tuned/unet/diffusion_pytorch_model.safetensors");
    let extract = |more: &[&str]| {
        let line = ["lora", "extract", "--base", "model", "--tuned", "tuned", "--rank", "2"];
        let line = [&line[..], &["-o", "new.safetensors", "--force"], more].concat();
        unwrong(folder.path(), &line)
    };
    refused(&extract(&[]), "do not differ in any layer");

    change(&unet, "conv_norm_out.weight");
    refused(&extract(&[]), "differ only in what is not taken: 1 tensor differs (most of all");
    refused(&extract(&["--conv-rank", "2"]), "never taken are biases, norms,");

    change(&unet, "conv_in.weight");
    change(&unet, "down_blocks.0.resnets.0.conv1.weight");
    let run = extract(&[]);
    refused(&run, "3 tensors differ");
    assert!(run.stderr.contains("`--conv-rank` takes 1 of them; never"), "{}", run.stderr);
    let run = extract(&["--conv-rank", "2"]).done();
    assert!(run.stderr.contains("not in the LoRA: 2 tensors differ"), "{}", run.stderr);
    assert!(run.stderr.contains("`conv_in`") && !run.stderr.contains("--conv-rank"));
}

#[test]
fn a_pickle_has_no_hash_of_its_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let pickles = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/goldens/pickles");
    for name in ["legacy.bin", "checkpoint.bin"] {
        let file = pickles.join(name).display().to_string();
        let run = unwrong(folder.path(), &["lora", "hash", &file, "--json"]).done();
        let hashes: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!((&hashes["autov3"], &hashes["sshs_model_hash"]), (&Value::Null, &Value::Null));
        assert!(hashes["sha256"].is_string());
    }
}

#[test]
fn a_file_that_is_missing_does_not_keep_back_the_hashes_of_others() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("abc"), "abc").unwrap();
    let run = unwrong(folder.path(), &["lora", "hash", "no", "abc", "neither"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stdout.starts_with("abc\n") && run.stdout.contains("ba7816bf8f"));
    assert!(run.stderr.contains("error: no does") && run.stderr.contains("error: neither does"));
}
