//! Networks, parts, schedules, weights and chunks against what A1111's own code wrote in
//! `parity/goldens/a1111.json`; and laws of that syntax.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Value;
use unwrong_prompt::{
    CHUNK_TOKENS, Chunk, Conjunction, Emphasis, Encoder, LongPrompt, Prompt, START_OF_TEXT, Script,
    Steps, SwitchTime, Syntax, Warning, Weighting,
};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const A1111: Syntax = Syntax::A1111 { emphasis: Emphasis::Original };

fn golden() -> Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/goldens/a1111.json");
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("no text")
}

fn script(text: &str, steps: impl Into<Steps>) -> (Script, Vec<Warning>) {
    Script::parse(text, A1111, steps)
}

/// `a` and `b` up to the last digits.
fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * b.abs().max(1.0)
}

#[test]
fn networks_and_parts_equal_a1111() -> Result {
    let golden = golden()?;
    let prompts = list(&golden["prompts"]);
    assert!(prompts.len() > 100);
    for case in prompts {
        let (script, _) = script(text(&case["text"]), 10);
        let lora = |network: &&Value| {
            let kind = text(&network[0]);
            let scale = |argument: &Value| {
                text(argument).contains('=') || text(argument).parse::<f64>().is_ok()
            };
            let arguments = list(&network[1]);
            matches!(kind, "lora" | "lyco")
                && arguments[0] != ""
                && arguments[1..].iter().all(scale)
        };
        let mut names: Vec<_> =
            list(&case["networks"]).iter().filter(lora).map(|lora| text(&lora[1][0])).collect();
        let mut found: Vec<_> = script.loras.iter().map(|lora| &*lora.name).collect();
        // A1111 lists them by kind.
        names.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, names, "{}", case["text"]);

        let expected = list(&case["parts"]);
        assert_eq!(script.parts.len(), expected.len(), "{}", case["text"]);
        for (part, expected) in script.parts.iter().zip(expected) {
            assert_eq!(part.source, text(&expected[0]), "{}", case["text"]);
            assert!(near(part.weight, expected[1].as_f64().unwrap_or(0.0)), "{}", case["text"]);
        }
    }
    Ok(())
}

#[test]
fn schedules_equal_a1111_in_both_readings() -> Result {
    let golden = golden()?;
    let mut compared = 0;
    for case in list(&golden["prompts"]) {
        for (old, switch_time) in [SwitchTime::Current, SwitchTime::Old].into_iter().enumerate() {
            for (place, count) in [10, 25].into_iter().enumerate() {
                let (script, _) = script(text(&case["text"]), Steps { count, switch_time });
                for (part, schedules) in script.parts.iter().zip(list(&case["schedules"])) {
                    let prompts = part.prompts.iter();
                    let found: Value = prompts
                        .map(|one| {
                            Value::from(vec![one.until.into(), Value::from(one.prompt.source())])
                        })
                        .collect();
                    if !schedules.is_null() {
                        assert_eq!(found, schedules[old][place], "{}", case["text"]);
                        compared += 1;
                    }
                }
            }
        }
    }
    assert!(compared > 400);
    Ok(())
}

#[test]
fn fragments_equal_a1111() -> Result {
    let golden = golden()?;
    let mut compared = 0;
    for case in list(&golden["texts"]).iter().filter(|case| !case["attention"].is_null()) {
        let (prompt, _) = Prompt::parse(text(&case["text"]), A1111);
        let expected = list(&case["attention"]);
        assert_eq!(prompt.fragments().len(), expected.len(), "{}", case["text"]);
        for (fragment, expected) in prompt.fragments().iter().zip(expected) {
            assert_eq!(fragment.text, text(&expected[0]), "{}", case["text"]);
            assert!(near(fragment.weight, expected[1].as_f64().unwrap_or(0.0)), "{}", case["text"]);
        }
        compared += 1;
    }
    assert!(compared > 150);
    Ok(())
}

#[test]
fn chunks_and_weights_equal_a1111() -> Result {
    let golden = golden()?;
    let mut compared = 0;
    for case in list(&golden["texts"]).iter().filter(|case| !case["chunks"].is_null()) {
        let (prompt, _) = Prompt::parse(text(&case["text"]), A1111);
        for (place, encoder) in Encoder::BOTH.into_iter().enumerate() {
            let plan = prompt.plan(encoder, LongPrompt::Pad);
            let ids: Value =
                plan.chunks.iter().map(|chunk| Value::from(chunk.ids.to_vec())).collect();
            assert_eq!(ids, case["chunks"][place], "{}, {encoder:?}", case["text"]);
            for (chunk, expected) in plan.chunks.iter().zip(list(&case["chunks"][2])) {
                for (weight, expected) in chunk.weights.iter().zip(list(expected)) {
                    let expected = expected.as_f64().unwrap_or(0.0);
                    assert!(near(f64::from(*weight), expected), "{}", case["text"]);
                }
            }
        }
        assert_eq!(
            prompt.pooled_ids()[..],
            prompt.plan(Encoder::BigG, LongPrompt::Pad).chunks[0].ids
        );
        compared += 1;
    }
    assert!(compared > 150);
    Ok(())
}

