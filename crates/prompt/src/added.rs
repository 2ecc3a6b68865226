//! Added words: words of a prompt that stand for vectors of their own, textual inversions.
//!
//! Stage 3 of the flow, beside [`crate::Tokenizer`]. A word gets as many ids as it has vectors,
//! above those of the vocabulary. How it is found in a text is a matter of the syntax:
//!
//! | | a word is found | in any case |
//! |---|---|---|
//! | compel, plain | wherever its characters stand, also within a longer word; the first that begins, of these the longest | yes |
//! | A1111 | where the tokens of the text are the tokens of the word, so never within a longer one; the one of most tokens | yes |
//! | ComfyUI | after `embedding:`, with or without the ending of a file, and with commas around it | yes |
//!
//! Compel and plain: added tokens of transformers 5.24 (normalised, not `single_word`), compared in
//! `tests/tokenizer.rs`; the others in `tests/added.rs`. A word is all its vectors, as diffusers 0.42 has it
//! (`loaders/textual_inversion.py`, `maybe_convert_prompt`, which compel 2.5.1 calls by its
//! `DiffusersTextualInversionManager`). A1111 1.10.1, `modules/textual_inversion/
//! textual_inversion.py`, `find_embedding_at_position`. ComfyUI at a125cd8, `comfy/sd1_clip.py`,
//! `_try_get_embedding`; the case of a name counts there where it counts to the file system.

use std::ops::Range;
use std::sync::Arc;

use crate::encoder::{Encoder, FIRST_ADDED};
use crate::error::{Error, Result};
use crate::prompt::Syntax;
use crate::tokenizer::{Tokenizer, normalise};

/// Endings that a name in ComfyUI's syntax may have.
const ENDINGS: [&str; 3] = [".safetensors", ".pt", ".bin"];

/// How a prompt is read: its syntax, and the words that stand for vectors.
///
/// Whatever takes one also takes a [`Syntax`], which knows no such word.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Language {
    /// How weights are written.
    pub syntax: Syntax,
    /// Words that stand for vectors.
    pub added: AddedWords,
}

impl From<Syntax> for Language {
    fn from(syntax: Syntax) -> Self {
        Self { syntax, added: AddedWords::default() }
    }
}

/// Words that stand for vectors of their own, each with its ids.
///
/// ```
/// use unwrong_prompt::{AddedWords, Encoder, Tokenizer};
///
/// let words = AddedWords::new([("<wrong>", 2)])?;
/// let ids = Tokenizer::new(Encoder::ClipL).encode_with("a <wrong> cat", &words);
/// assert_eq!(ids, [320, 49408, 49409, 2368]);
/// # Ok::<(), unwrong_prompt::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AddedWords(Arc<[AddedWord]>);

/// One word and its ids.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AddedWord {
    word: String,
    /// As a normalised text has it.
    pub(crate) normal: String,
    pub(crate) ids: Range<u32>,
    /// What the word is without its vectors.
    tokens: Vec<u32>,
}

impl AddedWords {
    /// Words with the number of their vectors; ids follow each other in their order.
    ///
    /// Refuses words that no text could hold, and two that differ in case alone.
    pub fn new<'a>(words: impl IntoIterator<Item = (&'a str, usize)>) -> Result<Self> {
        let mut added: Vec<AddedWord> = Vec::new();
        let mut next = FIRST_ADDED;
        for (word, vectors) in words {
            check(word)?;
            let normal = normalise(word);
            if let Some(known) = added.iter().find(|known| known.normal == normal) {
                let (word, other) = (word.to_owned(), known.word.clone());
                return Err(Error::AddedTwice { word, other });
            }
            let ids = next..next + vectors as u32;
            next = ids.end;
            let tokens = Tokenizer::new(Encoder::ClipL).encode(word);
            added.push(AddedWord { word: word.to_owned(), normal, ids, tokens });
        }
        Ok(Self(added.into()))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The words and their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Range<u32>)> {
        self.0.iter().map(|added| (&*added.word, added.ids.clone()))
    }

    /// The token behind an id, as diffusers writes it: `<wrong>`, then `<wrong>_1` and so on.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        let added = self.0.iter().find(|added| added.ids.contains(&id))?;
        Some(match id - added.ids.start {
            0 => added.word.clone(),
            place => format!("{}_{place}", added.word),
        })
    }

    pub(crate) fn as_slice(&self) -> &[AddedWord] {
        &self.0
    }

    /// The word that begins where `tokens` do, and how many of them it takes: A1111's rule.
    pub(crate) fn at(&self, tokens: &[u32]) -> Option<(&AddedWord, usize)> {
        let found = self.0.iter().filter(|added| tokens.starts_with(&added.tokens));
        // Of as many tokens the first.
        let longest = found.rev().max_by_key(|added| added.tokens.len())?;
        Some((longest, longest.tokens.len()))
    }

    /// The word of that name, which may have the ending of a file: ComfyUI's rule.
    pub(crate) fn named(&self, name: &str) -> Option<&AddedWord> {
        let name = normalise(name);
        let is_it = |added: &&AddedWord| {
            let ending = name.strip_prefix(&added.normal);
            ending.is_some_and(|ending| ending.is_empty() || ENDINGS.contains(&ending))
        };
        self.0.iter().find(is_it)
    }
}

/// Refuses words that texts cannot hold, or that would be found everywhere.
fn check(word: &str) -> Result<()> {
    let refuse = |problem| Err(Error::AddedWord { word: word.to_owned(), problem });
    if word.is_empty() {
        refuse("is empty")
    } else if word.contains(|c: char| c.is_whitespace() || c.is_control()) {
        refuse("holds white space, which ends a word")
    } else if !word.contains(char::is_alphanumeric) {
        refuse("has no letter and no digit, so it would be found in every prompt")
    } else if word.contains('!') {
        // The second tokenizer looks for it before anything else.
        refuse("holds a `!`, which is padding to the second text encoder")
    } else if ["<|startoftext|>", "<|endoftext|>"].iter().any(|mark| normalise(word).contains(mark))
    {
        refuse("holds a mark that the text encoders have for themselves")
    } else {
        Ok(())
    }
}
