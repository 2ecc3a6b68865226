//! What is in a LoRA file, and how much it changes where.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use unwrong_models::files::FrozenWeight;
use unwrong_models::lora::{Change, LoraFile, LoraLayer, Network, Pair, block_name};

use super::triggers::{Trigger, triggers};
use crate::error::Result;
use crate::identity::hex;

/// What is in a LoRA file.
#[derive(Debug, Serialize)]
pub struct LoraReport {
    /// The kind of model that it was trained for, if its shapes or names tell.
    pub family: Option<&'static str>,
    /// Width of the prompt's features, if it changes cross-attention.
    pub cross_attention_dim: Option<usize>,
    /// Whose names its keys are.
    pub dialects: Vec<&'static str>,
    /// Bytes of the file.
    pub bytes: usize,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// Number formats of the matrices.
    pub dtypes: Vec<Count<&'static str>>,
    /// Methods of the layers: `LoRA`, `LoHa`, `LoRA with DoRA`, ….
    pub methods: Vec<Count<String>>,
    /// Number of layers that it changes.
    pub layers: usize,
    /// Number of tensors.
    pub tensors: usize,
    /// Numbers in all matrices.
    pub parameters: usize,
    /// Ranks of the layers.
    pub ranks: Vec<Count<usize>>,
    /// Alphas of the layers; where nothing is said, the rank.
    pub alphas: Vec<Count<f64>>,
    /// What is changed, network by network.
    pub modules: Vec<Modules>,
    /// How much is changed, block by block.
    pub norms: Vec<Norms>,
    /// Keys of tensors that belong to no layer, with the reason.
    pub ignored: Vec<String>,
    /// What its writer calls it.
    pub title: Option<String>,
    /// The words that it was trained on, the surest first.
    pub triggers: Vec<Trigger>,
    /// The blocks that it changes, as `unwrong lora blocks` calls them.
    pub blocks: Vec<String>,
    /// What its writer noted in it.
    pub metadata: BTreeMap<String, String>,
}

/// A value and the number of layers that have it.
#[derive(Debug, PartialEq, Serialize)]
pub struct Count<T> {
    /// The value.
    pub value: T,
    /// Layers.
    pub layers: usize,
}

/// How many layers of a kind a network has in the file.
#[derive(Debug, PartialEq, Serialize)]
pub struct Modules {
    /// `unet`, `text_encoder` or `text_encoder_2`.
    pub network: &'static str,
    /// `attention`, `feed-forward`, `projection`, `convolution`, `embedding` or `other`.
    pub kind: &'static str,
    /// Layers.
    pub layers: usize,
    /// Ranks of the layers.
    pub ranks: Vec<Count<usize>>,
    /// Alphas of the layers.
    pub alphas: Vec<Count<f64>>,
}

/// Frobenius norms of the differences of one block's weights.
#[derive(Debug, Serialize)]
pub struct Norms {
    /// The network and the block in it.
    pub block: String,
    /// Layers.
    pub layers: usize,
    /// Mean of their norms.
    pub mean: f64,
    /// The greatest of them.
    pub greatest: f64,
    /// The layer that has it.
    pub greatest_layer: String,
}

/// Reads a LoRA file and says what is in it.
pub fn inspect(path: &Path) -> Result<LoraReport> {
    let file = LoraFile::open(path)?;
    let layers = file.to_layers()?;
    let matrices = || layers.iter().flat_map(LoraLayer::tensors);
    Ok(LoraReport {
        family: file.family().or_else(|| sdxl_shaped(&layers)),
        cross_attention_dim: file.cross_attention_dim(),
        dialects: file.dialects().into_iter().collect(),
        bytes: file.bytes().len(),
        sha256: hex(&Sha256::digest(&**file.bytes())),
        dtypes: count(layers.iter().filter_map(dtype)),
        methods: count(layers.iter().map(LoraLayer::method)),
        layers: layers.len(),
        tensors: file.tensors(),
        parameters: matrices().map(FrozenWeight::count).sum(),
        ranks: count(layers.iter().filter_map(|layer| layer.change.rank())),
        alphas: count_alphas(layers.iter().filter_map(|layer| layer.change.alpha())),
        modules: modules(&layers),
        norms: norms(&layers),
        ignored: file.left_out(),
        title: ["modelspec.title", "ss_output_name"]
            .into_iter()
            .find_map(|key| file.metadata().get(key).cloned()),
        triggers: triggers(file.metadata()),
        blocks: blocks(&layers),
        metadata: file.metadata().clone(),
    })
}

/// Blocks of the SDXL base that have transformers. Stable Diffusion 1 and 2 have others, too.
const SDXL_BLOCKS: [&str; 5] =
    ["down_blocks.1.", "down_blocks.2.", "mid_block.", "up_blocks.0.", "up_blocks.1."];

/// What layers are for that have SDXL's names and another model's widths.
fn sdxl_shaped(layers: &[LoraLayer]) -> Option<&'static str> {
    let mut attentions = layers
        .iter()
        .filter(|layer| layer.network == Network::Unet && layer.name.contains(".attentions."))
        .peekable();
    attentions.peek()?;
    let is_sdxl = |layer: &LoraLayer| SDXL_BLOCKS.iter().any(|block| layer.name.starts_with(block));
    attentions.all(is_sdxl).then_some("a model with the SDXL base's layers in other widths")
}

fn count<T: Ord>(values: impl Iterator<Item = T>) -> Vec<Count<T>> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_insert(0) += 1;
    }
    counts.into_iter().map(|(value, layers)| Count { value, layers }).collect()
}

