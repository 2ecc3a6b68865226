//! Pictures of the demo model: names, bytes, seeds, what is printed.

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::{SMALL, command, generate, unwrong};

/// A picture without what else the file carries.
#[derive(PartialEq)]
pub(crate) struct Picture {
    pub(crate) size: (u32, u32),
    pub(crate) rgb: Vec<u8>,
}

/// Reads a PNG or WebP picture.
pub(crate) fn read(path: &Path) -> Picture {
    let bytes = fs::read(path).unwrap();
    if path.extension().unwrap() == "webp" {
        let picture = webp::Decoder::new(&bytes).decode().unwrap();
        let size = (picture.width(), picture.height());
        return Picture { size, rgb: picture.to_vec() };
    }
    let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut rgb).unwrap();
    Picture { size: (info.width, info.height), rgb }
}

/// Writes a picture of one pixel as another program would, with the text that many write.
pub(crate) fn write_plain(path: &Path, parameters: Option<&str>) {
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), 1, 1);
    encoder.set_color(png::ColorType::Rgb);
    if let Some(text) = parameters {
        encoder.add_text_chunk("parameters".to_owned(), text.to_owned()).unwrap();
    }
    encoder.write_header().unwrap().write_image_data(&[1, 2, 3]).unwrap();
}

#[test]
fn the_third_of_four_is_the_picture_of_its_own_seed() {
    let folder = tempfile::tempdir().unwrap();
    let series = generate(
        folder.path(),
        &["a yellow star", "--wrong", "--seed", "3", "--count", "4", "-o", "out/"],
    )
    .done();
    assert_eq!(
        series.stdout.replace('\\', "/"),
        "out/00000-3.png\nout/00001-4.png\nout/00002-5.png\nout/00003-6.png\n"
    );
    generate(folder.path(), &["a yellow star", "--wrong", "--seed", "5", "-o", "alone.png"]).done();
    let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("out/00002-5.png") == bytes("alone.png"), "the bytes differ");
    assert!(bytes("out/00001-4.png") != bytes("alone.png"), "the seed changes nothing");
}

#[test]
fn a_picture_repeats_from_its_own_file_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["cat.png", "cat.webp", "cat.jpg"] {
        let again = format!("again-{name}");
        generate(
            folder.path(),
            &["a cat, (blue)1.3", "-n", "(flat)-, red", "--wrong=0.5", "--seed", "0", "-o", name],
        )
        .done();
        unwrong(folder.path(), &["generate", "--from", name, "-o", &again]).done();
        let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
        assert!(bytes(name) == bytes(&again), "{name} and {again} differ");
    }
}

#[test]
fn what_is_given_beside_a_picture_wins() {
    let folder = tempfile::tempdir().unwrap();
    generate(folder.path(), &["a cat", "--seed", "1", "-o", "cat.png"]).done();
    unwrong(folder.path(), &["generate", "--from", "cat.png", "--seed", "2", "-o", "two.png"])
        .done();
    generate(folder.path(), &["a cat", "--seed", "2", "-o", "direct.png"]).done();
    let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("two.png") == bytes("direct.png"), "the bytes differ");
}

#[test]
fn a_lora_of_a_picture_is_found_beside_it_or_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let lora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model/wrong-lora.safetensors");
    fs::create_dir(folder.path().join("loras")).unwrap();
    fs::copy(&lora, folder.path().join("loras/style.safetensors")).unwrap();
    let arguments =
        ["a cat", "--seed", "1", "--lora", "loras/style.safetensors:0.5", "-o", "cats/cat.png"];
    generate(folder.path(), &arguments).done();

    let from = ["generate", "--from", "cats/cat.png", "-o", "again.png"];
    let run = unwrong(folder.path(), &from);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("`style.safetensors`"), "{}", run.stderr);
    let hint = "hint: say where it is: `--lora \"FOLDER/style.safetensors\"`";
    assert!(run.stderr.contains(hint), "{}", run.stderr);

    fs::copy(&lora, folder.path().join("cats/style.safetensors")).unwrap();
    unwrong(folder.path(), &from).done();
    let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("cats/cat.png") == bytes("again.png"), "the bytes differ");
}

