//! Shapes of the tensors under one prefix.

use crate::error::{Error, Result};
use crate::files::TensorFile;

/// Features per attention head in every network of SDXL.
const HEAD: usize = 64;
/// More blocks in a row than any network has: loops over a file's keys end here.
const MOST_BLOCKS: usize = 512;

/// Shapes of the tensors under one prefix.
pub(super) struct Shapes<'a> {
    file: &'a TensorFile,
    prefix: &'a str,
}

impl<'a> Shapes<'a> {
    pub(super) fn new(file: &'a TensorFile, prefix: &'a str) -> Self {
        Self { file, prefix }
    }

    pub(super) fn dim(&self, name: &str, axis: usize) -> Option<usize> {
        self.shape(name)?.get(axis).copied()
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.file.shape(&format!("{}{name}", self.prefix))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// The size that must be there for the file to be what it seems.
    pub(super) fn need(&self, name: &str, axis: usize) -> Result<usize> {
        self.dim(name, axis).ok_or_else(|| Error::MissingWeight {
            key: format!("{}{name}", self.prefix),
            path: self.file.path().to_owned(),
        })
    }

    /// How many of `name(0)`, `name(1)`, … there are in a row.
    pub(super) fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..MOST_BLOCKS).take_while(|i| self.has(&name(*i))).count()
    }

    /// How many heads share this many features, at SDXL's width of a head.
    pub(super) fn heads(&self, features: usize) -> Result<usize> {
        if features > 0 && features.is_multiple_of(HEAD) {
            return Ok(features / HEAD);
        }
        Err(self.unusual(&format!("{features} features, which no number of {HEAD}-wide heads has")))
    }

    /// The error that the file is like SDXL, but not built as it is.
    pub(super) fn unusual(&self, what: &str) -> Error {
        Error::WrongModel {
            path: self.file.path().to_owned(),
            found: format!("a checkpoint with {what}"),
            expected: "SDXL's own layout, or a folder in diffusers layout with its configs"
                .to_owned(),
        }
    }

    pub(super) fn has_clip(&self) -> bool {
        self.has("text_model.embeddings.token_embedding.weight")
    }

    pub(super) fn has_openclip(&self) -> bool {
        self.has("token_embedding.weight")
    }

    pub(super) fn has_ldm_vae(&self) -> bool {
        self.has("decoder.mid.block_1.conv1.weight")
    }
}
