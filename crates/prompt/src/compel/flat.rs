//! Events to fragments: weights multiplied out, neighbours joined, swaps taken apart.

use super::WEIGHT_LIMIT;
use super::reader::Event;
use crate::conjunction::LoraWeight;
use crate::prompt::Fragment;

/// What a prompt says, without its nesting.
#[derive(Debug, Default)]
pub(super) struct Flat {
    /// What is encoded: at every swap, what stood before it. None where there is no text.
    pub(super) fragments: Vec<Fragment>,
    /// The same with what it was swapped for; absent without swaps.
    pub(super) edited: Option<Vec<Fragment>>,
    pub(super) loras: Vec<LoraWeight>,
    pub(super) swaps: usize,
}

/// A text with the product of the weights around it.
struct Piece {
    text: String,
    weight: f64,
    side: Side,
    /// Pieces are joined within a run only: swaps begin and end runs.
    run: usize,
}

/// Which of the two prompts that a swap makes a piece belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Both,
    Original,
    Edited,
}

impl Flat {
    /// Compel 2.5.1, `PromptParser.flatten`. Where a swap lies in another's target, which compel
    /// cannot encode, the original has the original of both.
    pub(super) fn new(events: Vec<Event>) -> Self {
        let mut flat = Self::default();
        let pieces = flat.pieces(events);
        let without = |unwanted: Side| {
            let wanted: Vec<&Piece> = pieces.iter().filter(|own| own.side != unwanted).collect();
            fuse(&wanted)
        };
        flat.fragments = without(Side::Edited);
        flat.edited = (flat.swaps > 0).then(|| without(Side::Original));
        flat
    }

    fn pieces(&mut self, events: Vec<Event>) -> Vec<Piece> {
        let is_target = targets(&events);
        let mut pieces = Pieces::default();
        let mut scales = vec![1.0_f64];
        for (event, is_target) in events.into_iter().zip(is_target) {
            let scale = scales.last().copied().unwrap_or(1.0);
            if let Event::SpelledSwap(_) = event {
                pieces.push(".".to_owned(), scale);
                pieces.push("swap".to_owned(), scale);
            }
            if is_target {
                pieces.open_swap();
            }
            match event {
                Event::Open(weight) | Event::SpelledSwap(weight) => {
                    scales.push((scale * weight).min(WEIGHT_LIMIT * 2.0));
                }
                Event::Close => {
                    scales.pop();
                }
                Event::Text(text) | Event::FreeWord(text) => pieces.push(text, scale),
                Event::Lora(lora) => self.loras.push(lora),
                Event::Swap { .. } => {
                    self.swaps += 1;
                    pieces.swap(scale);
                }
                Event::EndSwap => pieces.close_swap(scale),
            }
        }
        pieces.pieces
    }
}

/// The pieces so far, and the swaps that are open.
#[derive(Default)]
struct Pieces {
    pieces: Vec<Piece>,
    run: usize,
    /// For each open swap the number of pieces where its target, then its replacement, began.
    swaps: Vec<usize>,
    /// How many of the open swaps are in their replacement.
    replacing: usize,
}

impl Pieces {
    fn push(&mut self, text: String, weight: f64) {
        let side = match (self.swaps.len(), self.replacing) {
            (0, _) => Side::Both,
            (_, 0) => Side::Original,
            _ => Side::Edited,
        };
        self.pieces.push(Piece { text, weight, side, run: self.run });
    }

    fn open_swap(&mut self) {
        self.run += 1;
        self.swaps.push(self.pieces.len());
    }

    fn swap(&mut self, scale: f64) {
        self.fill(scale);
        self.run += 1;
        self.replacing += 1;
        let pieces = self.pieces.len();
        if let Some(start) = self.swaps.last_mut() {
            *start = pieces;
        }
    }

    fn close_swap(&mut self, scale: f64) {
        self.fill(scale);
        self.run += 1;
        self.replacing -= 1;
        self.swaps.pop();
    }

    /// A side of a swap without text has the empty one.
    fn fill(&mut self, scale: f64) {
        if self.swaps.last() == Some(&self.pieces.len()) {
            self.push(String::new(), scale);
        }
    }
}

/// Which events begin the target of a swap.
fn targets(events: &[Event]) -> Vec<bool> {
    let mut targets = vec![false; events.len()];
    for (place, event) in events.iter().enumerate() {
        if let Event::Swap { back } = event {
            targets[place - back] = true;
        }
    }
    targets
}

/// Joins neighbours of equal weight and resolves `\(`, `\)` and `\"`.
fn fuse(pieces: &[&Piece]) -> Vec<Fragment> {
    let mut fragments = Vec::new();
    #[expect(clippy::float_cmp, reason = "compel joins exactly equal weights")]
    for run in pieces.chunk_by(|left, right| left.run == right.run && left.weight == right.weight) {
        let mut text = String::new();
        for (n, piece) in run.iter().enumerate() {
            if n > 0 {
                text.push(' ');
            }
            // Compel resolves escapes whenever it makes a fragment: when it parses, when it
            // flattens, and each time it joins one more piece to the run.
            let joins = if n == 0 { run.len() - 1 } else { run.len() - n };
            push_unescaped(&piece.text, 2 + joins, &mut text);
        }
        fragments.push(Fragment { text, weight: run[0].weight });
    }
    fragments
}

/// Appends `piece` less up to `times` backslashes before each bracket and quote.
fn push_unescaped(piece: &str, times: usize, text: &mut String) {
    let mut backslashes = 0;
    for character in piece.chars() {
        match character {
            '\\' => backslashes += 1,
            '(' | ')' | '"' => {
                text.truncate(text.len() - times.min(backslashes));
                backslashes = 0;
            }
            _ => backslashes = 0,
        }
        text.push(character);
    }
}
