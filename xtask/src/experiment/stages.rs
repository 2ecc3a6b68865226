//! The commands, one after the other, each with its seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::LORA;
use super::options::{Options, Settings};
use crate::bench::machine;
use crate::{cargo, root, run as run_command, say, shown};

/// Lies in the folder from the first moment on.
pub(super) const MARK: &str = "begun";
/// Every baseline, and the one that the report is left with last.
const BASELINES: [&str; 4] = ["word", "both", "keywords", "none"];

/// Runs commands in the folder and remembers what they took.
struct Stages<'a> {
    program: PathBuf,
    dir: &'a Path,
    taken: Vec<Value>,
}

/// The whole method; the text of `run.json`.
pub(super) fn run(options: &Options) -> Result<String> {
    let settings = &options.settings;
    let mut stages = Stages { program: program(options)?, dir: &options.dir, taken: Vec::new() };
    prompts(settings, &options.dir)?;

    stages.take("the wrong pictures", &wrongs(settings))?;
    stages.take("training", &train(settings))?;
    stages.take(
        "converting",
        &words(&format!("lora convert wrong.safetensors --to peft --dtype f16 -o {LORA}")),
    )?;
    let mut evals = serde_json::Map::new();
    for (place, baseline) in baselines(settings).into_iter().enumerate() {
        let name = if place == 0 {
            "drawing, measuring, comparing".to_owned()
        } else {
            format!("comparing with `{baseline}`")
        };
        let line = stages.take(&name, &eval(settings, &baseline))?;
        let answer: Value = serde_json::from_str(&line).context("`unwrong eval` said no JSON")?;
        evals.insert(baseline, answer);
    }
    let bench = stages.time(options.quick)?;
    let run = json!({
        "machine": machine(),
        "quick": options.quick,
        "settings": settings.json(),
        "lora_bytes": fs::metadata(options.dir.join(LORA))?.len(),
        "wrong_pictures": pictures(&options.dir.join("wrongs"))?,
        "stages": stages.taken,
        "bench": bench,
        "evals": evals,
    });
    Ok(serde_json::to_string_pretty(&run)? + "\n")
}

/// The program that is named, or a new build.
pub(super) fn program(options: &Options) -> Result<PathBuf> {
    if let Some(program) = &options.program {
        return program.canonicalize().with_context(|| format!("no `{}`", program.display()));
    }
    run_command(cargo().args(["build", "--release", "--package", "unwrong-cli"]))?;
    let xtask = std::env::current_exe()?;
    Ok(xtask.with_file_name(format!("unwrong{}", std::env::consts::EXE_SUFFIX)))
}

/// Writes the prompts that are asked for.
pub(super) fn prompts(settings: &Settings, dir: &Path) -> Result<()> {
    let path = root().join(settings.get("prompts"));
    let text = fs::read_to_string(&path).with_context(|| format!("no `{}`", path.display()))?;
    let count = settings.get("prompt-count").parse().unwrap_or(usize::MAX);
    let prompts = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines = prompts.take(count).collect::<Vec<_>>().join("\n") + "\n";
    super::write(&dir.join("prompts.txt"), lines.as_bytes())
}

pub(super) fn wrongs(settings: &Settings) -> Vec<String> {
    let [scales, count, steps, seed] =
        ["wrong-scales", "wrong-count", "wrong-steps", "wrong-seed"].map(|key| settings.get(key));
    let mut line = words(&format!(
        "wrongs -o wrongs --seed {seed} --guidance-scales {scales} --count {count} --steps {steps}"
    ));
    if settings.get("keywords") != "all" {
        line.extend(["--keywords".to_owned(), settings.get("keywords").to_owned()]);
    }
    line
}

pub(super) fn train(settings: &Settings) -> Vec<String> {
    let [steps, rate, rank] = ["train-steps", "rate", "rank"].map(|key| settings.get(key));
    words(&format!(
        "train wrongs --preset wrong --batch 4 --accumulation 1 --steps {steps} --rate {rate} \
         --rank {rank} -o wrong.safetensors"
    ))
}

/// What is compared: the five default variants, and what the author's card speaks of.
fn variants(settings: &Settings) -> Vec<String> {
    let scale = settings.get("lora-scale");
    let mut variants = vec![
        "none".to_owned(),
        "word".to_owned(),
        format!("lora:lora={scale}"),
        format!("both:wrong={scale}"),
        "keywords".to_owned(),
        format!("not-wrong:wrong={scale},suffix=\\, not wrong"),
        format!("others:wrong={scale},negative-prompt=(blurry)++"),
    ];
    let high = settings.get("high-guidance");
    if high != "none" {
        variants.push(format!("none-{high}:guidance-scale={high}"));
        variants.push(format!("both-{high}:wrong={scale},guidance-scale={high}"));
    }
    variants
}

