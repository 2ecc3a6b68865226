//! What was computed once, kept on disk: latents of pictures, embeddings of captions.
//!
//! One safetensors file for each entry, under a name that is the hash of all that the entry
//! follows from: nothing in the folder is ever wrong, only no longer asked for. Files appear
//! complete or not at all, and each carries a checksum: one that is damaged is computed again.
//! There are no locks, so nothing has to be cleared after a crash, and several runs may share a
//! folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use unwrong::picture::write_atomically;
use unwrong_models::files::{Bytes, Dtype, FrozenWeight, TensorFile, safetensors_bytes};

use crate::error::{Error, Result};

/// Changes whenever the same key would stand for other numbers.
const VERSION: &str = "unwrong cache 1";
/// The metadata of a file that holds its checksum.
const CHECKSUM: &str = "sha256";

/// Numbers in rows, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// As many as the shape says.
    pub values: Vec<f32>,
}

/// What is kept under one key: arrays by name, such as `mean` and `std`.
pub type Entry = BTreeMap<String, Array>;

/// The name of an entry: a hash of all that it follows from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// The key of these texts, in this order. The first says what the entry is.
    #[must_use]
    pub fn new(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in [VERSION].iter().chain(parts) {
            // With its length, so that no two lists run together into the same bytes.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(format!("{:x}", hash.finalize()))
    }

    /// The key of what text encoders make of a caption.
    ///
    /// `encoders` tells one set of them from another: the hashes of their weights, and how they
    /// are run.
    #[must_use]
    pub fn of_caption(caption: &str, encoders: &str) -> Self {
        Self::new(&["embeds", caption, encoders])
    }
}

/// A folder of entries.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Makes the folder if it is not there.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The entry of a key; where there is none, or a damaged one, it is computed and kept.
    pub fn get_or(&self, key: &Key, compute: impl FnOnce() -> Result<Entry>) -> Result<Entry> {
        if let Some(entry) = self.get(key) {
            return Ok(entry);
        }
        let entry = compute()?;
        write_atomically(&self.path(key), &encode(&entry), true)?;
        Ok(entry)
    }

    /// The entry of a key, if it is there and whole.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Entry> {
        decode(fs::read(self.path(key)).ok()?)
    }

    /// The file of a key, whether it is there or not.
    #[must_use]
    pub fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{}.safetensors", key.0))
    }
}

fn encode(entry: &Entry) -> Vec<u8> {
    let tensor = |array: &Array| FrozenWeight::from_f32(&array.values, &array.shape);
    let tensors = entry.iter().map(|(name, array)| (name.clone(), tensor(array))).collect();
    safetensors_bytes(&tensors, &BTreeMap::from([(CHECKSUM.to_owned(), checksum(entry))]))
}

/// Nothing, unless the file is whole.
fn decode(bytes: Vec<u8>) -> Option<Entry> {
    let file = TensorFile::parse(&Bytes::owned(bytes), "cache").ok()?;
    let array = |(name, weight): (&String, &FrozenWeight)| {
        let array = Array { shape: weight.shape().to_vec(), values: weight.values_f32() };
        (weight.dtype() == Dtype::F32).then(|| (name.clone(), array))
    };
    let entry: Entry = file.weights().iter().map(array).collect::<Option<_>>()?;
    (checksum(&entry) == *file.metadata().get(CHECKSUM)?).then_some(entry)
}

/// Of names, shapes and values.
fn checksum(entry: &Entry) -> String {
    let mut hash = Sha256::new();
    for (name, array) in entry {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update((array.shape.len() as u64).to_le_bytes());
        for length in &array.shape {
            hash.update((*length as u64).to_le_bytes());
        }
        for value in &array.values {
            hash.update(value.to_le_bytes());
        }
    }
    format!("{:x}", hash.finalize())
}
