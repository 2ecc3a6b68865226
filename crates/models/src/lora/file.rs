//! A LoRA file, opened and read in its own dialect; no model is known yet.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::{Bytes, Family, Folder, TensorFile};
use crate::lora::change::Change;
use crate::lora::dialect::spoken;
use crate::lora::keys::{Key, Network};
use crate::lora::layer::LoraLayer;
use crate::lora::metadata::{KEY, PeftMetadata};
use crate::lora::names::LayerNames;
use crate::lora::read::{Parts, read_layer, refuse};

/// A LoRA file, opened: every tensor read, checked to be finite, and grouped by layer.
#[derive(Debug, Clone)]
pub struct LoraFile {
    file: TensorFile,
    pub(super) layers: Vec<FileLayer>,
    /// Keys that are no part of a layer, with the reason.
    pub(super) ignored: Vec<String>,
}

/// One layer and where it is in the file.
#[derive(Debug, Clone)]
pub(super) struct FileLayer {
    /// Under the name that the file has, dotted or flat.
    pub(super) layer: LoraLayer,
    /// Keys of all its tensors, matrices first.
    pub(super) keys: Vec<String>,
}

impl LoraFile {
    /// Opens a file of the disk.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(TensorFile::open(path)?)
    }

    /// Opens a file of a folder.
    pub fn open_in(folder: &Folder, name: &str) -> Result<Self> {
        Self::read(TensorFile::open_in(folder, name)?)
    }

    /// Opens bytes that are a file; `path` names them in messages.
    pub fn parse(bytes: &Bytes, path: &str) -> Result<Self> {
        Self::read(TensorFile::parse(bytes, path)?)
    }

    /// How to name the file in a message.
    #[must_use]
    pub fn path(&self) -> &str {
        self.file.path()
    }

    /// The whole file.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        self.file.bytes()
    }

    /// Number of tensors in the file.
    #[must_use]
    pub fn tensors(&self) -> usize {
        self.file.names().count()
    }

    /// Number of layers it changes.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Keys of tensors that belong to no layer, each with the reason.
    #[must_use]
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// What the writer of the file noted in it.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        self.file.metadata()
    }

    /// Whether its alphas are in the header, as PEFT's config, where not every program looks.
    #[must_use]
    pub fn has_peft_config(&self) -> bool {
        self.file.metadata().contains_key(KEY)
    }

    /// Names of the dialects of its keys: one, unless somebody mixed them.
    #[must_use]
    pub fn dialects(&self) -> BTreeSet<&'static str> {
        self.layers.iter().map(|layer| spoken(&layer.keys[0])).collect()
    }

    /// Width of the prompt's features that it was trained with, if it changes cross-attention.
    #[must_use]
    pub fn cross_attention_dim(&self) -> Option<usize> {
        let attention = self.layers.iter().map(|one| &one.layer).find(|layer| {
            layer.network == Network::Unet
                && !matches!(layer.change, Change::Nothing)
                && ["attn2.to_k", "attn2_to_k", "attn2.to_v", "attn2_to_v"]
                    .iter()
                    .any(|end| layer.name.ends_with(end))
        });
        attention.map(|layer| layer.change.dims().1)
    }

    /// The kind of model that it was trained for, told from that width.
    #[must_use]
    pub fn family(&self) -> Option<&'static str> {
        Some(match self.cross_attention_dim()? {
            768 => "Stable Diffusion 1",
            1024 => "Stable Diffusion 2",
            1280 => "the SDXL refiner",
            2048 => "the SDXL base",
            _ => return None,
        })
    }

    /// All layers under their checkpoint names, whatever the file calls them; without those that
    /// no SDXL has, which are [`unknown`](Self::unknown), unless there are no others.
    pub fn to_layers(&self) -> Result<Vec<LoraLayer>> {
        let names = LayerNames::sdxl();
        let known = self.layers.iter().filter_map(|FileLayer { layer, .. }| {
            let name = names.checkpoint_name(layer.network, &layer.name)?;
            Some(LoraLayer { name, ..layer.clone() })
        });
        let known: Vec<LoraLayer> = known.collect();
        match self.unknown().first() {
            Some(first) if known.is_empty() => Err(self.refuse(first, None)),
            _ => Ok(known),
        }
    }

    /// Keys of all tensors that [`to_layers`](Self::to_layers) leaves out, each with the reason.
    #[must_use]
    pub fn left_out(&self) -> Vec<String> {
        [self.ignored(), &self.unknown()].concat()
    }

    /// Keys of tensors that are for layers which no SDXL has, each with the reason.
    #[must_use]
    pub fn unknown(&self) -> Vec<String> {
        let names = LayerNames::sdxl();
        let unknown = self.layers.iter().filter(|FileLayer { layer, .. }| {
            names.checkpoint_name(layer.network, &layer.name).is_none()
        });
        let keys = unknown.flat_map(|one| &one.keys);
        keys.map(|key| format!("`{key}` names no layer of SDXL")).collect()
    }

    /// Shape of one of its tensors.
    pub(super) fn shape(&self, key: &str) -> &[usize] {
        self.file.shape(key).unwrap_or_default()
    }

    /// The error that this file cannot be used.
    pub(super) fn refuse(&self, reason: impl Into<String>, hint: Option<&str>) -> Error {
        refuse(&self.file, reason, hint)
    }

    fn read(file: TensorFile) -> Result<Self> {
        let mut layers: BTreeMap<(Network, String), Parts<'_>> = BTreeMap::new();
        let mut ignored = Vec::new();
        check_kind(&file)?;
        for key in file.names() {
            let Key::Tensor { network, layer, role } = Key::parse(key) else {
                ignored.push(format!("{key}: no tensor of a LoRA"));
                continue;
            };
            if let Some(other) = layers.entry((network, layer)).or_default().insert(role, key) {
                return Err(refuse(&file, format!("`{other}` and `{key}` are the same"), None));
            }
        }
        let metadata = PeftMetadata::read(&file)?;
        let mut read = Vec::with_capacity(layers.len());
        for ((network, name), parts) in layers {
            let keys: Vec<String> = parts.values().map(|key| (*key).to_owned()).collect();
            match read_layer(&file, &metadata, network, name, &parts)? {
                Some(layer) => read.push(FileLayer { layer, keys }),
                None => ignored.extend(keys.iter().map(|key| format!("{key}: of no layer"))),
            }
        }
        if read.is_empty() {
            let reason = "it has alphas and no matrix";
            return Err(refuse(&file, reason, Some("the file may be damaged: get it again")));
        }
        Ok(Self { layers: read, ignored, file })
    }
}

/// Refuses, in one line, what is no LoRA, no LoRA for SDXL or no LoRA of a known method.
fn check_kind(file: &TensorFile) -> Result<()> {
    match Family::recognise(file) {
        Family::Lora => {}
        // Dialects without a mark of their own may still hold layers.
        Family::Unknown(_) if file.names().any(is_tensor) => {}
        other => return Err(refuse(file, format!("it is {other}"), None)),
    }
    for key in file.names() {
        match Key::parse(key) {
            Key::Family(family) => {
                return Err(refuse(file, format!("it is for {family}, not SDXL (`{key}`)"), None));
            }
            Key::Method(method) => {
                let reason = format!("it uses {method} (`{key}`), which is not implemented");
                let hint = "use a LoRA, LoCon, LoHa, LoKr, DoRA or full difference";
                return Err(refuse(file, reason, Some(hint)));
            }
            Key::Tensor { .. } | Key::Unknown => {}
        }
    }
    if !file.names().any(is_tensor) {
        return Err(refuse(file, "none of its keys names a layer in a known way", None));
    }
    Ok(())
}

fn is_tensor(key: &str) -> bool {
    matches!(Key::parse(key), Key::Tensor { .. })
}
