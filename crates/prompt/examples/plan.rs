//! Prints prompts as the crate reads them, for comparison with the oracle.
//!
//! Takes a JSON list of texts on standard input and writes one JSON object per text and line:
//! what `parity/check_plan.py` and `parity/make_prompts.py` read.

use std::io::{self, BufWriter, Write};

use serde_json::{Value, json};
use unwrong_prompt::{
    Conjunction, ConjunctionPlan, EncodePlan, Encoder, LongPrompt, PartPlan, Prompt, Syntax,
    Tokenizer,
};

fn main() -> io::Result<()> {
    let texts: Vec<String> = serde_json::from_reader(io::stdin().lock())?;
    let mut output = BufWriter::new(io::stdout().lock());
    for text in texts {
        writeln!(output, "{}", describe(&text))?;
    }
    output.flush()
}

fn describe(text: &str) -> Value {
    let (conjunction, warnings) = Conjunction::parse(text, Syntax::Compel);
    let plans = |long_prompt| -> Vec<Value> {
        let plan = |encoder| plan(&conjunction.plan(encoder, long_prompt));
        Encoder::BOTH.into_iter().map(plan).collect()
    };
    let printed = conjunction.to_string();
    json!({
        "parts": parts(&conjunction),
        "loras": conjunction.loras().iter().map(|lora| json!([lora.name, lora.weight])).collect::<Vec<_>>(),
        "reparsed": parts(&Conjunction::parse(&printed, Syntax::Compel).0),
        "printed": printed,
        "warnings": warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "ids": Encoder::BOTH.map(|encoder| Tokenizer::new(encoder).encode(text)),
        "pooled_ids": conjunction.pooled_ids().to_vec(),
        "pad": plans(LongPrompt::Pad),
        "truncate": plans(LongPrompt::Truncate),
    })
}

/// `[weight, normalize, [[weight, fragments, edited]…]]` of each part.
fn parts(conjunction: &Conjunction) -> Value {
    let fragments = |prompt: &Prompt| -> Value {
        prompt.fragments().iter().map(|own| json!([own.text, own.weight])).collect()
    };
    let edited = |prompt: &Prompt| -> Value {
        prompt
            .edited()
            .map(|edited| edited.iter().map(|own| json!([own.text, own.weight])).collect())
            .unwrap_or_default()
    };
    let part = |part: &unwrong_prompt::ConjunctionPart| {
        let prompts = part
            .blend
            .prompts
            .iter()
            .map(|own| json!([own.weight, fragments(&own.prompt), edited(&own.prompt)]));
        json!([part.weight, part.blend.normalize, prompts.collect::<Value>()])
    };
    conjunction.parts().iter().map(part).collect()
}

fn plan(plan: &ConjunctionPlan) -> Value {
    let part = |part: &PartPlan| {
        let prompts = part
            .prompts
            .iter()
            .map(|own| json!({ "share": own.share, "chunks": chunks(&own.plan) }));
        json!({ "weight": part.weight, "prompts": prompts.collect::<Value>() })
    };
    plan.parts.iter().map(part).collect()
}

fn chunks(plan: &EncodePlan) -> Value {
    plan.chunks
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
