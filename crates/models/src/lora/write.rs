//! A list of layers becomes a file: the bytes that diffusers, A1111 or ComfyUI read.
//!
//! Every layer's `alpha / rank · up · down` comes out as it went in. Where a dialect has no
//! word for alpha, the factor goes into `up` if that is exact for every value of every layer,
//! or into PEFT's config in the header; else the dialect is refused.

use std::collections::{BTreeMap, HashSet};

use crate::error::{Error, Result};
use crate::files::{FrozenWeight, safetensors_bytes};
use crate::lora::dialect::Dialect;
use crate::lora::layer::LoraLayer;
use crate::lora::metadata::{KEY, peft_config};
use crate::lora::names::LayerNames;

/// The bytes of a LoRA file with these layers.
///
/// The same layers and metadata always give the same bytes. Dtypes are kept. Metadata is
/// written as it is, save for PEFT's config, which is made anew where it is needed.
pub fn write_lora(
    layers: &[LoraLayer],
    dialect: Dialect,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let layers = checked(layers, dialect)?;
    let mut metadata = metadata.clone();
    metadata.remove(KEY);
    metadata.entry("format".to_owned()).or_insert_with(|| "pt".to_owned());

    let folded: Option<Vec<FrozenWeight>> = layers.iter().map(LoraLayer::folded_up).collect();
    let kept = || layers.iter().map(|layer| layer.up.clone()).collect();
    let (ups, with_alpha): (Vec<FrozenWeight>, bool) = match (dialect, folded) {
        (Dialect::Kohya, _) if share_alpha(&layers) => (kept(), true),
        // diffusers 0.42.1 gives attention layers the alpha that occurs most, so different ones
        // are avoided where that is exact: without any, every program multiplies with 1.
        (_, Some(folded)) => (folded, false),
        (Dialect::Kohya, None) => (kept(), true),
        (Dialect::Peft, None) => {
            metadata.insert(KEY.to_owned(), peft_config(&layers));
            (kept(), false)
        }
        (Dialect::Diffusers, None) => return Err(inexact(&layers)),
    };

    let mut tensors = BTreeMap::new();
    for (layer, up) in layers.into_iter().zip(ups) {
        let keys = dialect.keys(layer.network, &layer.name).ok_or_else(|| unknown(&layer.name))?;
        if let (Some(key), true) = (keys.alpha, with_alpha) {
            tensors.insert(key, FrozenWeight::from_f32(&[layer.alpha as f32], &[]));
        }
        tensors.insert(keys.down, layer.down);
        tensors.insert(keys.up, up);
    }
    Ok(safetensors_bytes(&tensors, &metadata))
}

/// The layers under their checkpoint names, each of them sound and there once.
fn checked(layers: &[LoraLayer], dialect: Dialect) -> Result<Vec<LoraLayer>> {
    let refuse =
        |reason: String| Err(Error::LoraDialect { dialect: dialect.name(), reason, hint: None });
    let (names, mut seen) = (LayerNames::sdxl(), HashSet::new());
    let mut checked = Vec::with_capacity(layers.len());
    for layer in layers {
        let Some(name) = names.checkpoint_name(layer.network, &layer.name) else {
            return refuse(format!("`{}` is no layer of SDXL", layer.name));
        };
        let rank = layer.rank();
        if rank == 0 || layer.up.shape().get(1) != Some(&rank) {
            let (down, up) = (layer.down.shape(), layer.up.shape());
            return refuse(format!("the matrices of `{name}`, {down:?} and {up:?}, share no rank"));
        }
        if !layer.alpha.is_finite() {
            return refuse(format!("the alpha of `{name}` is {}", layer.alpha));
        }
        if !seen.insert((layer.network, name.clone())) {
            return refuse(format!("it has `{name}` twice"));
        }
        checked.push(LoraLayer { name, ..layer.clone() });
    }
    if checked.is_empty() { refuse("it has no layers".to_owned()) } else { Ok(checked) }
}

fn share_alpha(layers: &[LoraLayer]) -> bool {
    layers.windows(2).all(|pair| pair[0].alpha.to_bits() == pair[1].alpha.to_bits())
}

/// Only the 2023 dialect has too few words.
fn unknown(name: &str) -> Error {
    Error::LoraDialect {
        dialect: Dialect::Diffusers.name(),
        reason: format!("it changes `{name}`, and in 2023 only attention could be changed"),
        hint: Some("write it as `peft` or `kohya`".to_owned()),
    }
}

fn inexact(layers: &[LoraLayer]) -> Error {
    let layer = layers.iter().find(|layer| layer.folded_up().is_none());
    let reason = layer.map_or_else(String::new, |layer| {
        format!(
            "`{}` has alpha {} at rank {}, which the dialect has no word for and which {} cannot \
             take up exactly",
            layer.name,
            layer.alpha,
            layer.rank(),
            layer.up.dtype().name()
        )
    });
    let widened = layers.iter().all(|layer| layer.widened().folded_up().is_some());
    let hint = if widened {
        "write it as `peft` or `kohya`, or in f32, which takes it up: `--dtype f32`"
    } else {
        "write it as `peft` or `kohya`"
    };
    let (dialect, hint) = (Dialect::Diffusers.name(), Some(hint.to_owned()));
    Error::LoraDialect { dialect, reason, hint }
}