#[test]
fn a_switch_at_half_of_a_hundred_steps_is_after_step_fifty() {
    let (script, warnings) = script("[dog:cat:0.5]", 100);
    let [dog, cat] = &*script.parts[0].prompts else { panic!("two prompts expected") };
    assert_eq!((dog.until, dog.prompt.source()), (50, "dog"));
    assert_eq!((cat.until, cat.prompt.source()), (100, "cat"));
    assert_eq!(warnings, []);
    assert_eq!(script.single_prompt(), None);
}

#[test]
fn emphasis_decides_what_weights_do() {
    let chunk = |emphasis| {
        let (prompt, _) = Prompt::parse("a (b:1.5) BREAK c", Syntax::A1111 { emphasis });
        let mut plan = prompt.plan(Encoder::ClipL, LongPrompt::Pad);
        plan.pad_to(3);
        assert!(plan.chunks.iter().all(|one| one.weighting == plan.chunks[0].weighting));
        (plan.chunks[0].weighting, plan.chunks[0].weights[2], plan.chunks[0].ids[3])
    };
    let end = 49_407;
    assert_eq!(chunk(Emphasis::Original), (Weighting::ScaleKeepMean, 1.5, end));
    assert_eq!(chunk(Emphasis::NoNorm), (Weighting::Scale, 1.5, end));
    assert_eq!(chunk(Emphasis::Ignore), (Weighting::Scale, 1.0, end));
    assert_ne!(chunk(Emphasis::Literal).2, end);
}

#[test]
fn no_weighting_but_interpolation_needs_the_empty_chunk() {
    for syntax in [A1111, Syntax::Comfy] {
        let (prompt, _) = Prompt::parse("a (b:1.5)", syntax);
        let plan = prompt.plan(Encoder::ClipL, LongPrompt::Pad);
        assert_eq!(plan.chunks[0].needs_empty(), syntax == Syntax::Comfy);
        assert!(plan.chunks[0].is_weighted() && !plan.chunks[0].is_plain());
    }
}

#[test]
fn what_may_surprise_is_said() {
    for (text, name) in [
        ("<hypernet:x:1> a", "<hypernet:x:1>"),
        ("<lora:x:high> a", "<lora:x:high>"),
        ("a (b", "(b"),
        ("a) b", "a)"),
        ("a [b", "[b"),
        ("(a:1.2.3) b", ":1.2.3)"),
        ("(a BREAK b)", "(a BREAK b"),
        ("[a:b:40]", "[a:b:40]"),
        ("[a:b:0]", "[a:b:0]"),
        ("[a:b:c:5]", "[a:b:c:5]"),
        ("[a:b] c", "[a:b]"),
        ("[a:b:5] | c", "[a:b:5] | c"),
        ("a :1,2 AND b", ":1,2"),
        ("at 10:30", ":30"),
        ("(a:9999999)", "a"),
    ] {
        let (_, warnings) = script(text, 25);
        let named = |warning: &Warning| warning.to_string().contains(&format!("`{name}`"));
        assert!(warnings.iter().any(named), "{text:?}: {warnings:?}");
    }
}

#[test]
fn many_parts_have_no_more_warnings_than_one_reads() {
    let parts: Vec<String> = (0..2000).map(|n| format!("(a{n} [b:c{n}:99] :1,{n}")).collect();
    for text in [parts.join(" AND "), parts.join(" ")] {
        let (script, warnings) = script(&text, 25);
        assert!(script.parts.len() == 2000 || script.parts.len() == 1);
        assert!((3..=24).contains(&warnings.len()), "{} warnings", warnings.len());
    }
}

#[test]
fn ordinary_prompts_get_no_warning() {
    for text in [
        "masterpiece, (best quality:1.4), ((solo)), [blurry], \\(artist\\)",
        "a [cat:dog:0.5] in [spring|autumn] <lora:ink:0.8> AND a garden :0.6",
        "a BREAK b",
        "time: 10:30 in the morning",
    ] {
        assert_eq!(script(text, 25).1, [], "{text:?}");
    }
}

#[test]
fn a_negative_prompt_has_no_parts_and_no_networks() {
    let (script, warnings) = Script::parse_negative("a AND [b:c:5] <lora:x:1> :1.2", A1111, 10);
    assert_eq!(script.parts.len(), 1);
    assert_eq!(script.parts[0].prompt_at(6).source(), "a AND c <lora:x:1> :1.2");
    assert_eq!((script.loras.len(), warnings.len()), (0, 1));
}

#[test]
fn compel_and_plain_prompts_are_one_prompt_for_all_steps() {
    for syntax in [Syntax::Compel, Syntax::Plain, Syntax::Comfy] {
        let text = "a [b:c:5] AND <lora:x:1>";
        let (script, _) = Script::parse(text, syntax, 10);
        assert_eq!(script.single_prompt(), Some(&Conjunction::parse(text, syntax).0));
        assert_eq!(script.parts[0].prompts[0].until, 10);
    }
}