#[test]
fn a_lora_given_beside_a_picture_keeps_its_scales_and_the_other_files() {
    let folder = tempfile::tempdir().unwrap();
    let lora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model/wrong-lora.safetensors");
    fs::create_dir(folder.path().join("lo")).unwrap();
    for name in ["lo/my ink.v1.safetensors", "lo/light.safetensors"] {
        fs::copy(&lora, folder.path().join(name)).unwrap();
    }
    let (ink, light) = ("lo/my ink.v1.safetensors", "lo/light.safetensors");
    let (ink_at, light_at) = (format!("{ink}:-0.5:blocks=IN=0"), format!("{light}:0.3"));
    let loras = ["--lora", &ink_at, "--lora", &light_at];
    let first = ["a cat", "--seed", "1", "-o", "cats/cat.png"];
    generate(folder.path(), &[&first[..], &loras].concat()).done();

    let from = |given: &[&str]| {
        let line = ["generate", "--from", "cats/cat.png", "-o", "again.png", "--force"];
        unwrong(folder.path(), &[&line[..], given].concat())
    };
    let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
    from(&["--lora", light, "--lora", ink]).done();
    assert!(bytes("cats/cat.png") == bytes("again.png"), "the bytes differ");

    // The one that is not given is still looked for.
    let run = from(&["--lora", ink]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("made with the LoRA `light.safetensors`"), "{}", run.stderr);

    fs::copy(&lora, folder.path().join("other.safetensors")).unwrap();
    let run = from(&["--lora", "other.safetensors"]).done();
    let warning = "`my ink.v1.safetensors`, `light.safetensors`, are replaced by those given";
    assert!(run.stderr.contains(warning), "{}", run.stderr);
}

#[test]
fn a_lora_that_the_prompt_of_a_picture_names_is_found_beside_it_or_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let lora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model/wrong-lora.safetensors");
    fs::create_dir(folder.path().join("lo")).unwrap();
    fs::copy(&lora, folder.path().join("lo/ink.safetensors")).unwrap();
    let first = ["a cat<lora:ink:0.5>", "--syntax", "a1111", "--seed", "1", "-o", "cats/cat.png"];
    generate(folder.path(), &[&first[..], &["--lora-dir", "lo"]].concat()).done();

    let from = ["generate", "--from", "cats/cat.png", "-o", "again.png", "--force"];
    let run = unwrong(folder.path(), &from);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("`ink.safetensors` of its prompt"), "{}", run.stderr);
    assert!(run.stderr.contains("`--lora-dir FOLDER`"), "{}", run.stderr);
    // Another prompt asks for nothing.
    unwrong(folder.path(), &[&from[..], &["a dog"]].concat()).done();

    let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
    for place in ["cats/ink.safetensors", "ink.safetensors"] {
        fs::copy(&lora, folder.path().join(place)).unwrap();
        unwrong(folder.path(), &from).done();
        assert!(bytes("cats/cat.png") == bytes("again.png"), "{place}: the bytes differ");
        fs::remove_file(folder.path().join(place)).unwrap();
    }
}

#[test]
fn metadata_prints_the_request() {
    let folder = tempfile::tempdir().unwrap();
    generate(folder.path(), &["a cat", "--wrong", "--seed", "7", "-o", "cat.png"]).done();
    let json = unwrong(folder.path(), &["metadata", "cat.png", "--json"]).done();
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(json.to_string().contains("a cat"), "{json}");
    let text = unwrong(folder.path(), &["metadata", "cat.png"]).done();
    assert!(text.stdout.contains("a cat"), "{}", text.stdout);

    let path = folder.path().to_str().unwrap();
    assert!(!json.to_string().contains(path), "a local path is in the file");
}

#[test]
fn a_picture_of_somebody_else_carries_no_request() {
    let folder = tempfile::tempdir().unwrap();
    write_plain(&folder.path().join("other.png"), None);
    fs::write(folder.path().join("text.png"), "not a picture").unwrap();
    for name in ["other.png", "text.png"] {
        for arguments in [["metadata", name].as_slice(), &["generate", "--from", name]] {
            let run = unwrong(folder.path(), arguments);
            assert_eq!(run.code, Some(1), "{}", run.stderr);
            assert!(run.stderr.contains(name), "{}", run.stderr);
        }
    }
}

