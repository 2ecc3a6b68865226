//! The numbers of a run, from `run.json` and `eval/results.jsonl`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// All that the page is made of.
pub(super) struct Run {
    json: Value,
    /// Variants in their order, each with the mean of every metric.
    pub(super) means: Vec<(String, BTreeMap<String, f64>)>,
    /// How many pictures of each.
    pub(super) pictures: usize,
    /// Prompts, in their order.
    pub(super) prompts: Vec<String>,
}

/// One metric of one comparison.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Test {
    pub(super) metric: String,
    /// 1 where more is what the method's author claims, else -1.
    pub(super) sign: f64,
    pub(super) count: u64,
    pub(super) mean: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) improved: f64,
    pub(super) p_holm: f64,
}

/// One command.
pub(super) struct Stage<'a> {
    pub(super) name: &'a str,
    pub(super) command: Vec<&'a str>,
    pub(super) seconds: f64,
}

impl Run {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("no `{}`", path.display()))
        };
        Self::parse(&read(super::RUN)?, &read("eval/results.jsonl")?, &read("prompts.txt")?)
    }

    pub(super) fn parse(run: &str, results: &str, prompts: &str) -> Result<Self> {
        let mut means: Vec<(String, BTreeMap<String, f64>)> = Vec::new();
        let mut lines = 0;
        for line in results.lines() {
            let line: Value = serde_json::from_str(line)?;
            let variant = line["variant"].as_str().context("a picture without a variant")?;
            let metrics = line["metrics"].as_object().context("a picture without metrics")?;
            if !means.iter().any(|(known, _)| known == variant) {
                means.push((variant.to_owned(), BTreeMap::new()));
            }
            let sums = means.iter_mut().find(|(known, _)| known == variant);
            let (_, sums) = sums.expect("it was just put in");
            for (metric, value) in metrics {
                *sums.entry(metric.clone()).or_default() += value.as_f64().unwrap_or_default();
            }
            lines += 1;
        }
        let pictures = lines / means.len().max(1);
        for (_, sums) in &mut means {
            for sum in sums.values_mut() {
                *sum /= pictures.max(1) as f64;
            }
        }
        let prompts = prompts.lines().map(str::to_owned).collect();
        Ok(Self { json: serde_json::from_str(run)?, means, pictures, prompts })
    }

    /// A setting as it was given.
    pub(super) fn setting(&self, key: &str) -> &str {
        self.json["settings"][key].as_str().unwrap_or_default()
    }

    /// A number at the top of `run.json`.
    pub(super) fn number(&self, key: &str) -> f64 {
        self.json[key].as_f64().unwrap_or_default()
    }

    pub(super) fn machine(&self) -> &str {
        self.json["machine"].as_str().unwrap_or_default()
    }

    pub(super) fn is_quick(&self) -> bool {
        self.json["quick"] == true
    }

    pub(super) fn stages(&self) -> Vec<Stage<'_>> {
        let stages = self.json["stages"].as_array().into_iter().flatten();
        stages
            .map(|stage| Stage {
                name: stage["name"].as_str().unwrap_or_default(),
                command: stage["command"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                    .collect(),
                seconds: stage["seconds"].as_f64().unwrap_or_default(),
            })
            .collect()
    }

    /// Median seconds of a training step's gradients at a batch.
    pub(super) fn bench(&self, batch: u64) -> Option<f64> {
        let rows = self.json["bench"].as_array()?;
        rows.iter().find(|row| row["batch"] == batch)?["seconds"].as_f64()
    }

    /// Every test of a variant against a baseline, the primary metric first.
    pub(super) fn tests(&self, variant: &str, baseline: &str) -> Vec<Test> {
        let comparisons = self.json["evals"][baseline]["comparisons"].as_array();
        let comparison =
            comparisons.into_iter().flatten().find(|comparison| comparison["variant"] == variant);
        let tests = comparison.and_then(|comparison| comparison["tests"].as_array());
        tests.into_iter().flatten().map(test).collect()
    }

    pub(super) fn test(&self, variant: &str, baseline: &str, metric: &str) -> Option<Test> {
        self.tests(variant, baseline).into_iter().find(|test| test.metric == metric)
    }

    /// The mean of a metric over a variant's pictures.
    pub(super) fn mean(&self, variant: &str, metric: &str) -> Option<f64> {
        let (_, means) = self.means.iter().find(|(known, _)| known == variant)?;
        means.get(metric).copied()
    }
}

fn test(json: &Value) -> Test {
    let number = |key: &str| json[key].as_f64().unwrap_or(f64::NAN);
    Test {
        metric: json["metric"].as_str().unwrap_or_default().to_owned(),
        sign: if json["better"] == "lower" { -1.0 } else { 1.0 },
        count: json["pairs"].as_u64().unwrap_or_default(),
        mean: number("mean_difference"),
        low: json["interval"][0].as_f64().unwrap_or(f64::NAN),
        high: json["interval"][1].as_f64().unwrap_or(f64::NAN),
        improved: number("improved"),
        p_holm: number("p_holm"),
    }
}
