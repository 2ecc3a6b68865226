//! The difference of two models becomes a LoRA.
//!
//! As `networks/extract_lora_from_models.py` of sd-scripts 48d368f does it: linear layers of
//! transformers and text encoders, convolutions too where they have a rank, and the text encoders
//! only where they differ. Not in half precision, and without cutting off numbers unless asked.

use std::path::Path;

use rayon::prelude::*;
use serde::Serialize;
use unwrong_models::files::{Dtype, Folder, FrozenWeight, ModelParts, Weights};
use unwrong_models::lora::{Dialect, LoraLayer, Network};

use super::merge::{check_clamp, model_spec, most};
use super::resize::{Keep, Resize};
use super::source::{Made, Metadata, Writing, write};
use super::svd::{self, Rows};
use crate::error::{Error, Result};

/// Layers that are taken apart at once, so that memory has a bound: about 0.2 GB each.
const AT_ONCE: usize = 8;

/// What the script takes by no option.
const NEVER: &str = "never taken are biases, norms, embeddings and layers outside the blocks \
                     (`conv_in`, `conv_out`, `time_embedding`, `add_embedding`)";

/// What an extraction is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extract {
    /// Most ranks of a layer.
    pub rank: usize,
    /// Most ranks of a convolution; absent leaves convolutions out.
    pub conv_rank: Option<usize>,
    /// Which of them are kept.
    pub keep: Keep,
    /// Text encoders count as equal up to this difference.
    pub min_diff: f64,
    /// Cut off numbers beyond this quantile, as the script does with 0.99.
    pub clamp: Option<f64>,
}

/// What an extraction found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Extracted {
    /// Layers in the file.
    pub layers: usize,
    /// The part of the Frobenius norm of all their differences that it holds.
    pub kept: f64,
    /// Tensors that differ and are not in it.
    pub left_out: usize,
    /// The one of them that differs most, and by how much.
    pub greatest_left_out: Option<(String, f64)>,
    /// The text encoders differ by less than was asked for.
    pub same_text_encoders: bool,
}

/// One layer of both models.
struct Pair {
    network: Network,
    name: String,
    shape: Vec<usize>,
    base: FrozenWeight,
    tuned: FrozenWeight,
}

/// One layer, taken apart.
struct Found {
    layer: LoraLayer,
    /// Squares of the norms of the difference and of what is kept of it.
    squares: [f64; 2],
}

