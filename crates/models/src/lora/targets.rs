//! The layers of a model that a LoRA can change, under every name a file may use.

use std::collections::{BTreeMap, HashMap};

use crate::files::{BlockNames, FrozenWeight, ModelParts, Weights};
use crate::lora::keys::Network;

/// Tables that are looked up, not multiplied with: a LoRA on them is not applied.
const TABLES: [&str; 2] = ["token_embedding", "position_embedding"];

/// The layers of a model that a LoRA can change, under every name a file may use.
#[derive(Debug, Clone)]
pub struct Targets {
    unet: Layers,
    text_encoder: Layers,
    text_encoder_2: Layers,
}

/// The layers of one network.
#[derive(Debug, Clone, Default)]
struct Layers {
    /// By checkpoint name.
    layers: BTreeMap<String, Target>,
    /// Any name, dotted or flat → checkpoint name; `None` if it could be several.
    names: HashMap<String, Option<String>>,
}

/// What a file can change of one layer.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// `[out, in]`, `[out, in, k, k]` of a convolution, or `[C]` of a norm.
    pub(crate) weight: FrozenWeight,
    /// `[out]`.
    pub(crate) bias: Option<FrozenWeight>,
}

impl Target {
    /// One number per channel, no product.
    pub(crate) fn is_norm(&self) -> bool {
        self.weight.shape().len() == 1
    }
}

impl Targets {
    /// The layers of an opened model.
    #[must_use]
    pub fn of(parts: &ModelParts) -> Self {
        let (config, weights) = &parts.unet;
        let blocks = BlockNames::unet(config.levels(), config.layers_per_block);
        let encoder = |weights: Option<&Weights>| match weights {
            Some(weights) => Layers::new(weights, encoder_names),
            None => Layers::default(),
        };
        Self {
            unet: Layers::new(weights, |layer| unet_names(&blocks, layer)),
            text_encoder: encoder(parts.text_encoder.as_ref().map(|(_, weights)| weights)),
            text_encoder_2: encoder(parts.text_encoder_2.as_ref().map(|(_, weights)| weights)),
        }
    }

    /// The checkpoint name of the layer that a file calls `name`, and what is there.
    pub(crate) fn find(&self, network: Network, name: &str) -> Option<(&str, &Target)> {
        let layers = self.layers(network);
        let name = layers.names.get(name)?.as_deref()?;
        let (name, target) = layers.layers.get_key_value(name)?;
        Some((name, target))
    }

    /// All layers of a network that are products: checkpoint name and weight shape.
    pub fn iter(&self, network: Network) -> impl Iterator<Item = (&str, &[usize])> {
        let products = self.layers(network).layers.iter().filter(|(_, target)| !target.is_norm());
        products.map(|(layer, target)| (layer.as_str(), target.weight.shape()))
    }

    /// Width of the prompt's features.
    #[must_use]
    pub fn cross_attention_dim(&self) -> Option<usize> {
        let mut keys = self.unet.layers.iter().filter(|(layer, _)| layer.ends_with("attn2.to_k"));
        keys.next().and_then(|(_, target)| target.weight.shape().get(1).copied())
    }

    fn layers(&self, network: Network) -> &Layers {
        match network {
            Network::Unet => &self.unet,
            Network::TextEncoder => &self.text_encoder,
            Network::TextEncoder2 => &self.text_encoder_2,
        }
    }
}

impl Layers {
    fn new(weights: &Weights, other_names: impl Fn(&str) -> Vec<String>) -> Self {
        let mut layers = Self::default();
        for (layer, weight, bias) in weights.layers() {
            let table = TABLES.iter().any(|table| layer.ends_with(table));
            if table || !matches!(weight.shape().len(), 1 | 2 | 4) {
                continue;
            }
            layers.name(&layer, &layer);
            for name in other_names(&layer) {
                layers.name(&name, &layer);
            }
            layers.layers.insert(layer, Target { weight, bias });
        }
        layers
    }

    /// Notes a name of a layer, dotted and flat.
    fn name(&mut self, name: &str, layer: &str) {
        for name in [name.to_owned(), name.replace('.', "_")] {
            let known = self.names.entry(name).or_insert_with(|| Some(layer.to_owned()));
            if known.as_deref() != Some(layer) {
                *known = None;
            }
        }
    }
}

/// LDM's names, and the 2023 dialect's `to_out` for `to_out.0`.
fn unet_names(blocks: &BlockNames, layer: &str) -> Vec<String> {
    let mut names: Vec<String> = blocks.to_ldm(layer).collect();
    names.extend(layer.strip_suffix(".to_out.0").map(|attention| format!("{attention}.to_out")));
    names
}

/// With and without `text_model`, and the UNet's words for the same layers (2023 dialect).
fn encoder_names(layer: &str) -> Vec<String> {
    let mut names = vec![match layer.strip_prefix("text_model.") {
        Some(rest) => rest.to_owned(),
        None => format!("text_model.{layer}"),
    }];
    names.push(layer.to_owned());
    let words =
        [("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out")];
    for (ours, theirs) in words {
        let renamed: Vec<String> = names
            .iter()
            .filter_map(|name| {
                Some(format!("{}.{theirs}", name.strip_suffix(&format!(".{ours}"))?))
            })
            .collect();
        names.extend(renamed);
    }
    names
}
