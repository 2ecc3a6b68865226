//! `unwrong lora`: what is in a LoRA file, the same in another dialect, and others made of it.

mod hash;
mod tools;

use anyhow::Result;
use unwrong::lora::{Count, LoraReport, convert, inspect};
use unwrong::picture::write_atomically;

use crate::args::{LoraCommand, LoraConvertArgs, LoraInspectArgs};
use crate::destination::refuse_existing;
use crate::printer;

pub(crate) fn run(command: &LoraCommand) -> Result<()> {
    match command {
        LoraCommand::Inspect(arguments) => run_inspect(arguments),
        LoraCommand::Convert(arguments) => run_convert(arguments),
        LoraCommand::Merge(arguments) => tools::merge(arguments),
        LoraCommand::Extract(arguments) => tools::extract(arguments),
        LoraCommand::Resize(arguments) => tools::resize(arguments),
        LoraCommand::Scale(arguments) => tools::scale(arguments),
        LoraCommand::Blocks(arguments) => tools::blocks(arguments),
        LoraCommand::Hash(arguments) => hash::run(arguments),
    }
}

fn run_convert(arguments: &LoraConvertArgs) -> Result<()> {
    let LoraConvertArgs { file, to, output, dtype, force } = arguments;
    refuse_existing(output, *force)?;
    let converted = convert(file, (*to).into(), dtype.map(Into::into))?;
    for ignored in &converted.ignored {
        printer::note(&format!("warning: left out: {ignored}"));
    }
    if converted.has_peft_config {
        // Even f32 does not hold every product exactly.
        let way_out = if converted.is_f32 {
            "`--to kohya` has a place for it beside the matrices"
        } else {
            "`--dtype f32` puts it into the matrices"
        };
        printer::note(&format!(
            "note: alpha is in the header as PEFT's config, which ComfyUI and older versions of \
             diffusers do not read; {way_out}"
        ));
    }
    write_atomically(output, &converted.bytes, *force)?;
    printer::note(&format!("{} layers", converted.layers));
    printer::data(&output.display().to_string())
}

fn run_inspect(arguments: &LoraInspectArgs) -> Result<()> {
    let report = inspect(&arguments.file)?;
    if arguments.json {
        return printer::data(&serde_json::to_string(&report)?);
    }
    printer::data(&text(&report))
}

fn text(report: &LoraReport) -> String {
    let family = match (report.family, report.cross_attention_dim) {
        (Some(family), None) => family.to_owned(),
        (Some(family), Some(width)) => format!("{family} (prompts of {width} features)"),
        (None, Some(width)) => format!("unknown (prompts of {width} features)"),
        (None, None) => "unknown (no cross-attention)".to_owned(),
    };
    let title =
        report.title.as_ref().map(|title| format!("title       {}", printer::visible(title)));
    let mut lines = vec![
        format!("for         {family}"),
        format!("dialect     {}", report.dialects.join(", ")),
        format!("size        {} bytes", report.bytes),
        format!("sha256      {}", report.sha256),
        format!("dtype       {}", counts(&report.dtypes)),
        format!("layers      {}", report.layers),
        format!("tensors     {}", report.tensors),
        format!("parameters  {}", report.parameters),
        format!("rank        {}", counts(&report.ranks)),
        format!("alpha       {}", counts(&report.alphas)),
    ];
    lines.extend(title);
    lines.push("\nchanges".to_owned());
    for modules in &report.modules {
        lines.push(format!(
            "  {:14} {:12} {:5}  rank {}, alpha {}",
            modules.network,
            modules.kind,
            modules.layers,
            counts(&modules.ranks),
            counts(&modules.alphas)
        ));
    }
    lines.push(format!("  blocks {}", report.blocks.join(", ")));
    let triggers = report.triggers.iter().map(|trigger| {
        let captions = trigger.captions.map_or_else(String::new, |count| format!(" ({count})"));
        format!("{}{captions}", trigger.text)
    });
    section(&mut lines, "words", triggers);
    lines.push("\nnorms       layers      mean  greatest".to_owned());
    for norms in &report.norms {
        lines.push(format!(
            "  {}\n            {:6} {:9.4} {:9.4}  {}",
            norms.block, norms.layers, norms.mean, norms.greatest, norms.greatest_layer
        ));
    }
    section(&mut lines, "of no layer", report.ignored.iter().cloned());
    let metadata = report.metadata.iter().map(|(key, value)| format!("{key}: {value}"));
    section(&mut lines, "metadata", metadata);
    lines.join("\n")
}

fn section(lines: &mut Vec<String>, title: &str, entries: impl Iterator<Item = String>) {
    let mut entries = entries.map(|entry| format!("  {}", printer::visible(&entry))).peekable();
    if entries.peek().is_some() {
        lines.push(format!("\n{title}"));
        lines.extend(entries);
    }
}

/// The value alone if all layers share it.
fn counts<T: std::fmt::Display>(counts: &[Count<T>]) -> String {
    match counts {
        [Count { value, .. }] => value.to_string(),
        counts => {
            let counts = counts.iter().map(|Count { value, layers }| format!("{value} ({layers})"));
            counts.collect::<Vec<_>>().join(", ")
        }
    }
}
