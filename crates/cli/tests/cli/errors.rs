//! A wrong request is one clear error, before any work, and leaves no file.

use std::fs;
use std::path::Path;

use crate::{Run, command, generate, unwrong};

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

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_too_long_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let long = "a".repeat(300);
    let (picture, lora) = (format!("{long}.png"), format!("{long}.safetensors"));
    let within = format!("new/{picture}");
    for line in [
        &["generate", "a cat", "-o", &picture][..],
        &["generate", "a cat", "-o", &within],
        &["generate", "a cat", "--count", "2", "-o", &format!("{long}/")],
        &["compare", "a cat", "--parts", &long, "-o", "cat.png"],
        &["wrongs", "-o", &long],
        &["train", ".", "-o", &lora],
        &["eval", "--prompts", "prompts.txt", "-o", &long],
    ] {
        fs::write(folder.path().join("prompts.txt"), "a cat").unwrap();
        let stderr = refused(folder.path(), line);
        assert!(stderr.contains("aaa"), "{stderr}");
        assert!(stderr.contains("is longer than the file system takes"), "{stderr}");
        assert!(!stderr.contains("model `"), "{stderr}");
    }
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

#[cfg(unix)]
#[test]
fn force_replaces_no_pipe_and_no_link() {
    let folder = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("pipe.png")).status();
    assert!(made.unwrap().success());
    for (target, link) in [("nowhere", "lost.png"), ("far.png", "link.png")] {
        std::os::unix::fs::symlink(target, folder.path().join(link)).unwrap();
    }
    fs::write(folder.path().join("far.png"), "precious").unwrap();
    for (name, what) in [("pipe.png", "a device or a pipe"), ("lost.png", "a link to nothing")] {
        let stderr = refused(folder.path(), &["generate", "a cat", "--force", "-o", name]);
        let expected = format!("error: `{name}` is {what}, expected a file\n\nhint: give another");
        assert!(stderr.starts_with(&expected), "{stderr}");
    }
    refused(folder.path(), &["generate", "a cat", "-o", "link.png"]);
    generate(folder.path(), &["a cat", "--force", "-o", "link.png"]).done();
    assert!(folder.path().join("link.png").is_symlink());
    assert_ne!(fs::read(folder.path().join("far.png")).unwrap(), b"precious");
}

#[test]
fn a_prompt_may_start_like_a_number_but_no_flag_is_swallowed() {
    let folder = tempfile::tempdir().unwrap();
    let stderr = refused(folder.path(), &["generate", "a cat", "-n", "--seed", "1"]);
    assert!(stderr.contains("--negative-prompt"), "{stderr}");
    let stderr = refused(folder.path(), &["generate", "a cat", "--steps", "-1"]);
    assert!(stderr.contains("-1"), "{stderr}");
}

#[test]
fn a_model_that_is_not_there_is_answered_with_where_sdxl_is() {
    let folder = tempfile::tempdir().unwrap();
    for flag in ["--model", "--refiner"] {
        let stderr = refused(folder.path(), &["generate", "a cat", flag, "sdxl"]);
        assert!(stderr.starts_with("error: the model `sdxl` is neither a folder nor a file, nor"));
        for name in ["sdxl-base-1.0", "sdxl-refiner-1.0"] {
            let name = name.replace("sdxl", "stabilityai/stable-diffusion-xl");
            assert!(stderr.contains(&name), "{stderr}");
        }
    }
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model/base");
    let copy = folder.path().join("alone/base");
    fs::create_dir_all(&copy).unwrap();
    crate::files::copy(&base, &copy);
    fs::remove_file(copy.join("unwrong.toml")).unwrap();
    let model = ["generate", "a cat", "--wrong", "--model", "alone/base"];
    let stderr = refused(folder.path(), &model);
    assert!(stderr.contains("minimaxir/sdxl-wrong-lora"), "{stderr}");
}

#[test]
fn names_that_nothing_has_are_said_with_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    for (line, expected) in [
        (&["generate", "--from", "no.png"][..], "a picture"),
        (&["metadata", "no.png"], "a picture"),
        (&["eval", "--prompts", "no.txt", "-o", "out"], "a file with one prompt a line"),
        (&["train", "no", "-o", "lora.safetensors"], "a folder of pictures"),
    ] {
        let name = line.iter().find(|word| word.starts_with("no")).unwrap();
        let stderr = refused(folder.path(), line);
        let error = format!("error: `{name}` does not exist, expected {expected}\n");
        assert!(stderr.contains(&error), "{stderr}");
        assert!(stderr.ends_with("\n\nhint: check the path\n"), "{stderr}");
    }
}

