//! Lists and wildcards: what is drawn, what is refused, and laws on text made of the notation.

#![expect(clippy::unwrap_used, reason = "a test may stop where it fails")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use unwrong_prompt::{Dynamic, Error};

type Map = BTreeMap<String, String>;

fn map(files: &[(&str, &str)]) -> Map {
    files.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect()
}

fn parse(text: &str) -> Dynamic {
    Dynamic::parse(text, &Map::new()).unwrap()
}

/// Everything that 2000 seeds draw.
fn all_with(text: &str, wildcards: &Map) -> BTreeSet<String> {
    let dynamic = Dynamic::parse(text, wildcards).unwrap();
    (0..2000).map(|seed| dynamic.draw(seed).unwrap()).collect()
}

#[track_caller]
fn assert_draws(text: &str, wildcards: &Map, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|&text| text.to_owned()).collect();
    assert_eq!(all_with(text, wildcards), expected, "{text}");
}

#[track_caller]
fn assert_all(text: &str, expected: &[&str]) {
    assert_draws(text, &Map::new(), expected);
}

fn error_with(text: &str, wildcards: &Map) -> Error {
    Dynamic::parse(text, wildcards).unwrap_err()
}

#[test]
fn a_list_draws_each_of_its_options() {
    assert_all("a {red|green} apple", &["a red apple", "a green apple"]);
    assert_all("{a}", &["a"]);
    assert_all("{a|b}{c|d}", &["ac", "ad", "bc", "bd"]);
    assert_all("({a|b})++ {c|d}1.3", &["(a)++ c1.3", "(a)++ d1.3", "(b)++ c1.3", "(b)++ d1.3"]);
}

#[test]
fn lists_nest() {
    assert_all("{a|{b|{c|d}}} x{{e}}", &["a xe", "b xe", "c xe", "d xe"]);
}

#[test]
fn an_option_may_be_empty() {
    assert_all("a{ b||c} d", &["ab d", "a d", "ac d"]);
    assert_all("x{}", &["x"]);
    assert_all("{|}", &[""]);
}

#[test]
fn white_space_before_an_option_is_left_out_and_behind_it_stays() {
    assert_all("{ a | b }", &["a ", "b "]);
    assert_all("{\n  a\n| b}", &["a\n", "b"]);
    assert_all("{ 3::a| 2:: b}", &["a", " b"]);
}

#[test]
fn some_options_are_drawn_without_repeats_in_any_order() {
    assert_all("{2$$a|b|c}", &["a, b", "a, c", "b, a", "b, c", "c, a", "c, b"]);
    assert_all("{1-2$$ and $$a|b}", &["a", "b", "a and b", "b and a"]);
    assert_all("{-1$$a|b}", &["a", "b"]);
    assert_all("{1-$$+$$a|b}", &["a", "b", "a+b", "b+a"]);
    assert_all("{2-1$$a|b}", &["a", "b", "a, b", "b, a"]);
    assert_all("{2$$|$$a|b}", &["a|b", "b|a"]);
    assert_all("{2$$$$a|b}", &["ab", "ba"]);
    assert_all("{ 2$$ a|b}", &["a, b", "b, a"]);
}

#[test]
fn an_option_that_draws_nothing_gets_no_separator() {
    assert_all("{2$$a|}", &["a"]);
    assert_all("{3$$-$$a||b}", &["a-b", "b-a"]);
    assert_all("x{2$$, $${|}|{2$$+$$a|}} y", &["xa y"]);
    assert_all("{3$$||}", &[""]);
    assert_all("{1$$, |{2$$a|b}}", &[", ", "a, b", "b, a"]);
}

#[test]
fn more_options_than_there_are_is_all_of_them_and_zero_is_none() {
    assert_all("{5$$a|b}", &["a, b", "b, a"]);
    assert_all("{99999999999999999999999$$a}", &["a"]);
    assert_all("x{0$$a|b}", &["x"]);
    assert_all("x{0-1$$a}", &["x", "xa"]);
}

