//! Reads compel's syntax into a flat list of events.
//!
//! One pass with a stack of its own, so nesting costs memory, never the call stack. Each
//! character is read a bounded number of times: when a group fails, all groups that were open
//! fail with it and are remembered.

use std::collections::HashSet;

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    /// What follows, up to its `Close`, has this weight.
    Open(f64),
    /// End of the innermost `Open`.
    Close,
    /// Text that was part of the syntax; escapes are still in it.
    Text(String),
    /// Text that no rule took.
    FreeWord(String),
}

/// Reads a whole prompt.
pub(super) struct Reader<'a> {
    cursor: Cursor<'a>,
    events: Vec<Event>,
    /// Places of brackets that open no group.
    failed: HashSet<usize>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { cursor: Cursor { text, at: 0 }, events: Vec::new(), failed: HashSet::new() }
    }

    pub(super) fn read(mut self) -> Vec<Event> {
        loop {
            self.cursor.skip_space();
            let start = self.cursor;
            let events = self.events.len();
            let read = match self.cursor.peek() {
                None => return self.events,
                Some(b'(') => self.group(),
                Some(b'"') => self.quoted(),
                // A word by itself is left to the free words, which take more.
                Some(_) => self.word() && matches!(self.events.last(), Some(Event::Close)),
            };
            if !read {
                self.cursor = start;
                self.events.truncate(events);
                let word = self.cursor.take_while(|byte| !is_space(byte));
                self.events.push(Event::FreeWord(word.to_owned()));
            }
        }
    }

    /// A bracketed group with what it holds and the weight after it.
    fn group(&mut self) -> bool {
        let mut open: Vec<(usize, usize)> = Vec::new();
        loop {
            self.cursor.skip_space();
            let place = self.cursor.at;
            let read = match self.cursor.peek() {
                Some(b'(') => {
                    self.cursor.at += 1;
                    open.push((place, self.events.len()));
                    self.events.push(Event::Open(1.0));
                    !self.failed.contains(&place)
                }
                Some(b')') => {
                    self.cursor.at += 1;
                    let weight = self.cursor.weight_of_group();
                    if let Some((_, event)) = open.pop() {
                        self.close(event, weight);
                    }
                    true
                }
                Some(b'"') => self.quoted(),
                Some(_) => self.separator() || self.word(),
                None => false,
            };
            if !read {
                self.failed.extend(open.iter().map(|&(place, _)| place));
                return false;
            }
            if open.is_empty() {
                return true;
            }
        }
    }

    /// A quoted text, its content, and the weight after it.
    fn quoted(&mut self) -> bool {
        let Some(content) = self.cursor.quotation() else { return false };
        let event = self.events.len();
        self.events.push(Event::Open(1.0));
        if content.trim_matches(crate::python::is_space).is_empty() {
            self.events.push(Event::Text(String::new()));
        } else {
            // Quotes inside can only be text.
            let content = content.replace('"', "\\\"");
            let mut inner = Reader::new(&content);
            if !inner.content() {
                return false;
            }
            self.events.append(&mut inner.events);
        }
        let weight = self.cursor.weight_of_group();
        self.close(event, weight);
        true
    }

    /// What a group may hold, up to the end of the text. There are no quotations in it.
    fn content(&mut self) -> bool {
        loop {
            self.cursor.skip_space();
            let read = match self.cursor.peek() {
                None => return true,
                Some(b'(') => self.group(),
                Some(_) => self.separator() || self.word(),
            };
            if !read {
                return false;
            }
        }
    }

    fn separator(&mut self) -> bool {
        let separator = match self.cursor.peek() {
            Some(b',') => ",",
            Some(b'.') => ".",
            _ => return false,
        };
        self.cursor.at += 1;
        self.events.push(Event::Text(separator.to_owned()));
        true
    }

    /// A word and the weight after it.
    fn word(&mut self) -> bool {
        let word = self.cursor.word();
        if word.is_empty() {
            return false;
        }
        match self.cursor.weight_of_word() {
            Some(weight) => {
                self.events.extend([
                    Event::Open(weight),
                    Event::Text(word.to_owned()),
                    Event::Close,
                ]);
            }
            None => self.events.push(Event::Text(word.to_owned())),
        }
        true
    }

    fn close(&mut self, open: usize, weight: Option<f64>) {
        self.events[open] = Event::Open(weight.unwrap_or(1.0));
        self.events.push(Event::Close);
    }
}

