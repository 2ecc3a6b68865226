//! Reads lists and wildcards into flat tables.
//!
//! One pass with a stack of its own, so nesting costs memory, never the call stack, and every
//! character is read a bounded number of times.

use std::collections::{HashMap, HashSet};

use super::wildcards::{Names, Wildcards, entries};
use super::{Choice, Choices, List, Node, Span, Tables};
use crate::error::{Error, Place, Result};

/// One option may be this much likelier than another of weight 1; see [`Choice`] for the unit.
const MOST_WEIGHT: u64 = 1_000_000 * WEIGHT_ONE;
/// Weight 1 in the unit of [`Choice::weight`].
const WEIGHT_ONE: u64 = 1_000_000;
/// More is the same as all there are.
const MOST_DRAWN: usize = 1_000_000;
/// Entries of all wildcards together, those of patterns counted for each pattern.
const MOST_ENTRIES: usize = 4_000_000;
/// What a list draws between two options where it says nothing else.
const SEPARATOR: &str = ", ";

/// Reads a prompt and all wildcards that it leads to.
pub(super) fn parse(text: &str, wildcards: &dyn Wildcards) -> Result<Tables> {
    let mut builder = Builder::default();
    builder.tables.root = Reader::new(&mut builder, None, text).read()?;
    let names = Names::new(wildcards);
    let mut files = HashMap::new();
    // Reading one wildcard may ask for more.
    while let Some(asked) = builder.asked.pop() {
        let choices = builder.read_wildcard(&asked, &names, wildcards, &mut files)?;
        builder.tables.lists[asked.list].choices = Choices::Own(choices);
    }
    builder.tables.finish(&builder.names)?;
    Ok(builder.tables)
}

/// A wildcard that is named somewhere, for the first time at `place`.
struct Asked {
    name: String,
    place: Place,
    list: usize,
}

/// The entries of a file, as they are written and as they were read.
type Entries = Vec<(String, usize)>;

#[derive(Default)]
struct Builder {
    tables: Tables,
    /// The list of every wildcard named so far.
    wildcards: HashMap<String, usize>,
    names: HashMap<usize, String>,
    asked: Vec<Asked>,
    entries: usize,
}

impl Builder {
    /// The list of a wildcard, to be filled later.
    fn wildcard(&mut self, name: &str, place: impl FnOnce() -> Place) -> usize {
        if let Some(&list) = self.wildcards.get(name) {
            return list;
        }
        let list = self.tables.push_list(List {
            least: 1,
            most: Some(1),
            separator: Span::default(),
            choices: Choices::Own(Vec::new()),
        });
        self.wildcards.insert(name.to_owned(), list);
        self.names.insert(list, name.to_owned());
        self.asked.push(Asked { name: name.to_owned(), place: place(), list });
        list
    }

    fn read_wildcard(
        &mut self,
        asked: &Asked,
        names: &Names<'_>,
        wildcards: &dyn Wildcards,
        files: &mut HashMap<String, Entries>,
    ) -> Result<Vec<Choice>> {
        let name = asked.name.clone();
        let matching = names.matching(&name);
        if matching.is_empty() {
            let known = names.some(&name);
            return Err(Error::UnknownWildcard { place: asked.place.clone(), name, known });
        }
        let mut seen = HashSet::new();
        let mut choices = Vec::new();
        for file in &matching {
            if !files.contains_key(*file) {
                files.insert((*file).to_owned(), self.read_file(file, wildcards)?);
            }
        }
        for (entry, sequence) in matching.iter().flat_map(|file| &files[*file]) {
            if seen.insert(entry) {
                choices.push(Choice { weight: WEIGHT_ONE, sequence: *sequence });
            }
        }
        self.entries += choices.len();
        if self.entries > MOST_ENTRIES {
            return Err(Error::TooManyEntries { limit: MOST_ENTRIES });
        }
        if choices.is_empty() {
            return Err(Error::EmptyWildcard { place: asked.place.clone(), name });
        }
        Ok(choices)
    }

