//! Laws of parsing and planning, on prompts made of syntax; and inputs made to hurt.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use unwrong_prompt::{
    CHUNK_TOKENS, Chunk, Conjunction, Description, END_OF_TEXT, EncodePlan, Encoder, LongPrompt,
    Prompt, START_OF_TEXT, Syntax, Warning,
};

fn parse(text: &str) -> Prompt {
    Prompt::parse(text, Syntax::Compel).0
}

fn fragments(text: &str) -> Vec<(String, f64)> {
    parse(text).fragments().iter().map(|f| (f.text.clone(), f.weight)).collect()
}

fn pairs(expected: &[(&str, f64)]) -> Vec<(String, f64)> {
    expected.iter().map(|&(text, weight)| (text.to_owned(), weight)).collect()
}

/// Words, brackets, quotes and weights in any order.
fn prompt() -> impl Strategy<Value = String> {
    let syntax = vec![
        "(",
        ")",
        "\"",
        "+",
        "++",
        "-",
        "--",
        "1.3",
        "0.5",
        ".5",
        ",",
        ".",
        "=",
        "\\(",
        "\\)",
        "\\\"",
        "\\",
        "\\\\(",
        ", ",
        " (",
        ") ",
        ")++",
        ")0.4",
        "\"-",
        ".attend(1.2)",
        ".attend(",
        "!",
        "\n",
        "\t",
        "()",
        "\"\"",
        "[a:b]",
        "(x:1.3)",
        "é",
        "日本",
    ];
    let part = prop_oneof![
        4 => "[a-z]{1,6}",
        2 => Just(" ".to_owned()),
        1 => "[ -~]{0,4}",
        1 => any::<String>(),
        3 => prop::sample::select(syntax).prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn parsing_what_was_printed_gives_the_same_prompt(text in prompt()) {
        let parsed = parse(&text);
        let printed = parsed.to_string();
        prop_assert_eq!(parse(&printed), parsed, "printed as {:?}", printed);
    }

    #[test]
    fn neighbours_differ_in_weight_and_one_fragment_is_always_there(text in prompt()) {
        let parsed = parse(&text);
        prop_assert!(!parsed.fragments().is_empty());
        for pair in parsed.fragments().windows(2) {
            prop_assert!((pair[0].weight - pair[1].weight).abs() > 0.0);
        }
        for fragment in parsed.fragments() {
            prop_assert!(fragment.weight >= 0.0 && fragment.weight <= 1e6);
        }
    }

    #[test]
    fn chunks_are_framed_and_shares_sum_to_one(text in prompt(), repeats in 1..12usize) {
        let prompt = parse(&text.repeat(repeats));
        for encoder in Encoder::BOTH {
            for long_prompt in [LongPrompt::Pad, LongPrompt::Truncate] {
                check_plan(&prompt.plan(encoder, long_prompt))?;
            }
        }
    }

    #[test]
    fn weight_one_everywhere_is_the_plain_plan(words in prop::collection::vec("[a-z]{1,9}", 1..90)) {
        let text = words.join(" ");
        let (plain, _) = Prompt::parse(&text, Syntax::Plain);
        let weighted = parse(&format!("({text})1.0"));
        for encoder in Encoder::BOTH {
            let plan = weighted.plan(encoder, LongPrompt::Pad);
            prop_assert!(plan.chunks.iter().all(Chunk::is_plain));
            prop_assert_eq!(plan, plain.plan(encoder, LongPrompt::Pad));
        }
    }
}

fn check_plan(plan: &EncodePlan) -> Result<(), TestCaseError> {
    prop_assert!(!plan.chunks.is_empty());
    for chunk in &plan.chunks {
        prop_assert_eq!(chunk.ids[0], START_OF_TEXT);
        prop_assert!(chunk.ids.contains(&END_OF_TEXT));
        prop_assert!(chunk.weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0));
        prop_assert!(chunk.variants[0].masked.is_empty());
        let total: f32 = chunk.variants.iter().map(|variant| variant.share).sum();
        prop_assert!((total - 1.0).abs() < 1e-4, "shares sum to {total}");
        for variant in &chunk.variants[1..] {
            prop_assert!(!variant.masked.is_empty() && variant.masked.end <= CHUNK_TOKENS);
        }
    }
    Ok(())
}

#[test]
fn a_weight_ends_at_a_comma() {
    let expected = [
        ("village", 1.1),
        (", close view, middle age,", 1.0),
        ("fantasy", 1.1_f64.powf(2.0)),
        ("style", 1.0),
    ];
    assert_eq!(fragments("village+, close view, middle age,fantasy++ style"), pairs(&expected));
}

#[test]
fn a_group_with_a_number_is_its_bare_words() {
    let words = "A lovely beach-side cottage in the southern seas";
    assert_eq!(fragments(&format!("({words})0.5")), pairs(&[(words, 0.5)]));
    let ids = |text: &str| parse(text).plan(Encoder::ClipL, LongPrompt::Pad).chunks[0].ids;
    assert_eq!(ids(&format!("({words})0.5")), ids(words));
}

#[test]
fn prompts_print_as_they_would_be_written() {
    for text in ["a red apple, (flat and round)++ on a (table)0.35", "word+ and another--", ""] {
        assert_eq!(parse(text).to_string(), text);
    }
    assert_eq!(parse("(a) \"b\"++ (c \\(d\\))-").to_string(), "a b++ (c \\(d\\))-");
}

