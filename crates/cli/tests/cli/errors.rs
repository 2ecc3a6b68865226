//! A wrong request is one clear error, before any work, and leaves no file.

use std::fs;
use std::path::Path;

use crate::{Run, generate, unwrong};

/// Runs what must be refused: exit code 1, nothing on standard output, no file left.
#[track_caller]
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let before = listing(folder);
    let Run { code, stdout, stderr } = unwrong(folder, arguments);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert_eq!(listing(folder), before, "it left something behind");
    stderr
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_size_that_eight_does_not_divide_is_refused_with_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let stderr = refused(folder.path(), &["generate", "a cat", "--size", "1020x1024"]);
    assert_eq!(stderr, "error: width is 1020, which is not a multiple of 8\n\nhint: try 1024\n");
}

#[test]
fn a_picture_that_does_not_fit_into_memory_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let large = ["generate", "a cat", "--size", "8192x8192", "--memory", "2"];
    let stderr = refused(folder.path(), &large);
    assert!(stderr.contains("error: a step at 8192x8192 takes about "), "{stderr}");
    assert!(stderr.contains(" GB of memory, and 2.00 GB may be used\n\nhint: "), "{stderr}");
}

#[test]
fn an_unknown_value_is_answered_with_the_known_ones() {
    let folder = tempfile::tempdir().unwrap();
    let stderr = refused(folder.path(), &["generate", "a cat", "--noise", "lottery"]);
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(stderr.contains("`lottery`, expected one of: torch-cpu, torch-cuda"), "{stderr}");
    let stderr = refused(folder.path(), &["generate", "a cat", "--scheduler", "ddim"]);
    assert!(stderr.contains("`ddim`, expected one of: euler"), "{stderr}");
    let stderr = refused(folder.path(), &["generate", "a cat", "--size", "big"]);
    assert!(stderr.contains("WIDTHxHEIGHT"), "{stderr}");
}

#[test]
fn an_unknown_command_and_an_unknown_flag_are_wrong_requests() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refused(folder.path(), &["paint", "a cat"]).contains("paint"));
    assert!(refused(folder.path(), &["generate", "a cat", "--fast"]).contains("--fast"));
}

#[test]
fn a_number_out_of_range_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (flag, value) in [
        ("--steps", "0"),
        ("--steps", "1001"),
        ("--guidance-scale", "NaN"),
        ("--guidance-scale", "inf"),
        ("--high-noise-fraction", "1.5"),
        ("--count", "0"),
        ("--size", "0x0"),
        ("--size", "4294967288x8"),
        ("--threads", "0"),
    ] {
        refused(folder.path(), &["generate", "a cat", flag, value]);
    }
}

#[test]
fn an_unknown_picture_format_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let stderr = refused(folder.path(), &["generate", "a cat", "-o", "cat.bmp"]);
    assert!(stderr.contains("`cat.bmp`") && stderr.contains(".png, .webp, .jpg"), "{stderr}");
    let stderr = refused(folder.path(), &["compare", "a cat", "-o", "cat.gif"]);
    assert!(stderr.contains("`cat.gif`"), "{stderr}");
}

#[test]
fn nothing_is_overwritten_without_force() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cat.png"), "precious").unwrap();
    let stderr = refused(folder.path(), &["generate", "a cat", "-o", "cat.png"]);
    assert_eq!(
        stderr,
        "error: `cat.png` exists\n\nhint: give another name, or `--force` to replace it\n"
    );
    refused(folder.path(), &["compare", "a cat", "-o", "cat.png"]);
    assert_eq!(fs::read(folder.path().join("cat.png")).unwrap(), b"precious");

    generate(folder.path(), &["a cat", "-o", "cat.png", "--force"]).done();
    assert_ne!(fs::read(folder.path().join("cat.png")).unwrap(), b"precious");
}

#[test]
fn several_pictures_do_not_go_into_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let stderr = refused(folder.path(), &["generate", "a cat", "--count", "2", "-o", "cat.png"]);
    assert!(stderr.contains("hint: give a folder"), "{stderr}");
}

#[test]
fn a_quality_that_the_format_has_not_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, quality) in
        [("a.webp", "0"), ("a.webp", "101"), ("a.webp", "best"), ("a.jpg", "lossless")]
    {
        refused(folder.path(), &["generate", "a cat", "-o", name, "--quality", quality]);
    }
}

