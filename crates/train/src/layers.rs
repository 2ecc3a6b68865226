//! Which layers are trained, and what they start from.

use serde::{Deserialize, Serialize};
use unwrong_models::lora::{Network, Targets};

use crate::error::{Error, Result};

/// Which of a UNet's layers are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerChoice {
    /// Queries, keys, values and outputs of both attentions.
    pub attention: bool,
    /// Both layers after them, and the projections around a transformer.
    pub feed_forward: bool,
}

impl Default for LayerChoice {
    /// Attention alone, as the wrong-LoRA was trained.
    fn default() -> Self {
        Self { attention: true, feed_forward: false }
    }
}

/// A layer with its two matrices, and how large they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The checkpoint key without `.weight`.
    pub name: String,
    /// Features it reads.
    pub inputs: usize,
    /// Features it writes.
    pub outputs: usize,
}

impl LayerChoice {
    /// The chosen layers of a model, sorted by name.
    pub fn layers(self, targets: &Targets) -> Result<Vec<Layer>> {
        let chosen = targets.iter(Network::Unet).filter(|(name, shape)| {
            let is_matrix = shape[2..].iter().all(|side| *side == 1);
            is_matrix && self.takes(name)
        });
        let layers: Vec<_> = chosen
            .map(|(name, shape)| Layer {
                name: name.to_owned(),
                inputs: shape[1],
                outputs: shape[0],
            })
            .collect();
        if layers.is_empty() { Err(Error::NoLayers) } else { Ok(layers) }
    }

    fn takes(self, name: &str) -> bool {
        let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        let attention = [".to_q", ".to_k", ".to_v", ".to_out.0"];
        let feed_forward = [".ff.net.0.proj", ".ff.net.2", ".proj_in", ".proj_out"];
        self.attention && ends(&attention) || self.feed_forward && ends(&feed_forward)
    }
}

/// The first matrices of a layer: `down` as `torch.nn.Linear` starts (Kaiming uniform with
/// `a = √5`, which is uniform within `1/√inputs`), as in peft; `up` is zero, so that the first
/// picture is the model's own.
#[must_use]
pub(crate) fn initial(
    layer: &Layer,
    rank: usize,
    uniform: &mut impl FnMut() -> f64,
) -> [Vec<f32>; 2] {
    let bound = 1.0 / (layer.inputs as f64).sqrt();
    let down = (0..rank * layer.inputs).map(|_| ((2.0 * uniform() - 1.0) * bound) as f32);
    [down.collect(), vec![0.0; rank * layer.outputs]]
}
