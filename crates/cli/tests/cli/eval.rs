//! `unwrong eval` on the demo model: what it leaves, what it refuses, and that it resumes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::{Run, SMALL, command, unwrong};

/// A small experiment of two variants, two prompts and two seeds.
const TWO: [&str; 9] = [
    "eval",
    "--prompts",
    "prompts.txt",
    "--seeds",
    "3..5",
    "--variant",
    "none",
    "--variant",
    "both",
];

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("prompts.txt"), "# two\na <b>red</b> apple\n\na cat\n").unwrap();
    folder
}

fn eval(folder: &Path, arguments: &[&str]) -> Run {
    unwrong(folder, &[&TWO[..], arguments, &SMALL[..]].concat())
}

/// Every file in a folder with its bytes, by name, but for its lock.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if name == ".unwrong-lock" {
            continue;
        }
        if entry.path().is_dir() {
            let inside = files(&entry.path());
            found.extend(inside.into_iter().map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
        } else {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    found
}

fn results(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("results.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn far_too_many_prompts_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let prompts: Vec<_> = (0..100_001).map(|number| format!("a cat, number {number}")).collect();
    fs::write(folder.path().join("prompts.txt"), prompts.join("\n")).unwrap();
    let started = Instant::now();
    let run = eval(folder.path(), &["-o", "out"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let expected = "error: 100001 prompts, 2 seeds and 2 variants are 400004 pictures, expected";
    assert!(run.stderr.starts_with(expected), "{}", run.stderr);
    // Each line is compared with no other.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn an_experiment_leaves_pictures_results_and_a_report() {
    let folder = folder();
    let run = eval(folder.path(), &["--primary", "saturation", "-o", "out"]).done();
    assert_eq!(run.stdout.replace('\\', "/"), "out/results.jsonl\nout/report.html\n");
    assert!(run.stderr.contains("8 of 8 pictures drawn"), "{}", run.stderr);
    assert!(run.stderr.contains("\n3 of 8: seed 3, 2 steps, "), "{}", run.stderr);
    assert_eq!(run.stderr.matches("applied ").count(), 1, "{}", run.stderr);

    let out = folder.path().join("out");
    let names: Vec<String> = files(&out).into_keys().collect();
    assert_eq!(names.len(), 4 + 8, "{names:?}");
    let sheet = crate::pictures::read(&out.join("sheet.webp"));
    assert_eq!(sheet.size, (2 * 64, 2 * 64));
    assert!(names.contains(&"pictures/001-4-both.png".to_owned()), "{names:?}");
    let lines = results(&out);
    assert_eq!(lines.len(), 8);
    assert_eq!((&lines[1]["variant"], &lines[1]["seed"]), (&"both".into(), &3.into()));
    assert_eq!(lines[1]["request"]["wrong"], 1.0);
    assert_eq!(lines[1]["request"]["guidance_scale"], 7.0, "the demo's own for comparisons");
    assert_eq!(lines[1]["prompt"], "a <b>red</b> apple");
    assert_eq!(lines[1]["metrics"].as_object().unwrap().len(), 8);
    assert!(lines[1]["to_baseline"]["ssim"].as_f64().unwrap() < 1.0);
    assert!(lines[0]["to_baseline"].is_null());
    assert!(lines[1]["loras"][0]["sha256"].is_string());

    let report = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.contains("Primary metric: saturation"));
    assert!(report.contains("a &lt;b&gt;red&lt;/b&gt; apple") && !report.contains("<b>red"));
    assert_eq!(report.matches("data:image/webp;base64,").count(), 8);
    assert!(report.contains("No metric here sees hands, textures or taste"));
    for outside in ["http:", "https:", "src=\"pictures", "@import", "url("] {
        assert!(!report.contains(outside), "the report needs {outside}");
    }
    let here = folder.path().display().to_string();
    for (name, bytes) in files(&out) {
        assert!(!String::from_utf8_lossy(&bytes).contains(&here), "{name} tells where it lies");
    }
}

#[test]
fn a_killed_run_goes_on_and_ends_in_the_same_bytes() {
    let folder = folder();
    eval(folder.path(), &["-o", "whole"]).done();
    let pictures = folder.path().join("killed/pictures");
    let finished = || {
        let entries = fs::read_dir(&pictures).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "png")).count()
    };

    // Killed as soon as it has drawn one picture, then again in the second pair.
    let mut times: BTreeMap<String, SystemTime> = BTreeMap::new();
    for least in [1, 3] {
        let arguments = [&TWO[..], &["-o", "killed"], &SMALL[..]].concat();
        let mut child = command(folder.path(), &arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while finished() < least && child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < Duration::from_mins(2), "nothing is drawn");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for name in files(&pictures).into_keys().filter(|name| !name.starts_with('.')) {
        times.insert(name.clone(), fs::metadata(pictures.join(name)).unwrap().modified().unwrap());
    }
    assert!(times.len() >= 3, "{times:?}");
    // What a run may leave that is killed while it writes.
    fs::write(pictures.join(".unwrong-x.part"), "half").unwrap();

    let run = eval(folder.path(), &["-o", "killed"]).done();
    let drawn = 8 - times.len();
    assert!(run.stderr.contains(&format!("{drawn} of 8 pictures drawn")), "{}", run.stderr);
    for (name, time) in times {
        let now = fs::metadata(pictures.join(&name)).unwrap().modified().unwrap();
        assert_eq!(now, time, "{name} was drawn again");
    }
    let [whole, killed] = ["whole", "killed"].map(|name| files(&folder.path().join(name)));
    assert_eq!(whole.keys().collect::<Vec<_>>(), killed.keys().collect::<Vec<_>>());
    for (name, bytes) in whole {
        assert!(bytes == killed[&name], "{name} differs");
    }
}

#[test]
fn a_finished_experiment_draws_nothing_and_reports_anew() {
    let folder = folder();
    eval(folder.path(), &["-o", "out"]).done();
    let before = files(&folder.path().join("out"));
    let run = eval(folder.path(), &["-o", "out"]).done();
    assert!(run.stderr.contains("0 of 8 pictures drawn"), "{}", run.stderr);
    assert!(files(&folder.path().join("out")) == before, "the bytes differ");

    let other = ["--primary", "noise", "--baseline", "both", "--json", "-o", "out"];
    let run = eval(folder.path(), &other).done();
    let line: Value = serde_json::from_str(&run.stdout).unwrap();
    let comparison = &line["comparisons"][0];
    assert_eq!((&comparison["variant"], &comparison["baseline"]), (&"none".into(), &"both".into()));
    assert_eq!(comparison["tests"][0]["metric"], "noise");
    assert_eq!((&line["pictures"], &line["drawn"]), (&8.into(), &0.into()));
    // The mean is of the variant's numbers minus the baseline's, and less noise is better.
    let lines = results(&folder.path().join("out"));
    let noise = |line: &Value| line["metrics"]["noise"].as_f64().unwrap();
    let apart: Vec<f64> = lines.chunks(2).map(|pair| noise(&pair[0]) - noise(&pair[1])).collect();
    let mean = apart.iter().sum::<f64>() / 4.0;
    let test = &comparison["tests"][0];
    assert!((test["mean_difference"].as_f64().unwrap() - mean).abs() < 1e-9, "{test} {mean}");
    let improved = apart.iter().filter(|apart| **apart < 0.0).count() as f64 / 4.0;
    assert_eq!(test["improved"], improved);
    let pairs = comparison["tests"].as_array().unwrap();
    assert!(pairs.iter().all(|test| test["pairs"] == 4 && test["method"] == "exact"), "{line}");
}

#[test]
fn the_lora_without_its_word_is_a_picture_of_its_own_and_repeats() {
    let folder = folder();
    let arguments = ["eval", "--prompts", "prompts.txt", "--seeds", "7", "-o", "out"];
    unwrong(folder.path(), &[&arguments[..], &SMALL[..]].concat()).done();
    let lines = results(&folder.path().join("out"));
    assert_eq!(lines.len(), 10);
    let names: Vec<&str> = lines[..5].iter().map(|l| l["variant"].as_str().unwrap()).collect();
    assert_eq!(names, ["none", "word", "lora", "both", "keywords"]);
    let picture =
        |name| crate::pictures::read(&folder.path().join(format!("out/pictures/000-7-{name}.png")));
    for (place, name) in names.iter().enumerate() {
        for other in &names[..place] {
            assert!(picture(name) != picture(other), "{name} and {other} drew the same");
        }
    }

    let lora = "out/pictures/000-7-lora.png";
    unwrong(folder.path(), &["generate", "--from", lora, "-o", "again.png"]).done();
    let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(bytes(lora) == bytes("again.png"), "it does not repeat");
}

#[test]
fn the_wrong_lora_by_its_name_is_the_file() {
    let folder = folder();
    let lora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model/wrong-lora.safetensors");
    for (name, lora) in
        [("name.png", "wrong:0.7"), ("file.png", &format!("{}:0.7", lora.display()))]
    {
        crate::generate(folder.path(), &["a cat", "--seed", "1", "--lora", lora, "-o", name])
            .done();
    }
    let picture = |name| crate::pictures::read(&folder.path().join(name));
    assert!(picture("name.png") == picture("file.png"), "the pixels differ");
}

#[test]
fn the_model_is_asked_once_whether_pictures_follow_their_prompts() {
    let folder = folder();
    let arguments =
        ["--follow=2", "--follow-levels", "2", "--primary", "follow_margin", "-o", "out"];
    eval(folder.path(), &arguments).done();
    let out = folder.path().join("out");
    let metrics = &results(&out)[1]["metrics"];
    let follows = metrics["follows"].as_f64().unwrap();
    assert_eq!(follows > 0.5, metrics["follow_margin"].as_f64().unwrap() > 0.0, "{metrics}");
    assert_eq!(metrics.as_object().unwrap().len(), 10);
    let before = files(&out);
    let asked = String::from_utf8(before["follow.jsonl"].clone()).unwrap();
    assert_eq!(asked.lines().count(), 1 + 8);
    let line: Value = serde_json::from_str(asked.lines().nth(1).unwrap()).unwrap();
    assert_eq!(line["captions"], serde_json::json!(["a <b>red</b> apple", "a cat"]));

    // A line that was read and is not right shows that nobody asked again.
    let losses = line["losses"].to_string();
    fs::write(out.join("follow.jsonl"), asked.replacen(&losses, "[1.0,3.0]", 1)).unwrap();
    let more = ["--unit", "prompt", "--json"];
    let run = eval(folder.path(), &[&arguments[..], &more].concat()).done();
    // Pictures are sorted by name: `both` comes first.
    assert_eq!(results(&out)[1]["metrics"]["follow_margin"], 200.0);
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    let comparison = &json["comparisons"][0];
    assert_eq!(
        (&comparison["unit"], &comparison["tests"][0]["pairs"]),
        (&"prompt".into(), &2.into())
    );

    // Other levels are another question; and the first answer comes again to the bit.
    let levels = |levels| {
        ["--follow=2", "--follow-levels", levels, "--primary", "follow_margin", "-o", "out"]
    };
    eval(folder.path(), &levels("3")).done();
    assert!(files(&out)["follow.jsonl"] != before["follow.jsonl"]);
    eval(folder.path(), &levels("2")).done();
    assert!(files(&out) == before, "the bytes differ");
}

#[test]
fn a_variant_of_ones_own_changes_what_it_says() {
    let folder = folder();
    let mine = "mine:negative-prompt=dull, flat,wrong=0.5,prefix=one ,guidance-scale=4";
    let arguments = [&TWO[..7], &["--variant", mine, "-o", "out"], &SMALL[..]].concat();
    unwrong(folder.path(), &arguments).done();
    let request = &results(&folder.path().join("out"))[3]["request"];
    assert_eq!(request["prompt"], "one a <b>red</b> apple");
    assert_eq!(request["negative_prompt"], "dull, flat");
    assert_eq!((&request["wrong"], &request["guidance_scale"]), (&0.5.into(), &4.0.into()));
}

/// Runs what must be refused, before any model is opened, and without a trace.
#[track_caller]
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let before = files(folder);
    let Run { code, stdout, stderr } = unwrong(folder, arguments);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(!stderr.contains("model `"), "a model was opened: {stderr}");
    assert!(files(folder) == before, "it left something behind");
    stderr
}

#[test]
fn what_cannot_be_an_experiment_is_refused_before_any_work() {
    let folder = folder();
    fs::write(folder.path().join("empty.txt"), "# nothing\n").unwrap();
    fs::write(folder.path().join("latin.txt"), b"caf\xe9").unwrap();
    let with = |arguments: &[&str]| {
        refused(
            folder.path(),
            &[&["eval", "--prompts", "prompts.txt", "-o", "out"], arguments].concat(),
        )
    };
    assert!(with(&["--seeds", "5..2"]).contains("turn it round: `2..5`"));
    assert!(with(&["--seeds", "a..b"]).contains("such as `0..8`"));
    assert!(with(&["--variant", "none"]).contains("nothing to compare"));
    assert!(with(&["--variant", "x:wrongg=1"]).contains("negative-prompt, wrong, lora"));
    assert!(with(&["--baseline", "x"]).contains("none, word, lora, both, keywords"));
    assert!(with(&["--primary", "beauty"]).contains("sharpness, tenengrad"));
    assert!(with(&["--primary", "follows"]).contains("say `--follow`, too"));
    assert!(with(&["--follow=1"]).contains("2 or more"));
    assert!(with(&["--follow", "--follow-levels", "0"]).contains("1 to 100"));
    assert!(with(&["--size", "60x64"]).contains("60"));
    assert!(with(&["--seed", "3"]).contains("`--seeds`"));
    assert!(with(&["--negative-prompt", "dull"]).contains("--variant"));
    assert!(with(&["--wrong"]).contains("--variant"));
    for (file, why) in
        [("empty.txt", "holds no prompt"), ("latin.txt", "line 1"), ("none.txt", "none.txt")]
    {
        let stderr = refused(folder.path(), &["eval", "--prompts", file, "-o", "out"]);
        assert!(stderr.contains(why), "{stderr}");
    }
    let stderr = refused(folder.path(), &["eval", "--prompts", "prompts.txt", "-o", "prompts.txt"]);
    assert!(stderr.contains("is a file, expected a folder"), "{stderr}");
}

#[test]
fn a_lora_that_is_not_there_is_refused_before_anything_is_drawn() {
    let folder = folder();
    let run = eval(folder.path(), &["--wrong-lora", "nowhere.safetensors", "-o", "out"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
    assert!(run.stderr.contains("nowhere.safetensors"), "{}", run.stderr);
    assert!(!folder.path().join("out").exists());
}

#[test]
fn a_folder_with_other_contents_is_left_alone_without_force() {
    fn into<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&TWO[..], &["-o", name], more, &SMALL[..]].concat()
    }
    let folder = folder();
    fs::create_dir(folder.path().join("mine")).unwrap();
    fs::write(folder.path().join("mine/notes.txt"), "precious").unwrap();
    let stderr = refused(folder.path(), &into("mine", &[]));
    assert!(stderr.contains("holds `notes.txt` and no experiment"), "{stderr}");
    unwrong(folder.path(), &into("mine", &["--force"])).done();
    assert_eq!(fs::read(folder.path().join("mine/notes.txt")).unwrap(), b"precious");

    let stderr = refused(folder.path(), &into("mine", &["--variant", "word"]));
    assert!(stderr.contains("another experiment: it has 2 variants, not 3"), "{stderr}");
    let stderr = refused(folder.path(), &into("mine", &["--guidance-scale", "3"]));
    assert!(stderr.contains("its `guidance_scale` is absent, not 3"), "{stderr}");
    assert!(stderr.contains("--force"), "{stderr}");

    // Pictures that both experiments have are kept.
    let run = unwrong(folder.path(), &into("mine", &["--variant", "word", "--force"])).done();
    assert!(run.stderr.contains("4 of 12 pictures drawn"), "{}", run.stderr);
}

#[test]
fn a_picture_that_is_not_of_the_experiment_is_an_error_and_redone_by_force() {
    let folder = folder();
    eval(folder.path(), &["-o", "out"]).done();
    let whole = files(&folder.path().join("out"));
    let path = |name: &str| folder.path().join("out/pictures").join(name);
    fs::copy(path("000-3-none.png"), path("000-3-both.png")).unwrap();
    let run = eval(folder.path(), &["-o", "out"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
    assert!(run.stderr.contains("000-3-both.png") && run.stderr.contains("LoRA"), "{}", run.stderr);
    fs::write(path("001-4-both.png"), "half a pict").unwrap();
    let run = eval(folder.path(), &["--force", "-o", "out"]).done();
    assert!(run.stderr.contains("2 of 8 pictures drawn"), "{}", run.stderr);
    assert!(files(&folder.path().join("out")) == whole, "the bytes differ");
}

#[cfg(unix)]
#[test]
fn an_interrupt_keeps_what_is_finished() {
    let folder = folder();
    let arguments = [&TWO[..], &["-o", "out", "--size", "64x64", "--steps", "300"]].concat();
    let mut child = command(folder.path(), &arguments).stderr(Stdio::null()).spawn().unwrap();
    let manifest = folder.path().join("out/experiment.json");
    let started = Instant::now();
    while !manifest.exists() {
        assert!(started.elapsed() < Duration::from_mins(1), "nothing begins");
        std::thread::sleep(Duration::from_millis(1));
    }
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(
        files(&folder.path().join("out")).into_keys().collect::<Vec<_>>(),
        ["experiment.json"]
    );
}

#[test]
fn lists_of_a_line_are_drawn_once_for_all_its_seeds() {
    let folder = tempfile::tempdir().unwrap();
    let prompts: String =
        ["cat", "dog", "fish", "boat"].map(|thing| format!("a {{red|blue}} {thing}\n")).concat();
    fs::write(folder.path().join("prompts.txt"), prompts).unwrap();
    eval(folder.path(), &["--dynamic", "-o", "eval/"]).done();
    let mut texts: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in results(&folder.path().join("eval")) {
        let text = line["prompt"].as_str().expect("a prompt").to_owned();
        assert!(!text.contains('{'), "{text}");
        texts.entry(line["prompt_index"].as_u64().expect("a place")).or_default().push(text);
    }
    assert_eq!(texts.len(), 4);
    assert!(texts.values().all(|of_line| of_line.iter().all(|text| *text == of_line[0])));
    let red = texts.values().filter(|of_line| of_line[0].starts_with("a red ")).count();
    assert!((1..4).contains(&red), "every line draws for itself: {texts:?}");

    // Two lines that draw the same would count twice.
    fs::write(folder.path().join("prompts.txt"), "a cat\na {cat}\n").unwrap();
    let run = eval(folder.path(), &["--dynamic", "-o", "same/"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("two prompts draw `a cat`"), "{}", run.stderr);
}
