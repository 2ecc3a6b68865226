//! Layers as what tools sum up and take apart, whatever their method.

use unwrong_models::files::FrozenWeight;
use unwrong_models::lora::{Change, LoraLayer, Pair};

use super::svd::{self, Factors, Rows, Term};
use crate::error::{Error, Result};

/// SDXL's convolutions of 3×3, by the last part of their names: a product of two matrices for
/// one of them does not tell.
const LARGE: [&str; 5] = ["conv1", "conv2", "conv", "conv_in", "conv_out"];

/// A layer and the scale at which it counts, alpha not included.
pub(super) type Scaled<'a> = (&'a LoraLayer, f64);

/// The two plain matrices of a layer, whatever else it has.
pub(super) fn plain(layer: &LoraLayer) -> Option<&Pair> {
    match &layer.change {
        Change::LowRank(pair) if pair.mid.is_none() => Some(pair),
        _ => None,
    }
}

/// A plain product as one term of a sum.
pub(super) fn term(pair: &Pair, factor: f64) -> Term {
    let (up, down) = (pair.up.values_f32(), pair.down.values_f32());
    Term { factor, up, down, rank: pair.rank() }
}

/// The closest product to a sum of layers; `keep` tells the rank from the singular values.
///
/// Sums of plain products are never formed.
pub(super) fn take_apart(layers: &[Scaled<'_>], keep: &dyn Fn(&[f64]) -> usize) -> Result<Factors> {
    let terms: Option<Vec<Term>> = layers
        .iter()
        .map(|(layer, scale)| Some(term(plain(layer)?, scale * layer.factor())))
        .collect();
    if let Some(terms) = terms {
        return svd::of_product(&terms, keep);
    }
    let columns = layers.first().map_or(0, |(layer, _)| layer.change.dims().1);
    svd::of_whole(Rows { values: &total(layers)?, columns }, keep)
}

/// The whole sum of layers of the same size, row by row.
pub(super) fn total(layers: &[Scaled<'_>]) -> Result<Vec<f32>> {
    let mut sum: Vec<f64> = Vec::new();
    for (layer, scale) in layers {
        let delta = layer.delta();
        sum.resize(delta.len(), 0.0);
        for (sum, value) in sum.iter_mut().zip(delta) {
            *sum += scale * f64::from(value);
        }
    }
    let sum: Vec<f32> = sum.into_iter().map(|value| value as f32).collect();
    match (sum.iter().find(|value| !value.is_finite()), layers.first()) {
        (Some(value), Some((layer, _))) => {
            let (layer, dtype) = (layer.name.clone(), "F32");
            Err(unwrong_models::Error::LoraRange { layer, value: *value, dtype }.into())
        }
        _ => Ok(sum),
    }
}

/// The sum of the layers' biases, where one has any.
pub(super) fn total_bias(layers: &[Scaled<'_>]) -> Option<FrozenWeight> {
    let mut sum: Vec<f64> = Vec::new();
    for (layer, scale) in layers {
        let values = layer.bias.as_ref().map(FrozenWeight::values_f32).unwrap_or_default();
        sum.resize(sum.len().max(values.len()), 0.0);
        for (sum, value) in sum.iter_mut().zip(values) {
            *sum += scale * f64::from(value);
        }
    }
    let sum: Vec<f32> = sum.into_iter().map(|value| value as f32).collect();
    (!sum.is_empty()).then(|| FrozenWeight::from_f32(&sum, &[sum.len()]))
}

/// Two matrices in f32 in the shapes of this layer.
pub(super) fn from_factors(layer: &LoraLayer, factors: &Factors, alpha: f64) -> LoraLayer {
    let (down, up) = shapes(layer, factors.rank);
    LoraLayer::low_rank(
        layer.network,
        &layer.name,
        FrozenWeight::from_f32(&factors.down, &down),
        FrozenWeight::from_f32(&factors.up, &up),
        alpha,
    )
}

/// The shapes of `down` and `up` at this rank.
fn shapes(layer: &LoraLayer, rank: usize) -> (Vec<usize>, Vec<usize>) {
    if let Some(Pair { down, up, .. }) = plain(layer) {
        let (mut down, mut up) = (down.shape().to_vec(), up.shape().to_vec());
        (down[0], up[1]) = (rank, rank);
        return (down, up);
    }
    let (rows, columns) = layer.change.dims();
    let kernel = kernel(layer);
    let inputs = columns / kernel.iter().product::<usize>();
    ([&[rank, inputs], &*kernel].concat(), [&[rows, rank], &*vec![1; kernel.len()]].concat())
}

/// The shape of a layer's weight.
pub(super) fn weight_shape(layer: &LoraLayer) -> Vec<usize> {
    let (down, up) = shapes(layer, 1);
    [&up[..1], &down[1..]].concat()
}

/// The kernel of a convolution; empty for a matrix.
fn kernel(layer: &LoraLayer) -> Vec<usize> {
    let last = layer.name.rsplit('.').next().unwrap_or_default();
    match layer.change.kernel() {
        Some(kernel) => kernel.to_vec(),
        None if LARGE.contains(&last) && layer.change.dims().1.is_multiple_of(9) => vec![3, 3],
        None => Vec::new(),
    }
}

/// Refuses a layer whose effect depends on the weight that it changes: nothing can be added to it.
pub(super) fn check_summable(layer: &LoraLayer, what: &str) -> Result<()> {
    match layer.magnitude {
        Some(_) => Err(Error::Request {
            problem: format!(
                "`{}` has DoRA, whose effect depends on the model's weight: it cannot be {what}",
                layer.name
            ),
            hint: Some(
                "merge it into a checkpoint: `unwrong lora merge FILE --into MODEL`".to_owned(),
            ),
        }),
        None => Ok(()),
    }
}
