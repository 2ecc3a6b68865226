//! The tokens and the merges, and how one word becomes ids.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::LazyLock;

static MERGES: &[u8] = include_bytes!("../../assets/merges.bin");

/// Ids below this are single bytes inside a word.
const BYTES: u32 = 256;
/// The first id made by a merge; between are the bytes that end a word.
const FIRST_MERGE: u32 = 2 * BYTES;

pub(super) struct Vocabulary {
    /// The id of every byte inside a word.
    byte_ids: [u32; 256],
    /// The two ids that make `FIRST_MERGE + index`.
    pairs: Vec<(u32, u32)>,
    /// What two neighbours become. A smaller id is an earlier merge.
    merges: HashMap<(u32, u32), u32>,
    /// Whether `FIRST_MERGE + index` ends a word.
    ends_word: Vec<bool>,
}

impl Vocabulary {
    /// The vocabulary of both encoders.
    pub(super) fn clip() -> &'static Self {
        static CLIP: LazyLock<Vocabulary> = LazyLock::new(|| Vocabulary::new(MERGES));
        &CLIP
    }

    fn new(bytes: &[u8]) -> Self {
        let number = |bytes: &[u8]| u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        let pairs: Vec<_> =
            bytes.chunks_exact(4).map(|pair| (number(&pair[..2]), number(&pair[2..]))).collect();
        let merges = pairs.iter().copied().zip(FIRST_MERGE..).collect();
        let mut ends_word = Vec::with_capacity(pairs.len());
        for &(_, right) in &pairs {
            ends_word.push(match right.checked_sub(FIRST_MERGE) {
                Some(index) => ends_word[index as usize],
                None => right >= BYTES,
            });
        }
        Self { byte_ids: byte_ids(), pairs, merges, ends_word }
    }

    pub(super) fn byte_id(&self, byte: u8, ends_word: bool) -> u32 {
        self.byte_ids[usize::from(byte)] + if ends_word { BYTES } else { 0 }
    }

    pub(super) fn ends_word(&self, id: u32) -> bool {
        match id.checked_sub(FIRST_MERGE) {
            Some(index) => self.ends_word.get(index as usize).copied().unwrap_or(false),
            None => id >= BYTES,
        }
    }

    /// Pushes the ids of one word: the earliest merge first, from the left, until none is left.
    ///
    /// A heap of possible merges over a linked list, so that a word of 100,000 letters takes
    /// no longer than as many short words.
    pub(super) fn encode_word(&self, word: &[u8], ids: &mut Vec<u32>) {
        let Some((&last, front)) = word.split_last() else { return };
        if front.is_empty() {
            ids.push(self.byte_id(last, true));
            return;
        }
        let mut list = List::new(
            front.iter().map(|&byte| self.byte_id(byte, false)).chain([self.byte_id(last, true)]),
        );
        let mut heap: BinaryHeap<Reverse<(u32, usize)>> = (0..front.len())
            .filter_map(|left| Some(Reverse((self.merge_at(&list, left)?, left))))
            .collect();
        while let Some(Reverse((id, left))) = heap.pop() {
            // An entry is stale when its left part is gone or has other neighbours by now.
            if self.merge_at(&list, left) != Some(id) {
                continue;
            }
            list.merge(left, id);
            let neighbours = [list.symbols[left].previous, Some(left)];
            for left in neighbours.into_iter().flatten() {
                if let Some(id) = self.merge_at(&list, left) {
                    heap.push(Reverse((id, left)));
                }
            }
        }
        list.push_ids(ids);
    }

    /// What the symbol at `left` and the one after it become.
    fn merge_at(&self, list: &List, left: usize) -> Option<u32> {
        let symbol = &list.symbols[left];
        let right = &list.symbols[symbol.next?];
        self.merges.get(&(symbol.id?, right.id?)).copied()
    }

    /// Appends the bytes of a token, and a space if it ends a word.
    pub(super) fn push_bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if let Some(index) = id.checked_sub(FIRST_MERGE) {
                if let Some(&(left, right)) = self.pairs.get(index as usize) {
                    open.extend([right, left]);
                }
            } else if let Some(byte) = self.byte_ids.iter().position(|&own| own == id % BYTES) {
                bytes.push(byte as u8);
                if id >= BYTES {
                    bytes.push(b' ');
                }
            }
        }
    }
}

/// The symbols of a word while they merge; the first one is never merged away.
struct List {
    symbols: Vec<Symbol>,
}

struct Symbol {
    /// `None` once merged into the symbol on its left.
    id: Option<u32>,
    previous: Option<usize>,
    next: Option<usize>,
}

impl List {
    fn new(ids: impl Iterator<Item = u32>) -> Self {
        let mut symbols: Vec<_> = ids
            .enumerate()
            .map(|(n, id)| Symbol { id: Some(id), previous: n.checked_sub(1), next: Some(n + 1) })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        Self { symbols }
    }

    fn merge(&mut self, left: usize, id: u32) {
        self.symbols[left].id = Some(id);
        if let Some(right) = self.symbols[left].next {
            self.symbols[right].id = None;
            let after = self.symbols[right].next;
            self.symbols[left].next = after;
            if let Some(after) = after {
                self.symbols[after].previous = Some(left);
            }
        }
    }

    fn push_ids(&self, ids: &mut Vec<u32>) {
        let mut place = Some(0);
        while let Some(symbol) = place.and_then(|n| self.symbols.get(n)) {
            ids.extend(symbol.id);
            place = symbol.next;
        }
    }
}

/// GPT-2's order of bytes: the visible ones of Latin-1 first, then the others.
fn byte_ids() -> [u32; 256] {
    let visible = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let first = (0..=255).filter(|&byte| visible(byte));
    let then = (0..=255).filter(|&byte| !visible(byte));
    let mut ids = [0; 256];
    for (id, byte) in (0..).zip(first.chain(then)) {
        ids[usize::from(byte)] = id;
    }
    ids
}