fn prompt() -> impl Strategy<Value = String> {
    let syntax = vec![
        "(",
        ")",
        "[",
        "]",
        ":",
        "|",
        "\\",
        "[a:b:5]",
        "[a|b]",
        "(a:1.2)",
        ":0.5]",
        ":1.3)",
        " AND ",
        " BREAK ",
        "<lora:",
        ">",
        "<lora:a:0.5>",
        "\n",
        ",",
        " :1.2 AND ",
        "é",
        "日本",
        "::",
        "||",
    ];
    let part = prop_oneof![
        2 => "[a-z]{1,6}",
        2 => Just(" ".to_owned()),
        1 => "[ -~]{0,4}",
        1 => any::<String>(),
        5 => prop::sample::select(syntax).prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_script_covers_every_step_once(text in prompt(), steps in 0..40_usize, old in any::<bool>()) {
        let switch_time = if old { SwitchTime::Old } else { SwitchTime::Current };
        let (script, _) = script(&text, Steps { count: steps, switch_time });
        prop_assert!(!script.parts.is_empty());
        for part in &script.parts {
            prop_assert!(part.weight.is_finite());
            let ends: Vec<_> = part.prompts.iter().map(|scheduled| scheduled.until).collect();
            prop_assert_eq!(ends.last(), Some(&steps.max(1)));
            prop_assert!(ends[0] > 0 && ends.is_sorted_by(|one, next| one < next));
            for step in 1..=steps {
                let prompt = part.prompt_at(step);
                let until = ends[ends.partition_point(|&until| until < step)];
                prop_assert_eq!(prompt, part.prompt_at(until));
            }
        }
    }

    #[test]
    fn chunks_are_framed_and_of_the_same_number(text in prompt(), repeats in 1..12_usize, comfy in any::<bool>()) {
        let syntax = if comfy { Syntax::Comfy } else { A1111 };
        let (prompt, _) = Prompt::parse(&text.repeat(repeats), syntax);
        let [first, second] = Encoder::BOTH.map(|encoder| prompt.plan(encoder, LongPrompt::Pad));
        prop_assert_eq!(first.chunks.len(), second.chunks.len());
        for (chunk, other) in first.chunks.iter().zip(&second.chunks) {
            prop_assert_eq!(chunk.ids[0], START_OF_TEXT);
            prop_assert_eq!(chunk.weights.map(f32::to_bits), other.weights.map(f32::to_bits));
            prop_assert_eq!(chunk.ids.len(), CHUNK_TOKENS);
            prop_assert!(chunk.weights.iter().all(|weight| weight.abs() <= 1e6));
            prop_assert_eq!(chunk.variants.len(), 1);
        }
        let truncated = prompt.plan(Encoder::BigG, LongPrompt::Truncate);
        prop_assert_eq!(&truncated.chunks[..], &second.chunks[..1]);
        prop_assert_eq!(prompt.pooled_ids(), second.chunks[0].ids);
    }

    #[test]
    fn text_without_syntax_is_one_plain_fragment(text in "[a-z ,.]{0,200}") {
        for syntax in [A1111, Syntax::Comfy] {
            let (prompt, warnings) = Prompt::parse(&text, syntax);
            prop_assert_eq!(prompt.fragments().len(), 1);
            prop_assert_eq!(&prompt.fragments()[0].text, &text);
            prop_assert!(warnings.is_empty());
            prop_assert!(prompt.plan(Encoder::ClipL, LongPrompt::Pad).chunks.iter().all(Chunk::is_plain));
        }
    }
}

#[test]
fn hostile_prompts_take_time_in_proportion_to_their_length() {
    let n = 50_000;
    let nested = |open: &str, close: &str| format!("{}a{}", open.repeat(n), close.repeat(n));
    for text in [
        nested("(", ")"),
        nested("[", "]"),
        nested("(a ", ")"),
        nested("[a ", "]"),
        nested("[a:", ":5]"),
        nested("[a|", "]"),
        nested("(a:", ":1.2)"),
        nested("(", ":1.2)"),
        "(a [b ".repeat(n),
        "[a:b:0.5]".repeat(n),
        "a) b]".repeat(n),
        "<lora:".repeat(n),
        "<lora:a:1>".repeat(n),
        "<a".repeat(n),
        " AND ".repeat(n / 10),
        ": ".repeat(n),
        ":1".repeat(n),
        format!(":{}", " ".repeat(n)).repeat(3),
        "BREAK ".repeat(n / 10),
        "embedding:a ".repeat(n),
        "\\".repeat(n),
        "\\(".repeat(n),
        "(()".repeat(n),
        "((a:1)".repeat(n),
        "())(".repeat(n),
        ",".repeat(n),
    ] {
        let start: String = text.chars().take(20).collect();
        let started = Instant::now();
        let (script, _) = script(&text, 3);
        assert!(!script.parts[0].prompts.is_empty());
        for syntax in [A1111, Syntax::Comfy] {
            let (prompt, _) = Prompt::parse(&text, syntax);
            assert!(!prompt.plan(Encoder::BigG, LongPrompt::Pad).chunks.is_empty());
        }
        // Each takes well below a second; quadratic time would be minutes.
        assert!(started.elapsed() < Duration::from_secs(30), "{start:?} took too long");
    }
}
