//! The tokenizer against the `tokenizers` library, set up as transformers sets it up.

#![expect(clippy::unwrap_used, reason = "a test may stop where it fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use unwrong_prompt::{AddedWords, Encoder, LongPrompt, Prompt, Syntax, Tokenizer};

static ORACLES: LazyLock<[tokenizers::Tokenizer; 2]> = LazyLock::new(|| Encoder::BOTH.map(oracle));

/// `CLIPTokenizer` of transformers 5.24 as its backend prints it, for the files of one encoder.
fn oracle(encoder: Encoder) -> tokenizers::Tokenizer {
    let vocabulary = fs::read_to_string(model_file("vocab.json")).unwrap();
    let vocabulary: Value = serde_json::from_str(&vocabulary).unwrap();
    let merges = fs::read_to_string(model_file("merges.txt")).unwrap();
    let merges: Vec<&str> = merges.lines().skip(1).collect();
    let token = |id: u32, content: &str, normalized: bool| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": normalized, "special": true })
    };
    let start = token(49_406, "<|startoftext|>", true);
    let added = match encoder {
        Encoder::ClipL => vec![start, token(49_407, "<|endoftext|>", false)],
        Encoder::BigG => vec![token(0, "!", false), start, token(49_407, "<|endoftext|>", true)],
    };
    let pieces = concat!(
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|",
        r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    );
    let description = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFC" },
            { "type": "Replace", "pattern": { "Regex": r"\s+" }, "content": " " },
            { "type": "Lowercase" },
        ]},
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": pieces },
              "behavior": "Removed", "invert": true },
            { "type": "ByteLevel", "add_prefix_space": false,
              "trim_offsets": true, "use_regex": true },
        ]},
        "model": { "type": "BPE", "unk_token": "<|endoftext|>", "continuing_subword_prefix": "",
                   "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false,
                   "vocab": vocabulary, "merges": merges },
    });
    tokenizers::Tokenizer::from_str(&description.to_string()).unwrap()
}

/// Words for textual inversions, some of which begin with others.
const ADDED: [&str; 8] = [
    "<wrong>",
    "UnaestheticXL",
    "badx",
    "BadxHands",
    "x-RE\u{301}SUME\u{301}",
    "v2.5",
    "日本",
    "<|x",
];

/// The same with [`ADDED`], as `add_tokens` of transformers adds them.
static WITH_ADDED: LazyLock<[tokenizers::Tokenizer; 2]> = LazyLock::new(|| {
    Encoder::BOTH.map(|encoder| {
        let mut oracle = oracle(encoder);
        oracle.add_tokens(ADDED.map(|word| tokenizers::AddedToken::from(word, false))).unwrap();
        oracle
    })
});

fn model_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model/base/tokenizer").join(name)
}

fn ids_of_oracle(encoder: usize, text: &str) -> Vec<u32> {
    ORACLES[encoder].encode(text, false).unwrap().get_ids().to_vec()
}

