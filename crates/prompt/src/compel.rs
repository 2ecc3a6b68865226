//! Compel's syntax: weights, `word++`, `(some words)1.3`, `"quoted"+`, `.attend(1.2)`; swaps,
//! `cat.swap(dog)`; networks, `withLora(name, 0.5)`; and `.and()` and `.blend()`, which join
//! prompts.
//!
//! Stage 2 of the flow. The grammar is the one that compel 2.5.1 builds in `prompt_parser.py`:
//!
//! ```text
//! text      = list ( ".and(" | ".add(" ) [ options ] ")"         what follows is not read
//!           | { lora } list ".blend(" [ options ] ")" { lora }
//!           | prompt
//! list      = "(" part { "," part } ")"
//! part      = quoted | group | word | '"' prompt '"'
//! prompt    = { swap | lora | weighted | quoted | group | free-word }
//! swap      = ( quoted | group | word ) ".swap(" { piece } [ "," options ] ")"
//! weighted  = ( quoted | group | word ) ".attend(" ( "+"… | "-"… | number ) ")"
//!           | ( quoted | group ) ( "+"… | "-"… | number )      nothing between
//!           | word ( "+"… | "-"… )                             nothing between
//! piece     = lora | weighted | swap | group | quoted | word
//! group     = "(" { piece | "," | "." } ")"
//! quoted    = '"' … '"', whose content is what a group holds, without quotes
//! lora      = ( "withLora" | "useLora" ) "(" keyword [ "," number ] ")"
//! options   = option { "," option };  option = keyword "=" ( number | keyword ) | number | keyword
//! word      = characters except white space and ( ) " , . + - =, but escaped ones, and + or -
//!             with a character of a word after it
//! free-word = everything up to white space, whatever it is
//! ```
//!
//! The first alternative that fits is taken. A group that does not fit, for want of a bracket
//! or because it holds, say, ` - `, is free words; so are the groups around it. Weights
//! multiply: `+` is 1.1 and `-` is 0.9 each. No operator that joins stands in another's list.
//!
//! Neighbours of equal weight are joined with a space, as compel does: inside brackets
//! `1.5` becomes `1 . 5`. A swap's two sides are joined with nothing around them.
//!
//! What is encoded of a swap is what stood before it. Compel encodes the other side, too, but
//! only hands it out for programs that edit attention maps (`compel.py`,
//! `build_conditioning_tensor_for_prompt_object`); `CompelForSDXL` drops it.
//!
//! Where compel raises an error, this has text and a warning: at words or too many numbers among
//! the weights of `.and()` and `.blend()`, at words after a blend, at weights that sum to zero
//! (where compel has infinities). A swap inside a blend and one inside a swap, at which it
//! raises, too, are swaps here, and an empty prompt `()` in a blend is one.

mod cursor;
mod flat;
mod hints;
mod join;
mod print;
mod reader;

use flat::Flat;
use hints::Notes;
use join::{Join, Kind};
pub(crate) use print::{print, print_conjunction};
use reader::{Event, Reader};

use crate::conjunction::{Blend, Blended, LoraWeight, Part};
use crate::prompt::{Fragment, Prompt};
use crate::warning::{Warning, excerpt};

/// Above this, features overflow; compel fails or computes with infinities.
const WEIGHT_LIMIT: f64 = 1e6;

/// What a text says.
pub(crate) struct Reading {
    /// One at least.
    pub(crate) parts: Vec<Part>,
    pub(crate) loras: Vec<LoraWeight>,
}

impl Reading {
    /// Nothing but a prompt.
    pub(crate) fn one(prompt: Prompt) -> Self {
        Self { parts: vec![Part::one(prompt, 1.0)], loras: Vec::new() }
    }
}

/// What one prompt says.
pub(crate) struct ReadPrompt {
    /// One at least.
    pub(crate) fragments: Vec<Fragment>,
    /// With what was swapped in; absent without swaps.
    pub(crate) edited: Option<Vec<Fragment>>,
}

