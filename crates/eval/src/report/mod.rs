//! The report: one page that needs no network and no other file.
//!
//! It holds no clock and no path outside its folder, so the same pictures give the same page.

mod pairs;
mod plots;
mod tables;
mod text;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use unwrong::Result;

use crate::measure::Row;
use crate::statistics::MOST_EXACT;
use crate::summary::{Comparison, Test};
use crate::{Experiment, Folder, Unit};
use text::{count, difference, escape, percent, probability, words};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("report.js");

/// The whole page.
pub(crate) fn page(
    experiment: &Experiment,
    folder: &Folder,
    rows: &[Row],
    comparisons: &[Comparison],
) -> Result<String> {
    let baseline = escape(&experiment.variants[experiment.baseline].name);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Evaluation against {baseline}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>Evaluation against {baseline}</h1>\n"
    );
    html += &setting(experiment, rows);
    html += &verdict(experiment, comparisons);
    html += LIMITS;
    html += "<h2>All metrics</h2>\n";
    html += &plots::forest(comparisons);
    html += "<p>Mean differences to the baseline with their 95 % intervals, in standard \
             deviations of the differences (SD), to the right where the method's author claims. \
             Filled: p below 0.05 after Holm's correction.</p>\n";
    writeln!(html, "<h2>Pair by pair: {}</h2>", words(experiment.metrics()[0].name))
        .expect("a String takes every write");
    html += &plots::strips(comparisons, 0);
    html += "<h2>Tables</h2>\n";
    for comparison in comparisons {
        html += &tables::comparison(experiment, comparison);
    }
    html += &methods(experiment);
    html += "<h2>Pictures</h2>\n";
    html += &pairs::section(experiment, folder, rows)?;
    html += "<h2>Metrics</h2>\n";
    html += &tables::metrics(&experiment.metrics());
    writeln!(html, "<script>\n{SCRIPT}</script>\n</body>\n</html>")
        .expect("a String takes every write");
    Ok(html)
}

/// What was drawn, and with what.
fn setting(experiment: &Experiment, rows: &[Row]) -> String {
    let mut html = format!(
        "<p>{}, {} ({}) and {}: {}, {} in each comparison.</p>\n",
        count(experiment.prompts.len(), "prompt"),
        count(experiment.seeds.count() as usize, "seed"),
        experiment.seeds,
        count(experiment.variants.len(), "variant"),
        count(rows.len(), "picture"),
        count(experiment.pairs(), "pair"),
    );
    html += &tables::variants(experiment);
    let mut files = BTreeSet::new();
    let mut how = BTreeSet::new();
    for Row { embedded, .. } in rows {
        let models = &embedded.models;
        let named = [("base", Some(&models.base)), ("refiner", models.refiner.as_ref())];
        for (part, model) in named.into_iter().chain([("VAE", models.vae.as_ref())]) {
            if let Some(model) = model {
                files.insert(format!("{part} {}", file(&model.name, &model.sha256)));
            }
        }
        files.extend(embedded.loras.iter().map(|l| format!("LoRA {}", file(&l.name, &l.sha256))));
        let request = &embedded.request;
        let size = request.size.map(|size| size.to_string()).unwrap_or_default();
        how.insert(format!(
            "{size} pixels, {} steps, guidance scale {}",
            request.steps.unwrap_or_default(),
            request.guidance_scale.unwrap_or_default()
        ));
    }
    let joined = |parts: BTreeSet<String>| parts.into_iter().collect::<Vec<_>>().join("; ");
    writeln!(html, "<p>{}. {}.</p>", joined(how), joined(files))
        .expect("a String takes every write");
    html
}

/// A name and the beginning of its hash.
fn file(name: &str, sha256: &str) -> String {
    let start: String = sha256.chars().take(12).collect();
    format!("<code>{}</code> (SHA-256 {}…)", escape(name), escape(&start))
}

/// The primary metric in sentences.
fn verdict(experiment: &Experiment, comparisons: &[Comparison]) -> String {
    let Some(primary) = experiment.primary else {
        return "<h2>No primary metric</h2>\n<p>None was named beforehand (<code>--primary</code>), \
                so all that follows is exploration: with this many numbers some move by chance.\
                </p>\n"
            .to_owned();
    };
    let mut items = String::new();
    for comparison in comparisons {
        let Some(test) = comparison.tests.first() else { continue };
        writeln!(items, "<li>{}</li>", sentence(comparison, test))
            .expect("a String takes every write");
    }
    format!(
        "<h2>Primary metric: {}</h2>\n<p>{}, named beforehand.</p>\n<ul>\n{items}</ul>\n",
        words(primary.name),
        primary.what
    )
}

fn sentence(comparison: &Comparison, test: &Test) -> String {
    format!(
        "<b>{}</b>: {} on average, 95 % interval {} to {}; {} of {} improved; p = {} \
         (Wilcoxon, {}), {} with Holm's correction",
        escape(&comparison.variant),
        difference(test.mean_difference),
        difference(test.interval[0]),
        difference(test.interval[1]),
        percent(test.improved),
        count(test.pairs, comparison.unit),
        probability(test.p),
        test.method,
        probability(test.p_holm),
    )
}

const LIMITS: &str = "<div class=\"limits\">\n<h2>What this does not show</h2>\n\
    <p>No metric here sees hands, textures or taste. They count contrast, edges and colour; a \
    picture may gain on all of them and be worse. “Improved” means only: in the direction that \
    the method's author claims (↑ or ↓). Whether a picture is good, look at it below.</p>\n\
    </div>\n";

/// How the numbers were made.
fn methods(experiment: &Experiment) -> String {
    let other = experiment.variants.len() - 1;
    let (unit, independent) = match experiment.unit {
        Unit::Pair => (
            "",
            "Pairs count as independent; seeds of one prompt are not quite, so with few prompts the \
             intervals are too narrow for other prompts.",
        ),
        Unit::Prompt => (
            " One observation is a prompt: the mean of its seeds.",
            "Prompts count as independent.",
        ),
    };
    format!(
        "<h3>How</h3>\n<p>A pair is one prompt and one seed, drawn by both variants; differences \
         are the variant's value minus the baseline's.{unit} Interval: percentiles of the mean over \
         10,000 draws of the {}s with replacement, from a fixed seed. Test: Wilcoxon's \
         signed-rank test, two-sided, those without a difference left out; exact, ties included, \
         up to {MOST_EXACT} differences, else by the normal approximation with the variance \
         corrected for ties and no correction for continuity; the column says which. Holm's \
         correction is over the {} metrics of one comparison{}. {independent}</p>\n{}",
        experiment.unit.name(),
        experiment.metrics().len(),
        if other > 1 { format!(", not over the {other} comparisons") } else { String::new() },
        follow(experiment),
    )
}

/// How the model was asked whether pictures follow their prompts.
fn follow(experiment: &Experiment) -> String {
    let Some(follow) = experiment.follow else { return String::new() };
    format!(
        "<p>Follows: noise of {} was added to each picture's latents, the same for every caption, \
         and the base model without LoRA and guidance predicted it under the picture's own prompt \
         and under {} of this experiment, the same for all variants. The prompt of the lowest mean \
         square error is the one that the model reads in the picture. Right by chance: {}. It \
         shows whether the named object can be told from the others by the model that drew it, \
         and neither quality nor details.</p>\n",
        count(follow.levels(), "level"),
        count(follow.captions() - 1, "other"),
        percent(1.0 / follow.captions() as f64),
    )
}
