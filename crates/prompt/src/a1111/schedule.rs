//! Prompts that change while the picture is made: `[cat:dog:0.5]`, `[cat|dog]`.
//!
//! The grammar is that of A1111 1.10.1, `modules/prompt_parser.py`:
//!
//! ```text
//! start      = { prompt | "(" | ")" | "[" | "]" | ":" }
//! prompt     = { emphasized | scheduled | alternate | plain }
//! emphasized = "(" prompt [ ":" prompt ] ")" | "[" prompt "]"
//! scheduled  = "[" [ prompt ":" ] prompt ":" number "]"          white space around the number
//! alternate  = "[" prompt { "|" [ prompt ] } "]"                 one `|` at least
//! plain      = characters except \ [ ] ( ) : | but escaped ones
//! ```
//!
//! It is ambiguous: a bracket may always be a character. A1111 then takes one of the readings,
//! in broken prompts by the order of a set, which changes from run to run. Here whatever can
//! be a structure is one. A `|` outside of an alternate, or a backslash at the end of a line,
//! fits nowhere, and then the whole prompt has no schedule.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::python::is_space;
use crate::script::{Steps, SwitchTime};
use crate::warning::{MOST_WARNINGS, Warning, excerpt};

/// The texts of `text` in the order of steps, each with the last step that it is for.
pub(crate) fn read(text: &str, steps: Steps) -> (Vec<(usize, String)>, Vec<Warning>) {
    let mut reader = Reader { text, items: Vec::new(), open: Vec::new(), warnings: Vec::new() };
    let understood = reader.read();
    let Reader { items, mut warnings, .. } = reader;
    let mut ends = BTreeSet::from([steps.count]);
    for item in &items {
        match &item.kind {
            Kind::Scheduled { number, .. } => {
                let switch = steps.switch(number);
                if (1..steps.count).contains(&switch) {
                    ends.insert(switch);
                } else if understood && warnings.len() < MOST_WARNINGS {
                    let found = excerpt(&text[item.place..=items[item.end].place]);
                    warnings.push(Warning::NeverSwitches { found, steps: steps.count });
                }
            }
            Kind::Alternate { .. } => ends.extend(1..=steps.count),
            Kind::Text => {}
        }
    }
    if !understood {
        if items.iter().any(|item| !matches!(item.kind, Kind::Text)) {
            let reason = "a `|` outside of `[a|b]`, or a backslash at the end of a line, stops all schedules";
            warnings.push(Warning::Unread { found: excerpt(text), reason });
        }
        return (vec![(steps.count, text.to_owned())], warnings);
    }
    let at = |end| (end, text_at(end, text, &items, steps));
    (ends.into_iter().map(at).collect(), warnings)
}

/// A piece of the prompt. Structures stand at their opening bracket.
struct Item<'a> {
    /// Where its text starts; it ends where the next item starts.
    place: usize,
    kind: Kind<'a>,
    /// For structures: the item of the closing bracket.
    end: usize,
}

enum Kind<'a> {
    Text,
    /// Ranges of items before and after the switch.
    Scheduled {
        before: Range<usize>,
        after: Range<usize>,
        number: &'a str,
    },
    /// Ranges of items that take turns.
    Alternate {
        turns: Vec<Range<usize>>,
    },
}

/// An open bracket.
struct Open {
    round: bool,
    item: usize,
    /// Items of the colons and bars directly inside.
    colons: Vec<usize>,
    bars: Vec<usize>,
}