#[test]
fn compare_writes_the_pair_and_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    let run = unwrong(
        folder.path(),
        &[
            &["compare", "a red apple", "--seed", "7", "-o", "a/pair.png", "--parts", "a"],
            &SMALL[..],
        ]
        .concat(),
    )
    .done();
    assert_eq!(run.stdout.replace('\\', "/"), "a/01.png\na/02.png\na/pair.png\n");
    // The times are of the sides, and their sum.
    let seconds = |begin: &str| -> f64 {
        let line = run.stderr.lines().find(|line| line.starts_with(begin)).unwrap();
        line.rsplit(' ').nth(1).unwrap().parse().unwrap()
    };
    let sides = seconds("left, without the wrong-LoRA: 2 steps") + seconds("right, with it: 2 s");
    assert!((seconds("seed 7, both pictures: ") - sides).abs() < 0.11, "{}", run.stderr);
    let path = |name: &str| folder.path().join("a").join(name);
    let [left, right, pair] = ["01.png", "02.png", "pair.png"].map(|name| read(&path(name)));
    assert_eq!((left.size, right.size, pair.size), ((64, 64), (64, 64), (128, 64)));
    assert!(left != right, "the method changes nothing");
    for (row, line) in pair.rgb.chunks_exact(128 * 3).enumerate() {
        let part = row * 64 * 3..(row + 1) * 64 * 3;
        assert_eq!(line[..64 * 3], left.rgb[part.clone()], "row {row}");
        assert_eq!(line[64 * 3..], right.rgb[part], "row {row}");
    }

    // Each part carries the request that makes it alone.
    for name in ["01.png", "02.png"] {
        let (part, again) = (format!("a/{name}"), format!("again-{name}"));
        unwrong(folder.path(), &["generate", "--from", &part, "-o", &again]).done();
        let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
        assert!(bytes(&part) == bytes(&again), "{name} does not repeat");
    }
}

#[test]
fn a_lora_at_scale_zero_changes_no_pixel() {
    let folder = tempfile::tempdir().unwrap();
    let lora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model/wrong-lora.safetensors");
    let lora = format!("{}:0", lora.display());
    let full = lora.trim_end_matches(":0");
    for (name, extra) in
        [("none.png", &[][..]), ("zero.png", &["--lora", &lora]), ("full.png", &["--lora", full])]
    {
        let arguments = [&["a cat", "--seed", "1", "-o", name], extra].concat();
        generate(folder.path(), &arguments).done();
    }
    let picture = |name| read(&folder.path().join(name));
    assert!(picture("none.png") == picture("zero.png"), "scale 0 changes pixels");
    assert!(picture("none.png") != picture("full.png"), "scale 1 changes nothing");
}

#[test]
fn standard_output_is_paths_and_standard_error_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let run = generate(folder.path(), &["a cat", "--wrong", "--seed", "1"]).done();
    assert_eq!(run.stdout.replace('\\', "/"), "outputs/00000-1.png\n");
    assert!(run.stderr.contains("model `demo`"), "{}", run.stderr);
    assert!(run.stderr.contains("seed 1"), "{}", run.stderr);
    assert!(run.stderr.contains("applied "), "{}", run.stderr);
    assert!(!run.stderr.contains('\u{1b}'), "{:?}", run.stderr);

    let run = generate(folder.path(), &["a cat"]).done();
    let path = run.stdout.trim().replace('\\', "/");
    let seed = path.strip_prefix("outputs/00001-").unwrap().strip_suffix(".png").unwrap();
    assert!(run.stderr.contains(&format!("seed {seed}")), "{}", run.stderr);
    assert!(seed.parse::<u64>().unwrap() <= 100_000_000);
}

