//! Several LoRA files become one.
//!
//! Exactly, by putting the matrices of a layer side by side: ranks add up. Or in a rank of
//! choice: the closest product to the sum, as `networks/svd_merge_lora.py` of sd-scripts 48d368f
//! computes it.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde_json::json;
use unwrong_models::files::{Dtype, FrozenWeight};
use unwrong_models::lora::{Change, LoraLayer, Network, Pair};

use super::resize::check_rank;
use super::source::{Made, Metadata, Source, Writing, write};
use super::sum::{
    Scaled, check_summable, from_factors, plain, take_apart, total, total_bias, weight_shape,
};
use super::svd;
use crate::error::{Error, Result};
use crate::identity::file_name;
use crate::request::LoraRequest;

/// How LoRA files are merged into one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Merge {
    /// Ranks add up, and nothing is lost.
    Exact,
    /// In this rank.
    Svd {
        /// Ranks of a layer.
        rank: usize,
        /// Ranks of a convolution that is larger than 1×1; absent means the same.
        conv_rank: Option<usize>,
        /// Cut off numbers beyond this quantile, as the script does with 0.99: it loses a
        /// little of everything.
        clamp: Option<f64>,
    },
}

/// A layer of one of the files, and how strongly it counts.
struct Weighed<'a> {
    layer: &'a LoraLayer,
    scale: f64,
    path: &'a str,
}

impl Weighed<'_> {
    /// Scale times `alpha / rank`.
    fn factor(&self) -> f64 {
        self.scale * self.layer.factor()
    }
}

/// Merges files, each at its scales; `title` is what the new one is called.
pub fn merge(loras: &[LoraRequest], how: &Merge, title: &str, writing: Writing) -> Result<Made> {
    how.check()?;
    loras.iter().try_for_each(LoraRequest::check)?;
    let folded = |lora: &LoraRequest| {
        let mut source = Source::open(Path::new(&lora.path))?;
        for layer in &mut source.layers {
            *layer = layer.without_mid();
        }
        Ok(source)
    };
    let sources: Vec<Source> = loras.iter().map(folded).collect::<Result<_>>()?;
    let mut layers: BTreeMap<(Network, &str), Vec<Weighed<'_>>> = BTreeMap::new();
    for (source, lora) in sources.iter().zip(loras) {
        let scales = lora.scales();
        for layer in &source.layers {
            let scale = scales.of(layer.network, &layer.name);
            if scale * layer.factor() != 0.0 {
                let weighed = Weighed { layer, scale, path: source.file.path() };
                layers.entry((layer.network, &layer.name)).or_default().push(weighed);
            }
        }
    }
    let groups: Vec<Vec<Weighed<'_>>> = layers.into_values().collect();
    groups.iter().try_for_each(|group| check_widths(group))?;
    let merged: Vec<LoraLayer> =
        groups.par_iter().map(|group| how.layer(group)).collect::<Result<_>>()?;
    let writing = match how {
        Merge::Svd { .. } => Writing {
            dtype: writing.dtype.or(Some(shared(sources.iter().flat_map(Source::dtypes)))),
            ..writing
        },
        Merge::Exact => writing,
    };
    let metadata = how.metadata(&sources, loras, &merged, title);
    let dialects = sources.first().map(Source::dialects).unwrap_or_default();
    let mut made = write(&merged, &metadata, &dialects, writing)?;
    made.warnings.extend(sources.iter().flat_map(Source::left_out));
    Ok(made)
}

