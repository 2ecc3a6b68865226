//! What README and docs tell people to type works as it stands there.

use std::fs;
use std::path::Path;

use crate::{pictures, unwrong};

/// Every line in a fenced block of a document that starts with `prefix`.
fn commands(document: &str, prefix: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(document);
    let text = fs::read_to_string(path).unwrap().replace("\\\n", " ");
    let blocks = text.split("```").skip(1).step_by(2);
    blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix(prefix)).map(words).collect()
}

/// Splits a line as a shell does, as far as the documents need it: spaces and double quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in line.split('"').enumerate() {
        if number % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

fn run(folder: &Path, command: &[String]) -> crate::Run {
    let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
    unwrong(folder, &arguments)
}

#[test]
fn the_first_command_of_the_readme_draws_two_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let commands = commands("README.md", "cargo run --release -- ");
    assert_eq!(commands.len(), 1);
    assert_eq!(commands[0][0], "compare");
    let done = run(folder.path(), &commands[0]).done();
    assert_eq!(done.stdout, "rocket.webp\n");
    let (width, height) = pictures::read(&folder.path().join("rocket.webp")).size;
    assert!(width >= 2 * height, "{width}x{height} is not two pictures side by side");
}

#[test]
fn the_picture_commands_of_the_readme_work_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let commands = commands("README.md", "unwrong ");
    // The others need weights, or a LoRA, that no test has.
    let needs = |words: &&Vec<String>| words.iter().any(|word| word == "--model" || word == "lora");
    let demo: Vec<_> = commands.iter().filter(|words| !needs(words)).collect();
    assert!(demo.len() >= 5, "{demo:?}");
    fs::write(folder.path().join("prompts.txt"), "a yellow star\n").unwrap();
    for command in demo {
        let done = run(folder.path(), command).done();
        assert!(!done.stdout.is_empty(), "{command:?}");
    }
}

#[test]
fn every_command_in_the_documents_parses() {
    let folder = tempfile::tempdir().unwrap();
    for document in
        ["README.md", "docs/eval.md", "docs/method.md", "docs/performance.md", "docs/training.md"]
    {
        let commands = commands(document, "unwrong ");
        assert!(!commands.is_empty(), "{document}");
        for mut command in commands {
            command.push("--help".to_owned());
            assert!(run(folder.path(), &command).done().stdout.contains("Usage: "));
        }
    }
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for document in [
        "README.md",
        "CONTRIBUTING.md",
        "docs/method.md",
        "docs/architecture.md",
        "docs/eval.md",
        "docs/parity.md",
        "docs/performance.md",
        "docs/training.md",
    ] {
        let path = root.join(document);
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.contains("://") {
                let target = path.parent().unwrap().join(link);
                assert!(target.exists(), "{document} points to {link}, which is not there");
            }
        }
    }
}
