//! Finds what somebody may have meant as syntax.

use std::collections::HashSet;

use super::WEIGHT_LIMIT;
use super::flat::Flat;
use super::join::{Kind, Refusal};
use super::reader::Event;
use crate::conjunction::LoraWeight;
use crate::warning::{LIST, MOST_WARNINGS, Warning, excerpt};

/// Starts of extra networks as other programs write them.
const NETWORKS: [&str; 3] = ["<lora:", "<lyco:", "<hypernet:"];

/// What was noticed while a text was read.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) loras: Vec<LoraWeight>,
    swaps: usize,
    /// Words that stayed text although they look like syntax.
    words: Vec<Warning>,
    seen: HashSet<String>,
    heavy: Vec<Warning>,
}

impl Notes {
    /// Flattens a prompt's events and notes what is in them.
    pub(super) fn flat(&mut self, events: Vec<Event>) -> Flat {
        self.note_words(&events);
        let mut flat = Flat::new(events);
        for fragment in flat.fragments.iter_mut().chain(flat.edited.iter_mut().flatten()) {
            fragment.weight = self.limited(fragment.weight, &fragment.text);
        }
        self.swaps += flat.swaps;
        self.loras.append(&mut flat.loras);
        flat
    }

    /// The weight, or the largest one with its sign where it is larger.
    pub(super) fn limited(&mut self, weight: f64, text: &str) -> f64 {
        if weight.abs() <= WEIGHT_LIMIT {
            return weight;
        }
        let warning = Warning::WeightLimited { text: excerpt(text) };
        if self.heavy.len() < MOST_WARNINGS && !self.heavy.contains(&warning) {
            self.heavy.push(warning);
        }
        weight.clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
    }

    fn note_words(&mut self, events: &[Event]) {
        for event in events {
            if self.words.len() == MOST_WARNINGS {
                return;
            }
            if let Event::FreeWord(word) = event
                && looks_weighted(word)
                && self.seen.insert(word.clone())
            {
                self.words.push(Warning::NotApplied { found: excerpt(word) });
            }
        }
    }

    /// All that may surprise in `text`, whose prompts were joined with `joined`, or not because
    /// of `refusal`.
    pub(super) fn warnings(
        &mut self,
        text: &str,
        joined: Option<Kind>,
        refusal: Option<&Refusal>,
    ) -> Vec<Warning> {
        let mut warnings = Vec::new();
        let joins = [".and", ".add", ".blend"];
        let mut applied = usize::from(joined.is_some());
        for operator in joins {
            let mut found = calls(text, operator);
            let is_own = (operator == ".blend") == matches!(joined, Some(Kind::Blend { .. }));
            if is_own && found > 0 {
                found -= applied;
                applied = 0;
            }
            let refused = refusal.filter(|refusal| refusal.operator == operator);
            if let Some(refusal) = refused {
                warnings.push(Warning::not_joined(operator, &refusal.reason));
            } else if found > 0 {
                warnings.push(Warning::not_joined(operator, WHOLE_PROMPTS));
            }
        }
        if calls(text, ".swap") > self.swaps {
            warnings.push(Warning::KeptAsText {
                found: ".swap(…)".to_owned(),
                meaning: "compel's swap takes `word.swap(other)` or `(some words).swap(other words)`",
            });
        }
        if self.swaps > 0 {
            warnings.push(Warning::swap());
        }
        let networks = calls(text, "withLora") + calls(text, "useLora");
        if networks > self.loras.len() {
            warnings.push(Warning::KeptAsText {
                found: "withLora(…)".to_owned(),
                meaning: "compel's LoRA takes a name of letters, digits, `_` and `-`, and a number",
            });
        }
        warnings.extend(self.loras.iter().take(MOST_WARNINGS).map(Warning::lora));
        warnings.extend(known_syntax(text));
        // Words of a call that was named already say nothing new.
        let named =
            |found: &str| warnings.iter().any(|own| own.found().is_some_and(|own| own == found));
        let calls =
            [".and", ".add", ".blend", ".swap"].map(|own| (own, named(&format!("{own}(…)"))));
        self.words.retain(|warning| !warning.found().is_some_and(|word| is_of_call(word, &calls)));
        warnings.append(&mut self.words);
        warnings.append(&mut self.heavy);
        warnings
    }
}

/// How `.and` and `.blend` are written.
const WHOLE_PROMPTS: &str = "it joins whole prompts, `(\"one\", \"another\")`, and must be all of \
                             the text";

/// Whether a word belongs to one of the calls that were named: it holds the call, or it is what
/// may stand at its end.
fn is_of_call(word: &str, calls: &[(&str, bool)]) -> bool {
    let named = || calls.iter().filter(|(_, named)| *named);
    let is_end = word.trim_end_matches(['.', ',']).ends_with(')') && !word.contains(['(', '"']);
    named().any(|(call, _)| word.contains(call)) || (named().count() > 0 && is_end)
}

/// How often `operator` is followed by a bracket.
fn calls(text: &str, operator: &str) -> usize {
    let places = text.match_indices(operator);
    places.filter(|(place, _)| text[place + operator.len()..].trim_start().starts_with('(')).count()
}

/// Syntax of other programs, which is not applied.
fn known_syntax(text: &str) -> Vec<Warning> {
    let mut found = Vec::new();
    for network in NETWORKS {
        if text.contains(network) {
            found.push((format!("{network}…>"), "a network of A1111; `--syntax a1111` reads it"));
        }
    }
    for word in ["AND", "BREAK"] {
        if text.split_whitespace().any(|own| own.trim_matches(',') == word) {
            found.push((word.to_owned(), "A1111's; `--syntax a1111` reads it"));
        }
    }
    if has_colon_weight(text) {
        found.push((
            "(…:1.3)".to_owned(),
            "A1111's weight; write `(…)1.3`, or take `--syntax a1111`",
        ));
    }
    if text.contains("embedding:") {
        found.push(("embedding:…".to_owned(), "ComfyUI's; `--syntax comfy` reads it"));
    }
    if encloses(text, '[', ']', None) {
        found.push((
            "[…]".to_owned(),
            "A1111's lower weight or schedule; `--syntax a1111` reads it",
        ));
    }
    if encloses(text, '{', '}', Some('|')) {
        found.push((LIST.to_owned(), "a list of words; `--dynamic` draws from it"));
    }
    found.into_iter().map(|(found, meaning)| Warning::KeptAsText { found, meaning }).collect()
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

/// Whether `open` is followed by `close`, with `between` in between if that is asked for, and
/// neither with a backslash.
fn encloses(text: &str, open: char, close: char, between: Option<char>) -> bool {
    let bare = |&(place, _): &(usize, &str)| !text[..place].ends_with('\\');
    let Some((start, _)) = text.match_indices(open).find(bare) else { return false };
    let Some((end, _)) = text.rmatch_indices(close).find(bare) else { return false };
    start < end && between.is_none_or(|between| text[start..end].contains(between))
}
