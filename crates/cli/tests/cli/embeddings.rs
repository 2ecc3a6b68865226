//! `--embedding` and `--embedding-dir`.

use std::fs;
use std::path::Path;

use crate::{generate, unwrong};

/// A folder `words` with `ink.safetensors`, of one token, and `smear.safetensors`, of three.
fn words(folder: &Path) {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../parity/goldens");
    fs::create_dir(folder.join("words")).unwrap();
    for (file, name) in [("embedding-one", "ink"), ("embedding-three", "smear")] {
        let name = format!("words/{name}.safetensors");
        fs::copy(goldens.join(format!("{file}.safetensors")), folder.join(name)).unwrap();
    }
}

#[test]
fn tokens_shows_the_vectors_of_a_word() {
    let folder = tempfile::tempdir().unwrap();
    words(folder.path());
    for flags in
        [&["--embedding", "words/smear.safetensors:<smear>"][..], &["--embedding-dir", "words"]]
    {
        let run = unwrong(folder.path(), &[&["tokens", "a (<smear>)1.4 cat"], flags].concat());
        let stdout = run.done().stdout;
        let expected = "320 a  49408 <smear>  49409 <smear>_1  49410 <smear>_2  2368 cat";
        assert_eq!(stdout.matches(expected).count(), 2, "{stdout}");
    }
    let comfy = ["tokens", "--syntax", "comfy", "--embedding-dir", "words", "embedding:ink, a"];
    let stdout = unwrong(folder.path(), &comfy).done().stdout;
    assert!(stdout.contains("\n49408 ink  267 ,  320 a\n"), "{stdout}");
}

#[test]
fn a_word_of_a_picture_is_found_beside_it_or_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    words(folder.path());
    let arguments = ["a ink cat", "--seed", "1", "--embedding-dir", "words", "-o", "cats/cat.png"];
    generate(folder.path(), &arguments).done();

    let from = ["generate", "--from", "cats/cat.png", "-o", "again.png"];
    let run = unwrong(folder.path(), &from);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("textual inversion `ink.safetensors`"), "{}", run.stderr);
    let hint = "hint: say where it is: `--embedding \"FOLDER/ink.safetensors\"`, or the folder: \
                `--embedding-dir FOLDER`";
    assert!(run.stderr.contains(hint), "{}", run.stderr);

    let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let in_folder = [&from[..], &["--embedding-dir", "words"]].concat();
    unwrong(folder.path(), &in_folder).done();
    assert!(bytes("cats/cat.png") == bytes("again.png"), "the bytes differ");

    fs::rename(
        folder.path().join("words/smear.safetensors"),
        folder.path().join("cats/ink.safetensors"),
    )
    .unwrap();
    let run = unwrong(folder.path(), &[&from[..], &["--force"]].concat()).done();
    assert!(run.stderr.contains("warning: `ink.safetensors` is not the file"), "{}", run.stderr);
}

#[test]
fn a_file_given_beside_a_picture_keeps_its_word_and_the_other_words() {
    let folder = tempfile::tempdir().unwrap();
    words(folder.path());
    let mine = ["--embedding", "words/ink.safetensors:<mine>"];
    let smear = ["--embedding", "words/smear.safetensors:blot"];
    let first = ["a <mine> blot", "--seed", "1", "-o", "cats/cat.png"];
    generate(folder.path(), &[&first[..], &mine, &smear].concat()).done();
    fs::rename(
        folder.path().join("words/smear.safetensors"),
        folder.path().join("smear.safetensors"),
    )
    .unwrap();
    let from = ["generate", "--from", "cats/cat.png", "-o", "again.png"];
    let place = ["--embedding", "words/ink.safetensors"];
    unwrong(folder.path(), &[&from[..], &place].concat()).done();
    let bytes = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(bytes("cats/cat.png") == bytes("again.png"), "the bytes differ");
}

#[test]
fn a_word_in_no_prompt_is_said() {
    let folder = tempfile::tempdir().unwrap();
    words(folder.path());
    let arguments = ["a cat", "--embedding", "words/ink.safetensors", "-o", "cat.png"];
    let run = generate(folder.path(), &arguments).done();
    let expected = "warning: the textual inversion `ink` is in no prompt";
    assert!(run.stderr.contains(expected), "{}", run.stderr);
}

#[test]
fn what_is_wrong_with_an_embedding_is_said_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    words(folder.path());
    for (embedding, problem) in [
        ("words/no.safetensors", "words/no.safetensors does not exist"),
        ("words/ink.safetensors:", "the word `` is empty"),
        ("words/ink.safetensors:a b", "holds white space"),
        ("words/ink.safetensors:--", "has no letter and no digit"),
        (":word", "is not a textual inversion such as"),
    ] {
        let run = generate(folder.path(), &["a cat", "--embedding", embedding, "-o", "cat.png"]);
        assert_eq!(run.code, Some(1), "{embedding}: {}", run.stderr);
        assert!(run.stderr.contains(problem), "{}", run.stderr);
    }
    let run = generate(folder.path(), &["a cat", "--embedding-dir", "no", "-o", "cat.png"]);
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    assert!(run.stderr.contains("`no` does not exist, expected a folder"), "{}", run.stderr);
}
