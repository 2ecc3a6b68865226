//! A LoRA file that a tool reads, and the one that it writes.

use std::collections::BTreeMap;
use std::path::Path;

use unwrong_models::files::{Bytes, Dtype, FrozenWeight, TensorFile, safetensors_bytes};
use unwrong_models::lora::{Dialect, LoraFile, LoraLayer, write_lora};

use super::hash::{LEGACY_HASH, MODEL_HASH, noted_hashes};
use crate::error::{Error, Result};

/// What a tool notes in a file.
pub(super) type Metadata = BTreeMap<String, String>;

/// How a tool writes its file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Writing {
    /// Whose keys; absent means those of the source.
    pub dialect: Option<Dialect>,
    /// How numbers are stored; absent means as they are.
    pub dtype: Option<Dtype>,
}

/// A LoRA file that a tool has made.
#[derive(Debug)]
pub struct Made {
    /// The file.
    pub bytes: Bytes,
    /// Number of layers in it.
    pub layers: usize,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// A LoRA file, read.
pub(super) struct Source {
    pub(super) file: LoraFile,
    pub(super) layers: Vec<LoraLayer>,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = LoraFile::open(path)?;
        let layers = file.to_layers()?;
        Ok(Self { file, layers })
    }

    /// Its metadata, without hashes that will no longer be true.
    pub(super) fn metadata(&self) -> Metadata {
        let mut metadata = self.file.metadata().clone();
        metadata.retain(|key, _| ![MODEL_HASH, LEGACY_HASH].contains(&key.as_str()));
        metadata
    }

    /// The dialects to try in turn: its own, and one that has words for everything.
    pub(super) fn dialects(&self) -> Vec<Dialect> {
        let dialects: Vec<&str> = self.file.dialects().into_iter().collect();
        match dialects[..] {
            ["PEFT"] => vec![Dialect::Peft],
            ["diffusers (2023)" | "diffusers"] => vec![Dialect::Diffusers, Dialect::Peft],
            _ => vec![Dialect::Kohya],
        }
    }

    /// The number formats of its matrices.
    pub(super) fn dtypes(&self) -> impl Iterator<Item = Dtype> {
        self.layers.iter().flat_map(LoraLayer::tensors).map(FrozenWeight::dtype)
    }

    /// Says which tensors of the file belong to no layer.
    pub(super) fn left_out(&self) -> impl Iterator<Item = String> {
        self.file.left_out().into_iter().map(|ignored| format!("left out: {ignored}"))
    }

    /// Writes layers made of this one's.
    pub(super) fn write(
        &self,
        layers: &[LoraLayer],
        metadata: &Metadata,
        writing: Writing,
    ) -> Result<Made> {
        let mut made = write(layers, metadata, &self.dialects(), writing)?;
        made.warnings.extend(self.left_out());
        Ok(made)
    }
}

/// Writes layers in the dialect asked for, or the first of some that has words for them.
pub(super) fn write(
    layers: &[LoraLayer],
    metadata: &Metadata,
    dialects: &[Dialect],
    writing: Writing,
) -> Result<Made> {
    if layers.is_empty() {
        return Err(Error::Request {
            problem: "nothing is left to write".to_owned(),
            hint: Some("keep at least one block or layer".to_owned()),
        });
    }
    let layers: Vec<LoraLayer> = match writing.dtype {
        Some(dtype) => {
            layers.iter().map(|layer| layer.in_dtype(dtype)).collect::<Result<_, _>>()?
        }
        None => layers.to_vec(),
    };
    let asked = writing.dialect.map(|dialect| vec![dialect]);
    let mut dialects = asked.as_deref().unwrap_or(dialects).iter();
    let mut result = Ok(Vec::new());
    while let Some(dialect) = dialects.next() {
        result = write_lora(&layers, *dialect, metadata);
        let has_no_word = matches!(result, Err(unwrong_models::Error::LoraDialect { .. }));
        if !has_no_word || dialects.len() == 0 {
            break;
        }
    }
    let file = TensorFile::parse(&Bytes::owned(result?), "the LoRA to write")?;
    let mut metadata = file.metadata().clone();
    metadata.extend(noted_hashes(file.weights(), &metadata));
    let bytes = Bytes::owned(safetensors_bytes(file.weights(), &metadata));
    // What cannot be read again is never handed out.
    let layers = LoraFile::parse(&bytes, "the LoRA to write")?.layers();
    Ok(Made { bytes, layers, warnings: Vec::new() })
}
