//! `unwrong tokens`: how a prompt is read.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use unwrong::{GenerateRequest, embeddings};
use unwrong_prompt::{
    AddedWords, Conjunction, Description, Encoder, EncoderDescription, Fragment, LoraTag,
    ScheduledPrompt, Script, Tokenizer,
};

use crate::args::TokensArgs;
use crate::printer;
use crate::prompts::Templates;

/// Prints fragments with their weights, and the chunks of both encoders.
pub(crate) fn run(arguments: &TokensArgs) -> Result<()> {
    let TokensArgs { prompt, seed, dynamic, syntax, .. } = arguments;
    let request = GenerateRequest {
        seed: Some(*seed),
        syntax: Some(*syntax),
        embeddings: arguments.embeddings.clone(),
        embedding_dir: arguments.embedding_dir.clone(),
        ..GenerateRequest::new(prompt.as_str())
    };
    request.check()?;
    let request = Templates::read(&request, dynamic)?.draw(request)?;
    if request.prompt != arguments.prompt {
        printer::note(&format!("drawn: {}", printer::visible(&request.prompt)));
    }
    let steps = arguments.steps as usize;
    let (language, left_out) = embeddings::language(&request, steps)?;
    for sentence in left_out {
        printer::note(&format!("warning: {sentence}"));
    }
    let added = language.added.clone();
    let (script, warnings) = Script::parse(&request.prompt, language, steps);
    for warning in &warnings {
        printer::note(&format!("warning: {warning}"));
    }
    let describe =
        |prompt: &Conjunction| Description::new(prompt, arguments.long_prompt.into(), &warnings);
    for LoraTag { name, text_encoder_scale, unet_scale } in &script.loras {
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
        return printer::styled(table(&description, &added).trim_end());
    }
    if arguments.json {
        return printer::data(&json(&script, describe).to_string());
    }
    let mut tables = String::new();
    let bold = Style::new().bold();
    for part in &script.parts {
        let mut first = 1;
        for ScheduledPrompt { until, prompt } in &part.prompts {
            let (weight, table) = (part.weight, table(&describe(prompt), &added));
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
fn table(description: &Description, added: &AddedWords) -> String {
    let mut table = String::from("weight  text\n");
    if description.parts.is_empty() {
        push_fragments(&description.fragments, &mut table);
    }
    for (n, part) in description.parts.iter().enumerate() {
        for prompt in &part.prompts {
            let mut headline = format!("part {}, weight {}", n + 1, number(part.weight));
            if part.prompts.len() > 1 {
                write!(headline, ", {} of its blend", number(prompt.share))
                    .expect("a String takes every write");
            }
            let bold = Style::new().bold();
            writeln!(table, "{bold}{headline}{bold:#}").expect("a String takes every write");
            push_fragments(&prompt.fragments, &mut table);
        }
    }
    for (encoder, described) in Encoder::BOTH.into_iter().zip(&description.encoders) {
        push_chunks(encoder, described, added, &mut table);
    }
    table
}

fn push_fragments(fragments: &[Fragment], table: &mut String) {
    for Fragment { text, weight } in fragments {
        let (style, number) = (style_of(*weight), number(*weight));
        let text = printer::visible(text);
        writeln!(table, "{style}{number:<6}  {text}{style:#}").expect("a String takes every write");
    }
}

/// At most four decimals.
fn number(weight: f64) -> String {
    let number = format!("{weight:.4}");
    number.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A headline for every chunk, and its words, each with its id.
fn push_chunks(
    encoder: Encoder,
    described: &EncoderDescription,
    added: &AddedWords,
    table: &mut String,
) {
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
            .map(|(id, weight)| {
                let own = added.token(*id);
                let text = own.unwrap_or_else(|| Tokenizer::new(encoder).decode(&[*id]));
                word(*id, &text, f64::from(*weight))
            })
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

fn word(id: u32, text: &str, weight: f64) -> String {
    let style = style_of(weight);
    let dimmed = Style::new().dimmed();
    let text = printer::visible(text);
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
