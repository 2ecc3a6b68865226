//! Finding the layer of every tensor, all of them before any takes effect.

use std::collections::HashMap;

use crate::error::Result;
use crate::files::FrozenWeight;
use crate::lora::file::FileLayer;
use crate::lora::keys::Network;
use crate::lora::{Adapters, BlockWeights, LoraFile, LowRank, Targets};

/// How much of a LoRA file found its layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The file.
    pub path: String,
    /// Tensors in use.
    pub applied: usize,
    /// Tensors in the file.
    pub total: usize,
    /// Keys of the tensors not in use, each with the reason.
    pub unapplied: Vec<String>,
    /// Tensors among those in use whose scale is 0, so that they change nothing.
    pub silent: usize,
}

/// How strongly a LoRA file counts in each network, and in each block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scales {
    /// In the UNet.
    pub unet: f64,
    /// In the first text encoder.
    pub text_encoder: f64,
    /// In the second text encoder.
    pub text_encoder_2: f64,
    /// Factors of these, block by block.
    pub blocks: BlockWeights,
}

impl From<f64> for Scales {
    fn from(scale: f64) -> Self {
        let blocks = BlockWeights::default();
        Self { unet: scale, text_encoder: scale, text_encoder_2: scale, blocks }
    }
}

impl Scales {
    /// The scale of a layer, by its checkpoint name.
    #[must_use]
    pub fn of(&self, network: Network, layer: &str) -> f64 {
        let scale = match network {
            Network::Unet => self.unet,
            Network::TextEncoder => self.text_encoder,
            Network::TextEncoder2 => self.text_encoder_2,
        };
        scale * self.blocks.of(network, layer)
    }

    /// A number among them that is none.
    fn not_finite(&self) -> Option<f64> {
        let scales = [self.unet, self.text_encoder, self.text_encoder_2];
        scales.into_iter().chain(self.blocks.numbers()).find(|scale| !scale.is_finite())
    }
}

/// Finds the layers of LoRA files, each with the user's scales.
///
/// A scale of 0 leaves no adapter behind, so such a run is bit by bit one without the file.
/// Either every file fits or nothing is returned.
pub fn attach<S: Into<Scales> + Copy>(
    files: &[(LoraFile, S)],
    targets: &Targets,
) -> Result<(Adapters, Vec<Applied>)> {
    let mut adapters = Adapters::default();
    let mut reports = Vec::with_capacity(files.len());
    for (file, scales) in files {
        let scales: Scales = (*scales).into();
        if let Some(scale) = scales.not_finite() {
            return Err(file.refuse(format!("its scale is {scale}"), Some("use a number")));
        }
        reports.push(attach_one(file, scales, targets, &mut adapters)?);
    }
    Ok((adapters, reports))
}

fn attach_one(
    file: &LoraFile,
    scales: Scales,
    targets: &Targets,
    adapters: &mut Adapters,
) -> Result<Applied> {
    check_family(file, targets)?;
    let (mut unapplied, mut silent) = (file.ignored.clone(), 0);
    let mut taken: HashMap<(Network, &str), &FileLayer> = HashMap::new();
    for layer in &file.layers {
        let Some((name, shape)) = targets.find(layer.network, &layer.name) else {
            unapplied.extend(layer.keys.iter().map(|key| format!("{key}: no such layer")));
            continue;
        };
        if let Some(other) = taken.insert((layer.network, name), layer) {
            let reason = format!(
                "`{}` and `{}` are both for the layer `{name}`",
                other.keys[0], layer.keys[0]
            );
            return Err(file.refuse(reason, None));
        }
        let low_rank = fit(file, layer, name, shape, scales.of(layer.network, name))?;
        if low_rank.scale == 0.0 {
            silent += layer.keys.len();
        } else {
            adapters.of_mut(layer.network).entry(name).low_rank.push(low_rank);
        }
    }
    if taken.is_empty() {
        let reason = format!(
            "none of its {} layers is in this model (the first is `{}`)",
            file.layers.len(),
            file.layers.first().map_or("", |layer| &layer.name)
        );
        return Err(file.refuse(reason, Some("use a LoRA that was trained for SDXL")));
    }
    let applied = taken.values().map(|layer| layer.keys.len()).sum();
    Ok(Applied { path: file.path().to_owned(), applied, total: file.tensors(), unapplied, silent })
}

/// The width of the prompt's features tells the families apart, whatever the layers are called.
fn check_family(file: &LoraFile, targets: &Targets) -> Result<()> {
    let Some(expected) = targets.cross_attention_dim() else { return Ok(()) };
    let Some(found) = file.cross_attention_dim().filter(|found| *found != expected) else {
        return Ok(());
    };
    let family = file.family().map(|family| format!(" ({family})")).unwrap_or_default();
    let reason = format!(
        "it is for a model whose prompts have {found} features{family}; this one's have {expected}"
    );
    Err(file.refuse(reason, Some("use a LoRA that was trained for this kind of model")))
}

/// The layer's product in the shapes of the layer, or the error that it has others.
fn fit(
    file: &LoraFile,
    layer: &FileLayer,
    name: &str,
    shape: &[usize],
    scale: f64,
) -> Result<LowRank> {
    let rank = layer.down.shape()[0];
    let (inputs, kernel) = (shape[1], &shape[2..]);
    // A 1×1 convolution may be written as a matrix, and a matrix as a 1×1 convolution.
    let inner = without_ones(&layer.down.shape()[1..]);
    let down_fits = inner == without_ones(&shape[1..]);
    let up = layer.up.shape();
    let up_fits = up[0] == shape[0] && up[2..].iter().all(|side| *side == 1);
    if !down_fits || !up_fits {
        let reason = format!(
            "`{}` has shape {:?} and `{}` {:?}, which do not fit the layer `{name}` of shape \
             {shape:?}",
            layer.keys[0],
            layer.down.shape(),
            layer.keys[1],
            up
        );
        return Err(file.refuse(reason, Some("use a LoRA that was trained for this model")));
    }
    let ones = vec![1; kernel.len()];
    Ok(LowRank {
        down: reshaped(&layer.down, &[&[rank, inputs], kernel].concat()),
        up: reshaped(&layer.up, &[&[shape[0], rank], &*ones].concat()),
        scale: (scale * layer.alpha / rank as f64) as f32,
    })
}

fn reshaped(weight: &FrozenWeight, shape: &[usize]) -> FrozenWeight {
    if weight.shape() == shape { weight.clone() } else { weight.reshaped(shape) }
}

fn without_ones(shape: &[usize]) -> &[usize] {
    let end = shape.iter().rposition(|dim| *dim != 1).map_or(0, |last| last + 1);
    &shape[..end]
}