#[test]
fn weights_say_how_often() {
    let dynamic = parse("{3::a|0.5::b|.5::c}");
    let mut counts: HashMap<String, u32> = HashMap::new();
    for seed in 0..40_000 {
        *counts.entry(dynamic.draw(seed).unwrap()).or_default() += 1;
    }
    // Within five standard deviations.
    assert!((30_000_u32 - 433..30_000 + 433).contains(&counts["a"]), "{counts:?}");
    assert!((5_000_u32 - 331..5_000 + 331).contains(&counts["b"]), "{counts:?}");
    assert_eq!(counts.len(), 3);
}

#[test]
fn an_option_of_weight_zero_is_never_drawn() {
    assert_all("{0::a|b}", &["b"]);
    assert_all("{2$$0::a|b|1::c}", &["b, c", "c, b"]);
    assert_all("{0.0000000001::a|0::b}", &["a"]);
}

#[test]
fn what_only_looks_like_a_weight_is_text() {
    assert_all("{3::a::b}", &["a::b"]);
    assert_all("{1e3::a}", &["1e3::a"]);
    assert_all("{::a}", &["::a"]);
    assert_all("{3 ::a}", &["3 ::a"]);
    assert_all("3::a", &["3::a"]);
}

#[test]
fn a_backslash_makes_text_of_the_notation() {
    assert_all(r"\{a|b\}", &["{a|b}"]);
    assert_all(r"{a\|b|\{c\}|1\$$d}", &["a|b", "{c}", "1$$d"]);
    assert_all(r"\__a\__", &["__a__"]);
    assert_all(r"\\{a|b}", &[r"\a", r"\b"]);
    assert_all(r"\\\{a", &[r"\{a"]);
    assert_all(r"$\{x}", &["${x}"]);
}

#[test]
fn backslashes_of_other_notations_stay() {
    for text in [r"a \(b\), \\(c\\) \[d\] e\\ \_ \$ \", r"\(\)\"] {
        assert_all(text, &[text]);
    }
    assert_all(r"{\(a\)}", &[r"\(a\)"]);
}

#[test]
fn text_without_lists_is_itself_byte_for_byte() {
    let text =
        "  a } b | c $5 50% #1 _x_ score_9 a__b é\u{301} \r\n\t(x:1.2) [a:b:0.5] __\n__ ____ ";
    let dynamic = parse(text);
    assert!(!dynamic.is_dynamic());
    assert_eq!((dynamic.draw(1).unwrap(), dynamic.combinations()), (text.to_owned(), 1));
    let long = "word ".repeat(100_000);
    assert_eq!(parse(&long).draw(0).unwrap(), long);
}

#[test]
fn a_wildcard_draws_one_of_its_entries() {
    let wildcards = map(&[("fruit", "# all\napple\n\n pear \r\napple\n#plum\n")]);
    assert_draws("a __fruit__!", &wildcards, &["a apple!", "a pear!"]);
    assert_draws("__~fruit__", &wildcards, &["apple", "pear"]);
    assert_draws("x__ fruit __x", &wildcards, &["xapplex", "xpearx"]);
    assert_eq!(Dynamic::parse("__fruit__", &wildcards).unwrap().combinations(), 2);
}

#[test]
fn several_entries_of_a_wildcard_are_different_ones() {
    let wildcards = map(&[("fruit", "apple\npear"), ("two", "{__fruit__}")]);
    assert_draws("{2$$ or $$__fruit__}", &wildcards, &["apple or pear", "pear or apple"]);
    assert_draws("{2$$ __fruit__ }", &wildcards, &["apple, pear", "pear, apple"]);
    let expected = ["apple", "pear", "apple, pear", "pear, apple"];
    assert_draws("{1-$$__fruit__}", &wildcards, &expected);
    let expected = ["apple, apple", "apple, pear", "pear, apple", "pear, pear"];
    assert_draws("{2$$__fruit__|__two__}", &wildcards, &expected);
}

