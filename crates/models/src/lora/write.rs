//! A list of layers becomes a file: the bytes that diffusers, A1111 or ComfyUI read.
//!
//! Every layer's difference comes out as it went in. Where a dialect has no word for alpha, the
//! factor goes into `up` if that is exact for every value of every layer, or into PEFT's config
//! in the header; else the dialect is refused. So is one without words for a layer's method.

use std::collections::{BTreeMap, HashSet};

use crate::error::{Error, Result};
use crate::files::{FrozenWeight, safetensors_bytes};
use crate::lora::change::{Change, Factor, Pair};
use crate::lora::dialect::{Dialect, Stem};
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
    check_words(&layers, dialect)?;
    let mut metadata = metadata.clone();
    metadata.remove(KEY);
    metadata.entry("format".to_owned()).or_insert_with(|| "pt".to_owned());

    let alphas = Alphas::of(&layers, dialect)?;
    if alphas == Alphas::InHeader {
        check_biases(&layers, dialect)?;
        metadata.insert(KEY.to_owned(), peft_config(&layers));
    }
    let mut tensors = BTreeMap::new();
    for layer in layers {
        let stem = dialect.stem(layer.network, &layer.name).ok_or_else(|| unknown(&layer.name))?;
        for (end, weight) in named(layer, dialect, &stem, alphas) {
            tensors.insert(stem.key(end), weight);
        }
    }
    Ok(safetensors_bytes(&tensors, &metadata))
}

/// Where the factors of plain layers are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alphas {
    /// Multiplied into `up`.
    InUp,
    /// Beside the matrices.
    Beside,
    /// In PEFT's config.
    InHeader,
}

impl Alphas {
    fn of(layers: &[LoraLayer], dialect: Dialect) -> Result<Self> {
        let pairs = || layers.iter().filter_map(pair);
        let fold = || pairs().all(|pair| pair.folded_up().is_some());
        let first = pairs().next().map(|pair| pair.alpha.to_bits());
        let share_alpha = pairs().all(|pair| Some(pair.alpha.to_bits()) == first);
        Ok(match dialect {
            Dialect::Kohya if share_alpha => Self::Beside,
            // diffusers 0.42.1 gives attention layers the alpha that occurs most, so different
            // ones are avoided where that is exact: without any, every program multiplies with 1.
            _ if fold() => Self::InUp,
            Dialect::Kohya => Self::Beside,
            Dialect::Peft => Self::InHeader,
            Dialect::Diffusers => return Err(inexact(layers)),
        })
    }
}

fn pair(layer: &LoraLayer) -> Option<&Pair> {
    match &layer.change {
        Change::LowRank(pair) => Some(pair),
        _ => None,
    }
}

/// The tensors of a layer, each with what its key ends in.
fn named(
    layer: LoraLayer,
    dialect: Dialect,
    stem: &Stem,
    alphas: Alphas,
) -> Vec<(&'static str, FrozenWeight)> {
    let is_conv = layer.change.kernel().is_some();
    let mut alpha = layer.change.alpha();
    let is_norm = matches!(layer.change, Change::Norm(_));
    let mut named = match layer.change {
        Change::Nothing => Vec::new(),
        Change::LowRank(pair) => {
            let folded = (alphas == Alphas::InUp).then(|| pair.folded_up()).flatten();
            if alphas != Alphas::Beside {
                alpha = None;
            }
            let mut named = vec![(stem.down, pair.down), (stem.up, folded.unwrap_or(pair.up))];
            named.extend(pair.mid.map(|mid| ("lora_mid.weight", mid)));
            named
        }
        Change::LoHa { first, second, .. } => {
            let names = [
                ["", "hada_w1_a", "hada_w1_b", "hada_t1"],
                ["", "hada_w2_a", "hada_w2_b", "hada_t2"],
            ];
            factors([first, second], names)
        }
        Change::LoKr { first, second, .. } => {
            let names = [
                ["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_t1"],
                ["lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"],
            ];
            factors([first, second], names)
        }
        Change::Full(weight) => vec![("diff", weight)],
        Change::Norm(weight) => vec![("w_norm", weight)],
    };
    named.extend(layer.magnitude.map(|lengths| match dialect {
        Dialect::Peft => ("lora_magnitude_vector", in_peft(&lengths, is_conv)),
        _ => ("dora_scale", lengths),
    }));
    let bias = match dialect {
        Dialect::Peft => "lora_B.bias",
        _ if is_norm => "b_norm",
        _ => "diff_b",
    };
    named.extend(layer.bias.map(|weight| (bias, weight)));
    named.extend(alpha.map(|alpha| ("alpha", FrozenWeight::from_f32(&[alpha as f32], &[]))));
    named
}