struct Reader<'a> {
    text: &'a str,
    items: Vec<Item<'a>>,
    open: Vec<Open>,
    warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    /// Whether the grammar takes the text.
    fn read(&mut self) -> bool {
        let mut at = 0;
        let mut free_bars = 0;
        while let Some(&byte) = self.text.as_bytes().get(at) {
            let item = self.items.len();
            self.items.push(Item { place: at, kind: Kind::Text, end: item });
            at += 1;
            match byte {
                b'(' | b'[' => {
                    let round = byte == b'(';
                    self.open.push(Open { round, item, colons: Vec::new(), bars: Vec::new() });
                }
                b')' | b']' => free_bars -= self.close(item, byte == b')'),
                b':' => self.open.last_mut().into_iter().for_each(|open| open.colons.push(item)),
                b'|' => {
                    free_bars += 1;
                    self.open.last_mut().into_iter().for_each(|open| open.bars.push(item));
                }
                _ => match self.plain(at - 1) {
                    Some(end) => at = end,
                    None => return false,
                },
            }
        }
        self.items.push(Item { place: at, kind: Kind::Text, end: 0 });
        free_bars == 0
    }

    /// The end of the text without signs that starts at `at`.
    fn plain(&self, mut at: usize) -> Option<usize> {
        let sign = |c: char| matches!(c, '\\' | '(' | ')' | '[' | ']' | ':' | '|');
        while let Some(length) = self.text[at..].find(sign) {
            at += length;
            if self.text.as_bytes()[at] != b'\\' {
                return Some(at);
            }
            let escaped = self.text[at + 1..].chars().next().filter(|&c| c != '\n')?;
            at += 1 + escaped.len_utf8();
        }
        Some(self.text.len())
    }

    /// Makes a structure of the innermost open bracket, and returns how many bars it takes.
    ///
    /// A bracket that cannot be one is a character. No structure holds such a character, so
    /// every bracket around it is a character too.
    fn close(&mut self, end: usize, round: bool) -> usize {
        let Some(open) = self.open.pop_if(|open| open.round == round) else {
            self.open.clear();
            return 0;
        };
        let start = open.item;
        let kind = match (round, &*open.colons, &*open.bars) {
            (true, [] | [_], []) | (false, [], []) => return 0,
            (false, [], bars) => {
                let starts = std::iter::once(&start).chain(bars);
                let ends = bars.iter().chain([&end]);
                let turns = starts.zip(ends).map(|(&start, &end)| start + 1..end).collect();
                Some(Kind::Alternate { turns })
            }
            (false, &[ref before @ .., colon], []) if before.len() < 2 => {
                let number = self.number(colon, end);
                let before = before.first().map_or(start..start, |&first| start..first);
                number.map(|number| Kind::Scheduled {
                    // Item `start` and the first colon are themselves no part of either.
                    after: before.end + 1..colon,
                    before: (before.start + 1).min(before.end)..before.end,
                    number,
                })
            }
            _ => None,
        };
        if let Some(kind) = kind {
            self.items[start].kind = kind;
            self.items[start].end = end;
            return open.bars.len();
        }
        self.open.clear();
        if !round && self.warnings.len() < MOST_WARNINGS {
            let found = excerpt(&self.text[self.items[start].place..=self.items[end].place]);
            let reason = "it is no schedule like `[a:b:0.5]` and no alternation like `[a|b]`";
            self.warnings.push(Warning::Unread { found, reason });
        }
        0
    }

    /// What stands between `colon` and `end`, if it is a number.
    fn number(&self, colon: usize, end: usize) -> Option<&'a str> {
        if end > colon + 2 {
            return None;
        }
        let text: &'a str = self.text;
        let number =
            text[self.items[colon].place + 1..self.items[end].place].trim_matches(is_space);
        is_number(number).then_some(number)
    }
}

/// `SIGNED_NUMBER` of lark's `common` grammar.
fn is_number(text: &str) -> bool {
    let unsigned = |text: &'_ str| text.strip_prefix(['+', '-']).unwrap_or(text).to_owned();
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let text = unsigned(text);
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, Some(unsigned(exponent))),
        None => (text.as_str(), None),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(&exponent))
}

impl Steps {
    /// The last step of the text before the switch: 0 where it is over before the first step,
    /// and the last step where it never comes.
    #[expect(clippy::cast_sign_loss, reason = "what is negative is 0")]
    fn switch(self, number: &str) -> usize {
        // The grammar lets only numbers through; one too large for an f64 is infinite.
        let value: f64 = number.parse().unwrap_or(f64::INFINITY);
        let share = match self.switch_time {
            SwitchTime::Current => number.contains('.'),
            SwitchTime::Old => value < 1.0,
        };
        let step = if share { value * self.count as f64 } else { value };
        (step as usize).min(self.count)
    }
}

/// The text at `step`, with a stack of its own: nesting costs memory, never the call stack.
fn text_at(step: usize, text: &str, items: &[Item], steps: Steps) -> String {
    let mut result = String::with_capacity(text.len());
    let mut ranges: Vec<_> = std::iter::once(0..items.len() - 1).collect();
    while let Some(range) = ranges.last_mut() {
        let Some(at) = range.next() else {
            ranges.pop();
            continue;
        };
        let item = &items[at];
        let chosen = match &item.kind {
            Kind::Text => {
                result.push_str(&text[item.place..items[at + 1].place]);
                continue;
            }
            Kind::Scheduled { before, after, number } => {
                if step <= steps.switch(number) {
                    before
                } else {
                    after
                }
            }
            Kind::Alternate { turns } => &turns[(step - 1) % turns.len()],
        };
        range.start = item.end + 1;
        ranges.push(chosen.clone());
    }
    result
}
