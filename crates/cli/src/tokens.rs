//! `unwrong tokens`: how a prompt is read.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use unwrong_prompt::{
    Conjunction, Description, Encoder, EncoderDescription, LoraTag, ScheduledPrompt, Script,
    Tokenizer,
};

use crate::args::TokensArgs;
use crate::printer;

/// Prints fragments with their weights, and the chunks of both encoders.
pub(crate) fn run(arguments: &TokensArgs) -> Result<()> {
    unwrong::GenerateRequest::new(arguments.prompt.as_str()).check()?;
    let syntax = arguments.syntax.into();
    let (script, warnings) = Script::parse(&arguments.prompt, syntax, arguments.steps as usize);
    for warning in &warnings {
        printer::note(&format!("warning: {warning}"));
    }
    let describe =
        |prompt: &Conjunction| Description::new(prompt, arguments.long_prompt.into(), &warnings);
    for LoraTag { name, text_encoder_scale, unet_scale, .. } in &script.loras {
        printer::note(&format!(
            "LoRA `{}`: {text_encoder_scale} on the text encoders, {unet_scale} on the UNet",
            printer::visible(name)
        ));
    }
    if let Some(prompt) = script.single_prompt() {
        let description = describe(prompt);
        if arguments.json {
            return printer::data(&serde_json::to_string(&description)?);
        }
        return printer::styled(table(&description).trim_end());
    }
    if arguments.json {
        return printer::data(&json(&script, describe).to_string());
    }
    let mut tables = String::new();
    let bold = Style::new().bold();
    for part in &script.parts {
        let mut first = 1;
        for ScheduledPrompt { until, prompt } in &part.prompts {
            let (weight, table) = (part.weight, table(&describe(prompt)));
            writeln!(tables, "{bold}steps {first} to {until}, weight {weight}{bold:#}\n{table}")
                .expect("a String takes every write");
            first = until + 1;
        }
    }
    printer::styled(tables.trim_end())
}

/// A prompt of several parts, or one that changes: `parts`, each with its `prompts` in turn.
fn json(script: &Script, describe: impl Fn(&Conjunction) -> Description) -> serde_json::Value {
    let parts = script.parts.iter().map(|part| {
        let prompts = part.prompts.iter().map(|ScheduledPrompt { until, prompt }| {
            serde_json::json!({ "until": until, "prompt": describe(prompt) })
        });
        serde_json::json!({ "weight": part.weight, "prompts": prompts.collect::<Vec<_>>() })
    });
    serde_json::json!({ "parts": parts.collect::<Vec<_>>() })
}

/// For people: weights beside their text, ids beside their words, padding left out.
fn table(description: &Description) -> String {
    let mut table = String::from("weight  text\n");
    for fragment in &description.fragments {
        let weight = format!("{:.4}", fragment.weight);
        let weight = weight.trim_end_matches('0').trim_end_matches('.');
        let style = style_of(fragment.weight);
        let text = printer::visible(&fragment.text);
        writeln!(table, "{style}{weight:<6}  {text}{style:#}").expect("a String takes every write");
    }
    for (encoder, described) in Encoder::BOTH.into_iter().zip(&description.encoders) {
        push_chunks(encoder, described, &mut table);
    }
    table
}

/// A headline for every chunk, and its words, each with its id.
fn push_chunks(encoder: Encoder, described: &EncoderDescription, table: &mut String) {
    let name = match encoder {
        Encoder::ClipL => "text_encoder",
        Encoder::BigG => "text_encoder_2",
    };
    let bold = Style::new().bold();
    let chunks = described.chunks.iter().zip(&described.weights).zip(&described.text_tokens);
    for (n, ((ids, weights), &text_tokens)) in chunks.enumerate() {
        let (number, count) = (n + 1, described.chunks.len());
        let words: Vec<String> = ids[1..]
            .iter()
            .zip(&weights[1..])
            .take(text_tokens)
            .map(|(id, weight)| word(encoder, *id, f64::from(*weight)))
            .collect();
        let words = words.join("  ");
        write!(
            table,
            "\n{bold}{name}, chunk {number} of {count}: {text_tokens} tokens of text{bold:#}\n\
             {words}\n"
        )
        .expect("a String takes every write");
    }
    if described.dropped > 0 {
        let style = AnsiColor::Red.on_default();
        writeln!(table, "{style}cut here: {} tokens are left out{style:#}", described.dropped)
            .expect("a String takes every write");
    }
}

fn word(encoder: Encoder, id: u32, weight: f64) -> String {
    let style = style_of(weight);
    let dimmed = Style::new().dimmed();
    let text = printer::visible(&Tokenizer::new(encoder).decode(&[id]));
    format!("{dimmed}{id}{dimmed:#} {style}{text}{style:#}")
}

/// Warm above 1 and cool below it, stronger further away.
fn style_of(weight: f64) -> Style {
    match weight {
        1.3.. => AnsiColor::Red.on_default().bold(),
        _ if weight > 1.0 => AnsiColor::Yellow.on_default(),
        _ if weight < 0.7 => AnsiColor::Blue.on_default().bold(),
        _ if weight < 1.0 => AnsiColor::Cyan.on_default(),
        _ => Style::new(),
    }
}