/// Both factors, whole or in parts.
fn factors(
    factors: [Factor; 2],
    names: [[&'static str; 4]; 2],
) -> Vec<(&'static str, FrozenWeight)> {
    let named = |(factor, [whole, a_name, b_name, kernel_name]): (Factor, [&'static str; 4])| {
        match factor {
            Factor::Whole(weight) => vec![(whole, weight)],
            Factor::Product { a, b } => vec![(a_name, a), (b_name, b)],
            Factor::Tucker { kernel, a, b } => {
                vec![(a_name, a), (b_name, b), (kernel_name, kernel)]
            }
        }
    };
    factors.into_iter().zip(names).flat_map(named).collect()
}

/// PEFT's axes of DoRA's lengths.
fn in_peft(lengths: &FrozenWeight, is_conv: bool) -> FrozenWeight {
    let count = lengths.count();
    if is_conv { lengths.reshaped(&[1, count, 1, 1]) } else { lengths.reshaped(&[count]) }
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
        if let Some(pair) = pair(layer) {
            let (down, up) = (pair.down.shape(), pair.up.shape());
            if pair.rank() == 0 || up.get(1) != Some(&pair.rank()) {
                let reason =
                    format!("the matrices of `{name}`, {down:?} and {up:?}, share no rank");
                return refuse(reason);
            }
        }
        if let Some(alpha) = layer.change.alpha().filter(|alpha| !alpha.is_finite()) {
            return refuse(format!("the alpha of `{name}` is {alpha}"));
        }
        if !seen.insert((layer.network, name.clone())) {
            return refuse(format!("it has `{name}` twice"));
        }
        checked.push(LoraLayer { name, ..layer.clone() });
    }
    if checked.is_empty() { refuse("it has no layers".to_owned()) } else { Ok(checked) }
}

/// Refuses a dialect that cannot say what some layers do.
fn check_words(layers: &[LoraLayer], dialect: Dialect) -> Result<()> {
    let speechless: Vec<&LoraLayer> =
        layers.iter().filter(|layer| !has_words(layer, layers, dialect)).collect();
    let Some(first) = speechless.first() else { return Ok(()) };
    let others = match speechless.len() {
        1 => String::new(),
        count => format!("; it has none for {} more layers", count - 1),
    };
    let what = match (&first.magnitude, &first.bias) {
        (Some(lengths), _) if !has_rows(lengths, first) => {
            format!("{} with a length per column", first.method())
        }
        (None, _) if dialect == Dialect::Peft && is_plain(first) => {
            "low-rank without DoRA beside layers with it".to_owned()
        }
        (None, Some(_)) if matches!(first.change, Change::Nothing) => "a bias alone".to_owned(),
        (None, Some(_)) => format!("{} with a bias", first.change.name()),
        _ => first.method(),
    };
    Err(Error::LoraDialect {
        dialect: dialect.name(),
        reason: format!("`{}` is {what}, for which the dialect has no words{others}", first.name),
        hint: Some("write it as `kohya`, which has words for every method".to_owned()),
    })
}

fn has_words(layer: &LoraLayer, layers: &[LoraLayer], dialect: Dialect) -> bool {
    match dialect {
        Dialect::Kohya => true,
        Dialect::Diffusers => layer.as_pair().is_some(),
        Dialect::Peft => {
            let lengths_fit = match &layer.magnitude {
                Some(lengths) => has_rows(lengths, layer) && layer.bias.is_none(),
                // PEFT gives DoRA to all layers of a network or to none.
                None => !layers
                    .iter()
                    .any(|other| other.network == layer.network && other.magnitude.is_some()),
            };
            is_plain(layer) && lengths_fit
        }
    }
}

fn is_plain(layer: &LoraLayer) -> bool {
    pair(layer).is_some_and(|pair| pair.mid.is_none())
}

fn has_rows(lengths: &FrozenWeight, layer: &LoraLayer) -> bool {
    lengths.shape().first() == Some(&layer.change.dims().0)
}

/// PEFT multiplies a bias with the factor, which is 1 only if it is in `up`.
fn check_biases(layers: &[LoraLayer], dialect: Dialect) -> Result<()> {
    let Some(layer) = layers.iter().find(|layer| layer.bias.is_some()) else { return Ok(()) };
    Err(Error::LoraDialect {
        dialect: dialect.name(),
        reason: format!("`{}` has a bias, and alphas that `up` cannot take up exactly", layer.name),
        hint: Some("write it as `kohya`, or in f32: `--dtype f32`".to_owned()),
    })
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
    let is_inexact =
        |layer: &&LoraLayer| pair(layer).is_some_and(|pair| pair.folded_up().is_none());
    let layer = layers.iter().find(is_inexact).and_then(|layer| Some((layer, pair(layer)?)));
    let reason = layer.map_or_else(String::new, |(layer, pair)| {
        format!(
            "`{}` has alpha {} at rank {}, which the dialect has no word for and which {} cannot \
             take up exactly",
            layer.name,
            pair.alpha,
            pair.rank(),
            pair.up.dtype().name()
        )
    });
    let widened = layers.iter().all(|layer| !is_inexact(&&layer.widened()));
    let hint = if widened {
        "write it as `peft` or `kohya`, or in f32, which takes it up: `--dtype f32`"
    } else {
        "write it as `peft` or `kohya`"
    };
    let (dialect, hint) = (Dialect::Diffusers.name(), Some(hint.to_owned()));
    Error::LoraDialect { dialect, reason, hint }
}
