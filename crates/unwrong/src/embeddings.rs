//! The textual inversions of a request: their files, the words that stand for them, and where the
//! prompts use them.
//!
//! Stages 1 to 4 of the flow. A word of a prompt becomes ids above the vocabulary
//! ([`AddedWords`]); here are the vectors behind these ids, for both text encoders. The refiner
//! has the second encoder alone, and reads that half of each file.

mod folder;

use std::path::Path;

use sha2::{Digest, Sha256};
use unwrong_models::files::FrozenWeight;
use unwrong_models::textual_inversion::TextualInversion;
use unwrong_prompt::{AddedWords, Encoder, FIRST_ADDED, Language};

use crate::error::{Error, Result};
use crate::identity::{file_name, hex};
use crate::picture::EmbeddedWord;
use crate::pipeline::{Stamp, stamp};
use crate::request::{EmbeddingRequest, GenerateRequest, Syntax};

pub(crate) use folder::{ids_of, with_those_of_the_folder};

/// Words and their vectors.
#[derive(Debug, Default)]
pub(crate) struct EmbeddingSet {
    pub(crate) words: AddedWords,
    /// For the first and the second encoder, `[N, D]`: those of all words, one after the other.
    vectors: Option<[FrozenWeight; 2]>,
    pub(crate) embedded: Vec<EmbeddedWord>,
}

/// The files of a request, as they were when it came.
#[derive(Clone, PartialEq)]
pub(crate) struct EmbeddingKey {
    embeddings: Vec<EmbeddingRequest>,
    stamps: Vec<Option<Stamp>>,
}

impl EmbeddingKey {
    pub(crate) fn of(request: &GenerateRequest) -> Self {
        let stamps = request.embeddings.iter().map(|own| stamp(Path::new(&own.path))).collect();
        Self { embeddings: request.embeddings.clone(), stamps }
    }
}

impl EmbeddingSet {
    /// Opens the files of a request. `widths` are those of the model's two text encoders.
    pub(crate) fn open(embeddings: &[EmbeddingRequest], widths: [usize; 2]) -> Result<Self> {
        let mut words = Vec::new();
        let mut embedded = Vec::new();
        let mut values = [Vec::new(), Vec::new()];
        for embedding in embeddings {
            let file = TextualInversion::open(Path::new(&embedding.path), widths)?;
            let word = embedding.word();
            for (values, vectors) in values.iter_mut().zip(file.vectors()) {
                values.extend(vectors.values_f32());
            }
            embedded.push(EmbeddedWord {
                name: file_name(&embedding.path),
                sha256: hex(&Sha256::digest(&**file.bytes())),
                word: word.clone(),
            });
            words.push((word, file.tokens()));
        }
        let all = |place: usize| {
            let rows = values[place].len() / widths[place];
            FrozenWeight::from_f32(&values[place], &[rows, widths[place]])
        };
        let vectors = (!words.is_empty()).then(|| [all(0), all(1)]);
        Ok(Self { words: added(&words)?, vectors, embedded })
    }

    /// The vectors of the ids from [`FIRST_ADDED`] on.
    pub(crate) fn vectors(&self, encoder: Encoder) -> Option<&FrozenWeight> {
        let place = match encoder {
            Encoder::ClipL => 0,
            Encoder::BigG => 1,
        };
        self.vectors.as_ref().map(|vectors| &vectors[place])
    }
}

/// Whether a row of tokens has words that stand for vectors.
pub(crate) fn has_added(ids: &[u32]) -> bool {
    ids.iter().any(|id| *id >= FIRST_ADDED)
}

/// How the prompts of a request are read where no model is open: its files say how many tokens
/// each word is.
///
/// `steps` are those that schedules count. The sentences say which files of the folder were left
/// out.
pub fn language(request: &GenerateRequest, steps: usize) -> Result<(Language, Vec<String>)> {
    request.check()?;
    let tokens = |path: &str| Ok(TextualInversion::tokens_in(Path::new(path))?);
    let (request, left_out) =
        with_those_of_the_folder(request, steps, &|path| tokens(path).map(drop))?;
    let words = request.embeddings.iter().map(|own| Ok((own.word(), tokens(&own.path)?)));
    let added = added(&words.collect::<Result<Vec<_>>>()?)?;
    let syntax = request.syntax.unwrap_or_default();
    Ok((Language { added, ..syntax.into() }, left_out))
}

/// Refuses words that cannot be words of a prompt, and files that share one.
pub(crate) fn check(embeddings: &[EmbeddingRequest]) -> Result<()> {
    let mut words = Vec::new();
    for embedding in embeddings {
        let word = (embedding.word(), 1);
        added(std::slice::from_ref(&word)).map_err(|error| Error::Request {
            problem: format!("`{}`: {error}", embedding.path),
            hint: error.hint(),
        })?;
        words.push(word);
    }
    added(&words).map(drop)
}

/// Words with the number of their vectors.
fn added(words: &[(String, usize)]) -> Result<AddedWords> {
    let words = words.iter().map(|(word, vectors)| (&**word, *vectors));
    AddedWords::new(words).map_err(|error| Error::Request {
        problem: error.to_string(),
        hint: Some(format!("{}: `--embedding PATH:WORD`", error.hint())),
    })
}

impl From<Syntax> for Language {
    fn from(syntax: Syntax) -> Self {
        unwrong_prompt::Syntax::from(syntax).into()
    }
}
