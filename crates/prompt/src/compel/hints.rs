//! Finds what somebody may have meant as syntax.

use std::collections::HashSet;

use super::reader::Event;
use crate::warning::{MOST_WARNINGS, Warning, excerpt};

/// Operators that compel has and we do not, with what they do.
const OPERATORS: [(&str, &str); 6] = [
    (".and", "compel's conjunction"),
    (".add", "compel's conjunction"),
    (".blend", "compel's blend"),
    (".swap", "compel's swap"),
    ("withLora", "compel's LoRA"),
    ("useLora", "compel's LoRA"),
];

/// Starts of extra networks as other programs write them.
const NETWORKS: [&str; 3] = ["<lora:", "<lyco:", "<hypernet:"];

/// Syntax of compel or of other programs that is not applied.
pub(super) fn known_syntax(text: &str) -> Vec<Warning> {
    let mut found = Vec::new();
    for (operator, meaning) in OPERATORS {
        let called = |(place, _): (usize, &str)| {
            text[place + operator.len()..].trim_start().starts_with('(')
        };
        if text.match_indices(operator).any(called) {
            found.push((format!("{operator}(…)"), meaning));
        }
    }
    for network in NETWORKS {
        if text.contains(network) {
            found.push((format!("{network}…>"), "a network as A1111 writes it"));
        }
    }
    for word in ["AND", "BREAK"] {
        if text.split_whitespace().any(|own| own.trim_matches(',') == word) {
            found.push((word.to_owned(), "A1111's separator"));
        }
    }
    if has_colon_weight(text) {
        found.push(("(…:1.3)".to_owned(), "A1111's weight; write `(…)1.3`"));
    }
    if encloses(text, '[', ']', None) {
        found.push(("[…]".to_owned(), "A1111's lower weight or prompt editing"));
    }
    if encloses(text, '{', '}', Some('|')) {
        found.push(("{…|…}".to_owned(), "a choice between words"));
    }
    found.into_iter().map(|(found, meaning)| Warning::KeptAsText { found, meaning }).collect()
}

/// Words that stayed text although they hold brackets, quotes or weights.
pub(super) fn not_applied(events: &[Event]) -> Vec<Warning> {
    let mut seen = HashSet::new();
    events
        .iter()
        .filter_map(|event| match event {
            Event::FreeWord(word) if looks_weighted(word) => Some(word),
            _ => None,
        })
        .filter(|word| seen.insert(*word))
        .take(MOST_WARNINGS)
        .map(|word| Warning::NotApplied { found: excerpt(word) })
        .collect()
}

fn looks_weighted(word: &str) -> bool {
    let mut escaped = false;
    for character in word.chars() {
        if !escaped && matches!(character, '(' | ')' | '"') {
            return true;
        }
        escaped = character == '\\';
    }
    let bare = word.trim_end_matches(['.', ',']).trim_end_matches(['+', '-']);
    let signs = word.trim_end_matches(['.', ',']).len() - bare.len();
    signs > 0 && bare.ends_with(char::is_alphanumeric)
}

/// Whether there is a `:1.3)`.
fn has_colon_weight(text: &str) -> bool {
    text.match_indices(':').any(|(place, _)| {
        let after = text[place + 1..].trim_start();
        let rest = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        rest.len() < after.len() && rest.trim_start().starts_with(')')
    })
}

/// Whether `open` is followed by `close`, with `between` in between if that is asked for.
fn encloses(text: &str, open: char, close: char, between: Option<char>) -> bool {
    let Some(start) = text.find(open) else { return false };
    let Some(end) = text.rfind(close) else { return false };
    start < end && between.is_none_or(|between| text[start..end].contains(between))
}
