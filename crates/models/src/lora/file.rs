//! A LoRA file, opened and read in its own dialect; no model is known yet.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::{Bytes, Dtype, Family, Folder, FrozenWeight, SafetensorsFile};
use crate::lora::dialect::spoken;
use crate::lora::keys::{Key, Network, Role};
use crate::lora::layer::LoraLayer;
use crate::lora::metadata::{KEY, PeftMetadata};
use crate::lora::names::LayerNames;

/// A LoRA file, opened: every tensor read, checked to be finite, and grouped by layer.
#[derive(Debug, Clone)]
pub struct LoraFile {
    file: SafetensorsFile,
    pub(super) layers: Vec<FileLayer>,
    /// Keys that are no part of a layer, with the reason.
    pub(super) ignored: Vec<String>,
}

/// The tensors of one layer.
#[derive(Debug, Clone)]
pub(super) struct FileLayer {
    pub(super) network: Network,
    /// The layer's name as the file has it, dotted or flat.
    pub(super) name: String,
    pub(super) down: FrozenWeight,
    pub(super) up: FrozenWeight,
    /// The product counts `alpha / rank` times.
    pub(super) alpha: f64,
    /// Keys of all its tensors.
    pub(super) keys: Vec<String>,
}

/// A layer of which not all tensors have been seen.
#[derive(Default)]
struct Parts<'a> {
    down: Option<&'a str>,
    up: Option<&'a str>,
    alpha: Option<&'a str>,
}

impl LoraFile {
    /// Opens a file of the disk.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(SafetensorsFile::open(path)?)
    }

    /// Opens a file of a folder.
    pub fn open_in(folder: &Folder, name: &str) -> Result<Self> {
        Self::read(SafetensorsFile::open_in(folder, name)?)
    }

    /// Opens bytes that are a file; `path` names them in messages.
    pub fn parse(bytes: &Bytes, path: &str) -> Result<Self> {
        Self::read(SafetensorsFile::parse(bytes, path)?)
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
        let attention = self.layers.iter().find(|layer| {
            layer.network == Network::Unet
                && (layer.name.ends_with("attn2.to_k") || layer.name.ends_with("attn2_to_k"))
        });
        attention.map(|layer| layer.down.shape()[1])
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

    /// All layers under their checkpoint names, whatever the file calls them.
    pub fn to_layers(&self) -> Result<Vec<LoraLayer>> {
        let names = LayerNames::sdxl();
        let layers = self.layers.iter().map(|layer| {
            let name = names.checkpoint_name(layer.network, &layer.name).ok_or_else(|| {
                self.refuse(format!("`{}` names no layer of SDXL", layer.keys[0]), None)
            })?;
            let FileLayer { network, alpha, .. } = *layer;
            Ok(LoraLayer { network, name, down: layer.down.clone(), up: layer.up.clone(), alpha })
        });
        layers.collect()
    }

    /// The error that this file cannot be used.
    pub(super) fn refuse(&self, reason: impl Into<String>, hint: Option<&str>) -> Error {
        refuse(&self.file, reason, hint)
    }

    fn read(file: SafetensorsFile) -> Result<Self> {
        let mut layers: BTreeMap<(Network, String), Parts<'_>> = BTreeMap::new();
        let mut ignored = Vec::new();
        check_kind(&file)?;
        for key in file.names() {
            let Key::Tensor { network, layer, role } = Key::parse(key) else {
                ignored.push(format!("{key}: no tensor of a LoRA"));
                continue;
            };
            let parts = layers.entry((network, layer)).or_default();
            let place = match role {
                Role::Down => &mut parts.down,
                Role::Up => &mut parts.up,
                Role::Alpha => &mut parts.alpha,
            };
            if let Some(other) = place.replace(key) {
                return Err(refuse(&file, format!("`{other}` and `{key}` are the same"), None));
            }
        }
        let metadata = PeftMetadata::read(&file)?;
        let mut read = Vec::with_capacity(layers.len());
        for ((network, name), parts) in layers {
            match read_layer(&file, &metadata, network, name, &parts)? {
                Some(layer) => read.push(layer),
                None => ignored.extend(parts.alpha.map(|key| format!("{key}: of no layer"))),
            }
        }
        if read.is_empty() {
            return Err(refuse(
                &file,
                "it has alphas and no matrix",
                Some("the file may be damaged: get it again"),
            ));
        }
        Ok(Self { layers: read, ignored, file })
    }
}