#[test]
fn json_says_what_was_made() {
    let folder = tempfile::tempdir().unwrap();
    let run = generate(
        folder.path(),
        &["a cat", "--wrong", "--seed", "1", "--count", "2", "--json", "-o", "out/"],
    )
    .done();
    let lines: Vec<Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    for (line, seed) in lines.iter().zip([1, 2]) {
        assert!(folder.path().join(line["path"].as_str().unwrap()).is_file());
        assert_eq!((&line["seed"], &line["request"]["seed"]), (&seed.into(), &seed.into()));
        assert_eq!(line["request"]["prompt"], "a cat");
        let lora = &line["lora"][0];
        assert!(lora["applied"].as_u64().unwrap() > 0, "{lora}");
        assert_eq!(lora["applied"], lora["total"]);
        assert!(lora["path"].is_string());
        let timings = &line["timings"];
        assert_eq!(timings["steps"].as_array().unwrap().len(), 2, "{timings}");
        for part in ["load", "encode", "decode"] {
            assert!(timings[part].is_number(), "{timings}");
        }
        if cfg!(target_os = "linux") {
            assert!(line["peak_bytes"].as_u64().unwrap() > 1_000_000);
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    for (name, threads) in [("one.png", "1"), ("three.png", "3")] {
        generate(folder.path(), &["a cat", "--seed", "1", "--threads", threads, "-o", name]).done();
    }
    let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("one.png") == bytes("three.png"), "the bytes differ");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["tokens", "a cat"][..], &["--help"]] {
        let mut child = command(folder.path(), arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let run = crate::Run::from(child.wait_with_output().unwrap()).done();
        assert_eq!(run.stderr, "");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_behind() {
    use std::io::{BufRead as _, BufReader};

    let folder = tempfile::tempdir().unwrap();
    let mut child =
        command(folder.path(), &["generate", "a cat", "--steps", "1000", "-o", "cat.png"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    // The model is named once the program listens for signals and has found its files.
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn an_interrupt_while_the_last_picture_is_decoded_comes_too_late() {
    use std::io::{BufRead as _, BufReader};

    let folder = tempfile::tempdir().unwrap();
    let size = ["--size", "1024x1024", "--steps", "1", "--refiner", "none", "--memory", "0.4"];
    let line = [&["generate", "a cat", "--seed", "1", "-o", "cat.png"], &size[..]].concat();
    let mut child = command(folder.path(), &line).stderr(Stdio::piped()).spawn().unwrap();
    // The warning comes as the decode begins.
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut lines = stderr.lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("overlapping tiles")));
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    assert!(lines.any(|line| line.contains("stopping after this step")));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(read(&folder.path().join("cat.png")).size, (1024, 1024));
}

#[test]
fn compare_takes_a_wrong_lora_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let lora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model/wrong-lora.safetensors");
    fs::copy(lora, folder.path().join("mine.safetensors")).unwrap();
    let arguments = ["compare", "a cat", "--wrong-lora", "mine.safetensors", "-o", "pair.png"];
    let run = unwrong(folder.path(), &[&arguments[..], &SMALL[..]].concat()).done();
    assert!(run.stderr.contains("`mine.safetensors`: applied"), "{}", run.stderr);
    assert_eq!(read(&folder.path().join("pair.png")).size, (128, 64));
}

#[test]
fn a_picture_can_be_repeated_without_its_refiner() {
    let folder = tempfile::tempdir().unwrap();
    generate(folder.path(), &["a cat", "--seed", "1", "-o", "both.png"]).done();
    let alone = ["generate", "--from", "both.png", "--refiner", "none", "-o", "alone.png"];
    unwrong(folder.path(), &alone).done();
    let pixels = |name: &str| read(&folder.path().join(name));
    assert!(pixels("both.png") != pixels("alone.png"), "the refiner changes nothing");
}

#[test]
fn what_a_series_says_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let series = ["(a cat", "--wrong", "--seed", "1", "--count", "3", "-o", "out/"];
    let run = generate(folder.path(), &series).done();
    assert_eq!(run.stderr.matches("stays text").count(), 1, "{}", run.stderr);
    assert_eq!(run.stderr.matches("applied").count(), 1, "{}", run.stderr);
    assert_eq!(run.stderr.matches("seed ").count(), 3, "{}", run.stderr);
    assert!(run.stderr.contains("\n2 of 3: seed 2, 2 steps, "), "{}", run.stderr);
}

#[test]
fn the_wrong_lora_lies_beside_a_base_named_by_path() {
    let folder = tempfile::tempdir().unwrap();
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model/base");
    let base = base.display().to_string();
    let run = generate(folder.path(), &["a cat", "--wrong", "--model", &base, "-o", "cat.png"]);
    assert!(run.done().stderr.contains("`wrong-lora.safetensors`: applied"));
}

#[test]
fn a_decode_that_does_not_fit_is_tiled_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let draw = |name: &str, memory: &str| {
        let size = ["--size", "768x640", "--steps", "1", "--refiner", "none", "--seed", "1"];
        let arguments = [&["generate", "a cat", "-o", name, "--memory", memory], &size[..]];
        let stderr = unwrong(folder.path(), &arguments.concat()).done().stderr;
        (read(&folder.path().join(name)), stderr)
    };
    let (whole, stderr) = draw("whole.png", "4");
    assert!(!stderr.contains("tiles"), "{stderr}");
    let (tiled, stderr) = draw("tiled.png", "0.286");
    assert!(stderr.contains("warning: the picture is decoded in overlapping tiles"), "{stderr}");
    assert_eq!(tiled.size, whole.size);
    let apart: u64 = whole.rgb.iter().zip(&tiled.rgb).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    let mean = apart as f64 / whole.rgb.len() as f64;
    assert!(mean > 0.0 && mean < 12.0, "{mean} levels apart");
}

#[test]
fn lists_in_a_prompt_are_drawn_from_the_seed_and_the_picture_carries_what_was_drawn() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("words")).unwrap();
    fs::write(folder.path().join("words/fruit.txt"), "# two\napple\npear\n").unwrap();
    let prompt = "a {red|green} __fruit__";
    let line = [prompt, "--wildcards", "words", "--seed", "1", "--count", "6", "-o", "out/"];
    generate(folder.path(), &line).done();
    let mut drawn: Vec<String> = fs::read_dir(folder.path().join("out"))
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path().display().to_string();
            let run = unwrong(folder.path(), &["metadata", &path, "--json"]).done();
            let value: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
            let request = &value["request"]["request"];
            format!("{} {}", request["seed"], request["prompt"].as_str().unwrap())
        })
        .collect();
    drawn.sort();
    assert_eq!(drawn.len(), 6);
    for line in &drawn {
        let words: Vec<&str> = line.split(' ').skip(1).collect();
        assert!(["red", "green"].contains(&words[1]), "{line}");
        assert!(["apple", "pear"].contains(&words[2]), "{line}");
    }
    let texts: std::collections::HashSet<&str> =
        drawn.iter().filter_map(|line| Some(line.split_once(' ')?.1)).collect();
    assert!(texts.len() > 1, "{drawn:?}");
    // Without being asked for, a list is text, and a wildcard that is not there is named.
    let run = generate(folder.path(), &["a {red|green} cat", "--seed", "1", "-o", "text.png"]);
    assert!(run.done().stderr.contains("stays text"));
    let run = generate(folder.path(), &["a __bird__", "--wildcards", "words", "-o", "bird.png"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("bird") && run.stderr.contains("hint: "), "{}", run.stderr);
}

