//! Words that stand for vectors: how each syntax finds them, and what they do to chunks.

#![expect(clippy::unwrap_used, reason = "a test may stop where it fails")]

use std::fs;

use serde_json::Value;
use unwrong_prompt::{
    AddedWords, Conjunction, Emphasis, Encoder, FIRST_ADDED, Language, LongPrompt, Prompt, Script,
    Syntax, Tokenizer,
};

const A1111: Syntax = Syntax::A1111 { emphasis: Emphasis::NoNorm };

/// `<wrong>` has 3 vectors, `bad` one, `bad-hands` 10.
fn added() -> AddedWords {
    AddedWords::new([("<wrong>", 3), ("bad", 1), ("bad-hands", 10)]).unwrap()
}

fn language(syntax: Syntax) -> Language {
    Language { syntax, added: added() }
}

/// The ids and weights of a prompt's text, chunk by chunk.
fn read(text: &str, syntax: Syntax, encoder: Encoder) -> Vec<Vec<(u32, f32)>> {
    let plan = Prompt::parse(text, language(syntax)).0.plan(encoder, LongPrompt::Pad);
    let chunk = |chunk: &unwrong_prompt::Chunk| {
        let text = chunk.ids[1..].iter().take_while(|id| **id != unwrong_prompt::END_OF_TEXT);
        text.copied().zip(chunk.weights[1..].iter().copied()).collect()
    };
    plan.chunks.iter().map(chunk).collect()
}

fn ids(text: &str, syntax: Syntax) -> Vec<u32> {
    read(text, syntax, Encoder::ClipL).concat().into_iter().map(|(id, _)| id).collect()
}

fn plain(text: &str) -> Vec<u32> {
    Tokenizer::new(Encoder::ClipL).encode(text)
}

/// Of `<wrong>`, `bad` and `bad-hands`.
const WRONG: [u32; 3] = [FIRST_ADDED, FIRST_ADDED + 1, FIRST_ADDED + 2];
const BAD: [u32; 1] = [FIRST_ADDED + 3];
const HANDS: std::ops::Range<u32> = FIRST_ADDED + 4..FIRST_ADDED + 14;

#[test]
fn compel_finds_a_word_wherever_it_stands_and_takes_the_longest() {
    for syntax in [Syntax::Compel, Syntax::Plain] {
        let expected = [&plain("a")[..], &WRONG, &plain("cat")].concat();
        assert_eq!(ids("a <WRONG>cat", syntax), expected);
        assert_eq!(ids("badly", syntax), [&BAD[..], &plain("ly")].concat());
        assert_eq!(ids("Bad-Hands", syntax), HANDS.collect::<Vec<_>>());
    }
}

#[test]
fn a1111_finds_a_word_by_its_tokens_and_so_never_within_another() {
    assert_eq!(ids("a Bad cat", A1111), [&plain("a")[..], &BAD, &plain("cat")].concat());
    assert_eq!(ids("badly", A1111), plain("badly"));
    assert_eq!(ids("bad-hands", A1111), HANDS.collect::<Vec<_>>());
    assert_eq!(ids("bad - hands", A1111), HANDS.collect::<Vec<_>>());
    assert_eq!(ids("bad- cat", A1111), [&BAD[..], &plain("- cat")].concat());
    // `>,` is one token.
    assert_eq!(ids("<wrong>, b", A1111), plain("<wrong>, b"));
}

#[test]
fn comfyui_finds_a_word_after_its_mark_alone() {
    let of = |text| ids(text, Syntax::Comfy);
    assert_eq!(of("bad embedding:bad"), [&plain("bad")[..], &BAD].concat());
    assert_eq!(
        of("embedding:bad-hands.safetensors a"),
        [&of("embedding:bad-hands"), &plain("a")[..]].concat()
    );
    assert_eq!(of("embedding:bad, a"), [&BAD[..], &plain(", a")].concat());
    assert_eq!(of("aembedding:bad"), plain("aembedding:bad"));
    // Only commas are taken off a name.
    assert_eq!(of("embedding:bad. a"), plain("a"));
    assert_eq!(of("embedding:bad\tembedding:bad"), [&BAD[..], &plain("embedding:bad")].concat());
}

#[test]
fn a_name_that_comfyui_does_not_find_is_left_out_and_said() {
    let warnings = |text| Prompt::parse(text, language(Syntax::Comfy)).1;
    assert_eq!(warnings("embedding:bad, (embedding:<wrong>:1.2)"), []);
    let said = warnings("a embedding:good b")[0].to_string();
    assert_eq!(said, "`embedding:good` is left out: no embedding of that name is given");
}

#[test]
fn the_mark_of_comfyui_is_named_where_it_is_text() {
    let said = Conjunction::parse("a embedding:bad", language(Syntax::Compel)).1[0].to_string();
    assert_eq!(said, "`embedding:…` stays text (ComfyUI's; `--syntax comfy` reads it)");
}

#[test]
fn all_vectors_of_a_word_have_its_weight() {
    for (text, syntax) in [
        ("a (<wrong>)1.5 cat", Syntax::Compel),
        ("a (<wrong>:1.5) cat", A1111),
        ("a (embedding:<wrong>:1.5) cat", Syntax::Comfy),
    ] {
        for encoder in Encoder::BOTH {
            let read = read(text, syntax, encoder).concat();
            let (ids, weights): (Vec<u32>, Vec<f32>) = read.into_iter().unzip();
            assert_eq!(ids, [&plain("a")[..], &WRONG, &plain("cat")].concat(), "{text}");
            assert_eq!(weights, [1.0, 1.5, 1.5, 1.5, 1.0], "{text}");
        }
    }
}