/// Words of many scripts, marks, controls, whole and broken tokens.
fn text() -> impl Strategy<Value = String> {
    let pieces = vec![
        "<|endoftext|>",
        "<|StartOfText|>",
        "<|ENDOFTEXT|>",
        "<|startoftext|>",
        "<|",
        "|>",
        "<|endoftext|",
        "<|endoftext|>\u{338}",
        "<|startoftext|>\u{338}",
        "!",
        "!\u{301}",
        "!!!",
        "'LL",
        "'s",
        "'t",
        "'re",
        "'VE",
        "'\u{17f}",
        "\u{2019}s",
        "''d",
        " \t\u{a0}\n",
        "\u{200b}",
        "\u{200d}",
        "\u{feff}",
        "\u{0}",
        "\u{1b}[31m",
        "\u{1c}\u{85}\u{2028}\u{3000}",
        "\u{ad}",
        // A family, a flag, a flag by tags, a keycap, a hand with a tone of skin.
        "👩\u{200d}👩\u{200d}👧",
        "🇫🇮",
        "🏴\u{e0067}\u{e0062}\u{e007f}",
        "1\u{fe0f}\u{20e3}",
        "👋🏽",
        // What composing and lower case change in unlike ways.
        "e\u{301}",
        "\u{1100}\u{1161}\u{11a8}",
        "\u{130}",
        "ΣΑΣ",
        "\u{212a}",
        "\u{1e9e}",
        "ﬁ",
        "\u{344}",
        "\u{202e}עברית\u{202c}",
        "مرحبا",
        "&amp;",
        "_",
        "foo_bar",
        "½Ⅷ٣",
        "don't",
    ];
    let part = prop_oneof![
        6 => prop::sample::select(pieces).prop_map(str::to_owned),
        1 => "[ -~]{0,12}",
        1 => "[a-z]{1,24}",
        1 => "[A-Za-z']{1,9}",
        1 => "[À-ɏ\u{300}-\u{36f}Α-ԯ]{1,6}",
        1 => "[ぁ-ヿ一-鿿가-힣]{1,6}",
        1 => "[\u{600}-\u{6ff}\u{900}-\u{dff}]{1,6}",
        1 => "[\u{2000}-\u{206f}\u{1f300}-\u{1faff}]{1,4}",
        1 => "[0-9½Ⅷ٣]{1,5}",
        1 => any::<String>(),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

/// Fails unless both encoders' ids are the library's.
fn compare(text: &str) -> Result<(), TestCaseError> {
    for (n, encoder) in Encoder::BOTH.into_iter().enumerate() {
        let (ids, expected) = (Tokenizer::new(encoder).encode(text), ids_of_oracle(n, text));
        prop_assert_eq!(ids, expected, "{:?}, {:?}", text, encoder);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn ids_equal_those_of_the_tokenizers_library(text in text()) {
        compare(&text)?;
    }

    #[test]
    fn added_words_are_found_where_the_tokenizers_library_finds_them(
        parts in prop::collection::vec(
            prop_oneof![
                3 => prop::sample::select(&ADDED[..]).prop_map(str::to_owned),
                1 => prop::sample::select(&ADDED[..]).prop_map(str::to_uppercase),
                1 => prop::sample::select(vec![" ", "b", "badx", "hands", "<", "wrong>", "_1"])
                    .prop_map(str::to_owned),
                2 => text(),
            ],
            0..8,
        )
    ) {
        let text = parts.concat();
        let added = AddedWords::new(ADDED.map(|word| (word, 1))).unwrap();
        for (n, encoder) in Encoder::BOTH.into_iter().enumerate() {
            let ids = Tokenizer::new(encoder).encode_with(&text, &added);
            let expected = WITH_ADDED[n].encode(&*text, false).unwrap();
            prop_assert_eq!(&ids[..], expected.get_ids(), "{:?}, {:?}", text, encoder);
        }
    }

    #[test]
    fn words_survive_a_round_trip(words in prop::collection::vec("[a-z]{1,12}", 0..12)) {
        let text = words.join(" ");
        let tokenizer = Tokenizer::new(Encoder::ClipL);
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text);
    }
}

#[test]
fn every_character_has_the_ids_of_the_tokenizers_library() {
    let characters: Vec<char> = (' '..=char::MAX).collect();
    // Many together, so that the characters' classes matter too.
    for run in characters.chunks(512) {
        let text: String = run.iter().collect();
        for (n, encoder) in Encoder::BOTH.into_iter().enumerate() {
            assert_eq!(Tokenizer::new(encoder).encode(&text), ids_of_oracle(n, &text), "{text:?}");
        }
    }
}

#[test]
fn every_word_of_the_vocabulary_has_its_id() {
    let vocabulary = fs::read_to_string(model_file("vocab.json")).unwrap();
    let vocabulary: Value = serde_json::from_str(&vocabulary).unwrap();
    let tokenizer = Tokenizer::new(Encoder::ClipL);
    let mut words = 0;
    for (token, id) in vocabulary.as_object().unwrap() {
        // The file shows bytes as stand-in characters: only those of ASCII are themselves.
        let Some(word) = token.strip_suffix("</w>").filter(|word| word.is_ascii()) else {
            continue;
        };
        let id = u32::try_from(id.as_u64().unwrap()).unwrap();
        assert_eq!(tokenizer.decode(&[id]), word);
        words += 1;
    }
    assert!(words > 30_000);
}

#[test]
#[ignore = "searches for ten minutes"]
fn ids_equal_those_of_the_tokenizers_library_for_ten_minutes() {
    let started = Instant::now();
    while started.elapsed() < Duration::from_mins(10) {
        let config =
            ProptestConfig { cases: 10_000, failure_persistence: None, ..Default::default() };
        TestRunner::new(config).run(&text(), |text| compare(&text)).unwrap();
    }
}

#[test]
fn long_text_has_the_ids_of_the_tokenizers_library() {
    let words = "a Well-known RÉSUMÉ, isn't it? 日本 👋🏽 ".repeat(1_250);
    assert!(words.split_whitespace().count() >= 8_750);
    for text in
        [words, "a".repeat(3_000), "ab".repeat(1_500), "!?".repeat(1_500), "é".repeat(1_500)]
    {
        compare(&text).unwrap();
    }
}

fn ids(text: &str) -> Vec<u32> {
    Tokenizer::new(Encoder::ClipL).encode(text)
}

#[test]
fn a_word_keeps_its_accents() {
    assert_eq!(ids("résumé"), [29106, 7054, 4166]);
    assert_eq!(ids("re\u{301}sume\u{301}"), ids("résumé"));
    assert_ne!(ids("resume"), ids("résumé"));
}

#[test]
fn a_contraction_stays_one_token() {
    assert_eq!(ids("You should've done this"), [592, 1535, 1200, 1700, 589]);
}

#[test]
fn an_underscore_between_words_is_kept() {
    assert_eq!(ids("foo_bar"), [23435, 318, 2411]);
}

#[test]
fn digits_are_tokens_of_their_own_with_or_without_spaces() {
    assert_eq!(ids("1233"), ids("12 33"));
    assert_eq!(ids("1233"), ids("1 2 3 3"));
    assert_eq!(ids("1233").len(), 4);
}

#[test]
fn an_html_entity_stays_as_it_is_written() {
    assert_eq!(ids("&amp;"), [261, 6259, 282]);
}

#[test]
fn an_empty_prompt_is_two_markers_and_the_padding_of_its_encoder() {
    for (encoder, padding) in [(Encoder::ClipL, 49_407), (Encoder::BigG, 0)] {
        let (prompt, _) = Prompt::parse("", Syntax::Compel);
        let plan = prompt.plan(encoder, LongPrompt::Pad);
        let [chunk] = &plan.chunks[..] else { panic!("one chunk expected") };
        assert_eq!(chunk.ids[..2], [49_406, 49_407]);
        assert!(chunk.ids[2..].iter().all(|id| *id == padding));
        assert!(Tokenizer::new(encoder).encode("").is_empty());
    }
}

#[test]
fn an_exclamation_mark_is_padding_to_the_second_encoder() {
    assert_eq!(Tokenizer::new(Encoder::ClipL).encode("hello!"), [3306, 256]);
    assert_eq!(Tokenizer::new(Encoder::BigG).encode("hello!"), [3306, 0]);
}

#[test]
fn markers_in_text_are_tokens() {
    let text = "<|endoftext|> <|ENDOFTEXT|> <|StartOfText|>";
    assert_eq!(Tokenizer::new(Encoder::BigG).encode(text), [49_407, 49_407, 49_406]);
    let first = Tokenizer::new(Encoder::ClipL).encode(text);
    assert_eq!((first[0], first[1], first.last()), (49_407, 27, Some(&49_406)));
}
