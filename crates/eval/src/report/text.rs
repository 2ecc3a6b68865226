//! Text and numbers for the page.

use std::fmt::Write as _;

/// Text that cannot become markup.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // Control characters are no part of HTML.
            _ if character.is_control() => {
                write!(safe, "\\u{{{:x}}}", u32::from(character))
                    .expect("a String takes every write");
            }
            _ => safe.push(character),
        }
    }
    safe
}

/// Four digits that count.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    if value.abs() < 1e-4 {
        return minus(&format!("{value:.3e}"));
    }
    let before = value.abs().log10().floor() as i32 + 1;
    let decimals = (4 - before).clamp(0, 9) as usize;
    minus(&format!("{value:.decimals$}"))
}

/// With its sign, whichever it is.
pub(super) fn difference(value: f64) -> String {
    if value > 0.0 { format!("+{}", number(value)) } else { number(value) }
}

/// A probability: `<0.001` rather than digits that nobody can trust.
pub(super) fn probability(p: f64) -> String {
    if p < 0.001 { "&lt;0.001".to_owned() } else { format!("{p:.3}") }
}

/// Whole percent.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A name as people write it.
pub(super) fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// `1 seed`, `2 seeds`.
pub(super) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn minus(text: &str) -> String {
    text.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_cannot_become_markup() {
        assert_eq!(
            escape("<script>\"a\" & 'b'</script>\u{1b}"),
            "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;\\u{1b}"
        );
    }

    #[test]
    fn numbers_keep_four_digits() {
        let texts = [0.0, 1234.5, 12.345, 0.001_234_56, -0.5, 1e-12].map(number);
        assert_eq!(texts, ["0", "1234", "12.35", "0.001235", "−0.5000", "1.000e−12"]);
        assert_eq!((difference(2.0), difference(-2.0)), ("+2.000".into(), "−2.000".into()));
        assert_eq!((probability(0.0004), probability(0.04)), ("&lt;0.001".into(), "0.040".into()));
    }
}
