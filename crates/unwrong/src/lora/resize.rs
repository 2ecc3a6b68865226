//! A LoRA in fewer ranks: each layer's product becomes the closest one of a lower rank.
//!
//! sd-scripts 48d368f, `networks/resize_lora.py`: the same ranks for the same options, and each
//! layer's `alpha / rank` stays what it was. Where a rank is asked for that is above a layer's
//! own, the script pads the matrices with vectors that add nothing; here the layer keeps its own.

use std::path::Path;

use serde::Serialize;
use unwrong_models::lora::{Change, LoraLayer, Pair};

use super::merge::shared;
use super::scale::{comment, note_alpha};
use super::source::{Made, Metadata, Source, Writing};
use super::sum::{check_summable, from_factors, plain, take_apart, term, weight_shape};
use super::svd;
use crate::error::{Error, Result};

/// Below this, a layer's product counts as zero and keeps one rank.
const LEAST: f64 = 1e-6;

/// Which ranks are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keep {
    /// The same number in every layer.
    Rank,
    /// Singular values above the greatest divided by this.
    Ratio(f64),
    /// As many as add up to this part of the sum of all.
    Cumulative(f64),
    /// As many as have this part of the Frobenius norm.
    Frobenius(f64),
}

/// What a resize is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resize {
    /// Most ranks of a layer.
    pub rank: usize,
    /// Most ranks of a convolution; absent means the same.
    pub conv_rank: Option<usize>,
    /// Which of them are kept.
    pub keep: Keep,
}

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resized {
    /// Its network and checkpoint name.
    pub layer: String,
    /// The rank that it had.
    pub from: usize,
    /// The rank that it has.
    pub to: usize,
    /// The part of the Frobenius norm that is left.
    pub kept: f64,
}

/// Writes a LoRA in fewer ranks, and says what is left of each layer.
pub fn resize(path: &Path, how: &Resize, writing: Writing) -> Result<(Made, Vec<Resized>)> {
    how.check()?;
    let source = Source::open(path)?;
    let mut layers = Vec::with_capacity(source.layers.len());
    let mut resized = Vec::with_capacity(source.layers.len());
    for layer in &source.layers {
        let (layer, about) = how.layer(&layer.without_mid())?;
        layers.push(layer);
        resized.extend(about);
    }
    let mut metadata = source.metadata();
    let most = source.layers.iter().map(LoraLayer::rank).max().unwrap_or(0);
    how.note(&mut metadata, most, &layers);
    // Numbers are kept in the format that they came in.
    let dtype = writing.dtype.or(Some(shared(source.dtypes())));
    let writing = Writing { dtype, ..writing };
    Ok((source.write(&layers, &metadata, writing)?, resized))
}

impl Resize {
    pub(super) fn check(&self) -> Result<()> {
        check_rank(self.rank)?;
        self.conv_rank.map_or(Ok(()), check_rank)?;
        let refuse = |what: &str, value: f64, expected: &str| {
            Err(Error::Request {
                problem: format!("the {what} is {value}, expected {expected}"),
                hint: None,
            })
        };
        match self.keep {
            Keep::Ratio(ratio) if !(ratio >= 1.0 && ratio.is_finite()) => {
                refuse("ratio", ratio, "a number of 1 or more")
            }
            Keep::Cumulative(part) | Keep::Frobenius(part) if !(part > 0.0 && part <= 1.0) => {
                refuse("part", part, "a number above 0, up to 1")
            }
            _ => Ok(()),
        }
    }

    fn layer(&self, layer: &LoraLayer) -> Result<(LoraLayer, Option<Resized>)> {
        // A bias or a norm has no ranks.
        if matches!(layer.change, Change::Nothing | Change::Norm(_)) {
            return Ok((layer.clone(), None));
        }
        check_summable(layer, "resized")?;
        let shape = weight_shape(layer);
        let is_conv = shape.len() == 4;
        let most = if is_conv { self.conv_rank.unwrap_or(self.rank) } else { self.rank };
        let shorter = shape[0].min(shape[1..].iter().product());
        let old = plain(layer).map_or(shorter, Pair::rank);
        let keep = |values: &[f64]| self.rank_of(values, most).min(old);
        let factors = match plain(layer) {
            Some(pair) => svd::of_product(&[term(pair, 1.0)], &keep)?,
            None => take_apart(&[(layer, 1.0)], &keep)?,
        };
        let square = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
        let whole = square(&factors.values);
        let kept = if whole > 0.0 {
            (square(&factors.values[..factors.rank.min(factors.values.len())]) / whole).sqrt()
        } else {
            1.0
        };
        let about = Resized {
            layer: format!("{}.{}", layer.network.part(), layer.name),
            from: old,
            to: factors.rank,
            kept,
        };
        // Another method's factor is in the values.
        let factor = if plain(layer).is_some() { layer.factor() } else { 1.0 };
        let resized = from_factors(layer, &factors, factor * factors.rank as f64);
        Ok((LoraLayer { bias: layer.bias.clone(), ..resized }, Some(about)))
    }

