//! What the tests of files share: where things lie, and safetensors files made by hand.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;
use unwrong_models::files::Folder;

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A folder of the demo model.
pub fn demo(part: &str) -> Folder {
    Folder::disk(root().join("crates/demo/model").join(part))
}

/// A safetensors file in the making.
#[derive(Default, Clone)]
pub struct Made {
    pub metadata: BTreeMap<&'static str, &'static str>,
    header: serde_json::Map<String, serde_json::Value>,
    data: Vec<u8>,
}

impl Made {
    pub fn new() -> Self {
        Self::default()
    }

    /// A tensor of values between −1 and 1.
    pub fn f32(&mut self, name: &str, shape: &[usize]) {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|i| (i as f32 * 0.7).sin());
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        self.add(name, "F32", shape, &bytes);
    }

    pub fn add(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        let start = self.data.len();
        self.data.extend_from_slice(bytes);
        let entry = json!({
            "dtype": dtype, "shape": shape, "data_offsets": [start, self.data.len()],
        });
        self.header.insert(name.to_owned(), entry);
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut header = self.header.clone();
        if !self.metadata.is_empty() {
            header.insert("__metadata__".to_owned(), json!(self.metadata));
        }
        framed(&serde_json::Value::Object(header).to_string(), &self.data)
    }
}

/// Header length, header, data.
pub fn framed(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), data].concat()
}
