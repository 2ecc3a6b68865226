//! Laws of parsing and planning, on prompts made of syntax; and inputs made to hurt.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use unwrong_prompt::{
    CHUNK_TOKENS, Chunk, Conjunction, Description, END_OF_TEXT, EncodePlan, Encoder, LongPrompt,
    PartDescription, PartPlan, Prompt, START_OF_TEXT, Syntax, Warning,
};

fn parse(text: &str) -> Prompt {
    Prompt::parse(text, Syntax::Compel).0
}

fn join(text: &str) -> Conjunction {
    Conjunction::parse(text, Syntax::Compel).0
}

fn warnings(text: &str) -> Vec<String> {
    Conjunction::parse(text, Syntax::Compel).1.iter().map(ToString::to_string).collect()
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
        ".swap(",
        ".swap(dog)",
        ".swap(dog, s_start=0.1)",
        "withLora(x, 0.5)",
        "useLora(",
        ".and(",
        ".blend(",
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

/// Prompts in quotes, brackets or neither, and an operator that may or may not join them.
fn joined() -> impl Strategy<Value = String> {
    let quoted = prop_oneof![
        4 => prompt().prop_map(|text| format!("\"{}\"", text.replace(['"', '\n', '\r'], ""))),
        1 => prompt().prop_map(|text| format!("({text})")),
        1 => prompt(),
    ];
    let operators = vec![".and(", ".add(1, 0.5", ".blend(0.7, 0.3", ".blend(no_normalize", "("];
    let list = prop::collection::vec(quoted, 1..4);
    let end = prop::sample::select(vec![")", ")", " )", "", ") more", ") withLora(x)"]);
    (list, prop::sample::select(operators), end)
        .prop_map(|(list, operator, end)| format!("({}){operator}{end}", list.join(", ")))
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
        let pairs = if parsed.edited().is_some() { &[] } else { parsed.fragments() };
        for pair in pairs.windows(2) {
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
    fn printing_a_whole_text_and_reading_it_gives_the_same(text in prop_oneof![joined(), prompt()]) {
        let parsed = join(&text);
        let printed = parsed.to_string();
        prop_assert_eq!(join(&printed), parsed, "printed as {:?}", printed);
    }

    #[test]
    fn the_prompts_of_a_part_are_equally_long_and_shares_finite(text in joined(), repeats in 1..9usize) {
        let text = join(&text.replace("word", &"word ".repeat(repeats * 9)));
        for encoder in Encoder::BOTH {
            let mut plan = text.plan(encoder, LongPrompt::Pad);
            for part in &plan.parts {
                prop_assert!(!part.prompts.is_empty() && part.weight.is_finite());
                for prompt in &part.prompts {
                    prop_assert!(prompt.share.is_finite());
                    prop_assert_eq!(prompt.plan.chunks.len(), part.chunks());
                    check_plan(&prompt.plan)?;
                }
            }
            let chunks = plan.chunks();
            plan.pad_to(chunks + 2);
            prop_assert_eq!(plan.chunks(), chunks + 2);
            prop_assert!(plan.parts.last().is_some_and(PartPlan::is_plain));
        }
    }

    #[test]
    fn a_text_that_joins_nothing_is_its_only_prompt(text in prompt()) {
        let whole = join(&text);
        if let [part] = whole.parts() && let [alone] = &*part.blend.prompts && !text.contains(".and") && !text.contains(".blend") {
            prop_assert_eq!(&alone.prompt, &parse(&text));
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
        ("more (\"a\", \"b\").and(0.5, 0.5)", ".and(…)"),
        ("(\"a\", \"b\").blend(1, 1) and more", ".blend(…)"),
        ("a cat.swap(dog.)", ".swap(…)"),
        ("a cat withLora(x.y)", "withLora(…)"),
        ("a cat <lora:x:1>", "<lora:…>"),
        ("a cat BREAK a dog", "BREAK"),
        ("(a cat:1.3)", "(…:1.3)"),
        ("[a cat] and more", "[…]"),
        ("{a|b} cat", "{…|…}"),
        ("a ((red apple)++", "((red"),
        ("(a - b)++", "b)++"),
    ] {
        let (_, warnings) = Conjunction::parse(text, Syntax::Compel);
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
        "(\"a red apple++\", (a house)).and(1, 0.5)",
        "(\"a\", \"b\").blend(0.7, 0.3, no_normalize)",
    ] {
        assert_eq!(Conjunction::parse(text, Syntax::Compel).1, [], "{text:?}");
    }
}

#[test]
fn joined_prompts_are_parts_with_weights() {
    let text = join("(\"a red apple, (flat)++\", (a house), tree).and(1, 0.5, 2)");
    let weights: Vec<f64> = text.parts().iter().map(|part| part.weight).collect();
    assert_eq!(weights, [1.0, 0.5, 2.0]);
    let first = text.prompts().next().map(|prompt| prompt.fragments()[1].clone());
    assert_eq!(
        first.map(|flat| (flat.text, flat.weight)),
        Some(("flat".to_owned(), 1.1_f64.powf(2.0)))
    );
    let plan = text.plan(Encoder::ClipL, LongPrompt::Pad);
    assert_eq!((plan.chunks(), plan.parts.len()), (3, 3));
    assert!(plan.parts[0].is_plain() && plan.parts[1].needs_empty());
}

#[test]
fn blended_prompts_share_one_part_and_sum_to_one_unless_told_otherwise() {
    let text = join("(\"a cat\", \"a dog\").blend(3, 1)");
    assert_eq!(text.parts().len(), 1);
    assert_eq!(text.parts()[0].blend.shares(), [0.75, 0.25]);
    let text = join("(\"a cat\", \"a dog\").blend(3, 1, no_normalize)");
    assert_eq!(text.parts()[0].blend.shares(), [3.0, 1.0]);
}

#[test]
fn the_shorter_prompt_of_a_blend_is_filled_up() {
    let text = join(&format!("(\"{}\", \"a dog\").blend(1, 1)", "word ".repeat(100)));
    let plan = text.plan(Encoder::BigG, LongPrompt::Pad);
    let lengths: Vec<_> = plan.parts[0].prompts.iter().map(|own| own.plan.chunks.len()).collect();
    assert_eq!((lengths, plan.chunks()), (vec![2, 2], 2));
}

#[test]
fn a_swap_is_drawn_as_what_stood_before_it() {
    let text = join("a cat.swap(dog, s_start=0.1) on a mat");
    let prompt = text.prompts().next().expect("there is always one");
    let texts = |own: &[unwrong_prompt::Fragment]| -> Vec<String> {
        own.iter().map(|fragment| fragment.text.clone()).collect()
    };
    assert_eq!(texts(prompt.fragments()), ["a", "cat", "on a mat"]);
    assert_eq!(prompt.edited().map(texts), Some(vec!["a".into(), "dog".into(), "on a mat".into()]));
    let ids = |text: &str| {
        join(text).plan(Encoder::ClipL, LongPrompt::Pad).parts[0].prompts[0].plan.chunks[0].ids
    };
    assert_eq!(ids("a cat.swap(dog) on a mat"), ids("a cat on a mat"));
}

#[test]
fn a_swap_for_a_longer_prompt_is_as_long_as_that() {
    let text = join(&format!("a cat.swap({})", "dog ".repeat(100)));
    assert_eq!(text.plan(Encoder::ClipL, LongPrompt::Pad).chunks(), 2);
}

#[test]
fn networks_are_taken_out_of_the_prompt_and_named() {
    let text = join("a cat withLora(my_lora-2, 0.5) on (a useLora(other) mat)+");
    let loras: Vec<_> = text.loras().iter().map(|own| (own.name.as_str(), own.weight)).collect();
    assert_eq!(loras, [("my_lora-2", 0.5), ("other", 1.0)]);
    let of_prompt = text.prompts().next().map(|prompt| prompt.fragments()[0].text.clone());
    assert_eq!(of_prompt.as_deref(), Some("a cat on"));
    assert!(warnings("a cat withLora(x, 0.5)")[0].starts_with("`withLora(x, 0.5)` is left out"));
}

#[test]
fn what_joins_nothing_has_one_warning_that_says_why() {
    for (text, reason) in [
        ("(\"a\", \"b\").blend(1, 1) and more", "nothing may follow it"),
        ("more (\"a\", \"b\").blend(1, 1)", "must be all of the text"),
        ("(\"a\", \"b\").and(1)", "it has 1 weight for 2 prompts"),
        ("(\"a\", \"b\").blend(1, x)", "`x` among its weights is no number"),
        ("(\"a\", \"b\").blend(1, -1)", "its weights sum to zero"),
        ("(\"a\", (\"b\", \"c\").blend(1, 1))", "must be all of the text"),
        ("(a cat, a dog).and()", "must be all of the text"),
    ] {
        let warnings = warnings(text);
        assert!(warnings.len() == 1 && warnings[0].contains(reason), "{text:?}: {warnings:?}");
        assert_eq!(join(text).parts().len(), 1, "{text:?}");
    }
}

#[test]
fn words_after_a_conjunction_are_left_out_and_named() {
    let text = "(\"a\", \"b\").and() and more";
    assert_eq!(join(text).parts().len(), 2);
    assert!(warnings(text)[0].starts_with("`and more` is left out"), "{:?}", warnings(text));
}

#[test]
fn a_description_tells_what_is_joined() -> Result<(), serde_json::Error> {
    let (text, warnings) = Conjunction::parse("(\"a\", \"b\").blend(3, 1)", Syntax::Compel);
    let value = serde_json::to_value(Description::new(&text, LongPrompt::Pad, &warnings))?;
    assert_eq!(value["parts"][0]["prompts"][0]["share"], 0.75);
    assert_eq!(value["fragments"].as_array().map(Vec::len), Some(2));
    let (text, _) = Conjunction::parse("a (b)++", Syntax::Compel);
    assert!(Description::new(&text, LongPrompt::Pad, &[]).parts.is_empty(), "nothing is joined");
    Ok(())
}

#[test]
fn a_description_has_the_weights_of_parts_and_the_shares_of_blends() {
    let numbers = |text: &str| -> Vec<(f64, Vec<f64>)> {
        let (text, _) = Conjunction::parse(text, Syntax::Compel);
        let described = Description::new(&text, LongPrompt::Pad, &[]);
        let shares = |part: &PartDescription| part.prompts.iter().map(|own| own.share).collect();
        described.parts.iter().map(|part| (part.weight, shares(part))).collect()
    };
    let two = [(1.0, vec![1.0]), (0.5, vec![1.0])];
    assert_eq!(numbers("(\"a\", \"b\").and(1, 0.5)"), two);
    assert_eq!(numbers("(\"a\").and(0.5)"), [(0.5, vec![1.0])]);
    assert_eq!(numbers("(\"a\").blend(2, no_normalize)"), [(1.0, vec![2.0])]);
    assert_eq!(numbers("(\"a\", \"b\").blend(3, 1, no_normalize)"), [(1.0, vec![3.0, 1.0])]);
    assert!(numbers("(\"a\").and()").is_empty() && numbers("(\"a\").blend(2)").is_empty());
}

#[test]
fn brackets_with_a_backslash_are_no_syntax_of_other_programs() {
    for text in [r"\{a|b\}", r"\{a\|b\}", r"\[a cat\]"] {
        assert_eq!(warnings(text), [""; 0], "{text}");
    }
    let (_, warnings) = Conjunction::parse("{a|b} \\} [a]", Syntax::Compel);
    let of_lists: Vec<bool> = warnings.iter().map(Warning::is_about_list).collect();
    assert_eq!(of_lists, [false, true]);
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
        "a.swap(".repeat(n),
        "a.swap( ".repeat(n),
        format!("{}{}", "a.swap( ".repeat(n), ") ".repeat(n)),
        format!("{}{}", "(a.swap( ".repeat(n), " .)) .)".repeat(n)),
        format!("{}{}", "(a.swap( ".repeat(n), " .)) =)".repeat(n)),
        format!("{}{}", "(a).swap( ".repeat(n), ", x) . ) =".repeat(n)),
        "a.swap(b, c, d, ".repeat(n),
        "(a).swap(b).".repeat(n),
        "withLora(a ".repeat(n),
        "withLora(a, 1)".repeat(n),
        format!("({}\"a\").and()", "\"a b\", ".repeat(n)),
        format!("({}\"a\").blend({}", "a, ".repeat(n), "1, ".repeat(n)),
        format!("{}{}", "(\"a\", ".repeat(n), ").and()".repeat(n)),
        ".blend(".repeat(n),
    ] {
        let start: String = text.chars().take(20).collect();
        let started = Instant::now();
        let whole = join(&text);
        for encoder in Encoder::BOTH {
            assert!(whole.plan(encoder, LongPrompt::Pad).chunks() > 0);
        }
        assert_eq!(join(&whole.to_string()), whole);
        // Each takes well below a second; quadratic time would be hours.
        assert!(started.elapsed() < Duration::from_secs(30), "{start:?} took too long");
    }
}
