//! Weights and chunks against what ComfyUI's own tokenizer wrote in `parity/goldens/comfy.json`.

use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::Value;
use unwrong_prompt::{Encoder, LongPrompt, Prompt, Syntax, Weighting};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn golden() -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/goldens/comfy.json");
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn near(found: f64, expected: &Value) -> bool {
    let expected = expected.as_f64().unwrap_or(f64::NAN);
    (found - expected).abs() <= 1e-6 * expected.abs().max(1.0)
}

#[test]
fn segments_equal_comfyui() -> Result {
    let golden = golden()?;
    let mut compared = 0;
    for case in list(&golden) {
        let text = case["text"].as_str().ok_or("no text")?;
        let expected = list(&case["segments"]);
        if expected.is_empty() || text.contains("embedding:") {
            continue;
        }
        let (prompt, _) = Prompt::parse(text, Syntax::Comfy);
        assert_eq!(prompt.fragments().len(), expected.len(), "{text:?}");
        for (fragment, expected) in prompt.fragments().iter().zip(expected) {
            assert_eq!(fragment.text, expected[0], "{text:?}");
            assert!(near(fragment.weight, &expected[1]), "{text:?}: {fragment:?}");
        }
        compared += 1;
    }
    assert!(compared > 120);
    Ok(())
}

#[test]
fn chunks_and_weights_equal_comfyui() -> Result {
    let golden = golden()?;
    let mut compared = 0;
    for case in list(&golden).iter().filter(|case| !case["chunks"].is_null()) {
        let text = case["text"].as_str().ok_or("no text")?;
        let (prompt, _) = Prompt::parse(text, Syntax::Comfy);
        for (place, encoder) in Encoder::BOTH.into_iter().enumerate() {
            let plan = prompt.plan(encoder, LongPrompt::Pad);
            let ids: Value =
                plan.chunks.iter().map(|chunk| Value::from(chunk.ids.to_vec())).collect();
            assert_eq!(ids, case["chunks"][place], "{text:?}, {encoder:?}");
            for (chunk, expected) in plan.chunks.iter().zip(list(&case["chunks"][2])) {
                assert_eq!(chunk.weighting, Weighting::Interpolate);
                let mut weights = chunk.weights.iter().zip(list(expected));
                assert!(
                    weights.all(|(&weight, expected)| near(weight.into(), expected)),
                    "{text:?}"
                );
            }
        }
        compared += 1;
    }
    assert!(compared > 130);
    Ok(())
}

#[test]
fn what_may_surprise_is_said() {
    for (text, name) in [
        ("a (b", "a (b"),
        ("a) (b) (c)", "a) (b) (c)"),
        ("(a:inf)", "a"),
        ("a embedding:name b", "embedding:name"),
    ] {
        let (_, warnings) = Prompt::parse(text, Syntax::Comfy);
        let named =
            warnings.iter().any(|warning| warning.to_string().contains(&format!("`{name}`")));
        assert!(named, "{text:?}: {warnings:?}");
    }
    assert_eq!(Prompt::parse("a (b:1.2), \\(c\\) [d] {e}", Syntax::Comfy).1, []);
}

#[test]
fn a_weight_that_is_no_number_is_one_and_said_to_be() {
    for (text, weight, told) in [
        ("(x:nan)", 1.0, "the weight of `x` is `nan`, which is no number, so it is 1"),
        (
            "(x:-inf)",
            -1e6,
            "the weight of `x` is beyond 1000000, up or down, so that limit is used",
        ),
        ("(x:1e9)", 1e6, "the weight of `x` is beyond 1000000, up or down, so that limit is used"),
    ] {
        let (prompt, warnings) = Prompt::parse(text, Syntax::Comfy);
        assert!((prompt.fragments()[0].weight - weight).abs() < 1e-9, "{text}");
        let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings, [told]);
    }
}
