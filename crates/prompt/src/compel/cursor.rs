//! A place in a prompt, and the smallest things that can be read there.

use crate::conjunction::LoraWeight;

/// A place in a text. All syntax is ASCII, so places between bytes of it are safe to cut at.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.byte(self.at)
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    pub(super) fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    pub(super) fn skip_space(&mut self) {
        self.take_while(is_space);
    }

    pub(super) fn literal(&mut self, literal: &str) -> Option<()> {
        self.text[self.at..].starts_with(literal).then(|| self.at += literal.len())
    }

    /// A word, which may be empty.
    pub(super) fn word(&mut self) -> &'a str {
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
    pub(super) fn quotation(&mut self) -> Option<String> {
        let rest = self.rest().strip_prefix('"')?;
        let start = self.at + 1;
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
    pub(super) fn weight_of_group(&mut self) -> Option<f64> {
        self.attend().or_else(|| self.weight())
    }

    /// The weight after a word, which cannot be a number.
    pub(super) fn weight_of_word(&mut self) -> Option<f64> {
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

    /// `.swap(`, with white space between its parts.
    pub(super) fn swap(&mut self) -> Option<()> {
        let mut cursor = *self;
        cursor.skip_space();
        cursor.literal(".swap")?;
        cursor.skip_space();
        cursor.literal("(")?;
        *self = cursor;
        Some(())
    }

    /// `withLora(name, 0.5)` or `useLora(name)`.
    pub(super) fn lora(&mut self) -> Option<LoraWeight> {
        let mut cursor = *self;
        cursor.literal("useLora").or_else(|| cursor.literal("withLora"))?;
        cursor.skip_space();
        cursor.literal("(")?;
        cursor.skip_space();
        let name = cursor.keyword()?.to_owned();
        cursor.skip_space();
        let mut weight = 1.0;
        if cursor.literal(",").is_some() {
            cursor.skip_space();
            weight = cursor.signed_number()?;
            cursor.skip_space();
        }
        cursor.literal(")")?;
        *self = cursor;
        Some(LoraWeight { name, weight })
    }

    /// Options of an operator, as far as there are any, without the bracket after them.
    pub(super) fn options(&mut self) -> Vec<CallOption<'a>> {
        let mut options = Vec::new();
        let mut cursor = *self;
        while let Some(option) = cursor.option() {
            options.push(option);
            *self = cursor;
            cursor.skip_space();
            if cursor.literal(",").is_none() {
                break;
            }
        }
        options
    }

    fn option(&mut self) -> Option<CallOption<'a>> {
        self.skip_space();
        let start = *self;
        if let Some(name) = self.keyword() {
            let mut cursor = *self;
            cursor.skip_space();
            if cursor.literal("=").is_some() {
                cursor.skip_space();
                if cursor.signed_number().is_some() || cursor.keyword().is_some() {
                    *self = cursor;
                    return Some(CallOption::Word(name));
                }
            }
        }
        *self = start;
        match self.signed_number() {
            Some(number) => Some(CallOption::Number(number)),
            None => self.keyword().map(CallOption::Word),
        }
    }

    fn keyword(&mut self) -> Option<&'a str> {
        let word = self.take_while(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        (!word.is_empty()).then_some(word)
    }

    /// A number with its sign; a plus only before one with a point.
    fn signed_number(&mut self) -> Option<f64> {
        let start = *self;
        let plus = self.literal("+").is_some();
        let minus = !plus && self.literal("-").is_some();
        let digits = self.at;
        let number = self.number();
        match number {
            Some(number) if !plus || self.text[digits..self.at].contains('.') => {
                Some(if minus { -number } else { number })
            }
            _ => {
                *self = start;
                None
            }
        }
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

/// An option of an operator: `0.5`, or `no_normalize`, or `s_start=0.1`, less its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum CallOption<'a> {
    Number(f64),
    Word(&'a str),
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

pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn is_syntax(byte: u8) -> bool {
    matches!(byte, b'(' | b')' | b'"' | b',' | b'.' | b'+' | b'-' | b'=')
}