#[test]
fn files_that_are_not_there_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for flag in ["--model", "--refiner", "--vae", "--lora", "--wrong-lora", "--from"] {
        let stderr =
            refused(folder.path(), &["generate", "a cat", "--wrong", flag, "nowhere.safetensors"]);
        assert!(stderr.contains("nowhere.safetensors"), "{flag}: {stderr}");
    }
}

#[test]
fn a_device_that_was_not_built_in_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    for device in ["cuda", "metal"] {
        let stderr = refused(folder.path(), &["generate", "a cat", "--device", device]);
        assert!(stderr.contains(device), "{stderr}");
        assert!(stderr.contains("--device cpu"), "{stderr}");
    }
}

#[test]
fn the_wrong_lora_without_wrong_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let stderr = refused(folder.path(), &["generate", "a cat", "--wrong-lora", "w.safetensors"]);
    assert!(stderr.contains("hint: give `--wrong`"), "{stderr}");
}

#[test]
fn a_base_is_no_refiner_and_a_refiner_no_base() {
    let folder = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model");
    let part = |name: &str| model.join(name).display().to_string();
    let stderr = refused(folder.path(), &["generate", "a cat", "--refiner", &part("base")]);
    assert!(stderr.contains("is an SDXL base, expected an SDXL refiner"), "{stderr}");
    let stderr = refused(folder.path(), &["generate", "a cat", "--model", &part("refiner")]);
    assert!(stderr.contains("is an SDXL refiner, expected an SDXL base"), "{stderr}");
}

#[test]
fn too_many_threads_are_refused_before_they_stop_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    for threads in ["0", "257", "18446744073709551615"] {
        let stderr = refused(folder.path(), &["generate", "a cat", "--threads", threads]);
        assert!(stderr.contains("expected 1 to 256"), "{stderr}");
    }
}

#[test]
fn a_pair_is_not_one_of_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    let stderr = refused(folder.path(), &["compare", "a cat", "--parts", "p", "-o", "p/01.png"]);
    assert!(stderr.contains("is the pair and a part of it"), "{stderr}");
}

#[test]
fn what_cannot_be_measured_is_refused_with_the_rows_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let stderr = refused(folder.path(), &["bench", "speed"]);
    assert!(stderr.contains("'speed'"), "{stderr}");
    assert!(stderr.contains("vae-decode"), "{stderr}");
    let stderr = refused(folder.path(), &["bench", "picture", "--runs", "2"]);
    assert!(stderr.contains("hint: leave `--runs`"), "{stderr}");
    for (flag, value) in [("--batch", "0"), ("--batch", "9"), ("--runs", "0"), ("--size", "60x64")]
    {
        refused(folder.path(), &["bench", "unet", flag, value]);
    }
    for row in ["unet", "vae-decode", "vae-encode"] {
        let arguments = ["bench", row, "--size", "2048x2048", "--memory", "0.1"];
        let stderr = refused(folder.path(), &arguments);
        assert!(stderr.contains("2048x2048 takes about"), "{stderr}");
        assert!(stderr.contains("0.10 GB may be used"), "{stderr}");
    }
    let stderr = refused(folder.path(), &["bench", "refiner-unet", "--refiner", "none"]);
    assert!(stderr.contains("has no refiner"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn a_named_pipe_is_no_picture_and_nobody_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("pipe")).status();
    assert!(made.unwrap().success());
    for arguments in [&["metadata", "pipe"][..], &["generate", "--from", "pipe"]] {
        let stderr = refused(folder.path(), arguments);
        assert!(stderr.contains("a device or a pipe"), "{stderr}");
    }
}

#[test]
fn a_prompt_may_start_like_a_number_but_no_flag_is_swallowed() {
    let folder = tempfile::tempdir().unwrap();
    let stderr = refused(folder.path(), &["generate", "a cat", "-n", "--seed", "1"]);
    assert!(stderr.contains("--negative-prompt"), "{stderr}");
    let stderr = refused(folder.path(), &["generate", "a cat", "--steps", "-1"]);
    assert!(stderr.contains("-1"), "{stderr}");
}
