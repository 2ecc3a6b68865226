//! `unwrong tokens`.

use crate::unwrong;

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
