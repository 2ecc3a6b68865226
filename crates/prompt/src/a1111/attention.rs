//! Emphasis: `(x)`, `(x:1.3)`, `[x]`, escapes and `BREAK` to weighted fragments.

use super::weights::Weights;
use crate::prompt::{Fragment, WEIGHT_LIMIT};
use crate::python::{find_words, float, is_space};
use crate::warning::{MOST_WARNINGS, Warning, excerpt};

/// The text of a fragment that ends a chunk, if its weight is [`BREAK_WEIGHT`].
pub(super) const BREAK: &str = "BREAK";
/// See [`BREAK`].
pub(super) const BREAK_WEIGHT: f64 = -1.0;

const ROUND: f64 = 1.1;
const SQUARE: f64 = 1.0 / 1.1;

/// The fragments of `text`, one at least.
pub(crate) fn parse(text: &str) -> (Vec<Fragment>, Vec<Warning>) {
    let mut reader = Reader { text, ..Reader::default() };
    reader.read();
    reader.finish()
}

#[derive(Default)]
struct Reader<'a> {
    text: &'a str,
    at: usize,
    pieces: Vec<&'a str>,
    weights: Weights,
    /// Open brackets: their place in the text and the piece that comes next.
    round: Vec<(usize, usize)>,
    square: Vec<(usize, usize)>,
    warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    fn read(&mut self) {
        while let Some(&byte) = self.text.as_bytes().get(self.at) {
            let place = self.at;
            self.at += 1;
            match byte {
                b'\\' => self.escape(),
                b'(' => self.round.push((place, self.pieces.len())),
                b'[' => self.square.push((place, self.pieces.len())),
                b')' => match self.round.pop() {
                    Some((_, piece)) => self.multiply(piece, ROUND),
                    None => self.unopened(place),
                },
                b']' => match self.square.pop() {
                    Some((_, piece)) => self.multiply(piece, SQUARE),
                    None => self.unopened(place),
                },
                b':' => self.colon(place),
                _ => self.run(place),
            }
        }
    }

    /// A backslash is dropped, and keeps a bracket or a backslash after it as text.
    fn escape(&mut self) {
        let escaped =
            matches!(self.text.as_bytes().get(self.at), Some(b'\\' | b'(' | b')' | b'[' | b']'));
        let end = self.at + usize::from(escaped);
        self.piece(&self.text[self.at..end], 1.0);
        self.at = end;
    }

    /// `:1.3)` closes a bracket; a colon without it is text.
    fn colon(&mut self, place: usize) {
        let after = self.text[self.at..].trim_start_matches(is_space);
        let digits = after.strip_prefix(['+', '-']).unwrap_or(after);
        let rest = digits.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
        let closed = rest.trim_start_matches(is_space).strip_prefix(')');
        let (Some(closed), true) = (closed, rest.len() < digits.len()) else {
            return self.piece(":", 1.0);
        };
        let end = self.text.len() - closed.len();
        let number = &after[..after.len() - rest.len()];
        if self.round.is_empty() {
            self.piece(&self.text[place..end], 1.0);
            self.warn_unopened(end - 1);
            self.at = end;
        } else if let Some(weight) = float(number) {
            self.at = end;
            if let Some((_, piece)) = self.round.pop() {
                // Finite, so that zero times it is zero.
                self.multiply(piece, weight.clamp(f64::MIN, f64::MAX));
            }
        } else {
            // A1111 stops with an error here.
            let found = excerpt(&self.text[place..end]);
            self.warn(Warning::Unread { found, reason: "the weight is no number" });
            self.piece(":", 1.0);
        }
    }

    /// Text up to the next sign, cut at every `BREAK`.
    fn run(&mut self, start: usize) {
        let signs = |c: char| matches!(c, '\\' | '(' | ')' | '[' | ']' | ':');
        let end = self.text[start..].find(signs).map_or(self.text.len(), |length| start + length);
        let run = &self.text[start..end];
        self.at = end;
        let mut from = 0;
        for place in find_words(run, BREAK) {
            self.piece(run[from..place].trim_end_matches(is_space), 1.0);
            self.piece(BREAK, BREAK_WEIGHT);
            if let Some(open) = [self.round.last(), self.square.last()].into_iter().flatten().max()
            {
                let found = excerpt(&self.text[open.0..end]);
                self.warn(Warning::Unread {
                    found,
                    reason: "`BREAK` works outside of brackets alone",
                });
            }
            let after = &run[place + BREAK.len()..];
            from = run.len() - after.trim_start_matches(is_space).len();
        }
        self.piece(&run[from..], 1.0);
    }

    fn unopened(&mut self, place: usize) {
        self.piece(&self.text[place..=place], 1.0);
        self.warn_unopened(place);
    }

    fn warn_unopened(&mut self, place: usize) {
        let before = self.text[..place].char_indices().rev().take(20).last();
        self.warn(Warning::Unbalanced {
            found: self.text[before.map_or(place, |(start, _)| start)..=place].to_owned(),
            effect: "closes no bracket and stays text",
        });
    }

    fn piece(&mut self, text: &'a str, weight: f64) {
        self.pieces.push(text);
        self.weights.push(weight);
    }

    fn multiply(&mut self, from: usize, factor: f64) {
        self.weights.multiply(from, factor);
    }

    fn warn(&mut self, warning: Warning) {
        if self.warnings.len() < MOST_WARNINGS {
            self.warnings.push(warning);
        }
    }

    fn finish(mut self) -> (Vec<Fragment>, Vec<Warning>) {
        for (open, factor) in
            [(std::mem::take(&mut self.round), ROUND), (std::mem::take(&mut self.square), SQUARE)]
        {
            for (place, piece) in open {
                self.warn(Warning::Unbalanced {
                    found: excerpt(&self.text[place..]),
                    effect: "opens a bracket that nothing closes, so it weights all the rest",
                });
                self.multiply(piece, factor);
            }
        }
        let mut fragments: Vec<Fragment> = Vec::new();
        let weights = self.weights.finish();
        for (piece, weight) in self.pieces.iter().zip(weights) {
            match fragments.last_mut() {
                #[expect(clippy::float_cmp, reason = "A1111 joins exactly equal weights")]
                Some(last) if last.weight == weight => last.text.push_str(piece),
                _ => fragments.push(Fragment { text: (*piece).to_owned(), weight }),
            }
        }
        for fragment in &mut fragments {
            if fragment.weight.abs() > WEIGHT_LIMIT {
                fragment.weight = fragment.weight.clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT);
                let text = excerpt(&fragment.text);
                if self.warnings.len() < MOST_WARNINGS {
                    self.warnings.push(Warning::WeightLimited { text });
                }
            }
        }
        if fragments.is_empty() {
            fragments.push(Fragment { text: String::new(), weight: 1.0 });
        }
        (fragments, self.warnings)
    }
}