/// A place in a text. All syntax is ASCII, so places between bytes of it are safe to cut at.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.byte(self.at)
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn skip_space(&mut self) {
        self.take_while(is_space);
    }

    fn literal(&mut self, literal: &str) -> Option<()> {
        self.text[self.at..].starts_with(literal).then(|| self.at += literal.len())
    }

    /// A word, which may be empty.
    fn word(&mut self) -> &'a str {
        let start = self.at;
        while let Some(byte) = self.peek() {
            let next = self.byte(self.at + 1);
            self.at += match byte {
                b'\\' if next.is_some_and(is_syntax) => 2,
                b'+' | b'-' if next.is_some_and(|next| !is_space(next) && !is_syntax(next)) => 1,
                // The last two are no word characters to compel and white space nowhere else.
                _ if is_space(byte) || is_syntax(byte) || matches!(byte, b'\x0b' | b'\x0c') => {
                    break;
                }
                _ => 1,
            };
        }
        &self.text[start..self.at]
    }

    /// A quotation, less its quotes and escapes.
    ///
    /// It ends before the end of the line, at the first quote without a backslash; where there
    /// is none, at the last one with.
    fn quotation(&mut self) -> Option<String> {
        let start = self.at + 1;
        let rest = &self.text[start..];
        let mut end = None;
        let mut before = b'"';
        for (place, byte) in rest.bytes().enumerate() {
            match byte {
                b'\n' | b'\r' => break,
                b'"' => end = Some(place),
                _ => {}
            }
            if byte == b'"' && before != b'\\' {
                break;
            }
            before = byte;
        }
        let end = end?;
        self.at = start + end + 1;
        Some(resolve_escapes(&rest[..end]))
    }

    /// The weight after a bracket or a quote that closes.
    fn weight_of_group(&mut self) -> Option<f64> {
        self.attend().or_else(|| self.weight())
    }

    /// The weight after a word, which cannot be a number.
    fn weight_of_word(&mut self) -> Option<f64> {
        self.attend().or_else(|| self.signs())
    }

    /// `.attend(1.2)`, with white space between its parts.
    fn attend(&mut self) -> Option<f64> {
        let mut cursor = *self;
        cursor.skip_space();
        cursor.literal(".attend")?;
        cursor.skip_space();
        cursor.literal("(")?;
        cursor.skip_space();
        let weight = cursor.weight()?;
        cursor.skip_space();
        cursor.literal(")")?;
        *self = cursor;
        Some(weight)
    }

    fn weight(&mut self) -> Option<f64> {
        self.signs().or_else(|| self.number())
    }

    fn signs(&mut self) -> Option<f64> {
        let (sign, base) = match self.peek()? {
            b'+' => (b'+', 1.1_f64),
            b'-' => (b'-', 0.9),
            _ => return None,
        };
        let signs = self.take_while(|byte| byte == sign);
        Some(base.powf(signs.len() as f64))
    }

    fn number(&mut self) -> Option<f64> {
        let digits = |byte: u8| byte.is_ascii_digit();
        let start = *self;
        let whole = self.take_while(digits);
        let mut end = *self;
        if self.literal(".").is_some() {
            let fraction = self.take_while(digits);
            if !whole.is_empty() || !fraction.is_empty() {
                end = *self;
            }
        }
        *self = end;
        self.text[start.at..end.at].parse().ok()
    }
}

/// The escapes of a quotation: `\t`, `\n`, `\r` and `\f` are white space, `\"` is a quote.
fn resolve_escapes(content: &str) -> String {
    let mut result = String::with_capacity(content.len());
    let mut characters = content.chars().peekable();
    while let Some(character) = characters.next() {
        let resolved = match characters.peek() {
            Some('t') => Some('\t'),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('f') => Some('\x0c'),
            Some('"') => Some('"'),
            _ => None,
        };
        match resolved {
            Some(resolved) if character == '\\' => {
                characters.next();
                result.push(resolved);
            }
            _ => result.push(character),
        }
    }
    result
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn is_syntax(byte: u8) -> bool {
    matches!(byte, b'(' | b')' | b'"' | b',' | b'.' | b'+' | b'-' | b'=')
}
