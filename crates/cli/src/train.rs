//! `unwrong train`: a folder of pictures becomes a LoRA.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use unwrong::GenerateRequest;
use unwrong::pipeline::Pipeline;
use unwrong_train::data::{Cache, Dataset};
use unwrong_train::metadata::{Facts, metadata};
use unwrong_train::{Checkpoints, Error, TrainEvent, Trainer};

use crate::args::TrainArgs;
use crate::bars::new_bar;
use crate::destination::refuse_unwritable;
use crate::failure::wrong_request;
use crate::{interrupt, printer, session};

/// Folders beside the LoRA.
const WORK: &str = "training";
const CACHE: &str = "cache";
const CHECKPOINTS: &str = "checkpoints";

/// Trains what is left of it; says the LoRA's path when it is complete.
pub(crate) fn run(arguments: &TrainArgs) -> Result<()> {
    let output = &arguments.output;
    check_output(output, arguments.force)?;
    arguments.training().check()?;
    interrupt::listen()?;

    let pipeline = open(arguments)?;
    let data = arguments.data(pipeline.native_size().width);
    let (dataset, notes) = Dataset::scan(&arguments.folder, &data)?;
    for note in &notes {
        printer::note(&format!("warning: {note}"));
    }
    printer::note(&found(&dataset));

    let work = output.with_extension(WORK);
    let (cache, checkpoints) = (work.join(CACHE), work.join(CHECKPOINTS));
    if arguments.force && checkpoints.exists() {
        fs::remove_dir_all(&checkpoints)
            .with_context(|| format!("cannot delete `{}`", checkpoints.display()))?;
    }
    let cache = Cache::open(&cache)?;
    let mut trainer = Trainer::new(&pipeline, &dataset, &cache, arguments.training())?;
    let checkpoints = Checkpoints::open(&checkpoints, trainer.settings()?)?;
    follow(&mut trainer, &checkpoints, arguments)?;

    let facts = Facts {
        trainer: &trainer,
        dataset: &dataset,
        model: pipeline.model(),
        name: &output.file_stem().unwrap_or_default().to_string_lossy(),
        time: source_date_epoch(),
    };
    trainer.write(output, arguments.format.into(), &metadata(&facts), arguments.force)?;
    printer::data(&output.display().to_string())
}

fn open(arguments: &TrainArgs) -> Result<Pipeline> {
    let request = GenerateRequest {
        model: arguments.model.clone(),
        refiner: Some("none".to_owned()),
        vae: arguments.vae.clone(),
        ..GenerateRequest::new("")
    };
    let pipeline = session::open_with(&request, arguments.device, arguments.threads, None)?;
    printer::note(&format!("model `{}`", pipeline.model()));
    Ok(pipeline)
}

/// Before anything is read: the LoRA's name, its place, and that nothing is overwritten.
fn check_output(output: &Path, force: bool) -> Result<()> {
    if output.extension().is_none_or(|extension| extension != "safetensors") {
        return Err(wrong_request(
            format!("`{}` is no name for a LoRA", output.display()),
            "give a name that ends in `.safetensors`",
        ));
    }
    if output.exists() && !force {
        return Err(unwrong::Error::FileExists { path: output.to_owned() }.into());
    }
    refuse_unwritable(output.parent().unwrap_or(Path::new("")))
}

fn found(dataset: &Dataset) -> String {
    let buckets: Vec<_> = dataset
        .buckets()
        .iter()
        .map(|(size, count)| format!("{count} at {}x{}", size.width, size.height))
        .collect();
    format!("{} pictures: {}", dataset.items().len(), buckets.join(", "))
}

/// Runs the steps under one bar.
fn follow(
    trainer: &mut Trainer<'_>,
    checkpoints: &Checkpoints,
    arguments: &TrainArgs,
) -> Result<()> {
    let bar = new_bar();
    let steps = trainer.options().steps;
    let mut last: Option<PathBuf> = None;
    let result = trainer.run(checkpoints, &arguments.running(), &mut |event| {
        show(&bar, steps, event, &mut last);
        if interrupt::pending() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    if let (Err(_), Some(path)) = (&result, &last) {
        printer::note(&format!("the last checkpoint is `{}`", path.display()));
    }
    if matches!(result, Err(Error::Interrupted { .. })) {
        printer::note("the same command goes on where this one stopped");
    }
    Ok(result?)
}

fn show(bar: &ProgressBar, steps: u64, event: TrainEvent<'_>, last: &mut Option<PathBuf>) {
    match event {
        TrainEvent::Prepared { done, all } => {
            bar.set_length(all as u64);
            bar.set_prefix("pictures");
            bar.set_position(done as u64);
        }
        TrainEvent::Resumed { step } => {
            bar.suspend(|| printer::note(&format!("goes on after step {step} of {steps}")));
        }
        TrainEvent::Step(report) => {
            if bar.length() != Some(steps) || bar.position() + 1 != report.step {
                bar.reset();
                bar.set_length(steps);
            }
            bar.set_prefix(format!("loss {:.4}", report.loss));
            bar.set_position(report.step);
            // Where there is no bar, a line now and then.
            if bar.is_hidden() && (report.step.is_multiple_of(50) || report.step == steps) {
                printer::note(&format!("step {} of {steps}, loss {:.4}", report.step, report.loss));
            }
        }
        TrainEvent::Checkpoint { path, .. } => *last = Some(path.to_owned()),
    }
}

/// The only clock that may enter a file: the variable of reproducible builds.
fn source_date_epoch() -> Option<u64> {
    std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok()
}
