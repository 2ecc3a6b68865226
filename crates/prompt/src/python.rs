//! What Python's text functions take for white space, words and numbers.
//!
//! The programs whose syntax is read here are written in Python, and where a bracket, a weight
//! or a separator ends follows from its `re` and `float`.

/// What `str.strip` and `\s` take for white space.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}

/// What `\w` takes for a part of a word.
pub(crate) fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Where `word` stands in `text` between word boundaries: `\bword\b`.
pub(crate) fn find_words(text: &str, word: &'static str) -> impl Iterator<Item = usize> {
    text.match_indices(word).map(|(place, _)| place).filter(move |&place| {
        let before = text[..place].chars().next_back();
        let after = text[place + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// `float(text)`; `None` where Python raises.
pub(crate) fn float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    if !text.contains('_') {
        return text.parse().ok();
    }
    // Underscores may stand between digits alone.
    let bytes = text.as_bytes();
    let digit = |place: Option<usize>| {
        place.and_then(|place| bytes.get(place)).is_some_and(u8::is_ascii_digit)
    };
    let placed = |(place, _)| digit(usize::checked_sub(place, 1)) && digit(Some(place + 1));
    if !text.match_indices('_').all(placed) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{find_words, float};

    #[test]
    fn numbers_are_read_as_python_reads_them() {
        assert_eq!(float(" 1_000.5\n"), Some(1000.5));
        assert_eq!(float("+.5e1"), Some(5.0));
        assert_eq!(float("-Infinity"), Some(f64::NEG_INFINITY));
        for text in ["", "1__0", "_1", "1_", "1.2.3", "1,5", "0x10", "1.5)"] {
            assert_eq!(float(text), None, "{text:?}");
        }
    }

    #[test]
    fn words_are_found_between_boundaries_alone() {
        let found: Vec<_> = find_words("AND SAND AND_ (AND) ANDAND AND", "AND").collect();
        assert_eq!(found, [0, 15, 27]);
    }
}
