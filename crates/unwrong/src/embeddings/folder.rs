//! A folder of textual inversions, of which a prompt takes those that it names.
//!
//! The name is the file's without its ending, in the folder or below it. In A1111's syntax it
//! stands bare, in ComfyUI's after `embedding:`, in compel's and plain text bare or as `<name>`.
//! There it must be a word by itself to be taken: a folder may hold a `cat.safetensors`, and a
//! prompt `category`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use unwrong_prompt::{AddedWords, Encoder, FIRST_ADDED, Language, LongPrompt, Script};

use crate::error::{Error, Result};
use crate::prompt_loras::{MOST_DEPTH, list};
use crate::request::{EmbeddingRequest, GenerateRequest, Syntax};

/// The request with the files of its folder that its prompts name, and without the folder.
///
/// Those that `check` refuses stay out, and a sentence each says why. `steps` are those that
/// schedules count.
pub(crate) fn with_those_of_the_folder(
    request: &GenerateRequest,
    steps: usize,
    check: &dyn Fn(&str) -> Result<()>,
) -> Result<(GenerateRequest, Vec<String>)> {
    let mut complete = GenerateRequest { embedding_dir: None, ..request.clone() };
    let mut left_out = Vec::new();
    let Some(folder) = &request.embedding_dir else { return Ok((complete, left_out)) };
    fs::read_dir(folder)
        .map_err(Error::reading(Path::new(folder), "a folder of textual inversions"))?;
    let mut files = Vec::new();
    list(Path::new(folder), MOST_DEPTH, &mut files)?;
    files.sort();
    for named in named(request, &files, steps) {
        match check(&named.path) {
            Ok(()) => complete.embeddings.push(named),
            Err(error) => left_out.push(format!("`{}` stays text: {error}", named.word())),
        }
    }
    Ok((complete, left_out))
}

/// Those of `files` that the prompts name, besides those that the request has already.
fn named(request: &GenerateRequest, files: &[PathBuf], steps: usize) -> Vec<EmbeddingRequest> {
    let texts = texts(request);
    let mut all: Vec<EmbeddingRequest> = request.embeddings.clone();
    for path in files {
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        for word in names(request, &texts, stem) {
            let path = path.display().to_string();
            all.push(EmbeddingRequest { path, word: Some(word) });
            // Files whose names cannot be words, and the second of one name.
            if super::check(&all).is_err() {
                all.pop();
            }
        }
    }
    let used = used(request, &texts, &all, steps);
    let of_folder = all.into_iter().enumerate().skip(request.embeddings.len());
    of_folder.filter(|(place, _)| used.contains(place)).map(|(_, named)| named).collect()
}

/// A request's texts, and whether each is a negative one.
fn texts(request: &GenerateRequest) -> Vec<(String, bool)> {
    let texts = [
        (Some(request.prompt.clone()), false),
        (request.full_negative_prompt(), true),
        (request.prompt_2.clone(), false),
        (request.full_negative_prompt_2(), true),
    ];
    texts.into_iter().filter_map(|(text, negative)| Some((text?, negative))).collect()
}

/// The words that may stand for a file of that name.
fn names(request: &GenerateRequest, texts: &[(String, bool)], stem: &str) -> Vec<String> {
    let stem_there = stem.to_lowercase();
    let bracketed = format!("<{stem_there}>");
    let mut names = BTreeSet::new();
    for (text, _) in texts {
        let text = text.to_lowercase();
        match request.syntax.unwrap_or_default() {
            Syntax::A1111 | Syntax::A1111Original | Syntax::Comfy => {
                if text.contains(&stem_there) {
                    names.insert(stem.to_owned());
                }
            }
            Syntax::Compel | Syntax::Plain => {
                if text.contains(&bracketed) {
                    names.insert(format!("<{stem}>"));
                }
                if has_word(&text.replace(&bracketed, " "), &stem_there) {
                    names.insert(stem.to_owned());
                }
            }
        }
    }
    names.into_iter().collect()
}

/// Whether `word` stands in `text` with no letter, digit or `_` beside it.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(place, _)| {
        !text[..place].ends_with(is_part) && !text[place + word.len()..].starts_with(is_part)
    })
}

/// The places of the words that the texts hold, as their syntax finds words.
fn used(
    request: &GenerateRequest,
    texts: &[(String, bool)],
    all: &[EmbeddingRequest],
    steps: usize,
) -> BTreeSet<usize> {
    let words: Vec<String> = all.iter().map(EmbeddingRequest::word).collect();
    // A token each: the id says which word it is.
    let added = AddedWords::new(words.iter().map(|word| (&**word, 1))).unwrap_or_default();
    let language = Language { added, ..request.syntax.unwrap_or_default().into() };
    let mut used = BTreeSet::new();
    for (text, negative) in texts {
        let parse = if *negative { Script::parse_negative } else { Script::parse };
        let (script, _) = parse(text, language.clone(), steps);
        for id in ids_of(&script) {
            used.extend(id.checked_sub(FIRST_ADDED).map(|place| place as usize));
        }
    }
    used
}

/// All tokens of a text, of every step.
pub(crate) fn ids_of(script: &Script) -> Vec<u32> {
    let prompts = script.parts.iter().flat_map(|part| &part.prompts);
    let mut ids = Vec::new();
    for prompt in prompts {
        let plan = prompt.prompt.plan(Encoder::BigG, LongPrompt::Pad);
        ids.extend(plan.plans().flat_map(|plan| &plan.chunks).flat_map(|chunk| chunk.ids));
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named_in(prompt: &str, syntax: Syntax) -> Vec<String> {
        let request = GenerateRequest { syntax: Some(syntax), ..GenerateRequest::new(prompt) };
        let files = ["cat", "sub/ink-v2", "two words", "Bad"];
        let files = files.map(|name| PathBuf::from(format!("{name}.safetensors")));
        named(&request, &files, 10).iter().map(EmbeddingRequest::word).collect()
    }

    #[test]
    fn a_prompt_takes_the_files_that_it_names() {
        for (prompt, syntax, expected) in [
            ("a cat, (ink-v2)1.2", Syntax::Compel, &["cat", "ink-v2"][..]),
            ("a category of Cat_x", Syntax::Compel, &[]),
            ("a <BAD> dog, two words", Syntax::Plain, &["<Bad>"]),
            ("a <bad> bad dog", Syntax::Plain, &["<Bad>", "Bad"]),
            ("bad [cat:dog:5]", Syntax::A1111, &["cat", "Bad"]),
            ("badly drawn category", Syntax::A1111, &[]),
            ("cat embedding:ink-v2, bad", Syntax::Comfy, &["ink-v2"]),
        ] {
            assert_eq!(named_in(prompt, syntax), expected, "{prompt}");
        }
    }
}
