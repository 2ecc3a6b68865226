//! What LoRA files do to the layers of a model.

use std::collections::HashMap;

use crate::files::FrozenWeight;
use crate::lora::Network;

/// What LoRA files do to the layers of a model, network by network.
#[derive(Debug, Clone, Default)]
pub struct Adapters {
    /// The UNet's layers.
    pub unet: LayerAdapters,
    /// The first text encoder's layers.
    pub text_encoder: LayerAdapters,
    /// The second text encoder's layers.
    pub text_encoder_2: LayerAdapters,
}

impl Adapters {
    /// Nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unet.is_empty() && self.text_encoder.is_empty() && self.text_encoder_2.is_empty()
    }

    /// What is done to one network.
    pub(crate) fn of(&self, network: Network) -> &LayerAdapters {
        match network {
            Network::Unet => &self.unet,
            Network::TextEncoder => &self.text_encoder,
            Network::TextEncoder2 => &self.text_encoder_2,
        }
    }

    pub(super) fn of_mut(&mut self, network: Network) -> &mut LayerAdapters {
        match network {
            Network::Unet => &mut self.unet,
            Network::TextEncoder => &mut self.text_encoder,
            Network::TextEncoder2 => &mut self.text_encoder_2,
        }
    }
}

/// What LoRA files do to the layers of one network, by the layer's checkpoint name.
#[derive(Debug, Clone, Default)]
pub struct LayerAdapters(HashMap<String, Adapter>);

impl LayerAdapters {
    /// What is done to the layer `name`: its checkpoint key without `.weight`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Adapter> {
        self.0.get(name)
    }

    /// The layer's entry, new and empty if there is none.
    pub fn entry(&mut self, name: &str) -> &mut Adapter {
        self.0.entry(name.to_owned()).or_default()
    }

    /// Number of layers that are changed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No layer is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All changed layers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Adapter)> {
        self.0.iter().map(|(name, adapter)| (name.as_str(), adapter))
    }
}

/// What LoRA files do to one layer: `y = gain ∘ (W · x) + Σ scale · up · down · x + bias`.
#[derive(Debug, Clone, Default)]
pub struct Adapter {
    /// Products added to the layer's own, in the order of the files.
    pub low_rank: Vec<LowRank>,
    /// Factor per output channel of the layer's own product (DoRA), `[out]`.
    pub gain: Option<FrozenWeight>,
    /// Takes the place of the layer's weight (LoKr, full differences, norms).
    pub overlay: Option<FrozenWeight>,
    /// Takes the place of the layer's bias, `[out]`.
    pub bias: Option<FrozenWeight>,
}

/// One product of two thin matrices: `y += scale · up · down · x`.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[rank, in]`, or `[rank, in, k, k]` where the layer is a convolution.
    pub down: FrozenWeight,
    /// `[out, rank]`, or `[out, rank, 1, 1]` where the layer is a convolution.
    pub up: FrozenWeight,
    /// The user's scale times `alpha / rank`.
    pub scale: f32,
}
