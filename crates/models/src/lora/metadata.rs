//! The alpha of PEFT files, which diffusers keeps in the header and not beside the matrices.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files::TensorFile;
use crate::lora::keys::Network;
use crate::lora::layer::LoraLayer;

/// The key under which diffusers writes PEFT's config, with the network before every field.
pub(super) const KEY: &str = "lora_adapter_metadata";

/// PEFT's config, where the file has one.
pub(super) struct PeftMetadata(Map<String, Value>);

impl PeftMetadata {
    pub(super) fn read(file: &TensorFile) -> Result<Self> {
        let Some(text) = file.metadata().get(KEY) else { return Ok(Self(Map::new())) };
        serde_json::from_str(text).map(Self).map_err(|error| Error::Malformed {
            path: file.path().to_owned(),
            reason: format!("`{KEY}` in its header is no JSON: {error}"),
        })
    }

    /// Alpha of a layer: its product counts `alpha / rank` times. Without a word about it, once.
    pub(super) fn alpha(&self, network: Network, layer: &str, rank: usize) -> f64 {
        let patterns = self.get(network, "alpha_pattern").and_then(Value::as_object);
        let pattern = patterns.and_then(|patterns| {
            let mut matching = patterns.iter().filter(|(pattern, _)| ends_with(layer, pattern));
            matching.next().and_then(|(_, alpha)| alpha.as_f64())
        });
        let common = self.get(network, "lora_alpha").and_then(Value::as_f64);
        let rank = rank as f64;
        let Some(alpha) = pattern.or(common).filter(|alpha| alpha.is_finite()) else { return rank };
        match self.get(network, "use_rslora") {
            // The root of the rank in place of the rank: Kalajdzievski 2023, arXiv:2312.03732.
            Some(Value::Bool(true)) => alpha * rank.sqrt(),
            _ => alpha,
        }
    }

    fn get(&self, network: Network, field: &str) -> Option<&Value> {
        self.0.get(&format!("{}.{field}", network.part()))
    }
}

/// PEFT's config for these layers, as diffusers reads it when it loads them: common rank and
/// alpha of each network, and the layers that differ.
pub(super) fn peft_config(layers: &[LoraLayer]) -> String {
    let alpha_of = |layer: &LoraLayer| layer.change.alpha().unwrap_or(1.0);
    let mut config = Map::new();
    for network in Network::ALL {
        let mut layers = layers.iter().filter(|layer| layer.network == network).peekable();
        let Some(first) = layers.peek() else { continue };
        let (rank, alpha) = (first.rank(), alpha_of(first));
        let has_dora = first.magnitude.is_some();
        let (mut ranks, mut alphas, mut names) = (Map::new(), Map::new(), Vec::new());
        for layer in layers {
            // transformers 5 calls the first encoder's layers so; PEFT compares ends of names.
            let name = layer.name.trim_start_matches("text_model.");
            if layer.rank() != rank {
                ranks.insert(name.to_owned(), json!(layer.rank()));
            }
            if alpha_of(layer).to_bits() != alpha.to_bits() {
                alphas.insert(name.to_owned(), json!(alpha_of(layer)));
            }
            names.push(json!(name));
        }
        for (field, value) in [
            ("r", json!(rank)),
            ("lora_alpha", json!(alpha)),
            ("rank_pattern", Value::Object(ranks)),
            ("alpha_pattern", Value::Object(alphas)),
            ("target_modules", Value::Array(names)),
            ("use_dora", json!(has_dora)),
        ] {
            config.insert(format!("{}.{field}", network.part()), value);
        }
    }
    Value::Object(config).to_string()
}

/// PEFT's rule for a pattern without special characters: whole parts at the end of the path.
fn ends_with(layer: &str, pattern: &str) -> bool {
    let pattern = pattern.trim_start_matches('^');
    let start = layer.strip_suffix(pattern);
    start.is_some_and(|start| start.is_empty() || start.ends_with('.'))
}
