//! `cargo xtask bench`: us and the peers at the real size, measured by turns, one Markdown table.
//!
//! Every measurement is a process of its own (`unwrong bench`, `parity/bench_torch.py`,
//! `parity/bench_sdcpp.py`) that prints one line of JSON.

mod options;
mod places;
mod process;
mod results;
mod rows;
mod table;

use std::process::Command;

use anyhow::Result;

use self::options::Options;
use self::places::Places;
use self::process::Numbers;
use self::results::{Results, Variants};
use self::rows::{Row, Who};
use crate::say;

pub(crate) use self::options::USAGE;
pub(crate) use self::table::machine;

/// Measures every row of the table, round by round.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let places = Places::prepare(&options)?;
    let json = options.json.clone().unwrap_or_else(|| places.folder.join("bench.jsonl"));
    let mut results = Results::to(&json)?;

    let variants = choose_variants(&options, &places, &mut results)?;
    for round in 1..=options.rounds {
        for row in &options.rows {
            for who in row.contestants(&options.peers) {
                measure(row, who, round, &places, &variants, &mut results)?;
            }
        }
    }
    table::print(&options, &variants, &results)
}

/// Runs every variant of PyTorch once, so that the rounds need only the best one.
fn choose_variants(options: &Options, places: &Places, results: &mut Results) -> Result<Variants> {
    let mut variants = Variants::default();
    variants.given = options.variant;
    if !options.peers.contains(&Who::Torch) || options.variant.is_some() {
        return Ok(variants);
    }
    for row in options.rows.iter().filter_map(|row| row.probe()) {
        if !variants.tried(row.name).is_empty() {
            continue;
        }
        for variant in rows::VARIANTS {
            say(&format!("{}: PyTorch, {}, once to choose", row.name, variant.name));
            let outcome = measured(places.command(row, Who::Torch, variant));
            variants.add(row.name, variant, outcome.clone());
            results.add(row.name, Who::Torch, variant.name, 0, outcome)?;
        }
    }
    Ok(variants)
}

fn measure(
    row: &Row,
    who: Who,
    round: u32,
    places: &Places,
    variants: &Variants,
    results: &mut Results,
) -> Result<()> {
    let variant = variants.best(row);
    if row.warm && round == 1 {
        // Only the second start finds the files in memory.
        measured(places.command(row, who, variant)).ok();
    }
    let outcome = measured(places.command(row, who, variant));
    let variant = if who == Who::Torch { variant.name } else { "" };
    let result = match &outcome {
        Ok(numbers) => format!("{:.3} s", numbers.seconds),
        Err(reason) => reason.clone(),
    };
    say(&format!("round {round}, {}, {} {variant}: {result}", row.name, who.name()));
    results.add(row.name, who, variant, round, outcome)
}

fn measured(command: Result<Command, String>) -> Result<Numbers, String> {
    process::measure(&mut command?)
}
