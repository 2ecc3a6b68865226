//! The alpha of PEFT files, which diffusers keeps in the header and not beside the matrices.

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::SafetensorsFile;
use crate::lora::keys::Network;

/// The key under which diffusers writes PEFT's config, with the network before every field.
const KEY: &str = "lora_adapter_metadata";

/// PEFT's config, where the file has one.
pub(super) struct PeftMetadata(Map<String, Value>);

impl PeftMetadata {
    pub(super) fn read(file: &SafetensorsFile) -> Result<Self> {
        let Some(text) = file.metadata().get(KEY) else { return Ok(Self(Map::new())) };
        serde_json::from_str(text).map(Self).map_err(|error| Error::Malformed {
            path: file.path().to_owned(),
            reason: format!("`{KEY}` in its header is no JSON: {error}"),
        })
    }

    /// What the product of a layer's matrices is multiplied with. Without a word about it, 1.
    pub(super) fn factor(&self, network: Network, layer: &str, rank: usize) -> f64 {
        let patterns = self.get(network, "alpha_pattern").and_then(Value::as_object);
        let pattern = patterns.and_then(|patterns| {
            let mut matching = patterns.iter().filter(|(pattern, _)| ends_with(layer, pattern));
            matching.next().and_then(|(_, alpha)| alpha.as_f64())
        });
        let common = self.get(network, "lora_alpha").and_then(Value::as_f64);
        let Some(alpha) = pattern.or(common).filter(|alpha| alpha.is_finite()) else { return 1.0 };
        let rank = rank as f64;
        match self.get(network, "use_rslora") {
            // Kalajdzievski 2023, arXiv:2312.03732.
            Some(Value::Bool(true)) => alpha / rank.sqrt(),
            _ => alpha / rank,
        }
    }

    fn get(&self, network: Network, field: &str) -> Option<&Value> {
        let network = match network {
            Network::Unet => "unet",
            Network::TextEncoder => "text_encoder",
            Network::TextEncoder2 => "text_encoder_2",
        };
        self.0.get(&format!("{network}.{field}"))
    }
}

/// PEFT's rule for a pattern without special characters: whole parts at the end of the path.
fn ends_with(layer: &str, pattern: &str) -> bool {
    let pattern = pattern.trim_start_matches('^');
    let start = layer.strip_suffix(pattern);
    start.is_some_and(|start| start.is_empty() || start.ends_with('.'))
}
