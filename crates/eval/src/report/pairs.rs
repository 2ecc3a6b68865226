//! The pictures of the page, each prompt and seed with a slider between two variants.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use unwrong::Result;
use unwrong::picture::{Format, Quality, encode};

use super::text::{count, difference, escape, number, words};
use crate::measure::Row;
use crate::{Experiment, Folder, metrics, picture};

/// Most pictures inside the page: about 20 megabytes.
const MOST: usize = 400;
/// Longest side of a picture inside the page.
const SIDE: u32 = 512;
/// Up to this side a picture is embedded as it is.
const LOSSLESS: u32 = 256;

/// The section of pictures.
pub(super) fn section(experiment: &Experiment, folder: &Folder, rows: &[Row]) -> Result<String> {
    let chosen = chosen(experiment);
    let all = experiment.pairs();
    let shown = chosen.iter().filter(|shown| **shown).count();
    let mut html = format!("<p>{} of {} shown", shown, count(all, "pair"));
    if shown < all {
        html.push_str(", the first seeds of every prompt; the others are in the folder");
    }
    html.push_str(
        ". Small pictures are as drawn, large ones are shrunk and lossy; the name leads to the \
         file, from which everything was measured.</p>\n",
    );
    let pairs = rows.chunks_exact(experiment.variants.len()).zip(chosen);
    for (pair, _) in pairs.filter(|(_, chosen)| *chosen) {
        html += &figure(experiment, folder, pair)?;
    }
    Ok(html)
}

/// Which pairs fit into the page: the first seed of every prompt, then the second, and so on.
fn chosen(experiment: &Experiment) -> Vec<bool> {
    let room = (MOST / experiment.variants.len()).max(1);
    let (prompts, seeds) = (experiment.prompts.len(), experiment.seeds.count() as usize);
    let place = |pair: usize| (pair % seeds) * prompts + pair / seeds;
    (0..experiment.pairs()).map(|pair| place(pair) < room).collect()
}

fn figure(experiment: &Experiment, folder: &Folder, pair: &[Row]) -> Result<String> {
    let variants = &experiment.variants;
    // The method's own variant, or else the first that is not the baseline.
    let others = || (0..variants.len()).filter(|variant| *variant != experiment.baseline);
    let right = others().find(|variant| variants[*variant].name == "both").or(others().next());
    let (left, right) = (experiment.baseline, right.unwrap_or_default());

    let mut pictures = String::new();
    for row in pair {
        let side = match row.variant {
            variant if variant == left => "left",
            variant if variant == right => "right",
            _ => "",
        };
        let (variant, data) = (escape(&variants[row.variant].name), data(folder, row)?);
        writeln!(
            pictures,
            "<img class=\"{side}\" alt=\"{variant}\" data-variant=\"{}\" \
             src=\"data:image/webp;base64,{data}\">",
            row.variant
        )
        .expect("a String takes every write");
    }
    let prompt = escape(&experiment.prompts[pair[0].prompt]);
    Ok(format!(
        "<figure class=\"pair\">\n<figcaption>{prompt}, seed {}</figcaption>\n\
         <div class=\"stage\">\n{pictures}<input type=\"range\" min=\"0\" max=\"100\" value=\"50\" \
         aria-label=\"where left ends and right begins\"></div>\n\
         <p class=\"choose\">{} {}</p>\n{}</figure>\n",
        pair[0].seed,
        choice(experiment, "left", left),
        choice(experiment, "right", right),
        numbers(experiment, pair),
    ))
}

/// The picture as the page holds it, in base64.
fn data(folder: &Folder, row: &Row) -> Result<String> {
    let whole = picture::read(&folder.file(&row.picture))?;
    let small = picture::shrink(&whole, SIDE)?;
    let is_small = whole.width().max(whole.height()) <= LOSSLESS;
    let quality = if is_small { Quality::Lossless } else { Quality::default() };
    Ok(STANDARD.encode(encode(&small, &row.embedded, Format::Webp, quality)?))
}

fn choice(experiment: &Experiment, side: &str, chosen: usize) -> String {
    let mut options = String::new();
    for (place, variant) in experiment.variants.iter().enumerate() {
        let selected = if place == chosen { " selected" } else { "" };
        let name = escape(&variant.name);
        write!(options, "<option value=\"{place}\"{selected}>{name}</option>")
            .expect("a String takes every write");
    }
    format!("<label>{side} <select data-side=\"{side}\">{options}</select></label>")
}

/// Every metric of every variant, with its difference to the baseline.
fn numbers(experiment: &Experiment, pair: &[Row]) -> String {
    let mut head = String::new();
    for row in pair {
        let (path, name) = (&row.picture, escape(&experiment.variants[row.variant].name));
        write!(head, "<th><a href=\"{path}\">{name}</a></th>").expect("a String takes every write");
    }
    let base = &pair[experiment.baseline];
    let mut rows = String::new();
    for metric in experiment.metrics() {
        let place = metrics::named(metric.name).map_or(0, |(place, _)| place);
        write!(rows, "<tr><th>{}</th>", words(metric.name)).expect("a String takes every write");
        for row in pair {
            let (value, apart) = (row.values[place], row.values[place] - base.values[place]);
            let apart = if row.variant == experiment.baseline {
                String::new()
            } else {
                format!(" <small>{}</small>", difference(apart))
            };
            write!(rows, "<td>{}{apart}</td>", number(value)).expect("a String takes every write");
        }
        rows.push_str("</tr>\n");
    }
    for (name, value) in
        [("PSNR", (|row: &Row| row.psnr) as fn(&Row) -> Option<f64>), ("SSIM", |row| row.ssim)]
    {
        write!(rows, "<tr><th>{name}</th>").expect("a String takes every write");
        for row in pair {
            let text = match value(row) {
                _ if row.variant == experiment.baseline => String::new(),
                Some(value) => number(value),
                None => "–".to_owned(),
            };
            write!(rows, "<td>{text}</td>").expect("a String takes every write");
        }
        rows.push_str("</tr>\n");
    }
    format!(
        "<details><summary>numbers</summary><table><thead><tr><th></th>{head}</tr></thead>\
         <tbody>\n{rows}</tbody></table></details>\n"
    )
}