#[test]
fn wildcards_in_folders_are_found_by_path_by_pattern_and_by_name() {
    let wildcards =
        map(&[("animals/cats", "lion"), ("animals/big/dogs", "wolf"), ("plants/ferns", "fern")]);
    assert_draws("__animals/cats__", &wildcards, &["lion"]);
    assert_draws("__animals\\cats__ __/plants/ferns/__", &wildcards, &["lion fern"]);
    assert_draws("__animals/*__", &wildcards, &["lion", "wolf"]);
    assert_draws("__animals/**__", &wildcards, &["lion", "wolf"]);
    assert_draws("__*/?erns__", &wildcards, &["fern"]);
    assert_draws("__dogs__", &wildcards, &["wolf"]);
}

#[test]
fn entries_may_hold_lists_and_wildcards() {
    let wildcards = map(&[("a", "{x|y} __b__\nz"), ("b", "1\n2")]);
    assert_draws("__a__", &wildcards, &["x 1", "x 2", "y 1", "y 2", "z"]);
    assert_eq!(Dynamic::parse("__a__ {a|b}", &wildcards).unwrap().combinations(), 10);
}

#[test]
fn a_seed_draws_the_same_prompt_for_ever() {
    let wildcards = map(&[("fruit", "apple\npear\nfig\nplum\nlime"), ("any", "__fruit__\n{a|b}")]);
    let text =
        "a {red|3::green|0.25::blue} __fruit__, {1-3$$ and $$__fruit__} {2$$x|{y|z}|__any__}";
    let dynamic = Dynamic::parse(text, &wildcards).unwrap();
    let drawn = [0, 1, 2, 42, u64::MAX].map(|seed| dynamic.draw(seed).unwrap());
    assert_eq!(drawn, KNOWN);
}

const KNOWN: [&str; 5] = [
    "a green fig, lime x, y",
    "a green plum, fig and pear and lime plum, y",
    "a green plum, plum and pear z, plum",
    "a green apple, pear x, lime",
    "a green lime, fig a, z",
];

