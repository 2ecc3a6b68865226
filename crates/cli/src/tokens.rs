//! `unwrong tokens`: how a prompt is read.

use std::fmt::Write as _;

use anyhow::Result;
use unwrong_prompt::{Description, END_OF_TEXT, Encoder, Prompt, Tokenizer};

use crate::args::TokensArgs;
use crate::printer;

/// Prints fragments with their weights, and the chunks of both encoders.
pub(crate) fn run(arguments: &TokensArgs) -> Result<()> {
    unwrong::GenerateRequest::new(arguments.prompt.as_str()).check()?;
    let (prompt, warnings) = Prompt::parse(&arguments.prompt, arguments.syntax.into());
    for warning in &warnings {
        printer::note(&format!("warning: {warning}"));
    }
    let description = Description::new(&prompt, arguments.long_prompt.into(), &warnings);
    if arguments.json {
        return printer::data(&serde_json::to_string(&description)?);
    }
    printer::data(table(&description).trim_end())
}

/// For people: weights beside their text, ids beside their words, padding left out.
fn table(description: &Description) -> String {
    let mut table = String::from("weight  text\n");
    for fragment in &description.fragments {
        let weight = format!("{:.4}", fragment.weight);
        let weight = weight.trim_end_matches('0').trim_end_matches('.');
        writeln!(table, "{weight:<6}  {}", fragment.text).expect("a String takes every write");
    }
    for (encoder, ids) in Encoder::BOTH.into_iter().zip(&description.encoders) {
        let name = match encoder {
            Encoder::ClipL => "text_encoder",
            Encoder::BigG => "text_encoder_2",
        };
        for (number, chunk) in ids.chunks.iter().enumerate() {
            let text = text_of(chunk);
            writeln!(
                table,
                "\n{name}, chunk {} of {}: {} tokens of text",
                number + 1,
                ids.chunks.len(),
                text.len()
            )
            .expect("a String takes every write");
            let words: Vec<String> = text
                .iter()
                .map(|id| format!("{id} {}", Tokenizer::new(encoder).decode(&[*id])))
                .collect();
            table.push_str(&words.join("  "));
            table.push('\n');
        }
    }
    table
}

/// The ids between the start mark and the end mark.
fn text_of(chunk: &[u32]) -> &[u32] {
    let text = chunk.get(1..).unwrap_or_default();
    let end = text.iter().position(|id| *id == END_OF_TEXT).unwrap_or(text.len());
    &text[..end]
}
