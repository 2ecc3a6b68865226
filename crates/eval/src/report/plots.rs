//! Plots as SVG inside the page.

use std::fmt::Write as _;

use super::text::{difference, escape, words};
use crate::metrics::{self, Better};
use crate::summary::{Comparison, Test};

const WIDTH: f64 = 760.0;
/// Where names end and the plot begins.
const LEFT: f64 = 230.0;
const RIGHT: f64 = WIDTH - 20.0;
const ROW: f64 = 18.0;
/// Least half width of the axis, in standard deviations.
const LEAST: f64 = 0.5;

/// Every metric of every variant: mean difference and interval in standard deviations of the
/// differences, to the right where the claim says.
pub(super) fn forest(comparisons: &[Comparison]) -> String {
    let tests = || comparisons.iter().flat_map(|comparison| &comparison.tests);
    let widest = tests().flat_map(standardised).map(f64::abs).fold(LEAST, f64::max) * 1.05;
    let x = |value: f64| LEFT + (RIGHT - LEFT) * (value / widest + 1.0) / 2.0;
    let metrics = comparisons.first().map_or(0, |comparison| comparison.tests.len());
    let bottom = metrics as f64 * (comparisons.len() as f64 * ROW + 14.0) + 8.0;
    let mut body = axis(x(0.0), bottom);
    let mut y = 14.0;
    for metric in 0..metrics {
        for (place, comparison) in comparisons.iter().enumerate() {
            let test = &comparison.tests[metric];
            let [low, middle, high] = standardised(test);
            if place == 0 {
                label(&mut body, 4.0, y, "name", &words(test.metric));
            }
            label(&mut body, 130.0, y, "variant", &comparison.variant);
            let mark = if test.p_holm < 0.05 { "mark" } else { "mark open" };
            let title = format!(
                "{}, {}: {}",
                words(test.metric),
                comparison.variant,
                difference(test.mean_difference)
            );
            range(&mut body, [x(low), x(middle), x(high)], y, &format!("{mark} v{place}"), &title);
            y += ROW;
        }
        y += 14.0;
    }
    let [from, to] = [-widest, widest].map(|value| format!("{} SD", difference(value)));
    label(&mut body, x(-widest), bottom + 14.0, "tick", &from);
    label(&mut body, x(0.0) - 4.0, bottom + 14.0, "tick", "0");
    label(&mut body, x(widest) - 46.0, bottom + 14.0, "tick", &to);
    svg("Mean differences of all metrics", bottom + 24.0, &body)
}

/// Every pair of one metric as a dot, variant by variant, with mean and interval.
pub(super) fn strips(comparisons: &[Comparison], metric: usize) -> String {
    let tests: Vec<&Test> =
        comparisons.iter().map(|comparison| &comparison.tests[metric]).collect();
    let values = tests.iter().flat_map(|test| &test.differences).map(|value| value.abs());
    let widest = values.fold(0.0, f64::max) * 1.05;
    let widest = if widest > 0.0 { widest } else { 1.0 };
    let x = |value: f64| LEFT + (RIGHT - LEFT) * (value / widest + 1.0) / 2.0;
    let height = 44.0;
    let bottom = tests.len() as f64 * height + 8.0;
    let mut body = axis(x(0.0), bottom);
    for (place, (comparison, test)) in comparisons.iter().zip(&tests).enumerate() {
        let middle = 8.0 + (place as f64 + 0.5) * height;
        label(&mut body, 4.0, middle, "name", &comparison.variant);
        for (pair, value) in test.differences.iter().enumerate() {
            // Steps of the golden ratio: dots of equal value lie apart, and always alike.
            let apart = (pair as f64 * 0.618_034).fract() - 0.5;
            write!(
                body,
                "<circle class=\"dot v{place}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>",
                x(*value),
                middle + apart * (height - 16.0)
            )
            .expect("a String takes every write");
        }
        let [low, high] = test.interval;
        let places = [x(low), x(test.mean_difference), x(high)];
        range(
            &mut body,
            places,
            middle,
            &format!("mark v{place}"),
            &difference(test.mean_difference),
        );
    }
    label(&mut body, LEFT, bottom + 14.0, "tick", &difference(-widest));
    label(&mut body, x(0.0) - 4.0, bottom + 14.0, "tick", "0");
    label(&mut body, RIGHT - 46.0, bottom + 14.0, "tick", &difference(widest));
    svg("Differences pair by pair", bottom + 24.0, &body)
}

/// Low end, mean and high end, turned so that the claimed direction is positive.
fn standardised(test: &Test) -> [f64; 3] {
    if test.deviation <= 0.0 {
        return [0.0; 3];
    }
    let better = metrics::named(test.metric).map(|(_, metric)| metric.better);
    let [low, high] = test.interval;
    match better {
        Some(Better::Lower) => [high, test.mean_difference, low].map(|v| -v / test.deviation),
        _ => [low, test.mean_difference, high].map(|v| v / test.deviation),
    }
}

fn svg(title: &str, height: f64, body: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{title}\">{body}</svg>\n"
    )
}

fn axis(zero: f64, bottom: f64) -> String {
    format!(
        "<line class=\"zero\" x1=\"{zero:.1}\" x2=\"{zero:.1}\" y1=\"0\" y2=\"{bottom:.1}\"/>\
         <line class=\"base\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/>"
    )
}

fn label(body: &mut String, x: f64, y: f64, class: &str, text: &str) {
    let (y, text) = (y + 4.0, escape(text));
    write!(body, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>")
        .expect("a String takes every write");
}

/// An interval as a line, its mean as a dot.
fn range(body: &mut String, [low, middle, high]: [f64; 3], y: f64, class: &str, title: &str) {
    let title = escape(title);
    write!(
        body,
        "<g class=\"{class}\"><title>{title}</title>\
         <line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
         <circle cx=\"{middle:.1}\" cy=\"{y:.1}\" r=\"4.5\"/></g>"
    )
    .expect("a String takes every write");
}