#[test]
fn a_picture_without_texts_sends_nobody_in_a_circle() {
    let folder = tempfile::tempdir().unwrap();
    crate::pictures::write_plain(&folder.path().join("plain.png"), None);
    crate::pictures::write_plain(&folder.path().join("other.png"), Some("a cat, Steps: 20"));
    for line in [&["metadata", "plain.png"][..], &["generate", "--from", "plain.png"]] {
        let stderr = refused(folder.path(), line);
        assert!(stderr.contains("`plain.png` carries no request of unwrong"), "{stderr}");
        assert!(!stderr.contains("unwrong metadata"), "{stderr}");
    }
    let stderr = refused(folder.path(), &["generate", "--from", "other.png"]);
    assert!(stderr.contains("hint: `unwrong metadata` prints"), "{stderr}");
    let run = unwrong(folder.path(), &["metadata", "other.png"]).done();
    assert_eq!(run.stdout, "a cat, Steps: 20\n");
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let folder = tempfile::tempdir().unwrap();
    for variable in ["UNWRONG_ISA", "UNWRONG_OPS", "RAYON_NUM_THREADS"] {
        let line = ["generate", "a cat", "--size", "64x64", "--steps", "1"];
        let run: Run = command(folder.path(), &line).env(variable, "").output().unwrap().into();
        run.done();
    }
}

#[test]
fn a_row_of_the_bench_refuses_what_it_would_not_look_at() {
    let folder = tempfile::tempdir().unwrap();
    for row in ["refiner-unet", "vae-decode", "vae-encode", "text-encoders", "training"] {
        for lora in [&["--lora", "x.safetensors"][..], &["--wrong"]] {
            let stderr = refused(folder.path(), &[&["bench", row], lora].concat());
            assert!(stderr.contains(&format!("`{row}` does not use LoRA files")), "{stderr}");
        }
    }
    for row in ["vae-decode", "vae-encode", "text-encoders", "training"] {
        let stderr = refused(folder.path(), &["bench", row, "--weights", "int8"]);
        let error = format!("`{row}` does not use `--weights int8`");
        assert!(stderr.contains(&error) && stderr.contains("hint: "), "{stderr}");
    }
}

/// Runs the program under a limit of the shell.
#[cfg(target_os = "linux")]
fn limited(folder: &Path, limit: &str, arguments: &[&str]) -> Run {
    let script = format!("{limit}; exec \"$0\" \"$@\"");
    let mut shell = std::process::Command::new("sh");
    shell.current_dir(folder).args(["-c", &script, env!("CARGO_BIN_EXE_unwrong")]);
    shell.args(arguments).output().unwrap().into()
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_of_the_file_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let line = ["generate", "a cat", "--size", "64x64", "--steps", "1", "-o", "cat.png"];
    // The signal would end the program before it is told.
    let run = limited(folder.path(), "trap '' XFSZ; ulimit -f 1", &line);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{}", run.stderr);
    assert!(run.stderr.contains("error: cannot write `cat.png`: File too large"), "{}", run.stderr);
    assert!(!run.stderr.contains(".part"), "{}", run.stderr);
    assert_eq!(listing(folder.path()), [""; 0]);
}

#[cfg(target_os = "linux")]
#[test]
fn no_limit_of_memory_ends_the_program_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let line = ["generate", "a cat", "--size", "64x64", "--steps", "1", "--force", "-o", "cat.png"];
    // With less than its own size and a little, the system does not even start it.
    let program = fs::metadata(env!("CARGO_BIN_EXE_unwrong")).unwrap().len() / 1024;
    let mut failed = 0;
    for more in (10_000..40_000).step_by(3_000).chain((50_000..400_000).step_by(50_000)) {
        let run = limited(folder.path(), &format!("ulimit -v {}", program + more), &line);
        assert!(matches!(run.code, Some(0..=2)), "{more} kB: {run:?}");
        if run.code != Some(0) {
            assert!(run.stderr.contains("error: "), "{more} kB: {run:?}");
            failed += 1;
        }
    }
    assert!(failed > 0, "no limit was too small");
}

#[cfg(target_os = "linux")]
#[test]
fn threads_that_cannot_start_are_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let line = ["generate", "a cat", "--threads", "256"];
    let run = limited(folder.path(), "ulimit -v 400000", &line);
    assert_eq!(run.code, Some(2), "{}", run.stderr);
    assert!(run.stderr.contains("error: cannot start the worker threads: "), "{}", run.stderr);
    assert_eq!(run.stderr.matches("unavailable").count(), 1, "{}", run.stderr);
}
