//! `unwrong train`: a folder of pictures becomes a LoRA.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Result;
use indicatif::ProgressBar;
use unwrong::GenerateRequest;
use unwrong::lock::FolderLock;
use unwrong::memory::gigabytes;
use unwrong::pipeline::Pipeline;
use unwrong::progress::Event;
use unwrong_train::card::{CardOptions, CardSample, card, hub_name, write_card};
use unwrong_train::data::{Cache, DataOptions, Dataset};
use unwrong_train::metadata::{Facts, metadata};
use unwrong_train::{Checkpoints, Error, Records, Samples, TrainEvent, Trainer};

use crate::args::{CardArgs, TrainArgs};
use crate::bars::new_bar;
use crate::destination::{refuse_existing, refuse_unwritable};
use crate::failure::wrong_request;
use crate::train::work::{CACHE, CHECKPOINTS, LOGS, SAMPLES, Work};
use crate::{interrupt, printer, session};

mod work;

/// Trains what is left of it; says the LoRA's path when it is complete.
pub(crate) fn run(arguments: &TrainArgs) -> Result<()> {
    let output = &arguments.output;
    let work = Work::beside(output);
    check_output(output, arguments.force)?;
    arguments.training().check()?;
    arguments.samples().map_or(Ok(()), |samples| samples.check())?;
    refuse_no_folder(&work.folder)?;
    refuse_no_folder(&logs(arguments, &work))?;
    interrupt::listen()?;

    let pipeline = open(arguments)?;
    let samples = samples(&pipeline, arguments, &work)?;
    arguments.training().layers.check_dialect(pipeline.layers(), arguments.format.into())?;
    let native = pipeline.native_size().width;
    let dataset = scan(&arguments.folder, &arguments.data(native), "picture")?;
    let class = arguments.class_data(native);
    let class = class.map(|(folder, data)| scan(folder, &data, "class picture")).transpose()?;

    let _lock = FolderLock::take(&work.folder)?;
    if arguments.force {
        work.clear()?;
    }
    let cache = Cache::open(&work.folder(CACHE))?;
    let mut trainer = Trainer::new(&pipeline, &dataset, &cache, arguments.training())?;
    if let Some(class) = &class {
        trainer = trainer.with_class(class);
    }
    say_memory(&trainer)?;
    let checkpoints = Checkpoints::open(&work.folder(CHECKPOINTS), trainer.settings()?)?;
    let records = Records {
        logs: Some(logs(arguments, &work)),
        time: source_date_epoch(),
        samples,
        curve: Some(work.folder.clone()),
    };
    follow(&mut trainer, &checkpoints, &records, arguments)?;

    let facts = Facts {
        trainer: &trainer,
        dataset: &dataset,
        model: pipeline.model(),
        name: &work.name,
        time: source_date_epoch(),
    };
    describe(&facts, &records, arguments)?;
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
    let pipeline =
        session::open_with(&request, arguments.device, arguments.threads, arguments.memory)?;
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
    refuse_existing(output, force)?;
    refuse_unwritable(output.parent().unwrap_or(Path::new("")))
}

/// A folder to come must find no file in its way.
fn refuse_no_folder(folder: &Path) -> Result<()> {
    if let Some(file) = folder.ancestors().find(|parent| parent.exists() && !parent.is_dir()) {
        return Err(wrong_request(
            format!("`{}` is a file, expected a folder", file.display()),
            "give another name",
        ));
    }
    refuse_unwritable(folder)
}

/// Reads a folder and says what was found.
fn scan(folder: &Path, options: &DataOptions, what: &str) -> Result<Dataset> {
    let (dataset, notes) = Dataset::scan(folder, options)?;
    for note in &notes {
        printer::note(&format!("warning: {note}"));
    }
    let buckets: Vec<_> = dataset
        .buckets()
        .iter()
        .map(|(size, count)| format!("{count} at {}x{}", size.width, size.height))
        .collect();
    let count = dataset.items().len();
    let plural = if count == 1 { "" } else { "s" };
    printer::note(&format!("{count} {what}{plural}: {}", buckets.join(", ")));
    Ok(dataset)
}

/// The samples, all checked that can be checked before the first of them.
fn samples(pipeline: &Pipeline, arguments: &TrainArgs, work: &Work) -> Result<Option<Samples>> {
    let options = arguments.samples();
    let new = |options| Samples::new(pipeline, &work.folder(SAMPLES), &work.name, options);
    Ok(options.map(new).transpose()?)
}

fn logs(arguments: &TrainArgs, work: &Work) -> PathBuf {
    let named = arguments.watching.log_dir.as_ref().map(|folder| folder.join(&work.name));
    named.unwrap_or_else(|| work.folder(LOGS))
}

fn say_memory(trainer: &Trainer<'_>) -> Result<()> {
    trainer.check_memory()?;
    let (what, bytes) = trainer.bytes();
    printer::note(&format!("about {} of memory beside the weights, for {what}", gigabytes(bytes)));
    Ok(())
}

/// Writes the model card, unless someone else's file has its name.
fn describe(facts: &Facts<'_>, records: &Records, arguments: &TrainArgs) -> Result<()> {
    let step = facts.trainer.state().step();
    let shown = records.samples.iter().flat_map(|samples| {
        let options = samples.options();
        options.prompts.iter().enumerate().map(move |(place, prompt)| CardSample {
            prompt: prompt.clone(),
            negative_prompt: options.negative_prompt.clone(),
            path: format!("{}.{}/{SAMPLES}/{step:08}-{place}.png", facts.name, work::WORK),
        })
    });
    let CardArgs { base_model, license } = &arguments.card;
    let named = arguments.model.as_deref().and_then(hub_name);
    let options = CardOptions {
        base_model: base_model.clone().or(named),
        license: license.clone(),
        is_negative: arguments.is_negative(),
        samples: shown.collect(),
    };
    let path = arguments.output.with_extension("md");
    if !write_card(&path, &card(facts, &options))? {
        printer::note(&format!("`{}` is not ours, so there is no model card", path.display()));
    }
    Ok(())
}

/// Runs the steps under one bar.
fn follow(
    trainer: &mut Trainer<'_>,
    checkpoints: &Checkpoints,
    records: &Records,
    arguments: &TrainArgs,
) -> Result<()> {
    let bar = new_bar();
    let steps = trainer.options().steps;
    let mut last: Option<PathBuf> = None;
    let result = trainer.run(checkpoints, &arguments.running(), records, &mut |event| {
        if let TrainEvent::Resumed { step } = event {
            last = Some(checkpoints.path(step));
        }
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
        TrainEvent::Damaged { path, instead } => {
            let instead = match instead {
                Some(step) => format!("goes on after step {step}"),
                None => "begins anew".to_owned(),
            };
            let path = path.display();
            bar.suspend(|| {
                printer::note(&format!(
                    "warning: the checkpoint `{path}` is damaged; the training {instead} instead"
                ));
            });
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
        TrainEvent::Drawing(event) => show_drawing(bar, event),
        TrainEvent::Sample { .. } => {}
    }
}

/// The steps of the training stand still meanwhile.
fn show_drawing(bar: &ProgressBar, event: Event<'_>) {
    match event {
        Event::Warning { message } => {
            bar.suspend(|| printer::note(&format!("warning: {message}")));
        }
        Event::Step { picture, pictures, step, steps, .. } => {
            let picture = picture + 1;
            bar.set_prefix(format!("sample {picture} of {pictures}, step {step} of {steps}"));
        }
        _ => {}
    }
}

/// The only clock that may enter a file: the variable of reproducible builds.
fn source_date_epoch() -> Option<u64> {
    std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok()
}
