//! What the numbers say: every variant against the baseline, metric by metric, in pairs.

use serde::Serialize;

use crate::measure::Row;
use crate::metrics::{self, Better, Metric};
use crate::statistics::{Method, deviation, holm, mean, mean_interval, wilcoxon};
use crate::{Experiment, Unit};

/// One variant against the baseline.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// The variant's name.
    pub variant: String,
    /// The baseline's name.
    pub baseline: String,
    /// What counts as one observation: `pair` or `prompt`.
    pub unit: &'static str,
    /// One test per metric, the primary metric first.
    pub tests: Vec<Test>,
    /// How far the pictures are from the baseline's.
    pub distance: Distance,
}

/// One metric of one comparison. A pair is the same prompt and seed in both variants; where
/// prompts are the unit, the mean over a prompt's pairs stands for them.
#[derive(Debug, Serialize)]
pub struct Test {
    /// The metric's name.
    pub metric: &'static str,
    /// Which way the method's author claims it goes: `higher` or `lower`.
    pub better: &'static str,
    /// How many observations: pairs, or prompts where those are the unit.
    pub pairs: usize,
    /// Mean of the variant's values minus the baseline's.
    pub mean_difference: f64,
    /// Its 95 % interval, by bootstrap.
    pub interval: [f64; 2],
    /// Standard deviation of the differences.
    pub deviation: f64,
    /// Share of the observations that go the way the method's author claims.
    pub improved: f64,
    /// Two-sided probability by Wilcoxon's signed-rank test.
    pub p: f64,
    /// `exact`, `normal`, or `no difference`.
    pub method: &'static str,
    /// `p` after Holm's correction over the metrics of this comparison.
    pub p_holm: f64,
    /// Every difference, in the order of the experiment.
    #[serde(skip)]
    pub differences: Vec<f64>,
}

/// How far two variants' pictures are apart: no test, and no direction.
#[derive(Debug, Serialize)]
pub struct Distance {
    /// Mean PSNR in decibels over the pairs that are not equal.
    pub psnr: Option<f64>,
    /// Mean SSIM.
    pub ssim: Option<f64>,
    /// Pairs of equal pictures.
    pub equal: usize,
}

/// Compares every variant with the baseline; `rows` are all pictures in the experiment's order.
#[must_use]
pub fn compare(experiment: &Experiment, rows: &[Row]) -> Vec<Comparison> {
    let variants = &experiment.variants;
    let others = (0..variants.len()).filter(|variant| *variant != experiment.baseline);
    others
        .map(|variant| {
            let pairs: Vec<[&Row; 2]> = rows
                .chunks_exact(variants.len())
                .map(|pair| [&pair[variant], &pair[experiment.baseline]])
                .collect();
            let mut tests: Vec<Test> = experiment
                .metrics()
                .into_iter()
                .map(|metric| test(experiment, metric, &pairs))
                .collect();
            let corrected = holm(&tests.iter().map(|test| test.p).collect::<Vec<_>>());
            for (test, p_holm) in tests.iter_mut().zip(corrected) {
                test.p_holm = p_holm;
            }
            Comparison {
                variant: variants[variant].name.clone(),
                baseline: variants[experiment.baseline].name.clone(),
                unit: experiment.unit.name(),
                tests,
                distance: distance(&pairs),
            }
        })
        .collect()
}

fn test(experiment: &Experiment, metric: &'static Metric, pairs: &[[&Row; 2]]) -> Test {
    let place = metrics::named(metric.name).map_or(0, |(place, _)| place);
    let value = |row: &Row| row.values[place];
    let mut differences: Vec<f64> =
        pairs.iter().map(|[row, base]| value(row) - value(base)).collect();
    if experiment.unit == Unit::Prompt {
        // Pairs go prompt by prompt.
        differences = differences.chunks(experiment.seeds.count() as usize).map(mean).collect();
    }
    let improved = differences.iter().filter(|difference| metric.improves(**difference)).count();
    let tested = wilcoxon(&differences);
    Test {
        metric: metric.name,
        better: match metric.better {
            Better::Higher => "higher",
            Better::Lower => "lower",
        },
        pairs: differences.len(),
        mean_difference: mean(&differences),
        interval: mean_interval(&differences),
        deviation: deviation(&differences),
        improved: improved as f64 / differences.len().max(1) as f64,
        p: tested.p,
        method: match tested.method {
            Method::Exact => "exact",
            Method::Normal => "normal",
            Method::NoDifference => "no difference",
        },
        p_holm: tested.p,
        differences,
    }
}

fn distance(pairs: &[[&Row; 2]]) -> Distance {
    let all = |value: fn(&Row) -> Option<f64>| {
        let values: Vec<f64> = pairs.iter().filter_map(|[row, _]| value(row)).collect();
        (!values.is_empty()).then(|| mean(&values))
    };
    Distance {
        psnr: all(|row| row.psnr),
        ssim: all(|row| row.ssim),
        equal: pairs.iter().filter(|[row, _]| row.equal).count(),
    }
}
