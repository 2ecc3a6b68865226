//! One file of tensors, open: each under its name, none of them read yet.
//!
//! Which format it is tell its first bytes, never its name: pickled files called
//! `.safetensors` are as common as the reverse.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::files::header::Header;
use crate::files::{Bytes, Dtype, Folder, Foreign, FrozenWeight, torch};

/// One file of tensors, open: safetensors, or what `torch.save` wrote.
#[derive(Debug, Clone)]
pub struct TensorFile {
    path: Arc<str>,
    bytes: Bytes,
    contents: Contents,
}

/// What a file holds, whatever its format.
#[derive(Debug, Clone)]
pub(super) struct Contents {
    pub(super) weights: BTreeMap<String, FrozenWeight>,
    pub(super) others: BTreeMap<String, OtherTensor>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// A tensor that is no weight: integers (`position_ids`) or a number format not read here.
#[derive(Debug, Clone)]
pub(crate) struct OtherTensor {
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(super) bytes: Bytes,
    pub(super) range: Range<usize>,
}

impl TensorFile {
    /// Maps and checks a file of the disk.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(&Bytes::map(path)?, &path.display().to_string())
    }

    /// Opens and checks a file of a folder.
    pub fn open_in(folder: &Folder, name: &str) -> Result<Self> {
        Self::parse(&folder.open(name)?, &folder.display(name))
    }

    /// Checks bytes that are a file of tensors; `path` names them in messages.
    pub fn parse(bytes: &Bytes, path: &str) -> Result<Self> {
        let contents = match Foreign::recognise(bytes) {
            Some(Foreign::TorchZip) => torch::read_zip(bytes, path)?,
            Some(Foreign::Pickle) => torch::read_legacy(bytes, path)?,
            _ => Contents::of_safetensors(bytes, path)?,
        };
        Ok(Self { path: path.into(), bytes: bytes.clone(), contents })
    }

    /// How to name the file in a message.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tensors in f16, bf16 and f32, by name.
    #[must_use]
    pub fn weights(&self) -> &BTreeMap<String, FrozenWeight> {
        &self.contents.weights
    }

    /// What the writer of the file noted in it.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.contents.metadata
    }

    /// Names of all tensors, of whatever dtype.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.contents.weights.keys().chain(self.contents.others.keys()).map(String::as_str)
    }

    /// The shape of a tensor of whatever dtype.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let weight = self.contents.weights.get(name).map(FrozenWeight::shape);
        weight.or_else(|| self.contents.others.get(name).map(|other| &*other.shape))
    }

    /// The number format of a tensor that is no weight, as the header calls it.
    pub(crate) fn dtype(&self, name: &str) -> Option<&str> {
        self.contents.others.get(name).map(|other| other.dtype.as_str())
    }

    /// The whole file.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// All tensors, key, number format, shape and bytes: in the order of the file, or of their
    /// names where some are copies and lie in no file.
    pub(crate) fn in_order(&self) -> Vec<(&str, &str, &[usize], &[u8])> {
        let weights = self.contents.weights.iter().map(|(name, weight)| {
            (name.as_str(), weight.dtype().name(), weight.shape(), weight.bytes())
        });
        let others = self.contents.others.iter().map(|(name, other)| {
            (name.as_str(), other.dtype.as_str(), &*other.shape, &other.bytes[other.range.clone()])
        });
        let mut tensors: Vec<_> = weights.chain(others).collect();
        let file = self.bytes.as_ptr_range();
        if tensors.iter().all(|(.., bytes)| file.contains(&bytes.as_ptr())) {
            tensors.sort_by_key(|(.., bytes)| bytes.as_ptr());
        } else {
            tensors.sort_by_key(|(name, ..)| *name);
        }
        tensors
    }

    /// A tensor of one value, of whatever number format Python writes a single number in.
    #[must_use]
    pub fn scalar(&self, name: &str) -> Option<f64> {
        if let Some(weight) = self.contents.weights.get(name) {
            return (weight.count() == 1).then(|| f64::from(weight.values_f32()[0]));
        }
        let other = self.contents.others.get(name)?;
        let bytes = &other.bytes[other.range.clone()];
        match other.dtype.as_str() {
            "F64" => Some(f64::from_le_bytes(bytes.try_into().ok()?)),
            "I64" => Some(i64::from_le_bytes(bytes.try_into().ok()?) as f64),
            "I32" => Some(f64::from(i32::from_le_bytes(bytes.try_into().ok()?))),
            _ => None,
        }
    }

    pub(crate) fn shared_path(&self) -> Arc<str> {
        Arc::clone(&self.path)
    }

    pub(crate) fn into_parts(
        self,
    ) -> (BTreeMap<String, FrozenWeight>, BTreeMap<String, OtherTensor>) {
        (self.contents.weights, self.contents.others)
    }
}

impl Contents {
    fn of_safetensors(bytes: &Bytes, path: &str) -> Result<Self> {
        let header = Header::parse(bytes, path)?;
        let mut weights = BTreeMap::new();
        let mut others = BTreeMap::new();
        for (name, tensor) in header.tensors {
            let (start, end) = tensor.data_offsets;
            let range = header.data_start + start..header.data_start + end;
            let (bytes, shape) = (bytes.clone(), tensor.shape);
            if let Some(dtype) = Dtype::from_safetensors(&tensor.dtype) {
                weights.insert(name, FrozenWeight::new(bytes, range, dtype, &shape));
            } else {
                let dtype = tensor.dtype;
                others.insert(name, OtherTensor { dtype, shape, bytes, range });
            }
        }
        Ok(Self { weights, others, metadata: header.metadata })
    }
}

/// Longer than any name of a tensor.
const LONGEST_NAME: usize = 1000;

/// Refuses names that could not be shown in a message: control characters move the cursor and
/// change colours.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.len() > LONGEST_NAME {
        return Err(format!("`{}` is a name of {} bytes", shown(name), name.len()));
    }
    if name.contains(char::is_control) {
        return Err(format!("`{}` is a name with control characters", shown(name)));
    }
    Ok(())
}

/// Text out of a file, fit for a line of a message: control characters escaped, and short.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 80;

    let start: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() { format!("{start}…") } else { start }
}