fn check_widths(group: &[Weighed<'_>]) -> Result<()> {
    let widths = |one: &Weighed<'_>| one.layer.change.dims();
    // Some change a bias alone.
    let group: Vec<&Weighed<'_>> =
        group.iter().filter(|one| !matches!(one.layer.change, Change::Nothing)).collect();
    if group.is_empty() {
        return Ok(());
    }
    let Some(other) = group.iter().find(|one| widths(one) != widths(group[0])) else {
        return Ok(());
    };
    let ((outputs, inputs), (others, other_inputs)) = (widths(group[0]), widths(other));
    Err(Error::Request {
        problem: format!(
            "`{}` is of {outputs}×{inputs} in {} and of {others}×{other_inputs} in {}",
            other.layer.name, group[0].path, other.path
        ),
        hint: Some("merge files for models of one kind".to_owned()),
    })
}

impl Merge {
    fn check(&self) -> Result<()> {
        let Self::Svd { rank, conv_rank, clamp } = self else { return Ok(()) };
        check_rank(*rank)?;
        conv_rank.map_or(Ok(()), check_rank)?;
        check_clamp(*clamp)
    }

    fn layer(&self, group: &[Weighed<'_>]) -> Result<LoraLayer> {
        if let [Weighed { layer, scale: 1.0, .. }] = group
            && (layer.magnitude.is_some() || matches!(self, Self::Exact))
        {
            return Ok((*layer).clone());
        }
        group
            .iter()
            .try_for_each(|one| check_summable(one.layer, "merged with others or scaled"))?;
        let all: Vec<Scaled<'_>> = group.iter().map(|one| (one.layer, one.scale)).collect();
        let bias = total_bias(&all);
        let group: Vec<&Weighed<'_>> =
            group.iter().filter(|one| !matches!(one.layer.change, Change::Nothing)).collect();
        let Some(first) = group.first().map(|one| one.layer) else {
            return Ok(LoraLayer { bias, ..all[0].0.clone() });
        };
        let whole: Vec<Scaled<'_>> = group.iter().map(|one| (one.layer, one.scale)).collect();
        let merged = match *self {
            _ if matches!(first.change, Change::Norm(_)) => {
                let (sum, length) = (total(&whole)?, first.change.dims().0);
                let change = Change::Norm(FrozenWeight::from_f32(&sum, &[length]));
                LoraLayer { change, ..first.clone() }
            }
            Self::Exact if group.iter().all(|one| plain(one.layer).is_some()) => {
                side_by_side(&group)?
            }
            // What is no product adds up to the whole difference.
            Self::Exact => {
                let sum = FrozenWeight::from_f32(&total(&whole)?, &weight_shape(first));
                LoraLayer { change: Change::Full(sum), ..first.clone() }
            }
            Self::Svd { rank, conv_rank, clamp } => {
                let shape = weight_shape(first);
                let most = most(&shape, rank, conv_rank).min(shape[1]).min(shape[0]);
                let mut factors = take_apart(&whole, &|_| most)?;
                if let Some(quantile) = clamp {
                    factors.clamp(quantile);
                }
                from_factors(first, &factors, factors.rank as f64)
            }
        };
        Ok(LoraLayer { bias, ..merged })
    }

    /// What kohya's scripts write, without the time: the same merge gives the same file.
    fn metadata(
        &self,
        sources: &[Source],
        loras: &[LoraRequest],
        layers: &[LoraLayer],
        title: &str,
    ) -> Metadata {
        let mut metadata = Metadata::new();
        for key in ["ss_v2", "ss_base_model_version"] {
            let noted = sources.iter().find_map(|source| source.file.metadata().get(key));
            metadata.extend(noted.map(|value| (key.to_owned(), value.clone())));
        }
        let (rank, alpha) = match self {
            Self::Svd { rank, .. } => (rank.to_string(), rank.to_string()),
            Self::Exact => (
                same(layers.iter().map(|layer| layer.rank().to_string())),
                same(
                    layers.iter().map(|layer| format!("{:?}", layer.change.alpha().unwrap_or(0.0))),
                ),
            ),
        };
        let titles = sources.iter().zip(loras).map(|(source, lora)| {
            let noted = source.file.metadata().get("modelspec.title").cloned();
            noted.unwrap_or_else(|| stem(&lora.path))
        });
        let titles: Vec<String> = titles.collect();
        let scales: Vec<String> = loras
            .iter()
            .map(|lora| LoraRequest { path: stem(&lora.path), ..lora.clone() }.to_string())
            .collect();
        for (key, value) in [
            ("ss_network_module", "networks.lora".to_owned()),
            ("ss_network_dim", rank),
            ("ss_network_alpha", alpha),
            ("ss_training_comment", format!("merged from {}", scales.join(", "))),
            ("modelspec.merged_from", titles.join(", ")),
        ] {
            metadata.insert(key.to_owned(), value);
        }
        if let Self::Svd { rank, conv_rank: Some(conv), .. } = self
            && conv != rank
        {
            let arguments = json!({"conv_dim": conv, "conv_alpha": conv}).to_string();
            metadata.insert("ss_network_args".to_owned(), arguments);
        }
        model_spec(&mut metadata, title);
        metadata
    }
}

/// What says that a file is a LoRA for SDXL: <https://github.com/Stability-AI/ModelSpec>, 1.0.0.
pub(super) fn model_spec(metadata: &mut Metadata, title: &str) {
    for (key, value) in [
        ("modelspec.sai_model_spec", "1.0.0"),
        ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora"),
        ("modelspec.implementation", "https://github.com/Stability-AI/generative-models"),
        ("modelspec.resolution", "1024x1024"),
        ("modelspec.title", title),
    ] {
        metadata.insert(key.to_owned(), value.to_owned());
    }
}

/// Refuses what is no quantile.
pub(super) fn check_clamp(clamp: Option<f64>) -> Result<()> {
    match clamp {
        Some(quantile) if !(quantile > 0.5 && quantile <= 1.0) => Err(Error::Request {
            problem: format!("`clamp` is {quantile}, expected a quantile above 0.5, up to 1"),
            hint: Some("kohya's scripts have 0.99".to_owned()),
        }),
        _ => Ok(()),
    }
}

/// Most ranks of a layer with a weight or a `down` of this shape: large convolutions have their own.
pub(super) fn most(down: &[usize], rank: usize, conv_rank: Option<usize>) -> usize {
    let is_large = down.get(2..).is_some_and(|kernel| kernel.iter().any(|side| *side != 1));
    if is_large { conv_rank.unwrap_or(rank) } else { rank }
}

/// The name of a file without folders and ending.
fn stem(path: &str) -> String {
    let name = file_name(path);
    name.strip_suffix(".safetensors").unwrap_or(&name).to_owned()
}

/// The value that all share.
fn same(mut values: impl Iterator<Item = String>) -> String {
    let first = values.next().unwrap_or_default();
    if values.all(|value| value == first) { first } else { "Dynamic".to_owned() }
}

/// The dtype that all have, or the one that holds the numbers of every other.
pub(super) fn shared(mut dtypes: impl Iterator<Item = Dtype>) -> Dtype {
    let first = dtypes.next().unwrap_or(Dtype::F32);
    if dtypes.all(|dtype| dtype == first) { first } else { Dtype::F32 }
}

/// All matrices of a layer beside each other; what the factors differ by goes into `up`.
fn side_by_side(group: &[&Weighed<'_>]) -> Result<LoraLayer> {
    let first = group[0];
    let pairs: Vec<(&Weighed<'_>, &Pair)> =
        group.iter().filter_map(|one| Some((*one, plain(one.layer)?))).collect();
    let ranks: usize = pairs.iter().map(|(_, pair)| pair.rank()).sum();
    let (outputs, inputs) = first.layer.change.dims();
    let mut down = Vec::with_capacity(ranks * inputs);
    let mut up = vec![0.0_f32; outputs * ranks];
    let mut start = 0;
    for (one, pair) in &pairs {
        down.extend(pair.down.values_f32());
        let (rank, ratio) = (pair.rank(), one.factor() / first.factor());
        let values = pair.up.values_f32();
        for (row, values) in up.chunks_exact_mut(ranks).zip(values.chunks_exact(rank)) {
            for (place, value) in row[start..start + rank].iter_mut().zip(values) {
                *place = (f64::from(*value) * ratio) as f32;
            }
        }
        start += rank;
    }
    if let Some(value) = up.iter().find(|value| !value.is_finite()) {
        let (layer, dtype) = (first.layer.name.clone(), Dtype::F32.name());
        return Err(unwrong_models::Error::LoraRange { layer, value: *value, dtype }.into());
    }
    let factors = svd::Factors { values: Vec::new(), rank: ranks, up, down };
    let made = from_factors(first.layer, &factors, first.factor() * ranks as f64);
    Ok(narrowed(made, &pairs))
}

/// In the dtype of the files, if it holds every number.
fn narrowed(layer: LoraLayer, pairs: &[(&Weighed<'_>, &Pair)]) -> LoraLayer {
    let exact = |weight: &FrozenWeight, dtype: Dtype| {
        let values = weight.values_f32();
        let rounded = FrozenWeight::rounded(&values, dtype, weight.shape());
        let kept = rounded.values_f32();
        let same = values.iter().zip(&kept).all(|(one, other)| one.to_bits() == other.to_bits());
        if same { rounded } else { weight.clone() }
    };
    let Some(Pair { down, up, alpha, .. }) = plain(&layer) else { return layer };
    let down = exact(down, shared(pairs.iter().map(|(_, pair)| pair.down.dtype())));
    let up = exact(up, shared(pairs.iter().map(|(_, pair)| pair.up.dtype())));
    LoraLayer::low_rank(layer.network, &layer.name, down, up, *alpha)
}