/// Refuses, in one line, what is no LoRA, no LoRA for SDXL or no LoRA of a known method.
fn check_kind(file: &SafetensorsFile) -> Result<()> {
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
                let hint = "use a plain LoRA: low-rank matrices with an optional alpha";
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

fn read_layer(
    file: &SafetensorsFile,
    metadata: &PeftMetadata,
    network: Network,
    name: String,
    parts: &Parts<'_>,
) -> Result<Option<FileLayer>> {
    let (down_key, up_key) = match (parts.down, parts.up) {
        (Some(down), Some(up)) => (down, up),
        (None, None) => return Ok(None),
        (Some(key), None) | (None, Some(key)) => {
            let reason = format!("`{key}` is there without its other half");
            return Err(refuse(file, reason, Some("the file may be damaged: get it again")));
        }
    };
    let (down, up) = (matrix(file, down_key)?, matrix(file, up_key)?);
    let rank = down.shape()[0];
    if rank == 0 || up.shape()[1] != rank {
        let reason = format!(
            "`{down_key}` has shape {:?} and `{up_key}` {:?}: they share no rank",
            down.shape(),
            up.shape()
        );
        return Err(refuse(file, reason, None));
    }
    let alpha = match parts.alpha {
        Some(key) => Some(
            file.scalar(key)
                .filter(|alpha| alpha.is_finite())
                .ok_or_else(|| refuse(file, format!("`{key}` is not one finite number"), None))?,
        ),
        None => None,
    };
    let alpha = alpha.unwrap_or_else(|| metadata.alpha(network, &name, rank));
    let keys = [Some(down_key), Some(up_key), parts.alpha];
    let keys = keys.into_iter().flatten().map(str::to_owned).collect();
    Ok(Some(FileLayer { network, name, down, up, alpha, keys }))
}

/// A finite matrix, or the weight of a convolution.
fn matrix(file: &SafetensorsFile, key: &str) -> Result<FrozenWeight> {
    let Some(weight) = file.weights().get(key) else {
        return Err(Error::WeightDtype {
            key: key.to_owned(),
            found: file.dtype(key).unwrap_or_default().to_owned(),
            path: file.path().to_owned(),
        });
    };
    if !matches!(weight.shape().len(), 2 | 4) {
        let reason = format!("`{key}` has shape {:?}, which is no matrix", weight.shape());
        return Err(refuse(file, reason, None));
    }
    if let Some(index) = first_not_finite(weight) {
        let reason = format!("`{key}` holds a value that is no finite number (at {index})");
        return Err(refuse(
            file,
            reason,
            Some("its training failed: use another checkpoint of it"),
        ));
    }
    Ok(weight.clone())
}

/// All bits of the exponent set: infinity or no number at all.
fn first_not_finite(weight: &FrozenWeight) -> Option<usize> {
    let bytes = weight.bytes();
    let mask = match weight.dtype() {
        Dtype::F32 => {
            let (values, _) = bytes.as_chunks::<4>();
            return values.iter().position(|value| !f32::from_le_bytes(*value).is_finite());
        }
        Dtype::F16 => 0x7C00,
        Dtype::Bf16 => 0x7F80,
    };
    let (values, _) = bytes.as_chunks::<2>();
    values.iter().position(|value| u16::from_le_bytes(*value) & mask == mask)
}

fn refuse(file: &SafetensorsFile, reason: impl Into<String>, hint: Option<&str>) -> Error {
    Error::Lora {
        path: file.path().to_owned(),
        reason: reason.into(),
        hint: hint.map(str::to_owned),
    }
}
