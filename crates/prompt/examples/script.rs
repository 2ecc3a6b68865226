//! Prints prompts as the crate reads them in the syntaxes of A1111 and ComfyUI.
//!
//! Takes a JSON list of texts on standard input and writes one JSON object per text and line:
//! what `parity/make_a1111.py`, `make_comfy.py` and the `check_` beside each read.

use std::io::{self, BufWriter, Write};

use serde_json::{Value, json};
use unwrong_prompt::{
    Conjunction, Emphasis, Encoder, LongPrompt, Prompt, Script, Steps, SwitchTime, Syntax,
};

const A1111: Syntax = Syntax::A1111 { emphasis: Emphasis::Original };

fn main() -> io::Result<()> {
    let texts: Vec<String> = serde_json::from_reader(io::stdin().lock())?;
    let mut output = BufWriter::new(io::stdout().lock());
    for text in texts {
        writeln!(output, "{}", describe(&text))?;
    }
    output.flush()
}

fn describe(text: &str) -> Value {
    let (script, warnings) = Script::parse(text, A1111, 10);
    let loras = script.loras.iter();
    json!({
        "loras": loras.map(|lora| json!([lora.name, lora.text_encoder_scale, lora.unet_scale])).collect::<Vec<_>>(),
        "parts": (0..script.parts.len()).map(|part| describe_part(text, part)).collect::<Vec<_>>(),
        "warnings": warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "attention": fragments(&Prompt::parse(text, A1111).0),
        "chunks": chunks(&Prompt::parse(text, A1111).0),
        "comfy": {
            "fragments": fragments(&Prompt::parse(text, Syntax::Comfy).0),
            "chunks": chunks(&Prompt::parse(text, Syntax::Comfy).0),
            "pooled_ids": Prompt::parse(text, Syntax::Comfy).0.pooled_ids().to_vec(),
        },
    })
}

fn describe_part(text: &str, part: usize) -> Value {
    let schedule = |count, switch_time| -> Value {
        let (script, _) = Script::parse(text, A1111, Steps { count, switch_time });
        let prompts = script.parts[part].prompts.iter();
        prompts.map(|scheduled| json!([scheduled.until, scheduled.prompt.source()])).collect()
    };
    let (script, _) = Script::parse(text, A1111, 1);
    let both = |switch_time| [schedule(10, switch_time), schedule(25, switch_time)];
    json!({
        "text": script.parts[part].source,
        "weight": script.parts[part].weight,
        "schedules": [both(SwitchTime::Current), both(SwitchTime::Old)],
        "encoded": (1..=10).map(|step| encoded(text, part, step)).collect::<Vec<_>>(),
    })
}

/// What is encoded at a step of ten.
fn encoded(text: &str, part: usize, step: usize) -> Value {
    let (script, _) = Script::parse(text, A1111, 10);
    let prompt: &Conjunction = script.parts[part].prompt_at(step);
    let chunks = |encoder| -> Value {
        let plan = prompt.plan(encoder, LongPrompt::Pad);
        let chunks = plan.plans().flat_map(|plan| &plan.chunks);
        chunks.map(|chunk| json!([chunk.ids.to_vec(), chunk.weights.to_vec()])).collect()
    };
    json!({
        "text": prompt.source(),
        "encoders": Encoder::BOTH.map(chunks),
        "pooled_ids": prompt.pooled_ids().to_vec(),
    })
}

fn fragments(prompt: &Prompt) -> Value {
    prompt.fragments().iter().map(|fragment| json!([fragment.text, fragment.weight])).collect()
}

/// The ids for both encoders, and the weights.
fn chunks(prompt: &Prompt) -> Value {
    let plans = Encoder::BOTH.map(|encoder| prompt.plan(encoder, LongPrompt::Pad));
    let [first, second] = [0, 1].map(|encoder: usize| -> Value {
        plans[encoder].chunks.iter().map(|chunk| json!(chunk.ids.to_vec())).collect()
    });
    let weights: Value =
        plans[0].chunks.iter().map(|chunk| json!(chunk.weights.to_vec())).collect();
    json!([first, second, weights])
}
