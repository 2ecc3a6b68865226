//! The only place that prints: data to standard output, everything else to standard error.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};

/// One line of data for whoever reads standard output.
///
/// A reader that has gone away has seen what it wanted: that is no error.
pub(crate) fn data(line: &str) -> Result<()> {
    line_to(&mut io::stdout().lock(), line)
}

/// Like [`data`], with colours where standard output is a terminal and `NO_COLOR` does not say
/// otherwise.
pub(crate) fn styled(text: &str) -> Result<()> {
    line_to(&mut anstream::stdout().lock(), text)
}

fn line_to(stdout: &mut dyn io::Write, line: &str) -> Result<()> {
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

/// A sentence for the person in front of the terminal, who may have closed it.
pub(crate) fn note(text: &str) {
    writeln!(io::stderr().lock(), "{}", visible(text)).ok();
}

/// Marks that turn the direction of the text after them.
const TURNS: [char; 11] = [
    '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{2066}',
    '\u{2067}', '\u{2068}', '\u{2069}',
];

/// Control characters made visible: a name in a file must not steer the terminal.
pub(crate) fn visible(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if (character.is_control() && character != '\n') || TURNS.contains(&character) {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::visible;

    #[test]
    fn a_name_in_a_file_cannot_steer_the_terminal() {
        assert_eq!(visible("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(visible("a \u{1b}[31m\nb \u{9b}m é"), "a \\u{1b}[31m\nb \\u{9b}m é");
    }
}
