//! Reads compel's syntax into a flat list of events.
//!
//! One pass with a stack of its own, so nesting costs memory, never the call stack. Each
//! character is read a bounded number of times: when a group fails, all groups that were open
//! fail with it and are remembered, and a swap that fails inside a group goes on as what it
//! then is, a word and a group.

use std::collections::HashSet;

use super::cursor::{Cursor, is_space};
use crate::conjunction::LoraWeight;

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    /// What follows, up to its `Close`, has this weight.
    Open(f64),
    /// End of the innermost `Open` or `SpelledSwap`.
    Close,
    /// The last `back` events are what is swapped; what follows, up to its `EndSwap`, is what
    /// they are swapped for.
    Swap {
        /// How many events.
        back: usize,
    },
    /// End of the innermost `Swap`.
    EndSwap,
    /// The words `. swap` and then an `Open`: a swap that turned out to be none.
    SpelledSwap(f64),
    /// Text that was part of the syntax; escapes are still in it.
    Text(String),
    /// Text that no rule took.
    FreeWord(String),
    /// `withLora(…)` or `useLora(…)`.
    Lora(LoraWeight),
}

/// Reads a whole prompt.
pub(super) struct Reader<'a> {
    pub(super) cursor: Cursor<'a>,
    events: Vec<Event>,
    /// Places of brackets that open no group.
    failed: HashSet<usize>,
    /// Places of brackets that open no replacement of a swap.
    failed_swaps: HashSet<usize>,
}

/// Where an operand stands, which decides what may follow it and what it may fall back to.
#[derive(Clone, Copy, PartialEq)]
enum Base {
    /// In a prompt, where words are free.
    Prompt,
    /// In a quotation, where a full stop may stand alone.
    Quotation,
    /// In the list before `.and` or `.blend`: nothing may follow it.
    List,
}

/// What was read in one go.
#[derive(Clone, Copy)]
enum Piece {
    /// Something that has no weight yet, from this event on: it may be swapped.
    Target(usize),
    Other,
}

