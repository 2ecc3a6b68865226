//! `unwrong lora merge`, `extract`, `resize`, `scale`, `blocks`: files made of files.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use unwrong::lora::{self, Extract, IntoModel, Made, Merge, Resize, ScaleIn};
use unwrong::picture::write_atomically;

use crate::args::{
    LoraBlocksArgs, LoraExtractArgs, LoraMergeArgs, LoraResizeArgs, LoraScaleArgs, LoraWritingArgs,
};
use crate::destination::refuse_existing;
use crate::failure::wrong_request;
use crate::session::DEMO;
use crate::{interrupt, printer};

pub(super) fn scale(arguments: &LoraScaleArgs) -> Result<()> {
    let LoraScaleArgs { file, factor, in_weights, writing } = arguments;
    refuse_existing(&writing.output, writing.force)?;
    let place = if *in_weights { ScaleIn::Weights } else { ScaleIn::Alpha };
    finish(&lora::scale(file, *factor, place, writing.writing())?, writing)
}

pub(super) fn blocks(arguments: &LoraBlocksArgs) -> Result<()> {
    let LoraBlocksArgs { file, weights, writing } = arguments;
    refuse_existing(&writing.output, writing.force)?;
    finish(&lora::blocks(file, &weights.0, writing.writing())?, writing)
}

pub(super) fn resize(arguments: &LoraResizeArgs) -> Result<()> {
    let LoraResizeArgs { file, keep, conv_rank, json, writing } = arguments;
    refuse_existing(&writing.output, writing.force)?;
    let how = Resize { rank: keep.rank(), conv_rank: *conv_rank, keep: keep.keep() };
    let (made, layers) = lora::resize(file, &how, writing.writing())?;
    let ranks = |rank: fn(&lora::Resized) -> usize| layers.iter().map(rank).sum::<usize>();
    let kept = layers.iter().map(|layer| layer.kept).sum::<f64>() / layers.len().max(1) as f64;
    let (from, to) = (ranks(|layer| layer.from), ranks(|layer| layer.to));
    printer::note(&match from {
        0 => "no layer has ranks: nothing changes".to_owned(),
        _ => format!(
            "{to} of {from} ranks; {:.2} % of the layers' norms are kept on average",
            100.0 * kept
        ),
    });
    if *json {
        write(&made, writing)?;
        for layer in &layers {
            printer::data(&serde_json::to_string(layer)?)?;
        }
        return Ok(());
    }
    finish(&made, writing)
}

pub(super) fn merge(arguments: &LoraMergeArgs) -> Result<()> {
    if let Some(model) = &arguments.into {
        return merge_into(model, arguments);
    }
    let LoraMergeArgs { loras, rank, conv_rank, clamp, output, to, dtype, force, .. } = arguments;
    refuse_existing(output, *force)?;
    let how = match *rank {
        Some(rank) => Merge::Svd { rank, conv_rank: *conv_rank, clamp: *clamp },
        None => Merge::Exact,
    };
    let writing = LoraWritingArgs { output: output.clone(), to: *to, dtype: *dtype, force: *force };
    finish(&lora::merge(loras, &how, &title(output), writing.writing())?, &writing)
}

fn merge_into(model: &Path, arguments: &LoraMergeArgs) -> Result<()> {
    let LoraMergeArgs { loras, output, dtype, force, .. } = arguments;
    refuse_demo(model)?;
    if !model.is_dir() {
        refuse_existing(output, *force)?;
    }
    interrupt::listen()?;
    let into = IntoModel { dtype: dtype.map(Into::into), force: *force, output };
    let bar = bar();
    let applied = lora::merge_into(model, loras, into, &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        if interrupt::pending() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    bar.finish_and_clear();
    for file in &applied {
        let (path, applied, total) = (&file.path, file.applied, file.total);
        printer::note(&format!("LoRA `{path}`: applied {applied} of {total}"));
        for unapplied in &file.unapplied {
            printer::note(&format!("warning: LoRA `{path}`: {unapplied}"));
        }
    }
    printer::data(&output.display().to_string())
}

pub(super) fn extract(arguments: &LoraExtractArgs) -> Result<()> {
    let LoraExtractArgs { base, tuned, keep, conv_rank, min_diff, clamp, json, writing } =
        arguments;
    let output = &writing.output;
    refuse_existing(output, writing.force)?;
    refuse_demo(base)?;
    refuse_demo(tuned)?;
    let how = Extract {
        rank: keep.rank(),
        conv_rank: *conv_rank,
        keep: keep.keep(),
        min_diff: *min_diff,
        clamp: *clamp,
    };
    let bar = bar();
    let progress = &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let (made, report) =
        lora::extract(base, tuned, &how, &title(output), writing.writing(), progress)?;
    bar.finish_and_clear();
    if report.same_text_encoders {
        printer::note(&format!(
            "note: no text encoder differs by more than {min_diff}: they are left out"
        ));
    }
    printer::note(&format!("{:.2} % of the difference's norm is kept", 100.0 * report.kept));
    if *json {
        write(&made, writing)?;
        return printer::data(&serde_json::to_string(&report)?);
    }
    finish(&made, writing)
}

/// The model in the program has a name and no files.
fn refuse_demo(model: &Path) -> Result<()> {
    if model != Path::new(DEMO) || model.exists() {
        return Ok(());
    }
    Err(wrong_request(
        format!("`{DEMO}` is built into the program, and has no files to work with"),
        "name a folder in diffusers layout, or a .safetensors checkpoint",
    ))
}

/// Layers or tensors that are done, where somebody watches.
fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  {eta} left");
    let bar = ProgressBar::new(0);
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

/// What a file is called in its own metadata.
fn title(output: &Path) -> String {
    output.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

fn write(made: &Made, writing: &LoraWritingArgs) -> Result<()> {
    for warning in &made.warnings {
        printer::note(&format!("warning: {warning}"));
    }
    write_atomically(&writing.output, &made.bytes, writing.force)?;
    printer::note(&format!("{} layers", made.layers));
    Ok(())
}

fn finish(made: &Made, writing: &LoraWritingArgs) -> Result<()> {
    write(made, writing)?;
    printer::data(&writing.output.display().to_string())
}
