//! The whole of an experiment: draw what is missing, measure, compare, report.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::PathBuf;

use unwrong::generate::Generation;
use unwrong::picture::{Format, Quality, encode};
use unwrong::progress::{Event, Progress};
use unwrong::request::GenerateRequest;
use unwrong::{Error, Pipeline, Result};

use crate::experiment::Cell;
use crate::measure::{lines, measure};
use crate::sheet::sheet;
use crate::summary::{Comparison, compare};
use crate::{Experiment, Folder, report};

/// What a run left in its folder.
#[derive(Debug)]
pub struct Outcome {
    /// One line per picture.
    pub results: PathBuf,
    /// The page to look at.
    pub report: PathBuf,
    /// All pictures.
    pub pictures: usize,
    /// Those that this run drew; the others were there.
    pub drawn: usize,
    /// Every variant against the baseline.
    pub comparisons: Vec<Comparison>,
}

/// Runs an experiment to its end, from wherever an earlier run stopped.
///
/// The result does not depend on how often it was interrupted. Everything that can be refused is
/// refused before a weight is read, save that models are hashed when there are pictures that an
/// earlier run drew.
pub fn run(
    pipeline: &Pipeline,
    experiment: &Experiment,
    folder: &Folder,
    progress: &mut dyn Progress,
) -> Result<Outcome> {
    let mut watch = Watch::new(progress);
    // Seeds change nothing of what may be wrong with a request.
    let first = experiment.one_seed(pipeline.defaults());
    pipeline.check(&requests(&first), &mut watch)?;
    if experiment.follow.is_some() {
        pipeline.check_captions(&first[0].request)?;
    }
    let cells = experiment.cells(pipeline.defaults());
    let _lock = folder.lock()?;
    let missing = missing(pipeline, experiment, folder, &cells)?;
    folder.claim(experiment)?;

    let drawn = missing.len();
    watch.pictures = drawn;
    // So many at once, so that they are safe on the disk before the next begin.
    for some in batches(missing, pipeline.together(&first[0].request)?) {
        let mut write = |place: usize, generation: &Generation| {
            let Generation { pixels, embedded, .. } = generation;
            let bytes = encode(pixels, embedded, Format::Png, Quality::default())?;
            folder.write_picture(&experiment.picture(&some[place]), &bytes)
        };
        watch.draw(pipeline, &requests(&some), &mut write)?;
    }

    let rows = measure(pipeline, experiment, folder, &cells, watch.progress)?;
    let comparisons = compare(experiment, &rows);
    let page = report::page(experiment, folder, &rows, &comparisons)?;
    folder.write("results.jsonl", lines(experiment, &rows).as_bytes())?;
    folder.write("sheet.webp", &sheet(experiment, folder, &rows)?)?;
    folder.write("report.html", page.as_bytes())?;
    Ok(Outcome {
        results: folder.file("results.jsonl"),
        report: folder.file("report.html"),
        pictures: cells.len(),
        drawn,
        comparisons,
    })
}

/// Pictures of one variant that can be drawn at once: so many, and then as many of the next
/// variant, so that all variants of the first prompts are there early.
fn batches(mut missing: Vec<Cell>, at_once: usize) -> Vec<Vec<Cell>> {
    // Places among the pairs of prompt and seed that miss something.
    let mut pairs: Vec<(usize, u64)> =
        missing.iter().map(|cell| (cell.prompt, cell.seed)).collect();
    pairs.dedup();
    let places: HashMap<(usize, u64), usize> =
        pairs.into_iter().enumerate().map(|(place, pair)| (pair, place)).collect();
    let batch = |cell: &Cell| (places[&(cell.prompt, cell.seed)] / at_once, cell.variant);
    missing.sort_by_key(batch);
    missing.chunk_by(|one, other| batch(one) == batch(other)).map(<[Cell]>::to_vec).collect()
}

/// The pictures to draw, all variants of one prompt and seed after each other.
fn missing(
    pipeline: &Pipeline,
    experiment: &Experiment,
    folder: &Folder,
    cells: &[Cell],
) -> Result<Vec<Cell>> {
    let path = |cell: &Cell| folder.file(&experiment.picture(cell));
    // What a picture would carry needs the models' hashes: asked for only where there is one.
    let expected = if cells.iter().any(|cell| path(cell).symlink_metadata().is_ok()) {
        pipeline.embedded(&requests(&experiment.one_seed(pipeline.defaults())))?
    } else {
        Vec::new()
    };
    let variants = experiment.variants.len();
    let is_missing = |cell: &Cell| -> Result<bool> {
        let Some(first) = expected.get(cell.prompt * variants + cell.variant) else {
            return Ok(true);
        };
        let mut expected = first.clone();
        expected.request.seed = Some(cell.seed);
        Ok(!folder.has(&experiment.picture(cell), &expected)?)
    };
    let mut missing = Vec::new();
    for cell in cells {
        if is_missing(cell)? {
            missing.push(cell.clone());
        }
    }
    Ok(missing)
}

fn requests(cells: &[Cell]) -> Vec<GenerateRequest> {
    cells.iter().map(|cell| cell.request.clone()).collect()
}

/// Passes on what happens: counts over all pictures, says nothing twice, hands pictures over.
struct Watch<'a> {
    progress: &'a mut dyn Progress,
    said: HashSet<String>,
    before: usize,
    pictures: usize,
}

impl<'a> Watch<'a> {
    fn new(progress: &'a mut dyn Progress) -> Self {
        Self { progress, said: HashSet::new(), before: 0, pictures: 0 }
    }

    fn draw(
        &mut self,
        pipeline: &Pipeline,
        requests: &[GenerateRequest],
        on_picture: &mut dyn FnMut(usize, &Generation) -> Result<()>,
    ) -> Result<()> {
        let mut failure: Option<Error> = None;
        let result = pipeline.generate(requests, &mut |event: Event<'_>| {
            if let Event::Picture { index, generation, .. } = event
                && let Err(error) = on_picture(index, generation)
            {
                failure = Some(error);
                return ControlFlow::Break(());
            }
            self.event(event)
        });
        self.before += requests.len();
        match failure {
            Some(failure) => Err(failure),
            None => result.map(drop),
        }
    }
}

impl Progress for Watch<'_> {
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        let (before, all) = (self.before, self.pictures);
        let event = match event {
            Event::Notice { message } | Event::Warning { message }
                if !self.said.insert(message.to_owned()) =>
            {
                return ControlFlow::Continue(());
            }
            Event::Phase { phase, picture, pictures } => {
                Event::Phase { phase, picture: before + picture, pictures: all.max(pictures) }
            }
            Event::Step { part, picture, step, steps, sigma, latents, .. } => {
                let (picture, pictures) = (before + picture, all);
                Event::Step { part, picture, pictures, step, steps, sigma, latents }
            }
            Event::Picture { index, generation, .. } => {
                Event::Picture { index: before + index, pictures: all, generation }
            }
            other => other,
        };
        self.progress.event(event)
    }
}
