//! The goldens of `parity/`: what the oracles computed.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use serde_json::Value;

/// One stage's facts and tensors.
pub(crate) struct Goldens {
    pub(crate) facts: Value,
    tensors: HashMap<String, Tensor>,
}

impl Goldens {
    pub(crate) fn load(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../parity/goldens");
        let facts = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let tensors = folder.join(format!("{name}.safetensors"));
        let tensors = if tensors.exists() {
            candle_core::safetensors::load(tensors, &Device::Cpu).unwrap()
        } else {
            HashMap::new()
        };
        Self { facts: serde_json::from_str(&facts).unwrap(), tensors }
    }

    /// The values that the file holds.
    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        let tensor = self.tensors.get(name).unwrap_or_else(|| panic!("no golden `{name}`"));
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Picks out of a whole tensor the values that the file holds.
    pub(crate) fn thin(&self, name: &str, whole: &[f32]) -> Vec<f32> {
        let facts = &self.facts["tensors"][name];
        let number = |key: &str| usize::try_from(facts[key].as_u64().unwrap()).unwrap();
        let (offset, stride, count) = (number("offset"), number("stride"), number("count"));
        whole.iter().copied().skip(offset).step_by(stride).take(count).collect()
    }

    /// Root of the sum of squares of the whole tensor.
    pub(crate) fn l2(&self, name: &str) -> f64 {
        self.facts["tensors"][name]["l2"].as_f64().unwrap()
    }
}
