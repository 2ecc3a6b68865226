//! The tables of the page.

use std::fmt::Write as _;

use super::text::{difference, escape, number, percent, probability, words};
use crate::Experiment;
use crate::metrics::{self, Better, Metric};
use crate::summary::{Comparison, Test};

/// One comparison, metric by metric.
pub(super) fn comparison(experiment: &Experiment, comparison: &Comparison) -> String {
    let mut rows = String::new();
    for test in &comparison.tests {
        let primary = experiment.primary.is_some_and(|metric| metric.name == test.metric);
        writeln!(
            rows,
            "<tr{}><th>{} {}</th><td>{}</td><td>{} to {}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}</td></tr>",
            if primary { " class=\"primary\"" } else { "" },
            words(test.metric),
            arrow(test),
            difference(test.mean_difference),
            difference(test.interval[0]),
            difference(test.interval[1]),
            percent(test.improved),
            probability(test.p),
            probability(test.p_holm),
            test.method,
        )
        .expect("a String takes every write");
    }
    format!(
        "<h3>{} against {}</h3>\n<table><thead><tr><th>metric</th><th>mean difference</th>\
         <th>95 % interval</th><th>improved</th><th>p</th><th>p, Holm</th><th>Wilcoxon</th></tr>\
         </thead><tbody>\n{rows}</tbody></table>\n<p>{}</p>\n",
        escape(&comparison.variant),
        escape(&comparison.baseline),
        distance(experiment, comparison),
    )
}

fn arrow(test: &Test) -> &'static str {
    match metrics::named(test.metric).map(|(_, metric)| metric.better) {
        Some(Better::Lower) => "↓",
        _ => "↑",
    }
}

/// How far apart the pictures are.
fn distance(experiment: &Experiment, comparison: &Comparison) -> String {
    let pairs = experiment.pairs();
    let mut parts = Vec::new();
    if let Some(psnr) = comparison.distance.psnr {
        parts.push(format!("mean PSNR {} dB", number(psnr)));
    }
    if let Some(ssim) = comparison.distance.ssim {
        parts.push(format!("mean SSIM {}", number(ssim)));
    }
    let equal = comparison.distance.equal;
    parts.push(format!("{equal} of {pairs} pairs equal to the byte"));
    format!("Distance to the baseline's pictures: {}.", parts.join(", "))
}

/// What each metric is, where it comes from, and what it does not show.
pub(super) fn metrics(metrics: &[&Metric]) -> String {
    let mut rows = String::new();
    for metric in metrics {
        let arrow = if metric.better == Better::Higher { "↑" } else { "↓" };
        writeln!(
            rows,
            "<tr><th>{} {arrow}</th><td>{}</td><td>{}</td><td>{}</td></tr>",
            words(metric.name),
            metric.what,
            metric.source,
            metric.blind
        )
        .expect("a String takes every write");
    }
    rows.push_str(
        "<tr><th>PSNR</th><td>distance of red, green and blue to the baseline's picture in \
         decibels</td><td>10 log₁₀(255² / mean squared error)</td><td>which of the two is \
         better</td></tr>\n<tr><th>SSIM</th><td>structural similarity of the luma to the \
         baseline's picture, 11×11 Gaussian window of sigma 1.5</td><td>Wang, Bovik, Sheikh and \
         Simoncelli 2004</td><td>which of the two is better</td></tr>\n",
    );
    format!(
        "<table class=\"text\"><thead><tr><th>metric</th><th>what it is</th><th>source</th>\
         <th>what it does not show</th></tr></thead><tbody>\n{rows}</tbody></table>\n"
    )
}

/// What each variant changes.
pub(super) fn variants(experiment: &Experiment) -> String {
    let mut rows = String::new();
    for (place, variant) in experiment.variants.iter().enumerate() {
        let baseline = if place == experiment.baseline { " (the baseline)" } else { "" };
        let (name, what) = (escape(&variant.name), escape(&variant.to_string()));
        writeln!(rows, "<tr><th>{name}{baseline}</th><td>{what}</td></tr>")
            .expect("a String takes every write");
    }
    format!(
        "<table class=\"text\"><thead><tr><th>variant</th><th>what it adds</th></tr></thead>\
         <tbody>\n{rows}</tbody></table>\n"
    )
}