/// Writes what `tuned` has beyond `base` as a LoRA; `progress` is told how many layers of how
/// many are done.
pub fn extract(
    base: &Path,
    tuned: &Path,
    how: &Extract,
    title: &str,
    writing: Writing,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(Made, Extracted)> {
    how.check()?;
    let (base, tuned) = (open(base)?, open(tuned)?);
    let (mut pairs, mut rest) = (Vec::new(), Rest::default());
    for (network, base, tuned) in networks(&base, &tuned)? {
        how.pair(network, base, tuned, &mut pairs, &mut rest)?;
    }
    let is_text = |pair: &Pair| pair.network != Network::Unet;
    let greatest = |pair: &Pair| most_of(&difference(&pair.base, &pair.tuned));
    let same_text_encoders =
        !pairs.iter().filter(|pair| is_text(pair)).any(|pair| greatest(pair) > how.min_diff);
    let texts: Vec<Pair> = if same_text_encoders {
        pairs.extract_if(.., |pair| is_text(pair)).collect()
    } else {
        vec![]
    };
    let (mut layers, mut squares) = (Vec::new(), [0.0; 2]);
    for (turn, some) in pairs.chunks(AT_ONCE).enumerate() {
        let found: Vec<Option<Found>> =
            some.par_iter().map(|pair| how.layer(pair)).collect::<Result<_>>()?;
        for Found { layer, squares: found } in found.into_iter().flatten() {
            layers.push(layer);
            squares = [squares[0] + found[0], squares[1] + found[1]];
        }
        progress(turn * AT_ONCE + some.len(), pairs.len());
    }
    if layers.is_empty() {
        let texts = texts.iter().filter(|pair| greatest(pair) > 0.0).count();
        return Err(nothing_found([&base.path, &tuned.path], &rest, texts));
    }
    let writing = Writing { dtype: writing.dtype.or(Some(Dtype::F32)), ..writing };
    let mut made = write(&layers, &how.metadata(title), &[Dialect::Kohya], writing)?;
    made.warnings.extend(rest.warning());
    let kept = (squares[1] / squares[0]).sqrt();
    let report = Extracted {
        layers: layers.len(),
        kept,
        left_out: rest.count,
        greatest_left_out: rest.greatest,
        same_text_encoders,
    };
    Ok((made, report))
}

/// Why there is nothing to write; `texts` layers of text encoders differ too little.
fn nothing_found([base, tuned]: [&str; 2], rest: &Rest, texts: usize) -> Error {
    if texts > 0 {
        return Error::Request {
            problem: format!(
                "{base} and {tuned} differ in {texts} layers of text encoders, by less than \
                 `--min-diff`, and in no other layer"
            ),
            hint: Some("`--min-diff 0` takes them".to_owned()),
        };
    }
    let Some(rest) = rest.text() else {
        return Error::Request {
            problem: format!("{base} and {tuned} do not differ in any layer"),
            hint: Some("name the model that was trained further with `--tuned`".to_owned()),
        };
    };
    Error::Request {
        problem: format!("{base} and {tuned} differ only in what is not taken: {rest}"),
        hint: Some("use the model as it is".to_owned()),
    }
}

fn open(path: &Path) -> Result<ModelParts> {
    if !path.exists() {
        return Err(Error::NotThere { path: path.to_owned(), expected: "a model" });
    }
    Ok(if path.is_dir() {
        ModelParts::open_folder(&Folder::disk(path))?
    } else {
        ModelParts::open_file(path)?
    })
}

type Both<'a> = (Network, &'a Weights, &'a Weights);

/// The networks that both models have.
fn networks<'a>(base: &'a ModelParts, tuned: &'a ModelParts) -> Result<Vec<Both<'a>>> {
    if base.kind != tuned.kind {
        return Err(Error::Request {
            problem: format!("{} and {}: one is a base, one a refiner", base.path, tuned.path),
            hint: Some("give two models of one kind".to_owned()),
        });
    }
    let first = base.text_encoder.as_ref().zip(tuned.text_encoder.as_ref());
    let second = base.text_encoder_2.as_ref().zip(tuned.text_encoder_2.as_ref());
    let unet = (Network::Unet, &base.unet.1, &tuned.unet.1);
    let first = first.map(|(base, tuned)| (Network::TextEncoder, &base.1, &tuned.1));
    let second = second.map(|(base, tuned)| (Network::TextEncoder2, &base.1, &tuned.1));
    Ok([Some(unet), first, second].into_iter().flatten().collect())
}

/// Tensors that differ and that no layer of the file holds.
#[derive(Default)]
struct Rest {
    count: usize,
    /// Those that `--conv-rank` would take.
    by_conv_rank: usize,
    greatest: Option<(String, f64)>,
}

impl Rest {
    /// Whether they differ.
    fn add(
        &mut self,
        network: Network,
        key: &str,
        base: &FrozenWeight,
        tuned: &FrozenWeight,
    ) -> bool {
        if base.bytes() == tuned.bytes() && base.dtype() == tuned.dtype() {
            return false;
        }
        let most = most_of(&difference(base, tuned));
        if most > 0.0 {
            self.count += 1;
            if self.greatest.as_ref().is_none_or(|(_, greatest)| most > *greatest) {
                self.greatest = Some((format!("{}.{key}", network.part()), most));
            }
        }
        most > 0.0
    }

    fn warning(&self) -> Option<String> {
        self.text().map(|text| format!("not in the LoRA: {text}"))
    }

    /// How many there are, and what becomes of them.
    fn text(&self) -> Option<String> {
        let (key, most) = self.greatest.as_ref()?;
        let why = match (self.by_conv_rank, self.count - self.by_conv_rank) {
            (0, _) => NEVER.to_owned(),
            (convs, 0) => format!("`--conv-rank` takes {convs} of them"),
            (convs, _) => format!("`--conv-rank` takes {convs} of them; {NEVER}"),
        };
        let tensors = if self.count == 1 { "tensor differs" } else { "tensors differ" };
        Some(format!("{} {tensors} (most of all `{key}`, by {most:.4}); {why}", self.count))
    }
}

impl Extract {
    fn check(&self) -> Result<()> {
        check_clamp(self.clamp)?;
        if !(self.min_diff >= 0.0 && self.min_diff.is_finite()) {
            return Err(Error::Request {
                problem: format!("the least difference is {}, expected 0 or more", self.min_diff),
                hint: None,
            });
        }
        self.resize().check()
    }

    fn resize(&self) -> Resize {
        Resize { rank: self.rank, conv_rank: self.conv_rank, keep: self.keep }
    }

    /// Whether the script would give the layer matrices.
    fn takes(&self, network: Network, name: &str, shape: &[usize]) -> bool {
        let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        match network {
            Network::Unet if has(&[".attentions."]) => matches!(shape.len(), 2 | 4),
            Network::Unet => {
                let blocks = [".resnets.", ".downsamplers.", ".upsamplers."];
                self.conv_rank.is_some() && has(&blocks) && matches!(shape.len(), 2 | 4)
            }
            _ => has(&[".self_attn.", ".mlp."]) && shape.len() == 2,
        }
    }

    /// Sorts the tensors of a network: layers to take apart, and the rest.
    fn pair(
        &self,
        network: Network,
        base: &Weights,
        tuned: &Weights,
        pairs: &mut Vec<Pair>,
        rest: &mut Rest,
    ) -> Result<()> {
        let with_conv = Self { conv_rank: Some(1), ..*self };
        for key in base.keys() {
            let Some(one) = base.look_at(key) else { continue };
            let other = tuned.root().get(key, one.shape())?;
            let name = key.strip_suffix(".weight");
            if let Some(name) = name.filter(|name| self.takes(network, name, one.shape())) {
                pairs.push(Pair {
                    network,
                    name: name.to_owned(),
                    shape: one.shape().to_vec(),
                    base: one.clone(),
                    tuned: other,
                });
                continue;
            }
            let differs = rest.add(network, key, one, &other);
            let takes = |name| with_conv.takes(network, name, one.shape());
            if differs && name.is_some_and(takes) {
                rest.by_conv_rank += 1;
            }
        }
        Ok(())
    }

    fn layer(&self, pair: &Pair) -> Result<Option<Found>> {
        let difference = difference(&pair.base, &pair.tuned);
        let rows = pair.shape[0];
        let columns = difference.len().checked_div(rows).unwrap_or(0);
        if most_of(&difference) == 0.0 || columns == 0 {
            return Ok(None);
        }
        if let Some(value) = difference.iter().find(|value| !value.is_finite()) {
            return Err(Error::Request {
                problem: format!("`{}` differs by {value}, which is no number", pair.name),
                hint: Some("one of the models is broken: get it again".to_owned()),
            });
        }
        let most = most(&pair.shape, self.rank, self.conv_rank);
        let most = most.min(rows).min(pair.shape[1]);
        let keep = |values: &[f64]| self.resize().rank_of(values, most);
        let mut factors = svd::of_whole(Rows { values: &difference, columns }, &keep)?;
        let square = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>();
        let squares = [square(&factors.values), square(&factors.values[..factors.rank])];
        if let Some(quantile) = self.clamp {
            factors.clamp(quantile);
        }
        let (rank, kernel) = (factors.rank, &pair.shape[2..]);
        let layer = LoraLayer::low_rank(
            pair.network,
            &pair.name,
            FrozenWeight::from_f32(&factors.down, &[&[rank, pair.shape[1]], kernel].concat()),
            FrozenWeight::from_f32(&factors.up, &[&[rows, rank], &*vec![1; kernel.len()]].concat()),
            rank as f64,
        );
        Ok(Some(Found { layer, squares }))
    }

    fn metadata(&self, title: &str) -> Metadata {
        let fixed = self.keep == Keep::Rank;
        let dim = |text: String| if fixed { text } else { "Dynamic".to_owned() };
        let rank = self.rank as f64;
        let conv = match self.conv_rank {
            Some(conv) => {
                let alpha = format!("{:?}", conv as f64);
                serde_json::json!({"conv_dim": conv.to_string(), "conv_alpha": alpha})
            }
            None => serde_json::json!({}),
        };
        let mut metadata: Metadata = [
            ("ss_v2", "False".to_owned()),
            ("ss_base_model_version", "sdxl_base_v1-0".to_owned()),
            ("ss_network_module", "networks.lora".to_owned()),
            ("ss_network_dim", dim(self.rank.to_string())),
            ("ss_network_alpha", dim(format!("{rank:?}"))),
            ("ss_network_args", conv.to_string()),
            ("modelspec.prediction_type", "epsilon".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        model_spec(&mut metadata, title);
        metadata
    }
}

/// In f32, as the networks compute.
fn difference(base: &FrozenWeight, tuned: &FrozenWeight) -> Vec<f32> {
    let (base, tuned) = (base.values_f32(), tuned.values_f32());
    tuned.iter().zip(&base).map(|(tuned, base)| tuned - base).collect()
}

fn most_of(values: &[f32]) -> f64 {
    // What is no number counts as endless, so that somebody looks at it.
    let size = |value: &f32| if value.is_finite() { value.abs() } else { f32::INFINITY };
    f64::from(values.iter().map(size).fold(0.0, f32::max))
}
