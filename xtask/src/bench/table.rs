//! The results as Markdown.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::{fs, io, thread};

use anyhow::Result;

use super::options::Options;
use super::results::{Medians, Results, Variants};
use super::rows::{Row, Who};
use crate::root;

const HEAD: &str = "\
| | unwrong, s | PyTorch, s | sd.cpp, s | ratio | unwrong, GFLOP/s | PyTorch, GFLOP/s | anonymous, GB | resident, GB |
|---|---|---|---|---|---|---|---|---|
";

/// Prints where and what was measured, the table, and its notes.
pub(super) fn print(options: &Options, variants: &Variants, results: &Results) -> Result<()> {
    let mut text = format!("{}; medians of {} rounds.\n\n{HEAD}", machine(), options.rounds);
    for row in &options.rows {
        text.push_str(&line(row, variants, results));
    }
    text.push('\n');
    text.push_str(&notes(options, variants, results));
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// One row; memory is ours / PyTorch's.
fn line(row: &Row, variants: &Variants, results: &Results) -> String {
    let medians = |who| results.medians(row.name, who).and_then(Result::ok);
    let [ours, torch, sdcpp] = [Who::Ours, Who::Torch, Who::Sdcpp].map(medians);
    let against = match row.against {
        Some((other, who)) => results.medians(other, who).and_then(Result::ok),
        None => torch,
    };
    let ratio = ours.zip(against).map(|(ours, against)| ours.seconds / against.seconds);
    let rate = |medians: Option<Medians>| Some(row.gflop? / medians?.seconds);
    let pair = |of: fn(Medians) -> Option<f64>| {
        let gigabytes =
            |medians: Option<Medians>| number(medians.and_then(of).map(|bytes| bytes / 1e9), 2);
        if torch.is_some() {
            format!("{} / {}", gigabytes(ours), gigabytes(torch))
        } else {
            gigabytes(ours)
        }
    };
    let seconds = |medians: Option<Medians>| number(medians.map(|medians| medians.seconds), 2);
    let variant = match torch {
        Some(_) => format!(" ({})", variants.best(row).name),
        None => String::new(),
    };
    format!(
        "| {} | {} | {}{variant} | {} | {} | {} | {} | {} | {} |\n",
        row.title,
        seconds(ours),
        seconds(torch),
        seconds(sdcpp),
        number(ratio, if row.lora.is_some() { 3 } else { 2 }),
        number(rate(ours), 0),
        number(rate(torch), 0),
        pair(|medians| medians.anonymous),
        pair(|medians| medians.resident),
    )
}

/// A dash where there is no number.
fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

/// What was tried once, and what could not be measured.
fn notes(options: &Options, variants: &Variants, results: &Results) -> String {
    let mut text = String::new();
    let mut note = |sentence: String| writeln!(text, "- {sentence}").expect("a String takes all");
    for row in &options.rows {
        let tried = variants.tried(row.name);
        if !tried.is_empty() {
            note(format!("{}: PyTorch, once each: {}", row.title, tried.join(", ")));
        }
        if let Some((other, who)) = row.against {
            note(format!("{}: ratio to {other} of {}", row.title, who.name()));
        }
        for who in [Who::Ours, Who::Torch, Who::Sdcpp] {
            if let Some(Err(reason)) = results.medians(row.name, who) {
                note(format!("{}: {} not measured: {reason}", row.title, who.name()));
            }
        }
    }
    text
}

/// Processor, threads, commit.
pub(crate) fn machine() -> String {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = information
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name);
    let threads = thread::available_parallelism().map_or(0, usize::from);
    let commit = Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .current_dir(root())
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!("{name}, {threads} threads, commit {}", commit.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::took;
    use super::super::rows::VARIANTS;
    use super::*;

    #[test]
    fn a_row_has_seconds_ratio_speed_and_memory() -> Result<()> {
        let path = std::env::temp_dir().join(format!("xtask-table-{}.jsonl", std::process::id()));
        let mut results = Results::to(&path)?;
        let mut variants = Variants::default();
        variants.add("unet-512", VARIANTS[1], Ok(took(20.0)));
        for (row, who, seconds) in [
            ("unet-512", Who::Ours, 15.0),
            ("unet-512", Who::Torch, 20.0),
            ("lora-4", Who::Ours, 15.15),
        ] {
            results.add(row, who, "", 1, Ok(took(seconds)))?;
        }
        results.add("unet-512", Who::Sdcpp, "", 1, Err("no cmake".to_owned()))?;
        let of = |name| Row::named(name).expect("it is in the table");
        assert_eq!(
            line(of("unet-512"), &variants, &results),
            "| UNet step 512², batch 2 | 15.00 | 20.00 (channels_last) | – | 0.75 | 212 | 159 | \
             15.00 / 20.00 | – / – |\n"
        );
        assert_eq!(
            line(of("lora-4"), &variants, &results),
            "| UNet step 512², LoRA of rank 4 | 15.15 | – | – | 1.010 | – | – | 15.15 | – |\n"
        );
        let options = Options::parse(&["--rows".to_owned(), "unet-512,lora-4".to_owned()])?;
        assert_eq!(
            notes(&options, &variants, &results),
            "- UNet step 512², batch 2: PyTorch, once each: channels_last 20.00 s\n\
             - UNet step 512², batch 2: sdcpp not measured: no cmake\n\
             - UNet step 512², LoRA of rank 4: ratio to unet-512 of unwrong\n"
        );
        Ok(fs::remove_file(&path)?)
    }
}
