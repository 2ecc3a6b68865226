//! Which layers are trained, and what they start from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unwrong_models::files::FrozenWeight;
use unwrong_models::lora::{Dialect, LoraLayer, Network, Targets, write_lora};

use crate::error::{Error, Result};

/// Which layers of a model are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each kind of layer may be wanted or not")]
pub struct LayerChoice {
    /// Queries, keys, values and outputs of both attentions of the UNet.
    pub attention: bool,
    /// Both layers after them, and the projections around a transformer.
    pub feed_forward: bool,
    /// Convolutions of resnets, their shortcuts, and those that change the resolution.
    pub convolutions: bool,
    /// The layers that timestep, sizes and pooled text go through, and what a resnet takes of them.
    pub embeddings: bool,
    /// Queries, keys, values and outputs of both text encoders; with
    /// [`feed_forward`](Self::feed_forward), both layers after them, too.
    pub text_encoders: bool,
}

impl Default for LayerChoice {
    /// The UNet's attention alone, as the wrong-LoRA was trained.
    fn default() -> Self {
        Self {
            attention: true,
            feed_forward: false,
            convolutions: false,
            embeddings: false,
            text_encoders: false,
        }
    }
}

/// A layer that is trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Which network it is in.
    pub network: Network,
    /// The checkpoint key without `.weight`.
    pub name: String,
    /// `[out, in]`, or `[out, in, k, k]` of a convolution: the shape of its weight.
    pub shape: Vec<usize>,
}

impl Layer {
    /// The shape of `down`: `[rank, in]` or `[rank, in, k, k]`.
    #[must_use]
    pub fn down(&self, rank: usize) -> Vec<usize> {
        [&[rank], &self.shape[1..]].concat()
    }

    /// The shape of `up`: `[out, rank]` or `[out, rank, 1, 1]`.
    #[must_use]
    pub fn up(&self, rank: usize) -> Vec<usize> {
        [&[self.shape[0], rank], &*vec![1; self.shape.len() - 2]].concat()
    }
}

impl LayerChoice {
    /// The chosen layers of a model, sorted by network and name.
    pub fn layers(self, targets: &Targets) -> Result<Vec<Layer>> {
        let unread = unread(targets);
        let is_read = |network, name: &str| {
            network != Network::TextEncoder
                || unread.as_ref().is_none_or(|layer| !name.contains(layer))
        };
        let mut layers = Vec::new();
        for network in Network::ALL {
            for (name, shape) in targets.iter(network) {
                if self.takes(network, name) && is_read(network, name) {
                    layers.push(Layer { network, name: name.to_owned(), shape: shape.to_vec() });
                }
            }
        }
        if layers.is_empty() { Err(Error::NoLayers) } else { Ok(layers) }
    }

    /// Refuses a dialect that has no words for the chosen layers.
    pub fn check_dialect(self, targets: &Targets, dialect: Dialect) -> Result<()> {
        let number = FrozenWeight::from_f32(&[0.0], &[1, 1]);
        let smallest = |Layer { network, name, .. }| {
            let (down, up) = (number.clone(), number.clone());
            LoraLayer::low_rank(network, &name, down, up, 1.0)
        };
        let layers: Vec<_> = self.layers(targets)?.into_iter().map(smallest).collect();
        write_lora(&layers, dialect, &BTreeMap::new())?;
        Ok(())
    }

    fn takes(self, network: Network, name: &str) -> bool {
        let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        if network != Network::Unet {
            let attention = [".q_proj", ".k_proj", ".v_proj", ".out_proj"];
            let both = self.feed_forward && ends(&[".fc1", ".fc2"]);
            return self.text_encoders && (ends(&attention) || both);
        }
        let attention = [".to_q", ".to_k", ".to_v", ".to_out.0"];
        let feed_forward = [".ff.net.0.proj", ".ff.net.2", ".proj_in", ".proj_out"];
        let convolutions = [".conv1", ".conv2", ".conv_shortcut", ".conv"];
        let embeddings = [".time_emb_proj", "_embedding.linear_1", "_embedding.linear_2"];
        self.attention && ends(&attention)
            || self.feed_forward && ends(&feed_forward)
            || self.convolutions && ends(&convolutions)
            || self.embeddings && ends(&embeddings)
    }
}

/// Part of the names of what changes nothing: SDXL is told the states before the last layer of
/// the first encoder.
fn unread(targets: &Targets) -> Option<String> {
    let number = |name: &str| -> Option<usize> {
        name.split_once(".layers.")?.1.split('.').next()?.parse().ok()
    };
    let last = targets.iter(Network::TextEncoder).filter_map(|(name, _)| number(name)).max()?;
    Some(format!(".layers.{last}."))
}

/// The first matrices of a layer: `down` as `torch.nn.Linear` and `Conv2d` start (Kaiming uniform
/// with `a = √5`, which is uniform within `1/√inputs`), as in peft; `up` is zero, so that the
/// first picture is the model's own.
#[must_use]
pub(crate) fn initial(
    layer: &Layer,
    rank: usize,
    uniform: &mut impl FnMut() -> f64,
) -> [Vec<f32>; 2] {
    let inputs: usize = layer.shape[1..].iter().product();
    let bound = 1.0 / (inputs as f64).sqrt();
    let down = (0..rank * inputs).map(|_| ((2.0 * uniform() - 1.0) * bound) as f32);
    [down.collect(), vec![0.0; rank * layer.shape[0]]]
}
