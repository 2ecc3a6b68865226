//! `AND`: prompts with weights that are guided towards together.

use crate::python::{find_words, is_space};
use crate::warning::{Warning, excerpt};

/// The parts of `text` between the words `AND`, each with its weight.
///
/// The weight is a number after the last colon, `a cat :1.2 AND a dog :0.8`, else 1.
pub(crate) fn split(text: &str) -> (Vec<(&str, f64)>, Vec<Warning>) {
    let mut parts = Vec::new();
    let mut warnings = Vec::new();
    let mut from = 0;
    for place in find_words(text, "AND") {
        parts.push(&text[from..place]);
        from = place + "AND".len();
    }
    parts.push(&text[from..]);
    let several = parts.len() > 1;
    let parts = parts.into_iter().map(|part| {
        let (words, weight) = weight_at_end(part);
        let end = part[words.len()..].trim_matches(is_space);
        match weight {
            Some(_) if !several => warnings.push(Warning::WeightOfAll { found: excerpt(end) }),
            None if several => warnings.extend(unreadable(part)),
            _ => {}
        }
        (words, weight.unwrap_or(1.0))
    });
    (parts.collect(), warnings)
}

/// `^((?:\s|.)*?)(?:\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+)))?\s*$`.
fn weight_at_end(part: &str) -> (&str, Option<f64>) {
    let part = part.trim_end_matches(is_space);
    let found = part.rsplit_once(':').and_then(|(words, number)| {
        Some((words.trim_end_matches(is_space), number_of(number.trim_start_matches(is_space))?))
    });
    found.map_or((part, None), |(words, weight)| (words, Some(weight)))
}

/// Digits with a sign and a point at most.
fn number_of(text: &str) -> Option<f64> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|weight: &f64| plain && weight.is_finite())
}

fn unreadable(part: &str) -> Option<Warning> {
    let (_, number) = part.rsplit_once(':')?;
    let number = number.trim_matches(is_space);
    let signs =
        |c: char| c.is_ascii_digit() || matches!(c, '.' | ',' | '+' | '-' | 'e' | 'E' | '%');
    let looks = number.contains(|c: char| c.is_ascii_digit()) && number.chars().all(signs);
    let reason = "it is no weight for `AND`, which is a number like `:1.2`";
    looks.then(|| Warning::Unread { found: format!(":{}", excerpt(number)), reason })
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn weights_of_parts_are_numbers_at_their_ends() {
        let (parts, warnings) = split("a cat :1.2 AND a dog: -.5AND b AND c:1. \nAND (d:2) AND");
        let expected =
            [("a cat", 1.2), (" a dog: -.5AND b", 1.0), (" c", 1.0), (" (d:2)", 1.0), ("", 1.0)];
        assert_eq!((parts, warnings.len()), (expected.to_vec(), 0));
    }

    #[test]
    fn a_weight_that_cannot_be_read_is_named() {
        let (parts, warnings) = split("a :1,2 AND b :0.5.");
        assert_eq!(parts, [("a :1,2", 1.0), (" b :0.5.", 1.0)]);
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].to_string().contains("`:1,2`"));
    }

    #[test]
    fn a_time_of_day_at_the_end_is_a_weight_and_said() {
        let (parts, warnings) = split("a clock at 10:30");
        assert_eq!((parts, warnings.len()), (vec![("a clock at 10", 30.0)], 1));
    }
}
