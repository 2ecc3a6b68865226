//! Ids, fragments and chunks against what transformers and compel wrote in `parity/goldens`.

use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::Value;
use unwrong_prompt::{Conjunction, Encoder, Fragment, LongPrompt, Prompt, Syntax, Tokenizer};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn golden(name: &str) -> Result<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/goldens");
    Ok(serde_json::from_str(&fs::read_to_string(folder.join(name))?)?)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn ids(value: &Value) -> Vec<u32> {
    list(value).iter().filter_map(Value::as_u64).map(|id| id as u32).collect()
}

fn weights(value: &Value) -> Vec<f32> {
    list(value).iter().filter_map(Value::as_f64).map(|weight| weight as f32).collect()
}

fn parse(text: &str) -> Prompt {
    Prompt::parse(text, Syntax::Compel).0
}

#[test]
fn token_ids_equal_transformers() -> Result {
    let golden = golden("tokens.json")?;
    let texts = list(&golden["texts"]);
    assert!(texts.len() > 100);
    for case in texts {
        let text = case["text"].as_str().ok_or("no text")?;
        let (plain, _) = Prompt::parse(text, Syntax::Plain);
        for (n, encoder) in Encoder::BOTH.into_iter().enumerate() {
            let marked = ids(&case["ids"][n]);
            let expected = &marked[1..marked.len() - 1];
            assert_eq!(Tokenizer::new(encoder).encode(text), expected, "{text:?}, {encoder:?}");
            let padded = ids(&case["padded"][n]);
            let truncated = plain.plan(encoder, LongPrompt::Truncate);
            assert_eq!(truncated.chunks[0].ids[..], padded, "{text:?}, {encoder:?}");
        }
        assert_eq!(plain.pooled_ids()[..], ids(&case["padded"][1]), "{text:?}");
    }
    Ok(())
}

#[test]
fn fragments_equal_compel() -> Result {
    let golden = golden("prompt-fragments.json")?;
    let mut compared = 0;
    for case in list(&golden) {
        let text = case[0].as_str().ok_or("no text")?;
        if case[1].is_null() {
            // Compel refuses it; we only must not panic.
            let _ = parse(text);
            continue;
        }
        check_fragments(text, parse(text).fragments(), &case[1])?;
        compared += 1;
    }
    assert!(compared > 200);
    Ok(())
}

#[test]
fn parts_equal_compel() -> Result {
    let golden = golden("prompt-parts.json")?;
    let mut compared = 0;
    for case in list(&golden) {
        let text = case["text"].as_str().ok_or("no text")?;
        let (found, _) = Conjunction::parse(text, Syntax::Compel);
        if case["parts"].is_null() {
            continue;
        }
        let expected = list(&case["parts"]);
        assert_eq!(found.parts().len(), expected.len(), "{text:?}");
        for (part, expected) in found.parts().iter().zip(expected) {
            assert_eq!(Some(part.weight), expected[0].as_f64(), "{text:?}");
            assert_eq!(Some(part.blend.normalize), expected[1].as_bool(), "{text:?}");
            let prompts = list(&expected[2]);
            assert_eq!(part.blend.prompts.len(), prompts.len(), "{text:?}");
            for (blended, expected) in part.blend.prompts.iter().zip(prompts) {
                assert_eq!(Some(blended.weight), expected[0].as_f64(), "{text:?}");
                check_fragments(text, blended.prompt.fragments(), &expected[1])?;
                let edited = blended.prompt.edited();
                assert_eq!(edited.is_none(), expected[2].is_null(), "{text:?}");
                check_fragments(text, edited.unwrap_or_default(), &expected[2])?;
            }
        }
        let loras = list(&case["loras"]);
        assert_eq!(found.loras().len(), loras.len(), "{text:?}");
        for (lora, expected) in found.loras().iter().zip(loras) {
            assert_eq!(Some(&*lora.name), expected[0].as_str(), "{text:?}");
            assert_eq!(Some(lora.weight), expected[1].as_f64(), "{text:?}");
        }
        compared += 1;
    }
    assert!(compared > 200);
    Ok(())
}

fn check_fragments(text: &str, found: &[Fragment], expected: &Value) -> Result {
    let expected = list(expected);
    assert_eq!(found.len(), expected.len(), "{text:?}: {found:?}");
    for (fragment, expected) in found.iter().zip(expected) {
        assert_eq!(Some(&*fragment.text), expected[0].as_str(), "{text:?}");
        let expected = expected[1].as_f64().ok_or("no weight")?;
        // JSON is read to the last digit but one.
        let difference = (fragment.weight - expected).abs();
        assert!(difference <= 1e-14 * expected, "{text:?}: {fragment:?} is {expected}");
    }
    Ok(())
}

#[test]
fn chunks_and_token_weights_equal_compel() -> Result {
    let golden = golden("conditioning.json")?;
    let mut compared = 0;
    for (name, case) in golden["prompts"].as_object().ok_or("no prompts")? {
        let mut lengths = vec![1];
        for side in ["", "negative_"] {
            let [chunks, weights] = ["chunks", "weights"].map(|key| &case[format!("{side}{key}")]);
            let text = case[if side.is_empty() { "prompt" } else { "negative_prompt" }].as_str();
            let (Some(text), false) = (text, chunks.is_null()) else { continue };
            lengths.extend(check_chunks(text, chunks, weights));
            compared += 1;
        }
        if let (false, Some(tokens)) = (case["chunks"].is_null(), case["tokens"].as_u64()) {
            assert_eq!(lengths.into_iter().max(), Some(tokens as usize / 77), "{name}");
        }
    }
    assert!(compared > 100);
    Ok(())
}

/// Compares both encoders' chunks of `text` and returns how many there are.
fn check_chunks(text: &str, chunks: &Value, golden_weights: &Value) -> Vec<usize> {
    let prompt = parse(text);
    let mut lengths = Vec::new();
    for (n, encoder) in Encoder::BOTH.into_iter().enumerate() {
        let plan = prompt.plan(encoder, LongPrompt::Pad);
        let found: Vec<_> = plan.chunks.iter().map(|chunk| chunk.ids.to_vec()).collect();
        let expected: Vec<_> = list(&chunks[n]).iter().map(ids).collect();
        assert_eq!(found, expected, "{text:?}, {encoder:?}");
        lengths.push(found.len());
    }
    let chunks = prompt.plan(Encoder::ClipL, LongPrompt::Pad).chunks;
    let found: Vec<_> = chunks.iter().map(|chunk| chunk.weights.to_vec()).collect();
    let expected: Vec<_> = list(golden_weights).iter().map(weights).collect();
    assert_eq!(found, expected, "{text:?}");
    lengths
}