/// A bracket that is open.
#[derive(Clone, Copy)]
enum Frame {
    Group { place: usize, event: usize },
    Swap { place: usize, event: usize },
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            cursor: Cursor::new(text),
            events: Vec::new(),
            failed: HashSet::new(),
            failed_swaps: HashSet::new(),
        }
    }

    /// The whole text as one prompt.
    pub(super) fn read(mut self) -> Vec<Event> {
        loop {
            self.cursor.skip_space();
            let start = self.cursor;
            let events = self.events.len();
            if start.peek().is_none() {
                return self.events;
            }
            // A word by itself is left to the free words, which take more.
            let read =
                self.operand(Base::Prompt) && !matches!(self.events.last(), Some(Event::Text(_)));
            if !read {
                self.cursor = start;
                self.events.truncate(events);
                let word = self.cursor.take_while(|byte| !is_space(byte));
                self.events.push(Event::FreeWord(word.to_owned()));
            }
        }
    }

    /// One of the prompts that `.and` or `.blend` join.
    pub(super) fn listed(&mut self) -> Option<Vec<Event>> {
        self.cursor.skip_space();
        let start = self.cursor;
        if self.cursor.peek() != Some(b')') && self.operand(Base::List) {
            return Some(self.take_events());
        }
        // A quotation whose content is no fragment may be a whole prompt.
        self.events.clear();
        self.cursor = start;
        let content = self.cursor.quotation()?.replace('"', "\\\"");
        Some(Reader::new(&content).read())
    }

    /// The events read so far.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// A network, which may stand wherever a word may.
    pub(super) fn lora(&mut self) -> bool {
        let lora = self.cursor.lora();
        let found = lora.is_some();
        self.events.extend(lora.map(Event::Lora));
        found
    }

    /// A group, a quotation or a word, with what it holds and the weight or swap after it.
    fn operand(&mut self, base: Base) -> bool {
        let mut open: Vec<Frame> = Vec::new();
        // Behind the target of an outermost swap, which stands if the swap does not.
        let mut behind_target = None;
        loop {
            self.cursor.skip_space();
            let Some(piece) = self.piece(&mut open, base) else {
                return self.fail(&open, behind_target);
            };
            if let Piece::Target(event) = piece
                && self.swap_follows()
            {
                let events = self.events.len();
                if open.is_empty() {
                    behind_target = Some((self.cursor, events));
                }
                self.cursor.swap().expect("it was seen to follow");
                open.push(Frame::Swap { place: self.cursor.at - 1, event: events });
                self.events.push(Event::Swap { back: events - event });
            }
            if open.is_empty() {
                return true;
            }
        }
    }

    /// The next bracket, quotation, word or separator, with the weight after it.
    fn piece(&mut self, open: &mut Vec<Frame>, base: Base) -> Option<Piece> {
        let event = self.events.len();
        let listed = base == Base::List && open.is_empty();
        match self.cursor.peek()? {
            b'(' => {
                open.push(Frame::Group { place: self.cursor.at, event });
                self.events.push(Event::Open(1.0));
                self.cursor.at += 1;
                let Some(Frame::Group { place, .. }) = open.last() else { return None };
                (!self.failed.contains(place)).then_some(Piece::Other)
            }
            b')' => {
                let frame = open.pop()?;
                self.cursor.at += 1;
                let Frame::Group { event, .. } = frame else {
                    self.events.push(Event::EndSwap);
                    return Some(Piece::Other);
                };
                self.events.push(Event::Close);
                let listed = base == Base::List && open.is_empty();
                Some(if listed { Piece::Other } else { self.weigh_group(event) })
            }
            b'"' => {
                let read = self.quotation();
                read.then(|| if listed { Piece::Other } else { self.weigh_group(event) })
            }
            b',' if self.swap_options(open) => Some(Piece::Other),
            b',' | b'.' if !open.is_empty() => {
                (self.spell_swaps(open, base) && self.separator()).then_some(Piece::Other)
            }
            _ if !listed && self.lora() => Some(Piece::Other),
            _ => {
                let read = self.word();
                read.then(|| if listed { Piece::Other } else { self.weigh_word(event) })
            }
        }
    }

    /// Remembers what failed; whether the target of a swap stands nevertheless.
    fn fail(&mut self, open: &[Frame], behind_target: Option<(Cursor<'a>, usize)>) -> bool {
        for frame in open {
            match *frame {
                Frame::Group { place, .. } => self.failed.insert(place),
                Frame::Swap { place, .. } => self.failed_swaps.insert(place),
            };
        }
        let Some((cursor, events)) = behind_target else { return false };
        self.cursor = cursor;
        self.events.truncate(events);
        true
    }

    /// Whether `.swap(` comes next, and is not known to lead nowhere.
    fn swap_follows(&self) -> bool {
        let mut cursor = self.cursor;
        cursor.swap().is_some() && !self.failed_swaps.contains(&(cursor.at - 1))
    }

    /// `, s_start=0.1, …)` at the end of the innermost swap. No option changes what is encoded.
    fn swap_options(&mut self, open: &mut Vec<Frame>) -> bool {
        if !matches!(open.last(), Some(Frame::Swap { .. })) {
            return false;
        }
        let mut cursor = self.cursor;
        cursor.at += 1;
        cursor.options();
        cursor.skip_space();
        if cursor.literal(")").is_none() {
            return false;
        }
        self.cursor = cursor;
        open.pop();
        self.events.push(Event::EndSwap);
        true
    }

    /// Makes words of all innermost swaps, in which no comma or full stop can stand.
    fn spell_swaps(&mut self, open: &mut [Frame], base: Base) -> bool {
        let group = open.iter().rposition(|frame| matches!(frame, Frame::Group { .. }));
        if group.is_none() && base != Base::Quotation {
            // The outermost would be words of a prompt, where there are no groups around them.
            return false;
        }
        for frame in &mut open[group.map_or(0, |group| group + 1)..] {
            if let Frame::Swap { place, event } = *frame {
                self.failed_swaps.insert(place);
                self.events[event] = Event::SpelledSwap(1.0);
                *frame = Frame::Group { place, event };
            }
        }
        true
    }

    /// A quoted text and its content.
    fn quotation(&mut self) -> bool {
        let Some(content) = self.cursor.quotation() else { return false };
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
        self.events.push(Event::Close);
        true
    }

    /// What a group may hold, up to the end of the text. There are no quotations in it.
    fn content(&mut self) -> bool {
        loop {
            self.cursor.skip_space();
            let read = match self.cursor.peek() {
                None => return true,
                Some(b')') => false,
                Some(_) => self.separator() || self.operand(Base::Quotation),
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

    fn word(&mut self) -> bool {
        let word = self.cursor.word();
        if !word.is_empty() {
            self.events.push(Event::Text(word.to_owned()));
        }
        !word.is_empty()
    }

    /// The weight after the word that was read last.
    fn weigh_word(&mut self, event: usize) -> Piece {
        let Some(weight) = self.cursor.weight_of_word() else { return Piece::Target(event) };
        self.events.insert(event, Event::Open(weight));
        self.events.push(Event::Close);
        Piece::Other
    }

    /// The weight after the bracket or quote that closed last, which goes to where it opened.
    fn weigh_group(&mut self, opened: usize) -> Piece {
        let Some(weight) = self.cursor.weight_of_group() else { return Piece::Target(opened) };
        if let Some(Event::Open(old) | Event::SpelledSwap(old)) = self.events.get_mut(opened) {
            *old = weight;
        }
        Piece::Other
    }
}
