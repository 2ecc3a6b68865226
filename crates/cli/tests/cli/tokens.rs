//! `unwrong tokens`.

use crate::{command, unwrong};

#[test]
fn fragments_and_ids_of_a_prompt_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let run = unwrong(folder.path(), &["tokens", "a red apple, (flat)++"]).done();
    assert_eq!(
        run.stdout,
        "weight  text\n\
         1       a red apple,\n\
         1.21    flat\n\
         \n\
         text_encoder, chunk 1 of 1: 5 tokens of text\n\
         320 a  736 red  3055 apple  267 ,  6313 flat\n\
         \n\
         text_encoder_2, chunk 1 of 1: 5 tokens of text\n\
         320 a  736 red  3055 apple  267 ,  6313 flat\n"
    );
    assert_eq!(run.stderr, "");
}

#[test]
fn json_has_every_id_and_the_warnings() {
    let folder = tempfile::tempdir().unwrap();
    let run = unwrong(folder.path(), &["tokens", "--json", "a [red] apple"]).done();
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let chunk = json["encoders"][0]["chunks"][0].as_array().unwrap();
    assert_eq!(chunk.len(), 77);
    assert_eq!((chunk[0].as_u64(), chunk[76].as_u64()), (Some(49406), Some(49407)));
    assert_eq!(json["encoders"][1]["chunks"][0][76], 0);
    assert_eq!(json["warnings"].as_array().unwrap().len(), 1, "{}", run.stdout);
    assert!(run.stderr.starts_with("warning: "), "{}", run.stderr);
}

#[test]
fn plain_syntax_leaves_everything_text() {
    let folder = tempfile::tempdir().unwrap();
    let run = unwrong(folder.path(), &["tokens", "--syntax", "plain", "flat++"]).done();
    assert!(run.stdout.starts_with("weight  text\n1       flat++\n"), "{}", run.stdout);
}

#[test]
fn a_long_prompt_shows_its_chunks_and_what_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = "word ".repeat(80);
    let run = unwrong(folder.path(), &["tokens", &prompt]).done();
    assert!(
        run.stdout.contains("text_encoder, chunk 1 of 2: 75 tokens of text\n"),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout.contains("text_encoder_2, chunk 2 of 2: 5 tokens of text\n"),
        "{}",
        run.stdout
    );
    let run = unwrong(folder.path(), &["tokens", "--long-prompt", "truncate", &prompt]).done();
    assert_eq!(run.stdout.matches("cut here: 5 tokens are left out").count(), 2, "{}", run.stdout);
}

#[test]
fn unbalanced_brackets_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = unwrong(folder.path(), &["tokens", "a ((red apple)++"]).done();
    assert!(run.stderr.starts_with("warning: `((red` stays text"), "{}", run.stderr);
}

#[test]
fn a_prompt_cannot_steer_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let run = unwrong(folder.path(), &["tokens", "a \u{1b}[31mred"]).done();
    assert!(!run.stdout.contains('\u{1b}') && run.stdout.contains("\\u{1b}"), "{}", run.stdout);
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let folder = tempfile::tempdir().unwrap();
    let colours = |variables: &[(&str, &str)]| {
        let mut command = command(folder.path(), &["tokens", "a (warm)1.5 (cool)0.5"]);
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM"] {
            command.env_remove(name);
        }
        let output = command.envs(variables.iter().copied()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(!colours(&[]).contains('\u{1b}'));
    let forced = colours(&[("CLICOLOR_FORCE", "1")]);
    assert!(forced.contains("\u{1b}[1m\u{1b}[31m1.5     warm\u{1b}[0m"), "{forced:?}");
    assert!(forced.contains("\u{1b}[1m\u{1b}[34m0.5     cool\u{1b}[0m"), "{forced:?}");
    assert!(!colours(&[("NO_COLOR", "1")]).contains('\u{1b}'));
}

#[test]
fn json_has_the_weight_of_every_id_and_what_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let run = unwrong(folder.path(), &["tokens", "--json", "a (red)1.5 apple"]).done();
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let encoder = &json["encoders"][0];
    assert_eq!(encoder["weights"][0][2], 1.5);
    assert_eq!(
        (encoder["text_tokens"][0].as_u64(), encoder["dropped"].as_u64()),
        (Some(3), Some(0))
    );
}

#[test]
fn a_prompt_that_changes_is_shown_step_by_step() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = "a [cat:dog:0.5] AND a (boat:1.2) :0.5 <lora:ink:0.8>";
    let line = ["tokens", prompt, "--syntax", "a1111", "--steps", "10"];
    let run = unwrong(folder.path(), &line).done();
    for words in ["steps 1 to 5, weight 1", "steps 6 to 10, weight 1", "steps 1 to 10, weight 0.5"]
    {
        assert!(run.stdout.contains(words), "{}", run.stdout);
    }
    assert!(run.stdout.contains("a dog"), "{}", run.stdout);
    assert!(run.stderr.contains("LoRA `ink`: 0.8"), "{}", run.stderr);
    let run = unwrong(folder.path(), &[&line[..], &["--json"]].concat()).done();
    let value: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(value["parts"][0]["prompts"][0]["until"], 5);
    assert_eq!(value["parts"][1]["weight"], 0.5);
    let fragments = &value["parts"][1]["prompts"][0]["prompt"]["fragments"];
    assert_eq!(fragments[1], serde_json::json!({ "text": "boat", "weight": 1.2 }));
}

#[test]
fn what_is_joined_is_shown_with_its_weights() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = r#"("a cat", "a (dog)++").and(1, 0.5)"#;
    let run = unwrong(folder.path(), &["tokens", prompt]).done();
    let expected = "weight  text\npart 1, weight 1\n1       a cat\npart 2, weight 0.5\n\
                    1       a\n1.21    dog\n\ntext_encoder, chunk 1 of 2";
    assert!(run.stdout.starts_with(expected), "{}", run.stdout);
    let prompt = r#"("a cat", "a dog").blend(3, 1)"#;
    let run = unwrong(folder.path(), &["tokens", prompt]).done();
    let expected = "weight  text\npart 1, weight 1, 0.75 of its blend\n1       a cat\n\
                    part 1, weight 1, 0.25 of its blend\n1       a dog\n";
    assert!(run.stdout.starts_with(expected), "{}", run.stdout);
}

#[test]
fn lists_are_drawn_from_the_seed_and_the_text_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let drawn = |seed: &str| {
        let line = ["tokens", "--dynamic", "--seed", seed, "a {red|green|blue} cat"];
        let run = unwrong(folder.path(), &line).done();
        let text = run.stderr.strip_prefix("drawn: ").expect("the text is said").trim().to_owned();
        assert!(run.stdout.contains(&format!("1       {text}\n")), "{}", run.stdout);
        text
    };
    let texts: std::collections::BTreeSet<String> =
        (0..20).map(|seed| drawn(&seed.to_string())).collect();
    assert_eq!(texts.into_iter().collect::<Vec<_>>(), ["a blue cat", "a green cat", "a red cat"]);
}