/// Floats have no order of their own.
fn count_alphas(alphas: impl Iterator<Item = f64>) -> Vec<Count<f64>> {
    let mut alphas: Vec<f64> = alphas.collect();
    alphas.sort_by(f64::total_cmp);
    let runs = alphas.chunk_by(|one, other| one.to_bits() == other.to_bits());
    runs.map(|run| Count { value: run[0], layers: run.len() }).collect()
}

fn modules(layers: &[LoraLayer]) -> Vec<Modules> {
    let mut groups: BTreeMap<(Network, &str), Vec<&LoraLayer>> = BTreeMap::new();
    for layer in layers {
        groups.entry((layer.network, kind(layer))).or_default().push(layer);
    }
    let modules = groups.into_iter().map(|((network, kind), layers)| Modules {
        network: network.part(),
        kind,
        layers: layers.len(),
        ranks: count(layers.iter().filter_map(|layer| layer.change.rank())),
        alphas: count_alphas(layers.iter().filter_map(|layer| layer.change.alpha())),
    });
    modules.collect()
}

/// In the order of the model.
fn blocks(layers: &[LoraLayer]) -> Vec<String> {
    let names = layers.iter().filter_map(|layer| block_name(layer.network, &layer.name));
    let mut names: Vec<String> = names.collect();
    let side =
        |name: &str| ["BASE", "IN", "MID", "OUT"].iter().position(|side| name.starts_with(side));
    names.sort_by_cached_key(|name| (side(name), name.clone()));
    names.dedup();
    names
}

fn kind(layer: &LoraLayer) -> &'static str {
    let has = |parts: &[&str]| layer.name.split('.').any(|part| parts.contains(&part));
    if has(&["attn1", "attn2", "self_attn"]) {
        "attention"
    } else if has(&["ff", "mlp"]) {
        "feed-forward"
    } else if has(&["proj_in", "proj_out", "text_projection"]) {
        "projection"
    } else if has(&["time_embedding", "add_embedding", "time_emb_proj"]) {
        "embedding"
    } else if has(&["conv", "conv1", "conv2", "conv_in", "conv_out", "conv_shortcut"]) {
        "convolution"
    } else {
        "other"
    }
}

fn norms(layers: &[LoraLayer]) -> Vec<Norms> {
    let mut blocks: BTreeMap<(Network, String), Vec<(f64, &str)>> = BTreeMap::new();
    for layer in layers {
        let place = (layer.network, block(layer));
        blocks.entry(place).or_default().push((norm(layer), &layer.name));
    }
    let norms = blocks.into_iter().map(|((network, block), norms)| {
        let (greatest, layer) = norms
            .iter()
            .copied()
            .max_by(|one, other| one.0.total_cmp(&other.0))
            .unwrap_or_default();
        Norms {
            block: format!("{} {block}", network.part()).trim_end().to_owned(),
            layers: norms.len(),
            mean: norms.iter().map(|(norm, _)| norm).sum::<f64>() / norms.len() as f64,
            greatest,
            greatest_layer: layer.to_owned(),
        }
    });
    norms.collect()
}

/// The block of the UNet; text encoders are a block each.
fn block(layer: &LoraLayer) -> String {
    if layer.network != Network::Unet {
        return String::new();
    }
    let parts: Vec<&str> = layer.name.split('.').collect();
    let several = parts[0].ends_with("_blocks");
    parts[..parts.len().min(1 + usize::from(several))].join(".")
}

/// Length of the whole difference.
fn norm(layer: &LoraLayer) -> f64 {
    match &layer.change {
        Change::LowRank(pair) if pair.mid.is_none() => pair_norm(pair) * layer.factor().abs(),
        change => {
            let delta = change.delta();
            delta.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
        }
    }
}

/// `‖up · down‖`, from the products of each matrix with itself: the square is the trace of
/// `(upᵀ up) (down downᵀ)`, which are `[rank, rank]`.
fn pair_norm(pair: &Pair) -> f64 {
    let rank = pair.rank();
    let (down, up) = (pair.down.values_f32(), pair.up.values_f32());
    let mut squares = vec![0.0; rank * rank];
    for row in up.chunks_exact(rank) {
        for (i, one) in row.iter().enumerate() {
            for (j, other) in row.iter().enumerate() {
                squares[i * rank + j] += f64::from(*one) * f64::from(*other);
            }
        }
    }
    let rows: Vec<&[f32]> = down.chunks_exact(down.len() / rank).collect();
    let mut square = 0.0;
    for (i, one) in rows.iter().enumerate() {
        for (j, other) in rows.iter().enumerate() {
            let products =
                one.iter().zip(*other).map(|(one, other)| f64::from(*one) * f64::from(*other));
            square += squares[i * rank + j] * products.sum::<f64>();
        }
    }
    square.max(0.0).sqrt()
}

/// Number format of the first tensor.
fn dtype(layer: &LoraLayer) -> Option<&'static str> {
    layer.tensors().first().map(|tensor| tensor.dtype().name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_is_that_of_the_product() {
        let down = FrozenWeight::from_f32(&[1.0, 2.0, 0.0, -1.0, 0.5, 3.0], &[2, 3]);
        let up = FrozenWeight::from_f32(&[2.0, 1.0, 0.0, -4.0], &[2, 2]);
        let layer = LoraLayer::low_rank(Network::Unet, "conv_in", down, up, 1.0);
        // up · down = [[1, 4.5, 3], [4, -2, -12]]
        let expected = (1.0_f64 + 20.25 + 9.0 + 16.0 + 4.0 + 144.0).sqrt() / 2.0;
        assert!((norm(&layer) - expected).abs() < 1e-12, "{}", norm(&layer));
    }
}
