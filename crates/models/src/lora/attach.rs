//! Finding the layer of every tensor, all of them before any takes effect.

use std::collections::{BTreeMap, HashMap};

use crate::error::Result;
use crate::lora::change::Change;
use crate::lora::effect::Effect;
use crate::lora::file::FileLayer;
use crate::lora::keys::Network;
use crate::lora::targets::Target;
use crate::lora::{Adapters, BlockWeights, LoraFile, LoraLayer, Targets};

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
    let mut effects = Effects::new();
    let mut reports = Vec::with_capacity(files.len());
    for (file, scales) in files {
        let scales: Scales = (*scales).into();
        if let Some(scale) = scales.not_finite() {
            return Err(file.refuse(format!("its scale is {scale}"), Some("use a number")));
        }
        let (found, mut report) = find_layers(file, targets)?;
        for Found { layer, name, target, tensors } in found {
            let scale = scales.of(layer.network, name);
            if scale == 0.0 {
                report.silent += tensors;
            } else {
                let place = effects.entry((layer.network, name));
                place.or_insert_with(|| (target, Vec::new())).1.push((layer, scale));
            }
        }
        reports.push(report);
    }
    let mut adapters = Adapters::default();
    for ((network, name), (target, layers)) in effects {
        let mut effect = Effect::new(target);
        for (layer, scale) in layers {
            effect.add(layer, scale);
        }
        if let Some(adapter) = effect.finish() {
            *adapters.of_mut(network).entry(name) = adapter;
        }
    }
    Ok((adapters, reports))
}

/// What the files do to each layer, in their order.
type Effects<'a> = BTreeMap<(Network, &'a str), (&'a Target, Vec<(&'a LoraLayer, f64)>)>;

/// A layer of a file and the model's layer that it changes.
struct Found<'a> {
    layer: &'a LoraLayer,
    name: &'a str,
    target: &'a Target,
    /// How many tensors it has that do something.
    tensors: usize,
}

/// The layers of a file that are in the model, all of which fit.
fn find_layers<'a>(file: &'a LoraFile, targets: &'a Targets) -> Result<(Vec<Found<'a>>, Applied)> {
    check_family(file, targets)?;
    let mut unapplied = file.ignored.clone();
    let mut taken: HashMap<(Network, &str), &FileLayer> = HashMap::new();
    let (mut found, mut applied) = (Vec::new(), 0);
    for one in &file.layers {
        let FileLayer { layer, keys } = one;
        let Some((name, target)) = targets.find(layer.network, &layer.name) else {
            unapplied.extend(keys.iter().map(|key| format!("{key}: no such layer")));
            continue;
        };
        if let Some(other) = taken.insert((layer.network, name), one) {
            let reason =
                format!("`{}` and `{}` are both for the layer `{name}`", other.keys[0], keys[0]);
            return Err(file.refuse(reason, None));
        }
        check_fit(file, one, name, target)?;
        let idle = idle_keys(one);
        let tensors = keys.len() - idle.len();
        applied += tensors;
        unapplied.extend(idle);
        found.push(Found { layer, name, target, tensors });
    }
    if found.is_empty() {
        let reason = format!(
            "none of its {} layers is in this model (the first is `{}`)",
            file.layers.len(),
            file.layers.first().map_or("", |one| &one.layer.name)
        );
        return Err(file.refuse(reason, Some("use a LoRA that was trained for SDXL")));
    }
    let (path, total) = (file.path().to_owned(), file.tensors());
    Ok((found, Applied { path, applied, total, unapplied, silent: 0 }))
}

/// Keys of a layer that fit and do nothing, each with the reason.
fn idle_keys(one: &FileLayer) -> Vec<String> {
    let FileLayer { layer, keys } = one;
    if layer.change.alpha() == Some(0.0) && layer.magnitude.is_none() && layer.bias.is_none() {
        return keys.iter().map(|key| format!("{key}: its layer's alpha is 0")).collect();
    }
    Vec::new()
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

/// Refuses a layer whose shapes are not those of the model's.
fn check_fit(file: &LoraFile, one: &FileLayer, name: &str, target: &Target) -> Result<()> {
    let FileLayer { layer, keys } = one;
    let shape = target.weight.shape();
    let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>());
    // A 1×1 convolution may be written as a matrix, and a matrix as a 1×1 convolution.
    let kernel = layer.change.kernel().filter(|sides| sides.iter().any(|side| *side != 1));
    let fits = match &layer.change {
        Change::Nothing => true,
        Change::Norm(_) if !target.is_norm() => false,
        Change::Norm(_) | Change::Full(_) => {
            layer.change.dims() == (rows, columns)
                && kernel.is_none_or(|k| shape.get(2..) == Some(k))
        }
        change => {
            !target.is_norm()
                && change.dims() == (rows, columns)
                && kernel.is_none_or(|kernel| shape.get(2..) == Some(kernel))
        }
    };
    let bias_fits = layer.bias.as_ref().is_none_or(|bias| bias.count() == rows);
    let magnitude_fits = layer.magnitude.as_ref().is_none_or(|lengths| {
        let per_row = lengths.shape()[0] == rows && lengths.count() == rows;
        let inputs = shape.get(1).copied().unwrap_or(1);
        per_row || lengths.shape()[0] == 1 && [rows, inputs].contains(&lengths.count())
    });
    if fits && bias_fits && magnitude_fits {
        return Ok(());
    }
    let found: Vec<String> = keys
        .iter()
        .filter(|key| !file.shape(key).is_empty())
        .map(|key| format!("`{key}` {:?}", file.shape(key)))
        .collect();
    let reason =
        format!("shapes do not fit the layer `{name}` of shape {shape:?}: {}", found.join(", "));
    Err(file.refuse(reason, Some("use a LoRA that was trained for this model")))
}
