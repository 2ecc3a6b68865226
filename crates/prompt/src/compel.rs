//! Compel's weight syntax: `word++`, `word-`, `(some words)1.3`, `"quoted"+`, `.attend(1.2)`.
//!
//! Stage 2 of the flow. The grammar is the one that compel 2.5.1 builds in `prompt_parser.py`,
//! without its conjunctions, blends, swaps and networks, which stay text here:
//!
//! ```text
//! prompt    = { weighted | quoted | group | free-word }
//! weighted  = ( quoted | group | word ) ".attend(" ( "+"… | "-"… | number ) ")"
//!           | ( quoted | group ) ( "+"… | "-"… | number )      nothing between
//!           | word ( "+"… | "-"… )                             nothing between
//! group     = "(" { weighted | quoted | group | word | "," | "." } ")"
//! quoted    = '"' … '"', whose content is what a group holds, without quotes
//! word      = characters except white space and ( ) " , . + - =, but escaped ones, and + or -
//!             with a character of a word after it
//! free-word = everything up to white space, whatever it is
//! ```
//!
//! The first alternative that fits is taken. A group that does not fit, for want of a bracket
//! or because it holds, say, ` - `, is free words; so are the groups around it. Weights
//! multiply: `+` is 1.1 and `-` is 0.9 each.
//!
//! Neighbours of equal weight are joined with a space, as compel does: inside brackets
//! `1.5` becomes `1 . 5`.

mod hints;
mod print;
mod reader;

pub(crate) use print::print;
use reader::{Event, Reader};

use crate::prompt::{Fragment, WEIGHT_LIMIT};
use crate::python::is_space as is_python_space;
use crate::warning::{MOST_WARNINGS, Warning, excerpt};

/// The fragments of `text`, one at least, and what may surprise in them.
pub(crate) fn parse(text: &str) -> (Vec<Fragment>, Vec<Warning>) {
    let spaced = space_after_commas(text);
    let events = if spaced.trim_matches(is_python_space).is_empty() {
        Vec::new()
    } else {
        Reader::new(&spaced).read()
    };
    let mut warnings = hints::known_syntax(text);
    warnings.extend(hints::not_applied(&events));
    let mut fragments = fuse(&flatten(events));
    let too_heavy = fragments.iter_mut().filter(|fragment| fragment.weight > WEIGHT_LIMIT);
    for (n, fragment) in too_heavy.enumerate() {
        fragment.weight = WEIGHT_LIMIT;
        if n < MOST_WARNINGS {
            warnings.push(Warning::WeightLimited { text: excerpt(&fragment.text) });
        }
    }
    if fragments.is_empty() {
        fragments.push(Fragment { text: String::new(), weight: 1.0 });
    }
    (fragments, warnings)
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

/// Every text with the product of the weights around it, outermost first.
fn flatten(events: Vec<Event>) -> Vec<(String, f64)> {
    let mut texts = Vec::new();
    let mut scales = vec![1.0_f64];
    for event in events {
        let scale = scales.last().copied().unwrap_or(1.0);
        match event {
            Event::Open(weight) => scales.push((scale * weight).min(WEIGHT_LIMIT * 2.0)),
            Event::Close => {
                scales.pop();
            }
            Event::Text(text) | Event::FreeWord(text) => texts.push((text, scale)),
        }
    }
    texts
}

/// Joins neighbours of equal weight and resolves `\(`, `\)` and `\"`.
fn fuse(texts: &[(String, f64)]) -> Vec<Fragment> {
    let mut fragments = Vec::new();
    #[expect(clippy::float_cmp, reason = "compel joins exactly equal weights")]
    for run in texts.chunk_by(|left, right| left.1 == right.1) {
        let mut text = String::new();
        for (n, (piece, _)) in run.iter().enumerate() {
            if n > 0 {
                text.push(' ');
            }
            // Compel resolves escapes whenever it makes a fragment: when it parses, when it
            // flattens, and each time it joins one more piece to the run.
            let joins = if n == 0 { run.len() - 1 } else { run.len() - n };
            push_unescaped(piece, 2 + joins, &mut text);
        }
        fragments.push(Fragment { text, weight: run[0].1 });
    }
    fragments
}

/// Appends `piece` less up to `times` backslashes before each bracket and quote.
fn push_unescaped(piece: &str, times: usize, text: &mut String) {
    let mut backslashes = 0;
    for character in piece.chars() {
        match character {
            '\\' => backslashes += 1,
            '(' | ')' | '"' => {
                text.truncate(text.len() - times.min(backslashes));
                backslashes = 0;
            }
            _ => backslashes = 0,
        }
        text.push(character);
    }
}
