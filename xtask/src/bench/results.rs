//! Every single number, kept in memory and in a file, and the medians of them.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::process::Numbers;
use super::rows::{Row, VARIANTS, Variant, Who};

/// What the rounds brought.
#[derive(Debug)]
pub(super) struct Results {
    file: File,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    row: &'static str,
    who: Who,
    round: u32,
    outcome: Result<Numbers, String>,
}

/// The medians of one row and one contestant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Medians {
    pub(super) seconds: f64,
    pub(super) anonymous: Option<f64>,
    pub(super) resident: Option<f64>,
}

impl Results {
    /// Starts a file with one JSON object a line.
    pub(super) fn to(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(Self { file, entries: Vec::new() })
    }

    /// Keeps one outcome; round 0 is the choice of a variant.
    pub(super) fn add(
        &mut self,
        row: &'static str,
        who: Who,
        variant: &str,
        round: u32,
        outcome: Result<Numbers, String>,
    ) -> Result<()> {
        let (line, reason) = match &outcome {
            Ok(numbers) => (numbers.line.clone(), Value::Null),
            Err(reason) => (Value::Null, json!(reason)),
        };
        let line = json!({
            "bench": row, "who": who.name(), "variant": variant, "round": round,
            "result": line, "failed": reason,
        });
        writeln!(self.file, "{line}")?;
        self.entries.push(Entry { row, who, round, outcome });
        Ok(())
    }

    /// Medians over the rounds; the first reason where no round has numbers.
    pub(super) fn medians(&self, row: &str, who: Who) -> Option<Result<Medians, String>> {
        let of_row = |entry: &&Entry| entry.row == row && entry.who == who && entry.round > 0;
        let outcomes: Vec<_> =
            self.entries.iter().filter(of_row).map(|entry| &entry.outcome).collect();
        let numbers: Vec<&Numbers> =
            outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
        let Some(seconds) = median(numbers.iter().map(|one| one.seconds)) else {
            let reason = outcomes.iter().find_map(|outcome| outcome.as_ref().err());
            return reason.map(|reason| Err(reason.clone()));
        };
        Some(Ok(Medians {
            seconds,
            anonymous: median(numbers.iter().filter_map(|one| one.peak_anonymous_bytes)),
            resident: median(numbers.iter().filter_map(|one| one.peak_resident_bytes)),
        }))
    }
}

/// What each variant of PyTorch took, once.
#[derive(Debug, Default)]
pub(super) struct Variants {
    tried: Vec<(&'static str, &'static Variant, Result<Numbers, String>)>,
    /// What a row gets for which nothing was tried.
    pub(super) given: Option<&'static Variant>,
}

impl Variants {
    pub(super) fn add(
        &mut self,
        row: &'static str,
        variant: &'static Variant,
        outcome: Result<Numbers, String>,
    ) {
        self.tried.push((row, variant, outcome));
    }

    /// The fastest for this row.
    pub(super) fn best(&self, row: &Row) -> &'static Variant {
        let probe = row.probe().map_or("", |probe| probe.name);
        let tried = self.tried.iter().filter(|(tried, _, _)| *tried == probe);
        tried
            .filter_map(|(_, variant, outcome)| Some((*variant, outcome.as_ref().ok()?.seconds)))
            .min_by(|(_, one), (_, other)| one.total_cmp(other))
            .map_or(self.given.unwrap_or(VARIANTS[0]), |(variant, _)| variant)
    }

    /// For the notes under the table.
    pub(super) fn tried(&self, row: &str) -> Vec<String> {
        let tried = self.tried.iter().filter(|(tried, _, _)| *tried == row);
        let sentence = |(_, variant, outcome): &(_, &Variant, Result<Numbers, String>)| {
            let outcome = match outcome {
                Ok(numbers) => format!("{:.2} s", numbers.seconds),
                Err(reason) => format!("failed ({reason})"),
            };
            format!("{} {outcome}", variant.name)
        };
        tried.map(sentence).collect()
    }
}

/// The middle one; of an even number the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[middle - 1], upper) })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn took(seconds: f64) -> Numbers {
        Numbers {
            seconds,
            peak_anonymous_bytes: Some(seconds * 1e9),
            peak_resident_bytes: None,
            line: Value::Null,
        }
    }

    #[test]
    fn the_median_leaves_out_the_choice_of_a_variant_and_what_failed() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("xtask-{}.jsonl", std::process::id()));
        let mut results = Results::to(&folder)?;
        results.add("unet-512", Who::Torch, "default", 0, Ok(took(1.0)))?;
        for (round, outcome) in
            [Ok(took(9.0)), Ok(took(7.0)), Err("killed".to_owned()), Ok(took(8.0))]
                .into_iter()
                .enumerate()
        {
            results.add("unet-512", Who::Torch, "default", round as u32 + 1, outcome)?;
        }
        let expected = Medians { seconds: 8.0, anonymous: Some(8e9), resident: None };
        assert_eq!(results.medians("unet-512", Who::Torch), Some(Ok(expected)));
        assert_eq!(results.medians("unet-512", Who::Sdcpp), None);
        results.add("picture", Who::Torch, "default", 1, Err("killed".to_owned()))?;
        assert_eq!(results.medians("picture", Who::Torch), Some(Err("killed".to_owned())));
        assert_eq!(std::fs::read_to_string(&folder)?.lines().count(), 6);
        Ok(std::fs::remove_file(&folder)?)
    }

    #[test]
    fn the_best_variant_is_the_fastest_that_ran() {
        let mut variants = Variants::default();
        let row = Row::named("unet-512").expect("it is in the table");
        assert_eq!(variants.best(row).name, "default");
        variants.add(row.name, VARIANTS[0], Ok(took(22.0)));
        variants.add(row.name, VARIANTS[1], Ok(took(21.0)));
        variants.add(row.name, VARIANTS[2], Err("gave up after 20 minutes".to_owned()));
        assert_eq!(variants.best(row).name, "channels_last");
        assert_eq!(variants.tried(row.name)[2], "compile failed (gave up after 20 minutes)");
        let picture = Row::named("picture").expect("it is in the table");
        variants.add("unet-1024", VARIANTS[1], Ok(took(80.0)));
        assert_eq!(variants.best(picture).name, "channels_last");
    }
}