    fn read_file(&mut self, name: &str, wildcards: &dyn Wildcards) -> Result<Entries> {
        let text = wildcards
            .read(name)
            .map_err(|problem| Error::WildcardNotRead { name: name.to_owned(), problem })?;
        let mut read = Vec::new();
        for (line, entry) in entries(&text) {
            let sequence = Reader::new(self, Some((name, line)), entry).read()?;
            read.push((entry.to_owned(), sequence));
        }
        Ok(read)
    }
}

/// A list that is open.
struct Open {
    /// Its `{`.
    start: usize,
    least: usize,
    /// `None` for as many as there are.
    most: Option<usize>,
    separator: Span,
    choices: Vec<Choice>,
    /// The weight of the option that is read.
    weight: u64,
    /// What stands before the list.
    outside: Vec<Node>,
}

/// Reads one text.
struct Reader<'a> {
    builder: &'a mut Builder,
    wildcard: Option<(&'a str, usize)>,
    text: &'a str,
    at: usize,
    nodes: Vec<Node>,
    open: Vec<Open>,
}

impl<'a> Reader<'a> {
    fn new(builder: &'a mut Builder, wildcard: Option<(&'a str, usize)>, text: &'a str) -> Self {
        Self { builder, wildcard, text, at: 0, nodes: Vec::new(), open: Vec::new() }
    }

    /// The sequence of the whole text.
    fn read(mut self) -> Result<usize> {
        while let Some(byte) = self.next_special() {
            match byte {
                b'\\' => self.escape(),
                b'{' => self.open_list()?,
                b'|' if !self.open.is_empty() => {
                    self.end_option();
                    self.at += 1;
                    self.start_option()?;
                }
                b'}' if !self.open.is_empty() => self.close_list()?,
                b'_' if self.rest().starts_with("__") => self.wildcard()?,
                b'$' | b'%' => self.dollar_or_percent()?,
                _ => self.take_text(1),
            }
        }
        if let Some(open) = self.open.last() {
            return Err(Error::ListNotClosed { place: self.place(open.start) });
        }
        Ok(self.builder.tables.push_sequence(self.nodes))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn place(&self, at: usize) -> Place {
        Place::new(self.wildcard, self.text, at)
    }

    /// Takes text up to the next character that may be syntax, and returns that.
    fn next_special(&mut self) -> Option<u8> {
        let special = |byte: &u8| matches!(byte, b'\\' | b'{' | b'|' | b'}' | b'_' | b'$' | b'%');
        let rest = self.rest().as_bytes();
        let length = rest.iter().position(special).unwrap_or(rest.len());
        self.take_text(length);
        rest.get(length).copied()
    }

    /// The next `bytes` are text.
    fn take_text(&mut self, bytes: usize) {
        let text = &self.rest()[..bytes];
        self.at += bytes;
        self.push_text(text);
    }

    fn push_text(&mut self, text: &str) {
        let span = self.builder.tables.push_text(text);
        match self.nodes.last_mut() {
            _ if text.is_empty() => {}
            Some(Node::Text(last)) if last.end == span.start => last.end = span.end,
            _ => self.nodes.push(Node::Text(span)),
        }
    }

    /// Backslashes, and what they make text of: half of them stay where syntax comes next.
    fn escape(&mut self) {
        let rest = self.rest();
        let after = rest.trim_start_matches('\\');
        let backslashes = rest.len() - after.len();
        let escaped = match after.as_bytes().first() {
            Some(b'{' | b'}' | b'|') => 1,
            Some(b'$') if !self.open.is_empty() => 1,
            Some(b'_') if after.starts_with("__") => 2,
            _ => return self.take_text(backslashes),
        };
        self.push_text(&rest[..backslashes / 2]);
        self.at += backslashes;
        if backslashes % 2 == 1 {
            self.take_text(escaped);
        }
    }

    fn dollar_or_percent(&mut self) -> Result<()> {
        let (meaning, instead) = match &self.rest().as_bytes()[..self.rest().len().min(2)] {
            b"${" => {
                ("variables are", "write the list where it is used, or `$\\{` for the characters")
            }
            b"%{" => {
                ("wrapping is", "write the text around the list, or `%\\{` for the characters")
            }
            b"$$" if !self.open.is_empty() => (
                "what stands before these `$$` is no number, so they are",
                "write as in `{2$$a|b|c}` or `{1-2$$ and $$a|b|c}`, or `\\$$` for the characters",
            ),
            _ => {
                self.take_text(1);
                return Ok(());
            }
        };
        Err(Error::NotSupported { place: self.place(self.at), meaning, instead })
    }

    fn open_list(&mut self) -> Result<()> {
        let start = self.at;
        self.at += 1;
        self.sampler()?;
        let (least, most, separator) = self.range().unwrap_or((1, Some(1), SEPARATOR));
        let separator = self.builder.tables.push_text(separator);
        let outside = std::mem::take(&mut self.nodes);
        let choices = Vec::new();
        self.open.push(Open {
            start,
            least,
            most,
            separator,
            choices,
            weight: WEIGHT_ONE,
            outside,
        });
        self.start_option()
    }

    /// `~` asks for what is done anyway: to draw at random.
    fn sampler(&mut self) -> Result<()> {
        match self.rest().as_bytes().first() {
            Some(b'~') => self.at += 1,
            Some(b'@' | b'!') => {
                return Err(Error::NotSupported {
                    place: self.place(self.at),
                    meaning: "to go through the options in turn is",
                    instead: "leave the character out, or put a space before it if it is text",
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// `2$$`, `1-2$$`, `-2$$`, `1-$$`, and a separator with `$$` behind it.
    fn range(&mut self) -> Option<(usize, Option<usize>, &'a str)> {
        let rest = self.rest().trim_start();
        let (first, rest) = number(rest);
        let (range, rest) = match rest.strip_prefix('-') {
            Some(rest) => {
                let (last, rest) = number(rest);
                first.or(last)?;
                ((first.unwrap_or(1), last), rest)
            }
            None => ((first?, first), rest),
        };
        let rest = rest.strip_prefix("$$")?;
        let line = rest.find(['{', '}', '\n']).map_or(rest, |end| &rest[..end]);
        let (separator, rest) = match line.find("$$") {
            Some(end) => (&rest[..end], &rest[end + 2..]),
            None => (SEPARATOR, rest),
        };
        self.at = self.text.len() - rest.len();
        let (least, most) = range;
        let most_or_least = most.unwrap_or(least);
        Some((least.min(most_or_least), most.map(|most| most.max(least)), separator))
    }

    /// White space before an option is left out; a weight may come first.
    fn start_option(&mut self) -> Result<()> {
        let rest = self.rest().trim_start();
        self.at = self.text.len() - rest.len();
        let (sign, bare) = match rest.strip_prefix(['-', '+']) {
            Some(bare) => (true, bare),
            None => (false, rest),
        };
        let after = bare.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let digits = &bare[..bare.len() - after.len()];
        let mut weight = WEIGHT_ONE;
        if let Some(after) = after.strip_prefix("::")
            && !digits.is_empty()
        {
            let read = weight_of(digits).filter(|_| !sign);
            weight = read.ok_or_else(|| Error::ListWeight { place: self.place(self.at) })?;
            self.at = self.text.len() - after.len();
        }
        if let Some(open) = self.open.last_mut() {
            open.weight = weight;
        }
        Ok(())
    }

    fn end_option(&mut self) {
        let nodes = std::mem::take(&mut self.nodes);
        let sequence = self.builder.tables.push_sequence(nodes);
        if let Some(open) = self.open.last_mut() {
            open.choices.push(Choice { weight: open.weight, sequence });
        }
    }

    fn close_list(&mut self) -> Result<()> {
        self.end_option();
        let open = self.open.pop().expect("the caller saw an open list");
        if open.choices.iter().all(|choice| choice.weight == 0) {
            return Err(Error::NothingToDraw { place: self.place(open.start) });
        }
        self.at += 1;
        let (least, most, separator) = (open.least, open.most, open.separator);
        let choices = match self.lone_wildcard(&open.choices) {
            Some(wildcard) => Choices::Of(wildcard),
            None => Choices::Own(open.choices),
        };
        let list = self.builder.tables.push_list(List { least, most, separator, choices });
        self.nodes = open.outside;
        self.nodes.push(Node::List(list));
        Ok(())
    }

    /// The wildcard that is all a list holds: the list draws from its entries.
    fn lone_wildcard(&self, choices: &[Choice]) -> Option<usize> {
        let [choice] = choices else { return None };
        let tables = &self.builder.tables;
        let space = |node: &Node| match node {
            Node::Text(span) => tables.text(*span).trim().is_empty(),
            Node::List(_) => false,
        };
        match tables.sequence(choice.sequence) {
            [Node::List(list), rest @ ..] if rest.iter().all(space) => {
                self.builder.names.contains_key(list).then_some(*list)
            }
            _ => None,
        }
    }

    /// `__name__`; two underscores without that are text.
    fn wildcard(&mut self) -> Result<()> {
        let start = self.at;
        let inside = &self.rest()[2..];
        let Some(length) = name_length(inside) else {
            // `__{a|b}__` is a name that is drawn.
            let stem = inside.trim_start_matches(|c: char| c.is_alphanumeric() || c == '/');
            if stem.starts_with('{') {
                return Err(Error::NotSupported {
                    place: self.place(start),
                    meaning: "a wildcard's name with a list in it is",
                    instead: "write as in `{__a__|__b__}`, or `\\__` for the characters",
                });
            }
            self.take_text(2);
            return Ok(());
        };
        let written = inside[..length].trim();
        let name = written.strip_prefix('~').unwrap_or(written).replace('\\', "/");
        let name = name.trim_matches('/');
        if name.is_empty() {
            self.take_text(2);
            return Ok(());
        }
        let refused = match name.as_bytes()[0] {
            b'@' | b'!' => {
                Some(("to go through the entries in turn is", "leave the character out"))
            }
            _ if name.contains('(') => {
                Some(("a wildcard with variables is", "write the variables' values into its file"))
            }
            _ => None,
        };
        if let Some((meaning, instead)) = refused {
            return Err(Error::NotSupported { place: self.place(start), meaning, instead });
        }
        let (source, text) = (self.wildcard, self.text);
        let list = self.builder.wildcard(name, || Place::new(source, text, start));
        self.nodes.push(Node::List(list));
        self.at = start + 2 + length + 2;
        Ok(())
    }
}

/// What is before the next `__`, where that ends a name.
fn name_length(inside: &str) -> Option<usize> {
    let bytes = inside.as_bytes();
    let stops = |&place: &usize| {
        matches!(bytes[place], b'{' | b'}' | b'|' | b'\n') || bytes[place..].starts_with(b"__")
    };
    (0..bytes.len()).find(stops).filter(|&place| bytes[place] == b'_')
}

/// The digits in front of `text` as a number, and what is behind them.
fn number(text: &str) -> (Option<usize>, &str) {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - rest.len()];
    let number = digits
        .bytes()
        .fold(0_usize, |number, digit| (number * 10 + usize::from(digit - b'0')).min(MOST_DRAWN));
    ((!digits.is_empty()).then_some(number), rest)
}

/// A decimal number in millionths; what is smaller and not 0 is one millionth.
fn weight_of(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let mut weight = 0_u64;
    let fraction = fraction.bytes().chain(std::iter::repeat(b'0')).take(6);
    for digit in whole.bytes().chain(fraction) {
        weight = weight.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    }
    if weight == 0 && text.bytes().any(|digit| matches!(digit, b'1'..=b'9')) {
        weight = 1;
    }
    (weight <= MOST_WEIGHT).then_some(weight)
}