    /// The script's rank: it counts one more than the rule asks for.
    pub(super) fn rank_of(&self, values: &[f64], most: usize) -> usize {
        let greatest = values.first().copied().unwrap_or(0.0);
        if greatest <= LEAST {
            return 1;
        }
        let last = values.len().saturating_sub(1).max(1);
        let reach = |target: f64, weigh: fn(f64) -> f64| {
            let all: f64 = values.iter().copied().map(weigh).sum();
            let mut sum = 0.0;
            let below = values.iter().take_while(|value| {
                sum += weigh(**value);
                sum / all < target
            });
            below.count() + 1
        };
        let index = match self.keep {
            Keep::Rank => return most,
            Keep::Ratio(ratio) => values.iter().filter(|value| **value > greatest / ratio).count(),
            Keep::Cumulative(part) => reach(part, |value| value),
            Keep::Frobenius(part) => reach(part * part, |value| value * value),
        };
        (index.clamp(1, last) + 1).min(most)
    }

    fn note(&self, metadata: &mut Metadata, from: usize, layers: &[LoraLayer]) {
        let (name, value) = match self.keep {
            Keep::Rank => {
                let conv = self.conv_rank.filter(|conv| *conv != self.rank);
                let conv = conv.map_or_else(String::new, |conv| format!(" (conv: {conv})"));
                let to = self.rank;
                comment(metadata, &format!("dimension is resized from {from} to {to}{conv}"));
                metadata.insert("ss_network_dim".to_owned(), to.to_string());
                metadata.insert("ss_network_alpha".to_owned(), String::new());
                note_alpha(metadata, layers);
                return;
            }
            Keep::Ratio(value) => ("sv_ratio", value),
            Keep::Cumulative(value) => ("sv_cumulative", value),
            Keep::Frobenius(value) => ("sv_fro", value),
        };
        comment(metadata, &format!("Dynamic resize with {name}: {value:?} from {from}"));
        for key in ["ss_network_dim", "ss_network_alpha"] {
            metadata.insert(key.to_owned(), "Dynamic".to_owned());
        }
    }
}

/// Refuses a rank that no matrix has.
pub(super) fn check_rank(rank: usize) -> Result<()> {
    if rank > 0 {
        return Ok(());
    }
    Err(Error::Request { problem: "the rank is 0, expected 1 or more".to_owned(), hint: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_the_script() {
        let values = [8.0, 4.0, 2.0, 1.0, 0.5, 0.0, 0.0, 0.0];
        let rank = |keep, most| Resize { rank: most, conv_rank: None, keep }.rank_of(&values, most);
        assert_eq!(rank(Keep::Rank, 3), 3);
        // Above 8 / 5 are 8, 4 and 2; the script counts one more.
        assert_eq!(rank(Keep::Ratio(5.0), 99), 4);
        assert_eq!(rank(Keep::Ratio(5.0), 2), 2);
        // 12 of 15.5 are less than 0.9, 14 are not: three, and the script's one more.
        assert_eq!(rank(Keep::Cumulative(0.9), 99), 4);
        // 64 of 85.25 are 0.866², 80 are 0.969², 84 are 0.993².
        assert_eq!(rank(Keep::Frobenius(0.9), 99), 3);
        assert_eq!(rank(Keep::Frobenius(0.98), 99), 4);
        let zeros = Resize { rank: 8, conv_rank: None, keep: Keep::Frobenius(0.9) };
        assert_eq!(zeros.rank_of(&[0.0; 8], 8), 1);
    }
}
