//! CLIP's byte-pair encoding: text in, token ids out.
//!
//! Stage 3 of the flow. The ids equal those of transformers 5.24 `CLIPTokenizer` with the
//! tokenizer files of SDXL: text is put in NFC, runs of white space become one space, letters
//! become lower case; no HTML entity is resolved and no accent is removed. The two tokenizers
//! share one vocabulary and differ in the special tokens they find inside text, see
//! [`Tokenizer`].
//!
//! The vocabulary is 256 bytes, the same 256 at the end of a word, one token per merge, and
//! the two markers; so the merges alone (`assets/merges.bin`, written by
//! `parity/make_tokenizer_tables.py`) determine every id.

mod unicode;
mod vocabulary;
mod words;

use std::ops::Range;

use unicode_normalization_alignments::UnicodeNormalization;
use vocabulary::Vocabulary;
use words::{Words, is_space};

use crate::added::AddedWords;
use crate::encoder::{END_OF_TEXT, Encoder, START_OF_TEXT};

const START_TEXT: &str = "<|startoftext|>";
const END_TEXT: &str = "<|endoftext|>";

/// The tokenizer of one of the two encoders.
///
/// Special tokens written in a prompt are recognised as transformers does, which follows from
/// how each encoder's padding token is declared:
///
/// | | before normalising | after it (so in any case) |
/// |---|---|---|
/// | `ClipL` | `<\|endoftext\|>` | `<\|startoftext\|>` |
/// | `BigG` | `!`, which becomes the padding id 0 | `<\|startoftext\|>`, `<\|endoftext\|>` |
///
/// ```
/// use unwrong_prompt::{Encoder, Tokenizer};
///
/// let ids = Tokenizer::new(Encoder::ClipL).encode("You should've done this");
/// assert_eq!(ids, [592, 1535, 1200, 1700, 589]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tokenizer {
    encoder: Encoder,
}

impl Tokenizer {
    /// The tokenizer that belongs to `encoder`.
    #[must_use]
    pub const fn new(encoder: Encoder) -> Self {
        Self { encoder }
    }

    /// The ids of `text`, without the markers around it, of any length.
    ///
    /// Takes time in proportion to the text, times the logarithm of its longest word.
    #[must_use]
    pub fn encode(self, text: &str) -> Vec<u32> {
        self.encode_with(text, &AddedWords::default())
    }

    /// The same, where some words stand for vectors: they are found like special tokens, after
    /// normalising, as transformers finds added tokens.
    #[must_use]
    pub fn encode_with(self, text: &str, added: &AddedWords) -> Vec<u32> {
        let one = |token, id: u32| (token, id..id + 1);
        let (raw, mut normalised) = match self.encoder {
            Encoder::ClipL => ([one(END_TEXT, END_OF_TEXT)], vec![one(START_TEXT, START_OF_TEXT)]),
            Encoder::BigG => {
                let both = vec![one(START_TEXT, START_OF_TEXT), one(END_TEXT, END_OF_TEXT)];
                ([one("!", Encoder::BigG.padding())], both)
            }
        };
        normalised.extend(added.as_slice().iter().map(|added| (&*added.normal, added.ids.clone())));
        let mut ids = Vec::with_capacity(text.len() / 4);
        split_at_special(text, &raw, &mut ids, &mut |text, ids| {
            split_at_special(&normalise(text), &normalised, ids, &mut |text, ids| {
                for word in Words::new(text) {
                    Vocabulary::clip().encode_word(word.as_bytes(), ids);
                }
            });
        });
        ids
    }

    /// The text of `ids`, as far as ids keep it: lower case, a space after every word.
    ///
    /// For people to read; ids outside the vocabulary are left out.
    #[must_use]
    pub fn decode(self, ids: &[u32]) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            match id {
                START_OF_TEXT => bytes.extend_from_slice(START_TEXT.as_bytes()),
                END_OF_TEXT => bytes.extend_from_slice(END_TEXT.as_bytes()),
                _ => Vocabulary::clip().push_bytes(id, &mut bytes),
            }
        }
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }
}

/// Whether `id` ends a word, which is where a long prompt may be cut.
pub(crate) fn ends_word(id: u32) -> bool {
    Vocabulary::clip().ends_word(id)
}

/// The id of one ASCII character that is a word alone.
pub(crate) fn single_character_word(character: u8) -> u32 {
    Vocabulary::clip().byte_id(character, true)
}

/// Hands what lies between special tokens to `rest` and pushes the ids of those. Where several
/// begin at one place, it is the longest.
fn split_at_special(
    mut text: &str,
    special: &[(&str, Range<u32>)],
    ids: &mut Vec<u32>,
    rest: &mut dyn FnMut(&str, &mut Vec<u32>),
) {
    let first_characters: Vec<u8> = special.iter().map(|(token, _)| token.as_bytes()[0]).collect();
    let mut from = 0;
    while let Some(found) =
        text.as_bytes()[from..].iter().position(|b| first_characters.contains(b))
    {
        let start = from + found;
        let tokens = special.iter().filter(|(token, _)| text[start..].starts_with(token));
        if let Some((token, own)) = tokens.max_by_key(|(token, _)| token.len()) {
            rest(&text[..start], ids);
            ids.extend(own.clone());
            text = &text[start + token.len()..];
            from = 0;
        } else {
            from = start + 1;
        }
    }
    rest(text, ids);
}

/// NFC, one space for every run of white space, lower case character by character.
pub(crate) fn normalise(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut after_space = false;
    for (character, _) in text.nfc() {
        let space = is_space(character);
        if !space {
            result.extend(character.to_lowercase());
        } else if !after_space {
            result.push(' ');
        }
        after_space = space;
    }
    result
}