/// Reads `text` as one prompt, in which nothing is joined.
pub(crate) fn parse_prompt(text: &str) -> (ReadPrompt, Vec<Warning>) {
    let mut notes = Notes::default();
    let flat = notes.flat(free_events(&space_after_commas(text)));
    let warnings = notes.warnings(text, None, None);
    (prompt_of(flat), warnings)
}

/// Reads `text` as a whole text.
pub(crate) fn parse_conjunction(text: &str) -> (Reading, Vec<Warning>) {
    let spaced = space_after_commas(text);
    let mut notes = Notes::default();
    let refusal = match join::read(&spaced) {
        Some(Ok(join)) => {
            let kind = join.kind;
            let rest = (!join.rest.is_empty()).then(|| excerpt(join.rest));
            let parts = join_parts(join, &mut notes);
            let mut warnings = notes.warnings(text, Some(kind), None);
            warnings.extend(rest.map(Warning::after_and));
            return (Reading { parts, loras: notes.loras }, warnings);
        }
        Some(Err(refusal)) => Some(refusal),
        None => None,
    };
    let flat = notes.flat(free_events(&spaced));
    let prompt = Prompt::new(text, prompt_of(flat));
    let warnings = notes.warnings(text, None, refusal.as_ref());
    (Reading { loras: notes.loras, ..Reading::one(prompt) }, warnings)
}

/// The parts that `.and()` puts one after the other, or the one that `.blend()` mixes.
fn join_parts(join: Join<'_>, notes: &mut Notes) -> Vec<Part> {
    notes.flat(join.before);
    let mut prompts = Vec::new();
    for (listed, weight) in join.prompts.into_iter().zip(join.weights) {
        let flat = notes.flat(listed.events);
        // Compel leaves prompts without any text, `()`, out of a conjunction.
        if join.kind != Kind::And || !flat.fragments.is_empty() {
            let weight = notes.limited(weight, listed.source);
            prompts.push((Prompt::new(listed.source, prompt_of(flat)), weight));
        }
    }
    notes.flat(join.after);
    match join.kind {
        Kind::And if prompts.is_empty() => {
            Reading::one(Prompt::new("", prompt_of(Flat::default()))).parts
        }
        Kind::And => {
            prompts.into_iter().map(|(prompt, weight)| Part::one(prompt, weight)).collect()
        }
        Kind::Blend { normalize } => {
            let blended = |(prompt, weight)| Blended { prompt, weight };
            let prompts = prompts.into_iter().map(blended).collect();
            vec![Part { blend: Blend { prompts, normalize }, weight: 1.0 }]
        }
    }
}

fn free_events(spaced: &str) -> Vec<Event> {
    if spaced.trim_matches(is_python_space).is_empty() {
        Vec::new()
    } else {
        Reader::new(spaced).read()
    }
}

fn prompt_of(flat: Flat) -> ReadPrompt {
    let empty = |fragments: Vec<Fragment>| {
        if fragments.is_empty() {
            vec![Fragment { text: String::new(), weight: 1.0 }]
        } else {
            fragments
        }
    };
    ReadPrompt { fragments: empty(flat.fragments), edited: flat.edited.map(empty) }
}

/// A space after every comma that lacks one; a comma right after a comma counts as its
/// neighbour's other side. Also tabs of other kinds to spaces: compel refuses them.
fn space_after_commas(text: &str) -> String {
    let mut result = String::with_capacity(text.len() + text.len() / 16);
    let mut characters = text.chars().map(|c| if matches!(c, '\x0b' | '\x0c') { ' ' } else { c });
    while let Some(character) = characters.next() {
        result.push(character);
        if character == ','
            && let Some(next) = characters.next()
        {
            if !is_python_space(next) {
                result.push(' ');
            }
            result.push(next);
        }
    }
    result
}

/// What Python's `str.strip` and `\s` take for white space.
fn is_python_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}
