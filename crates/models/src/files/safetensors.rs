//! One safetensors file, open: its tensors as views, none of them read yet.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::files::header::Header;
use crate::files::{Bytes, Dtype, Folder, FrozenWeight};

/// One safetensors file, open: its tensors as views, none of them read yet.
#[derive(Debug, Clone)]
pub struct SafetensorsFile {
    path: Arc<str>,
    weights: BTreeMap<String, FrozenWeight>,
    others: BTreeMap<String, OtherTensor>,
    metadata: BTreeMap<String, String>,
}

/// A tensor that is no weight: integers (`position_ids`) or a number format not read here.
#[derive(Debug, Clone)]
pub(crate) struct OtherTensor {
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
}

impl SafetensorsFile {
    /// Maps and checks a file of the disk.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(&Bytes::map(path)?, &path.display().to_string())
    }

    /// Opens and checks a file of a folder.
    pub fn open_in(folder: &Folder, name: &str) -> Result<Self> {
        Self::parse(&folder.open(name)?, &folder.display(name))
    }

    /// Checks bytes that are a safetensors file; `path` names them in messages.
    pub fn parse(bytes: &Bytes, path: &str) -> Result<Self> {
        let header = Header::parse(bytes, path)?;
        let mut weights = BTreeMap::new();
        let mut others = BTreeMap::new();
        for (name, tensor) in header.tensors {
            if let Some(dtype) = Dtype::from_safetensors(&tensor.dtype) {
                let (start, end) = tensor.data_offsets;
                let range = header.data_start + start..header.data_start + end;
                weights.insert(name, FrozenWeight::new(bytes.clone(), range, dtype, &tensor.shape));
            } else {
                others.insert(name, OtherTensor { dtype: tensor.dtype, shape: tensor.shape });
            }
        }
        Ok(Self { path: path.into(), weights, others, metadata: header.metadata })
    }

    /// How to name the file in a message.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tensors in f16, bf16 and f32, by name.
    #[must_use]
    pub fn weights(&self) -> &BTreeMap<String, FrozenWeight> {
        &self.weights
    }

    /// What the writer of the file noted in it.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Names of all tensors, of whatever dtype.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.weights.keys().chain(self.others.keys()).map(String::as_str)
    }

    /// The shape of a tensor of whatever dtype.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let weight = self.weights.get(name).map(FrozenWeight::shape);
        weight.or_else(|| self.others.get(name).map(|other| &*other.shape))
    }

    pub(crate) fn shared_path(&self) -> Arc<str> {
        Arc::clone(&self.path)
    }

    pub(crate) fn into_parts(
        self,
    ) -> (BTreeMap<String, FrozenWeight>, BTreeMap<String, OtherTensor>) {
        (self.weights, self.others)
    }
}