#[test]
fn every_prompt_of_a_file_is_drawn_with_the_same_seeds() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("prompts.txt"), "# two\na cat\n\na boat\n").unwrap();
    let line = ["--prompts", "prompts.txt", "--seed", "5", "--count", "2", "-o", "out/"];
    let run = generate(folder.path(), &line).done();
    assert!(run.stderr.contains("\n4 of 4: seed 6, 2 steps, "), "{}", run.stderr);
    let pictures: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(pictures.len(), 4);
    generate(folder.path(), &["a boat", "--seed", "6", "-o", "alone.png"]).done();
    let pixels = |name: &str| read(&folder.path().join(name));
    assert!(pixels(pictures[3]) == pixels("alone.png"));

    // What is wrong with the last one is said before the first is drawn.
    fs::write(folder.path().join("prompts.txt"), "a cat\na dog<lora:oil:1>\n").unwrap();
    let line = ["--prompts", "prompts.txt", "--syntax", "a1111", "-o", "none/"];
    let run = generate(folder.path(), &line);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(!folder.path().join("none").exists(), "{}", run.stderr);
}

#[test]
fn every_prompt_of_a_file_makes_a_pair_with_the_same_seed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("prompts.txt"), "a {red|blue} cat\na boat\n").unwrap();
    let line = ["compare", "--prompts", "prompts.txt", "--dynamic", "--seed", "5", "-o", "out/"];
    let parts = ["--parts", "parts"];
    let run = unwrong(folder.path(), &[&line[..], &parts, &SMALL].concat()).done();
    let written: Vec<String> = run.stdout.lines().map(|line| line.replace('\\', "/")).collect();
    let expected = [
        "parts/00000/01.png",
        "parts/00000/02.png",
        "out/00000-5.png",
        "parts/00001/01.png",
        "parts/00001/02.png",
        "out/00001-5.png",
    ];
    assert_eq!(written, expected);
    assert!(run.stderr.contains("\n2 of 2: a boat\n"), "{}", run.stderr);
    let line = ["compare", "a boat", "--seed", "5", "-o", "alone.png"];
    unwrong(folder.path(), &[&line[..], &SMALL].concat()).done();
    let pixels = |name: &str| read(&folder.path().join(name));
    assert!(pixels("out/00001-5.png") == pixels("alone.png"));
}