#[test]
fn combinations_are_counted() {
    for (text, expected) in [
        ("a", 1),
        ("{a|b|c} {d|e}", 6),
        ("{a|{b|c}}", 3),
        ("{2$$a|b|c}", 6),
        ("{0-2$$a|b|c}", 10),
        ("{2$${a|b}|c}", 4),
        ("{0::a|b}", 1),
        ("{0-$$a|b|c|d}", 65),
    ] {
        assert_eq!(parse(text).combinations(), expected, "{text}");
    }
    assert_eq!(parse(&"{a|b}".repeat(127)).combinations(), 1 << 127);
    assert_eq!(parse(&"{a|b}".repeat(128)).combinations(), u128::MAX);
    let hundred = vec!["a"; 100].join("|");
    assert_eq!(parse(&format!("{{40-50$${hundred}}}")).combinations(), u128::MAX);
    assert_eq!(parse(&format!("{{0-1$${hundred}}}")).combinations(), 101);
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_a_way_out() {
    let wildcards = map(&[
        ("animals/cats", "lion\nx {a|b"),
        ("a", "__b__"),
        ("b", "{x|__c__}\ny"),
        ("c", "{2$$__a__}"),
        ("empty", "# nothing\n"),
    ]);
    for (text, message) in [
        ("é {a|{b} c", "the list `{a|{b} c` at character 3 of the prompt has no `}`"),
        ("{", "the list `{` at character 1 of the prompt has no `}`"),
        (
            "__cats__",
            "the list `{a|b` at character 3 of line 2 of wildcard `animals/cats` has no `}`",
        ),
        ("{a|-1::b}", "the weight `-1::b}` at character 4 of the prompt is not 0 to 1000000"),
        ("{1.2.3::b}", "the weight `1.2.3::b}` at character 2 of the prompt is not 0 to 1000000"),
        (
            "{10000000::b}",
            "the weight `10000000::b}` at character 2 of the prompt is not 0 to 1000000",
        ),
        ("{0::a|0::b}", "all weights are 0 in the list `{0::a|0::b}` at character 1 of the prompt"),
        ("${x=a} b", "`${x=a} b` at character 1 of the prompt: variables are not supported"),
        ("%{a$$b}", "`%{a$$b}` at character 1 of the prompt: wrapping is not supported"),
        (
            "{@a|b}",
            "`@a|b}` at character 2 of the prompt: to go through the options in turn is not supported",
        ),
        (
            "{two$$a|b}",
            "`$$a|b}` at character 5 of the prompt: what stands before these `$$` is no number, so they are not supported",
        ),
        (
            "__@cats__",
            "`__@cats__` at character 1 of the prompt: to go through the entries in turn is not supported",
        ),
        (
            "__cats(x=1)__",
            "`__cats(x=1)__` at character 1 of the prompt: a wildcard with variables is not supported",
        ),
        (
            "__{a|b}__",
            "`__{a|b}__` at character 1 of the prompt: a wildcard's name with a list in it is not supported",
        ),
        ("a __dogs__", "`__dogs__` at character 3 of the prompt: there is no wildcard `dogs`"),
        ("__empty__", "`__empty__` at character 1 of the prompt: wildcard `empty` has no entries"),
        ("__b__", "wildcard `b` contains itself: b → c → a → b"),
    ] {
        let error = error_with(text, &wildcards);
        assert_eq!(error.to_string(), message, "{text}");
        assert!(!error.hint().is_empty());
    }
    let hint = error_with("__anmals__", &wildcards).hint();
    assert!(hint.contains("`animals/cats`") && hint.contains(r"`\__`"), "{hint}");
    let hint = error_with("__x__", &Map::new()).hint();
    assert!(hint.contains("`x.txt`"), "{hint}");
}

#[test]
fn a_message_is_short_however_long_a_name_is() {
    let error = error_with(&format!("__{}__", "dog ".repeat(1000)), &Map::new());
    for message in [error.to_string(), error.hint()] {
        assert!(message.chars().count() < 300, "{message}");
    }
}

#[test]
fn an_escaped_bar_is_a_bar_inside_and_outside_of_lists() {
    assert_all(r"a \| b", &["a | b"]);
    assert_all(r"\{a\|b\}", &["{a|b}"]);
    assert_all(r"{a\|b|c}", &["a|b", "c"]);
    assert_all(r"a \\| b | c", &[r"a \| b | c"]);
    for text in [r"a \| b", r"a \\| b", "a | b", r"\{a|b\}", r"[a\|b|c]"] {
        assert_eq!(parse(&Dynamic::escape(text)).draw(0).unwrap(), text);
    }
    assert_eq!(Dynamic::escape("a | b"), "a | b");
}

#[test]
fn a_drawn_prompt_has_a_limit_of_length_and_of_choices() {
    let doubling = |last: &str| {
        let mut files: Vec<(String, String)> =
            (0..60).map(|n| (format!("w{n}"), format!("__w{}____w{0}__", n + 1))).collect();
        files.push(("w60".to_owned(), last.to_owned()));
        files.into_iter().collect::<Map>()
    };
    let limit =
        |last: &str| Dynamic::parse("__w0__", &doubling(last)).unwrap().draw(0).unwrap_err();
    assert_eq!(limit("x"), Error::DrawnTooLong { limit: 100_000 });
    assert_eq!(limit("{}"), Error::TooManyChoices { limit: 4_000_000 });
}

/// Pieces of the notation, of text and of other notations in any order.
fn text() -> impl Strategy<Value = String> {
    let notation = vec![
        "{", "{", "}", "}", "|", "|", "__", "__", "_", "$$", "$", "2$$", "{2$$", "{1-2$$", "{-$$",
        "-", "::", "3::", "0::", ".5::", "\\", "\\\\", "\\{", "\\}", "\\|", "~", "@", "!", "${",
        "%{", "\n", " ", "__a__", "__b/*__", "*", "?", "#", "(", ")", "é", "日本", "\u{301}",
        "{a|b}", "{|}",
    ];
    let part = prop_oneof![
        6 => prop::sample::select(notation).prop_map(str::to_owned),
        2 => "[a-z]{1,3}",
        1 => any::<String>(),
    ];
    prop::collection::vec(part, 0..16).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_text_is_read_or_refused_with_a_hint(text in text(), a in text(), b in text(), seed: u64) {
        let wildcards = map(&[("a", &a), ("b/c", &b)]);
        match Dynamic::parse(&text, &wildcards) {
            Ok(dynamic) => {
                let drawn = dynamic.draw(seed);
                prop_assert_eq!(&drawn, &dynamic.draw(seed));
                prop_assert!(dynamic.combinations() >= 1);
                if !dynamic.is_dynamic() {
                    prop_assert_eq!(drawn, dynamic.draw(!seed));
                }
            }
            Err(error) => prop_assert!(!error.to_string().is_empty() && !error.hint().is_empty()),
        }
    }

    #[test]
    fn escaped_text_draws_as_itself(text in text(), seed: u64) {
        let escaped = Dynamic::escape(&text);
        let dynamic = Dynamic::parse(&escaped, &Map::new()).unwrap();
        prop_assert!(!dynamic.is_dynamic());
        prop_assert_eq!(dynamic.draw(seed).unwrap(), text, "escaped as {:?}", escaped);
    }

    #[test]
    fn text_without_the_notation_is_itself(text in "[^{}_\\\\$%]*") {
        prop_assert_eq!(parse(&text).draw(0).unwrap(), text);
    }

    #[test]
    fn a_list_draws_only_from_its_options(words in prop::collection::vec("[a-z]{1,4}", 1..6), seed: u64) {
        let drawn = parse(&format!("{{{}}}", words.join("|"))).draw(seed).unwrap();
        prop_assert!(words.contains(&drawn));
    }
}

#[test]
fn hostile_text_takes_time_in_proportion_to_its_length() {
    let n = 100_000;
    let wildcards = map(&[("a", &"x\n".repeat(n)), ("b", &"{2$$__a__}\n".repeat(100))]);
    for text in [
        "{".repeat(n),
        "{".repeat(n) + &"}".repeat(n),
        "{a|".repeat(n) + &"}".repeat(n),
        "{2$$".repeat(n) + &"}".repeat(n),
        "{2$$ x ".repeat(n) + &"}".repeat(n),
        "{a|b}".repeat(n),
        format!("{{{}}}", "a|".repeat(n)),
        format!("{{50000-$${}}}", "|".repeat(n)),
        "__".repeat(n),
        "__a".repeat(n),
        "__ {".repeat(n),
        "_".repeat(n),
        "__a__".repeat(n),
        "__b__".repeat(n),
        "{__a__}".repeat(n),
        "\\".repeat(n) + "{",
        "\\\\ ".repeat(n),
        "{1".repeat(n),
        format!("{{{}", "1".repeat(n)),
        "{   ".repeat(n),
        "$".repeat(n),
        "{$|".repeat(n),
        "é".repeat(n),
    ] {
        let start: String = text.chars().take(20).collect();
        let started = Instant::now();
        if let Ok(dynamic) = Dynamic::parse(&text, &wildcards) {
            let _ = dynamic.draw(1);
            assert!(dynamic.combinations() > 0);
        }
        // Each takes well below a second; quadratic time would be hours.
        assert!(started.elapsed() < Duration::from_secs(30), "{start:?} took too long");
    }
}
