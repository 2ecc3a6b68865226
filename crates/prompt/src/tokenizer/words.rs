//! Cuts normalised text into the pieces that merges never cross.
//!
//! The pieces are the matches of two regular expressions, one after the other: CLIP's
//! `<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+`,
//! and the one of byte-level encoding, which cuts the first two of these in three.

use std::cmp::Ordering;

use super::unicode::{LETTERS, NUMBERS};

const CONTRACTIONS: [&str; 7] = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"];
const MARKERS: [[&str; 3]; 2] = [["<|", "startoftext", "|>"], ["<|", "endoftext", "|>"]];

/// The pieces of a normalised text, in order.
pub(super) struct Words<'a> {
    rest: &'a str,
    /// What is left of a marker that was not taken as a special token.
    marker: &'static [&'static str],
}

impl<'a> Words<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: text, marker: &[] }
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (word, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        word
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if let Some((part, marker)) = self.marker.split_first() {
            self.marker = marker;
            return Some(self.take(part.len()));
        }
        self.rest = self.rest.trim_start_matches(is_space);
        let first = self.rest.chars().next()?;
        for marker in &MARKERS {
            if starts_with_all(self.rest, marker) {
                self.marker = &marker[1..];
                return Some(self.take(marker[0].len()));
            }
        }
        if let Some(contraction) = CONTRACTIONS.iter().find(|text| self.rest.starts_with(**text)) {
            return Some(self.take(contraction.len()));
        }
        let end = match Class::of(first) {
            Class::Number => Some(first.len_utf8()),
            class => self.rest.find(|character| Class::of(character) != class),
        };
        Some(self.take(end.unwrap_or(self.rest.len())))
    }
}

fn starts_with_all(mut text: &str, parts: &[&str]) -> bool {
    parts.iter().all(|part| text.strip_prefix(part).map(|rest| text = rest).is_some())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

impl Class {
    fn of(character: char) -> Self {
        if is_space(character) {
            Self::Space
        } else if contains(LETTERS, character) {
            Self::Letter
        } else if contains(NUMBERS, character) {
            Self::Number
        } else {
            Self::Other
        }
    }
}

/// `\s` of the oracle's regular expressions, which is Unicode's `White_Space`.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace()
}

fn contains(runs: &[(u32, u32)], character: char) -> bool {
    let point = u32::from(character);
    runs.binary_search_by(|&(first, last)| match () {
        () if last < point => Ordering::Less,
        () if first > point => Ordering::Greater,
        () => Ordering::Equal,
    })
    .is_ok()
}
