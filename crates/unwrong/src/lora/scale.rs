//! A LoRA that counts more or less: as a whole, or block by block.

use std::path::Path;

use unwrong_models::files::{Dtype, FrozenWeight};
use unwrong_models::lora::{BlockWeights, Change, Factor, LoraLayer, Pair};

use super::source::{Made, Metadata, Source, Writing};
use super::sum::check_summable;
use crate::error::{Error, Result};

/// Where a factor goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleIn {
    /// Into alpha: no matrix changes.
    Alpha,
    /// Into the `up` matrices, rounded to their dtype.
    Weights,
}

/// Writes a LoRA that at scale 1 does what this one does at `factor`.
pub fn scale(path: &Path, factor: f64, place: ScaleIn, writing: Writing) -> Result<Made> {
    check(factor)?;
    let source = Source::open(path)?;
    let layers: Vec<LoraLayer> =
        source.layers.iter().map(|layer| scaled(layer, factor, place)).collect::<Result<_>>()?;
    let mut metadata = source.metadata();
    note_alpha(&mut metadata, &layers);
    comment(&mut metadata, &format!("scaled by {factor}"));
    source.write(&layers, &metadata, writing)
}

/// Writes a LoRA whose blocks count by these weights; blocks of weight 0 are left out.
pub fn blocks(path: &Path, weights: &BlockWeights, writing: Writing) -> Result<Made> {
    let source = Source::open(path)?;
    let mut layers = Vec::with_capacity(source.layers.len());
    for layer in &source.layers {
        let weight = weights.of(layer.network, &layer.name);
        if weight != 0.0 {
            layers.push(scaled(layer, weight, ScaleIn::Alpha)?);
        }
    }
    let mut metadata = source.metadata();
    note_alpha(&mut metadata, &layers);
    comment(&mut metadata, &format!("blocks weighed {weights}"));
    let dropped = source.layers.len() - layers.len();
    let mut made = source.write(&layers, &metadata, writing)?;
    if dropped > 0 {
        made.warnings.push(format!("{dropped} layers have weight 0 and are left out"));
    }
    Ok(made)
}

fn check(factor: f64) -> Result<()> {
    if factor.is_finite() && factor != 0.0 {
        return Ok(());
    }
    Err(Error::Request {
        problem: format!("the factor is {factor}, expected a number that is not 0"),
        hint: Some("a LoRA at 0 does nothing: leave it out".to_owned()),
    })
}

fn scaled(layer: &LoraLayer, factor: f64, place: ScaleIn) -> Result<LoraLayer> {
    check_summable(layer, "scaled")?;
    let mut layer = layer.clone();
    let times = |weight: &FrozenWeight| {
        let values = weight.values_f32().into_iter();
        let values: Vec<f32> = values.map(|value| (f64::from(value) * factor) as f32).collect();
        let rounded = FrozenWeight::rounded(&values, weight.dtype(), weight.shape());
        if rounded.values_f32().iter().all(|value| value.is_finite()) {
            Ok(rounded)
        } else {
            Err(too_large(&layer.name, weight.dtype()))
        }
    };
    let bias = layer.bias.as_ref().map(times).transpose()?;
    let one_of = |factor: &Factor| {
        Ok::<_, Error>(match factor {
            Factor::Whole(weight) => Factor::Whole(times(weight)?),
            Factor::Product { a, b } => Factor::Product { a: times(a)?, b: b.clone() },
            Factor::Tucker { kernel, a, b } => {
                Factor::Tucker { kernel: kernel.clone(), a: times(a)?, b: b.clone() }
            }
        })
    };
    let mut change = layer.change.clone();
    let in_alpha = place == ScaleIn::Alpha && change.factor_counts();
    match &mut change {
        Change::Nothing => {}
        Change::Full(weight) | Change::Norm(weight) => *weight = times(weight)?,
        Change::LowRank(Pair { alpha, .. })
        | Change::LoHa { alpha, .. }
        | Change::LoKr { alpha, .. }
            if in_alpha =>
        {
            *alpha *= factor;
        }
        Change::LowRank(Pair { up, .. }) => *up = times(up)?,
        Change::LoHa { first, .. } | Change::LoKr { first, .. } => *first = one_of(first)?,
    }
    if change.alpha().is_some_and(|alpha| !(alpha as f32).is_finite()) {
        return Err(too_large(&layer.name, Dtype::F32));
    }
    layer.change = change;
    layer.bias = bias;
    Ok(layer)
}

fn too_large(layer: &str, dtype: Dtype) -> Error {
    Error::Request {
        problem: format!("the factor makes `{layer}` larger than {} holds", dtype.name()),
        hint: Some("use a smaller factor".to_owned()),
    }
}

/// Notes the alpha of a file, as kohya's scripts do.
pub(super) fn note_alpha(metadata: &mut Metadata, layers: &[LoraLayer]) {
    if !metadata.contains_key("ss_network_alpha") {
        return;
    }
    let mut alphas = layers.iter().filter_map(|layer| layer.change.alpha());
    let first = alphas.next().unwrap_or(0.0);
    let shared = alphas.all(|alpha| alpha.to_bits() == first.to_bits());
    let alpha = if shared { format!("{first:?}") } else { "Dynamic".to_owned() };
    metadata.insert("ss_network_alpha".to_owned(), alpha);
}

/// Adds a sentence in front of the comment that kohya's scripts keep.
pub(super) fn comment(metadata: &mut Metadata, sentence: &str) {
    let before = metadata.get("ss_training_comment").cloned().unwrap_or_default();
    metadata.insert("ss_training_comment".to_owned(), format!("{sentence}; {before}"));
}
