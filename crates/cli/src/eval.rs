//! `unwrong eval`: does the method help, in numbers and pictures?

use anyhow::Result;
use serde::Serialize;
use unwrong::GenerateRequest;
use unwrong::generate::Generation;
use unwrong_eval::Folder;
use unwrong_eval::summary::Comparison;

use crate::args::EvalArgs;
use crate::bars::Bars;
use crate::destination::refuse_unwritable;
use crate::{interrupt, printer, session};

/// The line of `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    results: String,
    report: String,
    pictures: usize,
    drawn: usize,
    comparisons: &'a [Comparison],
}

/// Draws what is missing, measures everything and writes the report.
pub(crate) fn run(arguments: &EvalArgs) -> Result<()> {
    let experiment = arguments.experiment()?;
    let folder = Folder::new(&arguments.output, &experiment, arguments.force)?;
    refuse_unwritable(&arguments.output)?;

    interrupt::listen()?;
    // Its file belongs to the variants that use it.
    let opening = GenerateRequest { wrong_lora: None, ..experiment.shared.clone() };
    let pipeline = session::open(&opening, &arguments.models)?;
    session::introduce(&pipeline);

    let mut on_picture = |place: (usize, usize), generation: &Generation| {
        session::say_what_was_drawn(place, generation);
        Ok(())
    };
    let mut bars = Bars::new(&mut on_picture);
    let result = unwrong_eval::run(&pipeline, &experiment, &folder, &mut bars);
    let outcome = bars.explain(result)?;
    let [results, report] =
        [&outcome.results, &outcome.report].map(|path| path.display().to_string());
    let (pictures, drawn) = (outcome.pictures, outcome.drawn);
    printer::note(&format!("{drawn} of {pictures} pictures drawn"));
    if arguments.json {
        let comparisons = &outcome.comparisons;
        let line = Report { results, report, pictures, drawn, comparisons };
        return printer::data(&serde_json::to_string(&line)?);
    }
    printer::data(&results)?;
    printer::data(&report)
}
