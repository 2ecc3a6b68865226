//! Which settings train best: tried on prompts that the experiment does not use.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::LORA;
use super::data::Run;
use super::options::Options;
use super::page::{number, with_share};
use super::verdict::Verdict;
use super::{begin, copy, stages, write};
use crate::bench::machine;
use crate::say;

/// Wrong pictures, and a training on them.
struct Trial {
    /// Guidance scales of the wrong pictures, and how many of each keyword.
    scales: &'static str,
    count: &'static str,
    steps: &'static str,
    rate: &'static str,
    rank: &'static str,
}

const fn trial(
    [scales, count]: [&'static str; 2],
    [steps, rate, rank]: [&'static str; 3],
) -> Trial {
    Trial { scales, count, steps, rate, rank }
}

/// The method's own 78 pictures, softer ones, and those of no guidance at all.
const PUBLISHED: [&str; 2] = ["8,9,10,11,12,13", "1"];
const SOFT: [&str; 2] = ["1,1.5,2,2.5,3,4", "1"];
const UNGUIDED: [&str; 2] = ["1", "6"];
/// Twice as many.
const MORE: [&str; 2] = ["1", "12"];

/// What is tried. The first is the preset of `unwrong wrongs` and `unwrong train`.
const TRIALS: [Trial; 12] = [
    trial(PUBLISHED, ["500", "1e-4", "4"]),
    trial(PUBLISHED, ["200", "1e-4", "4"]),
    trial(PUBLISHED, ["400", "1e-4", "16"]),
    trial(PUBLISHED, ["200", "4e-4", "4"]),
    trial(SOFT, ["500", "1e-4", "4"]),
    trial(SOFT, ["500", "5e-5", "4"]),
    trial(UNGUIDED, ["500", "1e-4", "4"]),
    trial(UNGUIDED, ["250", "1e-4", "16"]),
    trial(UNGUIDED, ["400", "1e-4", "16"]),
    trial(MORE, ["400", "1e-4", "16"]),
    trial(MORE, ["250", "2e-4", "16"]),
    trial(MORE, ["250", "1e-4", "32"]),
];
/// What is looked at beside the primary metric.
const METRICS: [&str; 5] = ["sharpness", "noise", "colourfulness", "follows", "follow_margin"];

/// Share of the pictures whose object may be lost.
const MOST_LOST: f64 = 0.03;

/// Trains every trial on one set of wrong pictures, and writes a table.
pub(super) fn tune(options: &Options) -> Result<()> {
    begin(&options.dir)?;
    let program = stages::program(options)?;
    let mut options = options.clone();
    options.settings.set("prompts", "demo/experiment/tuning.txt")?;
    options.settings.set("seeds", if options.quick { "0..1" } else { "0..2" })?;
    stages::prompts(&options.settings, &options.dir)?;

    let trials = if options.quick { &TRIALS[..2] } else { &TRIALS[..] };
    let mut rows = String::new();
    let mut best: Option<(f64, String)> = None;
    let mut drawn = None;
    for Trial { scales, count, steps, rate, rank } in trials {
        let settings = &mut options.settings;
        let steps = if options.quick { "2" } else { *steps };
        let scales = if options.quick { "8" } else { *scales };
        for (key, value) in [
            ("wrong-scales", scales),
            ("wrong-count", *count),
            ("train-steps", steps),
            ("rate", *rate),
            ("rank", *rank),
        ] {
            settings.set(key, value)?;
        }
        if drawn.replace((scales, *count)) != Some((scales, *count)) {
            let folder = options.dir.join("wrongs");
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            stages::unwrong(&program, &options.dir, &stages::wrongs(settings))?;
        }
        let mut train = stages::train(settings);
        train.push("--force".to_owned());
        let (_, seconds) = stages::unwrong(&program, &options.dir, &train)?;
        copy(&options.dir.join("wrong.safetensors"), &options.dir.join(LORA))?;
        let run = compare(&options, &program)?;
        let each = if *count == "1" { String::new() } else { format!(", {count} of each") };
        let name = format!("scales {scales}{each}; {steps} steps, {rate}, rank {rank}");
        rows += &row(&run, &name, seconds)?;
        say(&rows);
        if let Some(gain) = gain(&run)
            && best.as_ref().is_none_or(|(most, _)| gain > *most)
        {
            best = Some((gain, name.clone()));
        }
        fs::rename(options.dir.join("eval/sheet.webp"), options.dir.join(format!("{name}.webp")))?;
    }
    write(
        &options.page,
        page(&options, &rows, best.as_ref().map(|(_, name)| name.as_str())).as_bytes(),
    )?;
    say(&options.page.display().to_string());
    Ok(())
}

/// `none`, `word` and `both`; only `both` is drawn anew for every trial.
fn compare(options: &Options, program: &std::path::Path) -> Result<Run> {
    let mut evals = serde_json::Map::new();
    for baseline in ["none", "word"] {
        let line = stages::eval_of(&options.settings, baseline, &["none", "word", "both"]);
        let (answer, _) = stages::unwrong(program, &options.dir, &line)?;
        evals.insert(baseline.to_owned(), serde_json::from_str::<Value>(&answer)?);
    }
    let run = serde_json::json!({"settings": options.settings.json(), "evals": evals});
    let read = |name| fs::read_to_string(options.dir.join(name));
    Run::parse(&run.to_string(), &read("eval/results.jsonl")?, &read("prompts.txt")?)
}

fn row(run: &Run, name: &str, seconds: f64) -> Result<String> {
    let primary = run.setting("primary");
    let mut cells = vec![name.to_owned(), format!("{seconds:.0} s")];
    for baseline in ["none", "word"] {
        let test = run.test("both", baseline, primary).context("no primary metric")?;
        let share = with_share(&test, run.mean(baseline, primary));
        cells.push(format!("{share}, {}", Verdict::of(&test).words()));
    }
    for metric in METRICS {
        let [none, word, both] = ["none", "word", "both"].map(|variant| run.mean(variant, metric));
        let cell = |value: Option<f64>| value.map_or_else(String::new, number);
        cells.push(format!("{} / {} / {}", cell(none), cell(word), cell(both)));
    }
    Ok(format!("| {} |\n", cells.join(" | ")))
}

/// What the LoRA adds to the word, by which trials are ranked; none where that is not shown, or
/// where objects are lost.
fn gain(run: &Run) -> Option<f64> {
    let lost = run.mean("word", "follows")? - run.mean("both", "follows")?;
    let test = run.test("both", "word", run.setting("primary"))?;
    let shown = Verdict::of(&test) == Verdict::Improved && lost <= MOST_LOST;
    shown.then_some(test.sign * test.mean)
}

fn page(options: &Options, rows: &str, best: Option<&str>) -> String {
    let get = |key| options.settings.get(key);
    let primary = get("primary");
    let names: Vec<String> = METRICS.iter().map(|metric| metric.replace('_', " ")).collect();
    format!(
        "# Settings of the experiment\n\nWritten by `cargo xtask experiment --tune`; {}. Prompts of \
         `{}`, none of which [the experiment](experiment.md) uses, seeds {}, guidance scale {}, {} \
         steps; one training each, on wrong pictures of the 13 keywords drawn at the scales named. The columns of one metric are the means of `none` / `word` / \
         `both`; few pictures, so differences between the rows are no finding.\n\n\
         | training | time | {primary}, `both` − `none` | {primary}, `both` − `word` | {} |\n\
         |---|---|---|---|{}\n{rows}\nThe rule: the row where `both` has most {primary} above \
         `word`, among those where that is improved and at most {:.0} % of the objects are lost; \
         where there is none, the presets of both commands, which are the first row. That is: \
         **{}**.\n",
        machine(),
        get("prompts"),
        get("seeds"),
        get("guidance-scale"),
        get("draw-steps"),
        names.join(" | "),
        "---|".repeat(METRICS.len()),
        100.0 * MOST_LOST,
        best.unwrap_or("the preset"),
    )
}
