//! Fragments back to compel's syntax.

use std::fmt::Write as _;

use crate::prompt::Fragment;

/// Longest row of signs to print; a number is easier to read than more.
const MOST_SIGNS: usize = 4;

/// Text that parses to `fragments`, unless they hold text that has no escape.
pub(crate) fn print(fragments: &[Fragment]) -> String {
    let mut text = String::new();
    for fragment in fragments {
        if !text.is_empty() {
            text.push(' ');
        }
        push_fragment(fragment, &mut text);
    }
    text
}

#[expect(clippy::float_cmp, reason = "only exact weights have a short form")]
fn push_fragment(fragment: &Fragment, text: &mut String) {
    if fragment.weight == 1.0 {
        push_escaped(&fragment.text, text);
        return;
    }
    let bare = fragment.text.chars().all(char::is_alphanumeric) && !fragment.text.is_empty();
    let signs = (1..=MOST_SIGNS).find_map(|count| {
        let power = count as f64;
        let exact = |base: f64| base.powf(power) == fragment.weight;
        exact(1.1).then(|| "+".repeat(count)).or_else(|| exact(0.9).then(|| "-".repeat(count)))
    });
    let brackets = !bare || signs.is_none();
    if brackets {
        text.push('(');
    }
    if fragment.text.is_empty() {
        text.push_str("\"\"");
    }
    push_escaped(&fragment.text, text);
    if brackets {
        text.push(')');
    }
    match signs {
        Some(signs) => text.push_str(&signs),
        None => {
            // The shortest decimal that reads as the same number; never an exponent.
            let _ = write!(text, "{}", fragment.weight);
        }
    }
}

fn push_escaped(fragment: &str, text: &mut String) {
    for character in fragment.chars() {
        if matches!(character, '(' | ')' | '"') {
            text.push('\\');
        }
        text.push(character);
    }
}
