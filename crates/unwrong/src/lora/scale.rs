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
    let layers = source.layers.iter().map(|layer| scaled(&before(layer, writing), factor, place));
    let layers: Vec<LoraLayer> = layers.collect::<Result<_>>()?;
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
            layers.push(scaled(&before(layer, writing), weight, ScaleIn::Alpha)?);
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

/// As it was, or in f32 where it will be rounded to a dtype afterwards.
fn before(layer: &LoraLayer, writing: Writing) -> LoraLayer {
    if writing.dtype.is_some() { layer.widened() } else { layer.clone() }
}

fn scaled(layer: &LoraLayer, factor: f64, place: ScaleIn) -> Result<LoraLayer> {
    if factor.to_bits() == 1f64.to_bits() {
        return Ok(layer.clone());
    }
    check_summable(layer, "scaled")?;
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
    let mut change = layer.change.clone();
    match &mut change {
        Change::LowRank(Pair { alpha, .. })
        | Change::LoHa { alpha, .. }
        | Change::LoKr { alpha, .. }
            if place == ScaleIn::Alpha && layer.change.factor_counts() =>
        {
            *alpha *= factor;
        }
        change => in_weights(change, &times)?,
    }
    if change.alpha().is_some_and(|alpha| !(alpha as f32).is_finite()) {
        return Err(too_large(&layer.name, Dtype::F32));
    }
    let bias = layer.bias.as_ref().map(times).transpose()?;
    Ok(LoraLayer { change, bias, ..layer.clone() })
}

/// Multiplies the one tensor of a change on which its size depends.
fn in_weights(
    change: &mut Change,
    times: &dyn Fn(&FrozenWeight) -> Result<FrozenWeight>,
) -> Result<()> {
    let weight = match change {
        Change::Nothing => return Ok(()),
        Change::Full(weight) | Change::Norm(weight) => weight,
        Change::LowRank(Pair { up, .. }) => up,
        Change::LoHa { first, .. } | Change::LoKr { first, .. } => match first {
            Factor::Whole(weight) => weight,
            Factor::Product { a, .. } | Factor::Tucker { a, .. } => a,
        },
    };
    *weight = times(weight)?;
    Ok(())
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
