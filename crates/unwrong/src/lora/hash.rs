//! The hashes that programs and sites know a file by.
//!
//! | name | of what | who asks |
//! |---|---|---|
//! | `sha256` | all bytes | everybody |
//! | `autov2` | its first 10 digits | A1111, Civitai |
//! | `autov1` | 64 KiB from 1 MiB on, 8 digits | A1111 before 2023, `sshs_legacy_hash` |
//! | `sshs_model_hash` | the tensors, without the header | kohya, Additional Networks |
//! | `autov3` | its first 12 digits | Civitai |
//!
//! A1111 1.10.1 `modules/hashes.py` and `sd_models.py: model_hash`; sd-scripts 48d368f
//! `library/train_util.py: addnet_hash_safetensors`, `addnet_hash_legacy`,
//! `precalculate_safetensors_hashes`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use unwrong_models::files::{Bytes, FrozenWeight, TensorFile, safetensors_bytes};

use crate::error::Result;
use crate::identity::hex;

/// Where the part begins that the oldest hash is of, and how long it is.
const LEGACY: std::ops::Range<usize> = 0x10_0000..0x11_0000;

/// The keys under which kohya's scripts note the hashes of a file in it.
pub(super) const MODEL_HASH: &str = "sshs_model_hash";
pub(super) const LEGACY_HASH: &str = "sshs_legacy_hash";

/// The hashes of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hashes {
    /// The file.
    pub path: String,
    /// Its length.
    pub bytes: usize,
    /// SHA-256 of all of it, in hex like the others.
    pub sha256: String,
    /// The first ten digits of it.
    pub autov2: String,
    /// Of a small part of the file: A1111's first kind.
    pub autov1: String,
    /// Of the tensors without the header, in a safetensors file.
    pub sshs_model_hash: Option<String>,
    /// The first twelve digits of it.
    pub autov3: Option<String>,
    /// What the file says that its `sshs_model_hash` is.
    pub noted_model_hash: Option<String>,
    /// What the file says that its `sshs_legacy_hash` is.
    pub noted_legacy_hash: Option<String>,
}

impl Hashes {
    /// Whether the file notes another hash of its tensors than they have.
    #[must_use]
    pub fn is_altered(&self) -> bool {
        let noted = self.noted_model_hash.as_ref();
        noted.is_some_and(|noted| Some(noted) != self.sshs_model_hash.as_ref())
    }
}

/// Hashes a file of any kind; what is of tensors only where it has some.
pub fn hashes(path: &Path) -> Result<Hashes> {
    let bytes = Bytes::map(path)?;
    let path = path.display().to_string();
    let file = match TensorFile::parse(&bytes, &path) {
        Ok(file) => Some(file),
        Err(unwrong_models::Error::NotSafetensors { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let noted = |key: &str| file.as_ref().and_then(|file| file.metadata().get(key).cloned());
    let tensors = file.as_ref().and_then(|_| tensors_of(&bytes)).map(tensor_hash);
    let sha256 = hex(&Sha256::digest(&*bytes));
    Ok(Hashes {
        bytes: bytes.len(),
        autov2: start(&sha256, 10),
        autov1: legacy_hash(&bytes),
        autov3: tensors.as_deref().map(|hash| start(hash, 12)),
        sshs_model_hash: tensors,
        noted_model_hash: noted(MODEL_HASH),
        noted_legacy_hash: noted(LEGACY_HASH),
        sha256,
        path,
    })
}

/// The hashes that kohya's scripts note in a file with these tensors: as if it had no other
/// metadata than that of the training.
pub(super) fn noted_hashes(
    tensors: &BTreeMap<String, FrozenWeight>,
    metadata: &BTreeMap<String, String>,
) -> [(String, String); 2] {
    let training = metadata.iter().filter(|(key, _)| key.starts_with("ss_"));
    let training = training.map(|(key, value)| (key.clone(), value.clone())).collect();
    let bytes = safetensors_bytes(tensors, &training);
    let tensors = tensors_of(&bytes).unwrap_or(&[]);
    [(MODEL_HASH.to_owned(), tensor_hash(tensors)), (LEGACY_HASH.to_owned(), legacy_hash(&bytes))]
}

/// All that follows the header of a safetensors file; pickles have none.
fn tensors_of(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    if rest.starts_with(b"{") { rest.get(length..) } else { None }
}

fn tensor_hash(tensors: &[u8]) -> String {
    hex(&Sha256::digest(tensors))
}

fn legacy_hash(bytes: &[u8]) -> String {
    let end = LEGACY.end.min(bytes.len());
    let part = bytes.get(LEGACY.start..end).unwrap_or(&[]);
    start(&hex(&Sha256::digest(part)), 8)
}

fn start(hash: &str, digits: usize) -> String {
    hash.chars().take(digits).collect()
}