#[test]
fn a_word_of_a_low_weight_is_hidden_as_a_whole() {
    let (prompt, _) = Prompt::parse("a (<wrong>)0.5 cat", language(Syntax::Compel));
    let plan = prompt.plan(Encoder::BigG, LongPrompt::Pad);
    assert_eq!(plan.chunks[0].variants[1].masked, 2..5);
}

#[test]
fn a1111_never_cuts_a_word_and_comfyui_cuts_long_ones() {
    let words = "red ".repeat(70);
    let lengths = |text: &str, syntax| -> Vec<usize> {
        read(text, syntax, Encoder::BigG).iter().map(Vec::len).collect()
    };
    assert_eq!(lengths(&format!("{words}bad-hands cat"), A1111), [70, 11]);
    assert_eq!(lengths(&format!("{words}embedding:bad-hands cat"), Syntax::Comfy), [75, 6]);
    // Of fewer than eight tokens.
    assert_eq!(lengths(&format!("{words}red red red embedding:<wrong>"), Syntax::Comfy), [73, 3]);
    // Compel cuts after words, which a vector is not.
    assert_eq!(lengths(&format!("{words}bad-hands cat"), Syntax::Compel), [70, 11]);
    assert_eq!(lengths(&format!("{words}, bad-hands cat"), A1111), [71, 11]);
}

#[test]
fn a_comma_moves_a_word_as_a_whole() {
    let text = format!("{}, <wrong> {}", "red ".repeat(68), "blue ".repeat(10));
    // The name is three tokens without its vectors, and as many with them.
    let chunks = read(&text, A1111, Encoder::ClipL);
    assert_eq!((chunks[0].len(), chunks[1].len()), (69, 13));
    assert_eq!(chunks[1][..3], WRONG.map(|id| (id, 1.0)));
}

#[test]
fn the_pooled_text_has_the_vectors_too() {
    for (text, syntax) in
        [("a <wrong>", Syntax::Compel), ("a bad", A1111), ("a embedding:bad", Syntax::Comfy)]
    {
        let ids = Conjunction::parse(text, language(syntax)).0.pooled_ids();
        assert!(ids[2] >= FIRST_ADDED && ids.contains(&unwrong_prompt::END_OF_TEXT), "{text}");
    }
}

#[test]
fn joined_and_scheduled_prompts_know_the_words() {
    let text = "(\"a <wrong>\", \"bad\").blend()";
    let (text, _) = Conjunction::parse(text, language(Syntax::Compel));
    assert!(text.prompts().all(|prompt| {
        prompt.plan(Encoder::ClipL, LongPrompt::Pad).chunks[0]
            .ids
            .iter()
            .any(|id| *id >= FIRST_ADDED)
    }));
    let (script, _) = Script::parse("a [bad:<wrong>:0.5]", language(A1111), 10);
    let at = |step| script.parts[0].prompt_at(step).pooled_ids();
    assert_eq!((at(1)[2], at(10)[2]), (BAD[0], WRONG[0]));
}

#[test]
fn a_word_that_no_text_can_hold_is_refused() {
    for (words, problem) in [
        (&[""][..], "the word `` is empty"),
        (&["two words"], "the word `two words` holds white space"),
        (&["a\u{a0}b"], "white space"),
        (&["<->"], "the word `<->` has no letter and no digit"),
        (&["wow!"], "holds a `!`"),
        (&["<|EndOfText|>"], "holds a mark"),
        (&["Bad", "good", "bAD"], "the words `bAD` and `Bad` are the same word"),
    ] {
        let error = AddedWords::new(words.iter().map(|word| (*word, 1))).unwrap_err();
        assert!(error.to_string().contains(problem) && !error.hint().is_empty(), "{error}");
    }
}

#[test]
fn an_id_has_the_name_that_diffusers_gives_it() {
    let added = added();
    assert_eq!(added.token(FIRST_ADDED).as_deref(), Some("<wrong>"));
    assert_eq!(added.token(FIRST_ADDED + 2).as_deref(), Some("<wrong>_2"));
    assert_eq!(added.token(FIRST_ADDED + 14), None);
}

/// What A1111's and ComfyUI's own code made of prompts, in `parity/goldens/added.json`.
#[test]
fn chunks_with_words_equal_those_of_a1111_and_comfyui() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../parity/goldens/added.json");
    let golden: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let words: Vec<(String, usize)> = serde_json::from_value(golden["words"].clone()).unwrap();
    let added = AddedWords::new(words.iter().map(|(word, count)| (&**word, *count))).unwrap();
    for (name, syntax) in [("a1111", A1111), ("comfyui", Syntax::Comfy)] {
        for case in golden[name].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let (prompt, _) = Prompt::parse(text, Language { syntax, added: added.clone() });
            for (place, encoder) in Encoder::BOTH.into_iter().enumerate() {
                let plan = prompt.plan(encoder, LongPrompt::Pad);
                let ids: Vec<_> = plan.chunks.iter().map(|chunk| chunk.ids.to_vec()).collect();
                let expected: Vec<Vec<u32>> =
                    serde_json::from_value(case["chunks"][place].clone()).unwrap();
                assert_eq!(ids, expected, "{name}, {text:?}, {encoder:?}");
                let expected: Vec<Vec<f32>> =
                    serde_json::from_value(case["chunks"][2].clone()).unwrap();
                for (chunk, expected) in plan.chunks.iter().zip(expected) {
                    let mut pairs = chunk.weights.iter().zip(expected);
                    assert!(pairs.all(|(one, other)| (one - other).abs() < 1e-6), "{text:?}");
                }
            }
        }
    }
}
