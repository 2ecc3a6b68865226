//! `embedding:name`: textual inversions, which are added words here.

use crate::added::{AddedWord, AddedWords};
use crate::python::is_space;
use crate::warning::{MOST_WARNINGS, Warning, excerpt};

const MARK: &str = "embedding:";

/// The added word that the text of a fragment is.
pub(super) fn find<'a>(text: &str, added: &'a AddedWords) -> Option<&'a AddedWord> {
    added.named(text.strip_prefix(MARK)?)
}

/// `segment` cut before each embedding and after its name. Names that nothing has are left out;
/// commas around a name and the words after it are kept.
pub(super) fn cut(segment: &str, added: &AddedWords, warnings: &mut Vec<Warning>) -> Vec<String> {
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
    texts.flat_map(|text| name_and_rest(text, added, warnings)).flatten().collect()
}

/// The embedding that `text` begins with, and the words after it.
fn name_and_rest(
    text: &str,
    added: &AddedWords,
    warnings: &mut Vec<Warning>,
) -> [Option<String>; 2] {
    let all = [Some(text.to_owned()), None];
    let Some(embedding) = text.strip_prefix(MARK) else { return all };
    let mut words = embedding.split(is_space).filter(|word| !word.is_empty());
    // ComfyUI stops with an error where there is no name.
    let Some(name) = words.next() else { return all };
    let bare = name.trim_matches(',');
    let found = [name, bare].into_iter().find(|name| added.named(name).is_some());
    if found.is_none() && warnings.len() < MOST_WARNINGS {
        let reason = "no embedding of that name is given";
        warnings.push(Warning::LeftOut { found: format!("{MARK}{}", excerpt(name)), reason });
    }
    let rest = words.collect::<Vec<_>>().join(" ");
    let commas = name.len() - bare.len();
    let rest = if commas == 0 || found == Some(name) {
        Some(rest).filter(|rest| !rest.is_empty())
    } else {
        // The tail as long as all commas around the name, wherever they are.
        let tail = name.char_indices().rev().take(commas).last().map_or(0, |(place, _)| place);
        Some(format!("{} {rest}", &name[tail..]))
    };
    // A mark in the rest is text; a space in front keeps it from being read as one.
    let rest = rest.map(|rest| if rest.starts_with(MARK) { format!(" {rest}") } else { rest });
    [found.map(|name| format!("{MARK}{name}")), rest]
}
