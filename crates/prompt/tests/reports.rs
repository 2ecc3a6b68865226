//! What people reported of other programs: their prompts, and what is right for them.
//!
//! Reports about words alone are in `tokenizer.rs`, about `word++` and `(words)0.5` in `laws.rs`.

use unwrong_prompt::{
    Conjunction, Emphasis, Encoder, LongPrompt, Prompt, Script, Syntax, Warning, Weighting,
};

fn join(text: &str) -> (Conjunction, Vec<Warning>) {
    Conjunction::parse(text, Syntax::Compel)
}

fn fragments(text: &str, syntax: Syntax) -> Vec<(String, f64)> {
    let (prompt, _) = Prompt::parse(text, syntax);
    prompt.fragments().iter().map(|own| (own.text.clone(), own.weight)).collect()
}

/// compel#65.
#[test]
fn a_blend_inside_of_a_longer_prompt_is_told_once_and_the_same_way() {
    let told = |text: &str| {
        let (read, warnings) = join(text);
        assert_eq!((read.parts().len(), warnings.len()), (1, 1), "{text}: {warnings:?}");
        warnings[0].to_string()
    };
    let blend = "(\"a cat\", \"a dog\").blend(0.7, 0.3)";
    let before = told(&format!("a photo of {blend}"));
    assert_eq!(before, told(&format!("a photo of {blend} in a garden")));
    assert!(before.contains("it joins whole prompts"), "{before}");
    let after = told(&format!("{blend} in a garden"));
    assert!(after.starts_with("`.blend(…)` stays text: "), "{after}");
}

/// compel#78, easydiffusion#1735.
#[test]
fn two_joined_prompts_are_two_chunks_and_the_negative_prompt_is_filled_up_to_them() {
    for (text, weights) in [
        ("(\"prompt part 1\", \"prompt part 2\").and(0.5, 0.5)", [0.5, 0.5]),
        ("(\"taylor swift wearing blue jeans\",\"emma watson wearing shorts\").and()", [1.0, 1.0]),
    ] {
        let (read, warnings) = join(text);
        assert_eq!(warnings, [], "{text}");
        for encoder in Encoder::BOTH {
            let plan = read.plan(encoder, LongPrompt::Pad);
            let found: Vec<f32> = plan.parts.iter().map(|part| part.weight).collect();
            assert_eq!((plan.chunks(), found), (2, weights.to_vec()), "{text}");
            let mut negative = join("blurry").0.plan(encoder, LongPrompt::Pad);
            negative.pad_to(plan.chunks());
            assert_eq!(negative.chunks(), 2);
            let last = negative.plans().last().and_then(|plan| plan.chunks.last());
            assert_eq!(last.map(|chunk| chunk.ids), Some(encoder.empty_ids()));
        }
    }
}

/// compel#6, #45, #79.
#[test]
fn a_short_negative_prompt_gets_as_long_as_a_long_prompt_and_is_pooled_from_its_start() {
    let long = join(&"a red apple, ".repeat(30)).0;
    for negative in ["", "blurry"] {
        let negative = join(negative).0;
        for encoder in Encoder::BOTH {
            let length = long.plan(encoder, LongPrompt::Pad).chunks();
            assert_eq!(length, 2);
            let short = negative.plan(encoder, LongPrompt::Pad);
            let mut plan = short.clone();
            plan.pad_to(length);
            let ids: Vec<_> = plan.plans().flat_map(|plan| &plan.chunks).map(|c| c.ids).collect();
            assert_eq!(ids, [short.parts[0].prompts[0].plan.chunks[0].ids, encoder.empty_ids()]);
            assert!(plan.parts.iter().all(unwrong_prompt::PartPlan::is_plain));
        }
        assert_eq!(
            negative.pooled_ids(),
            negative.plan(Encoder::BigG, LongPrompt::Pad).parts[0].prompts[0].plan.chunks[0].ids
        );
    }
    let whole = Prompt::parse(&"a red apple, ".repeat(30), Syntax::Plain).0;
    let cut = whole.plan(Encoder::BigG, LongPrompt::Truncate);
    assert_eq!(long.pooled_ids(), cut.chunks[0].ids, "the first 75 tokens are pooled");
}

/// ComfyUI#4610, and the example in A1111's `parse_prompt_attention`.
#[test]
fn nested_weights_multiply_in_a1111_and_replace_in_comfyui() {
    let text = "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).";
    let expected = [
        ("a ", 1.0),
        ("house", 1.573),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641),
        (".", 1.1),
    ];
    let found = fragments(text, Syntax::A1111 { emphasis: Emphasis::NoNorm });
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((text, weight), (expected_text, expected_weight)) in found.iter().zip(expected) {
        assert!(text == expected_text && (weight - expected_weight).abs() < 1e-9, "{found:?}");
    }
    let comfy = fragments("(dog (cat:666):0.5)", Syntax::Comfy);
    assert_eq!(comfy, [("dog ".to_owned(), 0.5), ("cat".to_owned(), 666.0)]);
}

/// A1111#13324.
#[test]
fn a_word_that_comes_at_a_late_step_changes_no_step_before() {
    let a1111 = Syntax::A1111 { emphasis: Emphasis::NoNorm };
    let (late, warnings) = Script::parse("simple [beautiful:49] geometric pattern", a1111, 50);
    assert_eq!(warnings, []);
    let (plain, _) = Script::parse("simple geometric pattern", a1111, 50);
    let (all, _) = Script::parse("simple beautiful geometric pattern", a1111, 50);
    let chunks = |script: &Script, step| {
        Encoder::BOTH.map(|encoder| script.parts[0].prompt_at(step).plan(encoder, LongPrompt::Pad))
    };
    for step in 1..=49 {
        assert_eq!(chunks(&late, step), chunks(&plain, step), "step {step}");
    }
    assert_eq!(chunks(&late, 50), chunks(&all, 50));
}

/// forge#420, A1111#14874.
#[test]
fn the_usual_emphasis_of_a1111_restores_no_mean() {
    let a1111 = Syntax::A1111 { emphasis: Emphasis::default() };
    let (prompt, _) = Prompt::parse("(1 2 am:1.3) eni", a1111);
    for encoder in Encoder::BOTH {
        let [chunk] = &prompt.plan(encoder, LongPrompt::Pad).chunks[..] else {
            panic!("one chunk expected")
        };
        assert_eq!(chunk.weighting, Weighting::Scale);
        assert_eq!(chunk.weights[..6], [1.0, 1.3, 1.3, 1.3, 1.0, 1.0]);
    }
}

/// InvokeAI#8736.
#[test]
fn what_is_printed_keeps_brackets_quotes_and_the_weights_that_were_written() {
    for text in [
        "(masterpiece)1.3",
        "(masterpiece)1.3, a (red apple)0.75 on a table++",
        "(\"(masterpiece)1.3, a cat\", \"a dog, (a mat)0.35\").and(0.5, 1.25)",
        "(\"a (cat)1.3\", \"a dog\").blend(0.7, 0.3)",
    ] {
        let printed = join(text).0.to_string();
        let written = |text: &str| text.replace([' ', '"'], "");
        assert_eq!(written(&printed), written(text));
        assert_eq!(join(&printed), join(text));
    }
}
