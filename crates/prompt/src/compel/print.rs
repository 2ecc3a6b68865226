//! Fragments back to compel's syntax.

use std::fmt::Write as _;

use crate::conjunction::Part;
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

/// The same for a whole text.
pub(crate) fn print_conjunction(parts: &[Part]) -> String {
    let (operator, prompts, normalize): (_, Vec<_>, _) = match parts {
        [part] if part.blend.prompts.len() > 1 || !part.blend.normalize => {
            let blended = part.blend.prompts.iter().map(|own| (&own.prompt, own.weight));
            (".blend", blended.collect(), part.blend.normalize)
        }
        [part] if is_one(part.weight) => return print(part.blend.prompts[0].prompt.fragments()),
        parts => {
            let prompts = parts.iter().filter_map(|part| {
                part.blend.prompts.first().map(|own| (&own.prompt, part.weight))
            });
            (".and", prompts.collect(), true)
        }
    };
    let texts: Vec<_> =
        prompts.iter().map(|(own, _)| format!("\"{}\"", print(own.fragments()))).collect();
    let mut options: Vec<_> = prompts.iter().map(|(_, weight)| weight.to_string()).collect();
    if prompts.iter().all(|(_, weight)| is_one(*weight)) {
        options.clear();
    }
    if !normalize {
        options.push("no_normalize".to_owned());
    }
    format!("({}){operator}({})", texts.join(", "), options.join(", "))
}

#[expect(clippy::float_cmp, reason = "only 1 itself may be left out")]
fn is_one(weight: f64) -> bool {
    weight == 1.0
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
