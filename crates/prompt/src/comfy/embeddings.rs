//! `embedding:name`: textual inversions, which are left out.

use crate::python::is_space;
use crate::warning::{MOST_WARNINGS, Warning, excerpt};

const MARK: &str = "embedding:";

/// `segment` cut before each embedding, without the embeddings, as ComfyUI does with names
/// that it does not find. Commas around a name and the words after it are kept.
pub(super) fn take_out(segment: &str, warnings: &mut Vec<Warning>) -> Vec<String> {
    let mut texts = Vec::new();
    let mut from = 0;
    let starts = segment.match_indices(MARK).map(|(place, _)| place);
    for place in starts.filter(|&place| segment[..place].ends_with([' ', '\n'])) {
        // A mark whose space another mark has taken is none.
        if place > from {
            texts.push(&segment[from..place - 1]);
            from = place;
        }
    }
    texts.push(&segment[from..]);
    let texts = texts.into_iter().filter(|text| !text.is_empty());
    texts.filter_map(|text| without_embedding(text, warnings)).collect()
}

fn without_embedding(text: &str, warnings: &mut Vec<Warning>) -> Option<String> {
    let Some(embedding) = text.strip_prefix(MARK) else { return Some(text.to_owned()) };
    let mut words = embedding.split(is_space).filter(|word| !word.is_empty());
    // ComfyUI stops with an error where there is no name.
    let Some(name) = words.next() else { return Some(text.to_owned()) };
    if warnings.len() < MOST_WARNINGS {
        let found = format!("{MARK}{}", excerpt(name));
        warnings.push(Warning::LeftOut { found, reason: "embeddings are not supported" });
    }
    let rest = words.collect::<Vec<_>>().join(" ");
    let commas = name.len() - name.trim_matches(',').len();
    if commas == 0 {
        return Some(rest).filter(|rest| !rest.is_empty());
    }
    // The tail as long as all commas around the name, wherever they are.
    let tail = name.char_indices().rev().take(commas).last().map_or(0, |(place, _)| place);
    Some(format!("{} {rest}", &name[tail..]))
}