#[test]
fn plain_syntax_leaves_every_character() {
    let text = "a (b)++ \\(c\\), \"d\"-";
    let (prompt, warnings) = Prompt::parse(text, Syntax::Plain);
    assert_eq!(prompt.fragments()[0].text, text);
    assert_eq!((prompt.fragments().len(), warnings.len()), (1, 0));
    assert_eq!(prompt.to_string(), text);
}

#[test]
fn a_lowered_fragment_is_masked_in_its_chunk_alone() {
    let text = format!("{} (hidden words)0.5", "word ".repeat(75));
    let plan = parse(&text).plan(Encoder::ClipL, LongPrompt::Pad);
    assert_eq!(plan.chunks.len(), 2);
    assert!(plan.chunks[0].is_plain());
    let [plain, masked] = &plan.chunks[1].variants[..] else { panic!("two variants expected") };
    assert_eq!(masked.masked, 1..3);
    assert!((plain.share - 0.5).abs() < 1e-6 && (masked.share - 0.5).abs() < 1e-6);
}

#[test]
fn padding_a_plan_adds_empty_chunks_and_never_removes_any() {
    let mut plan = parse("a cat").plan(Encoder::BigG, LongPrompt::Pad);
    plan.pad_to(3);
    assert_eq!(plan.chunks.len(), 3);
    assert_eq!(plan.chunks[2].ids, Encoder::BigG.empty_ids());
    plan.pad_to(1);
    assert_eq!(plan.chunks.len(), 3);
}

#[test]
fn truncating_keeps_one_chunk_of_75_tokens() {
    let plan = parse(&"word ".repeat(200)).plan(Encoder::ClipL, LongPrompt::Truncate);
    assert_eq!(plan.chunks.len(), 1);
    assert_eq!(plan.chunks[0].ids[76], END_OF_TEXT);
    assert_ne!(plan.chunks[0].ids[75], END_OF_TEXT);
    assert_eq!(plan.dropped, 125);
}

#[test]
fn syntax_that_stays_text_is_named() {
    for (text, name) in [
        ("(\"a\", \"b\").and(0.5, 0.5)", ".and(…)"),
        ("(\"a\", \"b\").blend(1, 1) and more", ".blend(…)"),
        ("a cat.swap(dog)", ".swap(…)"),
        ("a cat withLora(x, 0.5)", "withLora(…)"),
        ("a cat <lora:x:1>", "<lora:…>"),
        ("a cat BREAK a dog", "BREAK"),
        ("(a cat:1.3)", "(…:1.3)"),
        ("[a cat] and more", "[…]"),
        ("{a|b} cat", "{…|…}"),
        ("a ((red apple)++", "((red"),
        ("(a - b)++", "b)++"),
    ] {
        let (_, warnings) = Prompt::parse(text, Syntax::Compel);
        let named = |warning: &Warning| warning.to_string().contains(&format!("`{name}`"));
        assert!(warnings.iter().any(named), "{text:?}: {warnings:?}");
    }
}

#[test]
fn ordinary_prompts_get_no_warning() {
    for text in [
        "a red apple, (flat)++",
        "a well-known cat - isn't it? 1:2, \"quoted words\"+ \\(escaped\\)",
        "portrait; sand and sea. (a, b)0.5 C++ blend, swap and attend",
    ] {
        assert_eq!(Prompt::parse(text, Syntax::Compel).1, [], "{text:?}");
    }
}

#[test]
fn an_endless_weight_is_limited_with_a_warning() {
    let (prompt, warnings) = Prompt::parse(&format!("a{}", "+".repeat(50_000)), Syntax::Compel);
    assert!((prompt.fragments()[0].weight - 1e6).abs() < 1e-6);
    assert_eq!(warnings, [Warning::WeightLimited { text: "a".to_owned() }]);
}

#[test]
fn a_description_has_the_documented_shape() -> Result<(), serde_json::Error> {
    let (text, warnings) = Conjunction::parse("a red apple, (flat)0.5 [x]", Syntax::Compel);
    let value = serde_json::to_value(Description::new(&text, LongPrompt::Pad, &warnings))?;
    assert_eq!(value["fragments"][1], serde_json::json!({ "text": "flat", "weight": 0.5 }));
    assert_eq!(value["encoders"][1]["chunks"][0].as_array().map(Vec::len), Some(77));
    assert_eq!(value["warnings"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[test]
fn hostile_prompts_take_time_in_proportion_to_their_length() {
    let n = 100_000;
    for text in [
        "a ".repeat(n),
        "x".repeat(n),
        "(".repeat(n),
        "( ".repeat(n),
        "(a ".repeat(n),
        format!("{}{}", "(".repeat(n), ")+".repeat(n)),
        format!("{}{} =)", "( ".repeat(n), ")".repeat(n - 1)),
        "\"".repeat(n),
        "\" ( ".repeat(n),
        format!("\"{}", " \\\" (".repeat(n)),
        "a- b ".repeat(n),
        "a.attend(+ ".repeat(n),
        "+ -".repeat(n),
        "\\".repeat(n) + "(",
        "\\\\( ".repeat(n),
        ",".repeat(n),
        "!".repeat(n),
        "<|endoftext|".repeat(n),
        "e\u{301}".repeat(n),
        "\u{300}".repeat(n),
        "<lora:[{(x:1.3)".repeat(n),
    ] {
        let start: String = text.chars().take(20).collect();
        let started = Instant::now();
        let prompt = parse(&text);
        for encoder in Encoder::BOTH {
            assert!(!prompt.plan(encoder, LongPrompt::Pad).chunks.is_empty());
        }
        assert_eq!(parse(&prompt.to_string()), prompt);
        // Each takes well below a second; quadratic time would be hours.
        assert!(started.elapsed() < Duration::from_secs(30), "{start:?} took too long");
    }
}
