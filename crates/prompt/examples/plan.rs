//! Prints prompts as the crate reads them, for comparison with the oracle.
//!
//! Takes a JSON list of texts on standard input and writes one JSON object per text and line:
//! what `parity/check_plan.py` and `parity/make_prompts.py` read.

use std::io::{self, BufWriter, Write};

use serde_json::{Value, json};
use unwrong_prompt::{Encoder, LongPrompt, Prompt, Syntax, Tokenizer};

fn main() -> io::Result<()> {
    let texts: Vec<String> = serde_json::from_reader(io::stdin().lock())?;
    let mut output = BufWriter::new(io::stdout().lock());
    for text in texts {
        writeln!(output, "{}", describe(&text))?;
    }
    output.flush()
}

fn describe(text: &str) -> Value {
    let (prompt, warnings) = Prompt::parse(text, Syntax::Compel);
    let plans = |long_prompt| -> Vec<Value> {
        Encoder::BOTH.iter().map(|&encoder| plan(&prompt, encoder, long_prompt)).collect()
    };
    json!({
        "fragments": prompt.fragments(),
        "printed": prompt.to_string(),
        "warnings": warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "ids": Encoder::BOTH.map(|encoder| Tokenizer::new(encoder).encode(text)),
        "pooled_ids": prompt.pooled_ids().to_vec(),
        "pad": plans(LongPrompt::Pad),
        "truncate": plans(LongPrompt::Truncate),
    })
}

fn plan(prompt: &Prompt, encoder: Encoder, long_prompt: LongPrompt) -> Value {
    let chunks = prompt.plan(encoder, long_prompt).chunks;
    chunks
        .iter()
        .map(|chunk| {
            let variants = chunk.variants.iter().map(|variant| {
                json!({ "masked": [variant.masked.start, variant.masked.end], "share": variant.share })
            });
            json!({
                "ids": chunk.ids.to_vec(),
                "weights": chunk.weights.to_vec(),
                "variants": variants.collect::<Vec<_>>(),
            })
        })
        .collect()
}
