//! From finished files to numbers: one row per picture, one line of `results.jsonl` per row.

use rayon::prelude::*;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use unwrong::picture::{EmbeddedRequest, read_metadata};
use unwrong::progress::{Event, Phase, Progress, announce};
use unwrong::{Pipeline, Result};

use crate::experiment::Cell;
use crate::follow::{Fit, Judge};
use crate::metrics::{self, Picture, psnr, ssim};
use crate::{Experiment, Folder, picture};

/// One picture, measured.
#[derive(Debug)]
pub struct Row {
    /// Which prompt.
    pub prompt: usize,
    /// Its seed.
    pub seed: u64,
    /// Which variant.
    pub variant: usize,
    /// Its name inside the folder.
    pub picture: String,
    /// What the file says of itself.
    pub embedded: EmbeddedRequest,
    /// The numbers, in the order of [`metrics::all`].
    pub values: Vec<f64>,
    /// Decibels to the baseline; none where the pictures are equal.
    pub psnr: Option<f64>,
    /// Structural similarity to the baseline.
    pub ssim: Option<f64>,
    /// Whether it equals the baseline's picture.
    pub equal: bool,
}

/// Measures every picture; `cells` are all of the experiment's, in its order.
///
/// Everything is read from the files, so it does not matter which run drew them.
pub(crate) fn measure(
    pipeline: &Pipeline,
    experiment: &Experiment,
    folder: &Folder,
    cells: &[Cell],
    progress: &mut dyn Progress,
) -> Result<Vec<Row>> {
    let mut rows = Vec::with_capacity(cells.len());
    let pictures = cells.len();
    let mut judge = Judge::open(pipeline, experiment, folder, cells)?;
    for pair in cells.chunks_exact(experiment.variants.len()) {
        announce(progress, Event::Phase { phase: Phase::Measure, picture: rows.len(), pictures })?;
        let read =
            |cell: &Cell| Ok(Picture::new(picture::read(&folder.file(&experiment.picture(cell)))?));
        let drawn: Vec<Picture> = pair.par_iter().map(read).collect::<Result<_>>()?;
        let base = &drawn[experiment.baseline];
        let fits: Vec<Option<Fit>> = pair
            .iter()
            .zip(&drawn)
            .map(|(cell, drawn)| {
                judge.as_mut().map(|judge| judge.fit(cell, drawn.pixels())).transpose()
            })
            .collect::<Result<_>>()?;
        let row = |(cell, (drawn, fit)): (&Cell, (&Picture, &Option<Fit>))| {
            row(experiment, folder, cell, (drawn, fit.as_ref()), base)
        };
        let measured: Result<Vec<Row>> =
            pair.par_iter().zip(drawn.par_iter().zip(&fits)).map(row).collect();
        rows.extend(measured?);
    }
    if let Some(judge) = &mut judge {
        judge.save()?;
    }
    Ok(rows)
}

fn row(
    experiment: &Experiment,
    folder: &Folder,
    cell: &Cell,
    (drawn, fit): (&Picture, Option<&Fit>),
    base: &Picture,
) -> Result<Row> {
    let picture = experiment.picture(cell);
    let path = folder.file(&picture);
    Ok(Row {
        prompt: cell.prompt,
        seed: cell.seed,
        variant: cell.variant,
        embedded: read_metadata(&path)?.into_request(&path)?,
        values: metrics::all().filter_map(|metric| metric.of(drawn, fit)).collect(),
        psnr: psnr(drawn, base),
        ssim: ssim(drawn, base),
        equal: drawn.pixels() == base.pixels(),
        picture,
    })
}

/// A line of `results.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    prompt_index: usize,
    prompt: &'a str,
    seed: u64,
    variant: &'a str,
    picture: &'a str,
    metrics: Metrics<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_baseline: Option<ToBaseline<'a>>,
    #[serde(flatten)]
    embedded: &'a EmbeddedRequest,
}

/// Distances to the baseline's picture; PSNR has no value between equal pictures.
#[derive(Serialize)]
struct ToBaseline<'a> {
    variant: &'a str,
    equal: bool,
    psnr: Option<f64>,
    ssim: Option<f64>,
}

struct Metrics<'a>(&'a [f64]);

impl Serialize for Metrics<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (metric, value) in metrics::all().zip(self.0) {
            map.serialize_entry(metric.name, value)?;
        }
        map.end()
    }
}

/// The text of `results.jsonl`.
pub(crate) fn lines(experiment: &Experiment, rows: &[Row]) -> String {
    let baseline = experiment.variants[experiment.baseline].name.as_str();
    let mut text = String::new();
    for row in rows {
        let Row { seed, psnr, ssim, equal, .. } = *row;
        let line = Line {
            prompt_index: row.prompt,
            prompt: &experiment.prompts[row.prompt],
            seed,
            variant: &experiment.variants[row.variant].name,
            picture: &row.picture,
            metrics: Metrics(&row.values),
            to_baseline: (row.variant != experiment.baseline).then_some(ToBaseline {
                variant: baseline,
                equal,
                psnr,
                ssim,
            }),
            embedded: &row.embedded,
        };
        text += &serde_json::to_string(&line).expect("strings and numbers always make JSON");
        text.push('\n');
    }
    text
}