/// The last one is what the report in the folder compares with.
fn baselines(settings: &Settings) -> Vec<String> {
    let high = settings.get("high-guidance");
    let high = (high != "none").then(|| format!("none-{high}"));
    high.into_iter().chain(BASELINES.map(str::to_owned)).collect()
}

fn eval(settings: &Settings, baseline: &str) -> Vec<String> {
    let variants = variants(settings);
    eval_with(settings, baseline, &variants)
}

/// `unwrong eval` of some of the variants, into a folder that may hold pictures of another LoRA.
pub(super) fn eval_of(settings: &Settings, baseline: &str, names: &[&str]) -> Vec<String> {
    let mut variants = variants(settings);
    variants.retain(|variant| names.contains(&variant.split(':').next().unwrap_or_default()));
    let mut line = eval_with(settings, baseline, &variants);
    line.push("--force".to_owned());
    line
}

fn eval_with(settings: &Settings, baseline: &str, variants: &[String]) -> Vec<String> {
    let get = |key| settings.get(key);
    let mut line = words(&format!(
        "eval --prompts prompts.txt --seeds {} --steps {} --guidance-scale {} --primary {} \
         --unit prompt --follow={} --follow-levels {} --wrong-lora {LORA} --baseline {baseline} \
         --json -o eval",
        get("seeds"),
        get("draw-steps"),
        get("guidance-scale"),
        get("primary"),
        get("follow"),
        get("follow-levels"),
    ));
    for variant in variants {
        line.extend(["--variant".to_owned(), variant.clone()]);
    }
    line
}

fn pictures(folder: &Path) -> Result<usize> {
    let entries = fs::read_dir(folder)?.flatten();
    Ok(entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "png")).count())
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The text of `run.json` with its timings anew: where other programs ran beside the first ones.
pub(super) fn retime(options: &Options, run: &str) -> Result<String> {
    let mut run: Value = serde_json::from_str(run)?;
    let mut stages = Stages { program: program(options)?, dir: &options.dir, taken: Vec::new() };
    run["bench"] = stages.time(options.quick)?.into();
    let taken = run["stages"].as_array_mut().context("`run.json` has no stages")?;
    taken.retain(|stage| !stage["name"].as_str().is_some_and(|name| name.starts_with(TIMING)));
    taken.append(&mut stages.taken);
    Ok(serde_json::to_string_pretty(&run)? + "\n")
}

/// What the timing stages begin with.
const TIMING: &str = "timing a step of";

impl Stages<'_> {
    /// What `unwrong bench training` says of one picture and of four.
    fn time(&mut self, quick: bool) -> Result<Vec<Value>> {
        let runs = if quick { "1" } else { "25" };
        let mut bench = Vec::new();
        for batch in ["1", "4"] {
            let line = ["bench", "training", "--batch", batch, "--runs", runs, "--json"];
            let answer = self.take(&format!("{TIMING} {batch}"), &line.map(str::to_owned))?;
            bench.push(serde_json::from_str(&answer).context("no JSON of `unwrong bench`")?);
        }
        Ok(bench)
    }

    /// Runs `unwrong` to its end; what it said on standard output.
    fn take(&mut self, name: &str, arguments: &[String]) -> Result<String> {
        let (answer, seconds) = unwrong(&self.program, self.dir, arguments)?;
        let line: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.taken.push(json!({"name": name, "command": line, "seconds": seconds}));
        Ok(answer)
    }
}

/// Runs `unwrong` in a folder: its standard output, and the seconds it took.
pub(super) fn unwrong(program: &Path, dir: &Path, arguments: &[String]) -> Result<(String, f64)> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).stderr(Stdio::inherit());
    say(&format!("$ {}", shown(&command)));
    let started = Instant::now();
    let output = command.output().with_context(|| format!("`{}`", shown(&command)))?;
    let seconds = started.elapsed().as_secs_f64();
    if !output.status.success() {
        bail!("`{}` failed: {}", shown(&command), output.status);
    }
    say(&format!("{seconds:.1} s"));
    Ok((String::from_utf8(output.stdout)?, seconds))
}
