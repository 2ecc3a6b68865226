//! What the tests of files share: where things lie, and safetensors files made by hand.

#![allow(dead_code, reason = "every test file uses its own part")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

pub(crate) mod fuzzing;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use unwrong_models::files::Folder;

/// The repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A folder of the demo model.
pub(crate) fn demo(part: &str) -> Folder {
    Folder::disk(root().join("crates/demo/model").join(part))
}

/// A safetensors file in the making.
#[derive(Default, Clone)]
pub(crate) struct Made {
    pub(crate) metadata: BTreeMap<&'static str, &'static str>,
    header: serde_json::Map<String, serde_json::Value>,
    data: Vec<u8>,
}

impl Made {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A tensor of values between −1 and 1.
    pub(crate) fn f32(&mut self, name: &str, shape: &[usize]) {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|i| (i as f32 * 0.7).sin());
        let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        self.add(name, "F32", shape, &bytes);
    }

    pub(crate) fn add(&mut self, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
        let start = self.data.len();
        self.data.extend_from_slice(bytes);
        let entry = json!({
            "dtype": dtype, "shape": shape, "data_offsets": [start, self.data.len()],
        });
        self.header.insert(name.to_owned(), entry);
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut header = self.header.clone();
        if !self.metadata.is_empty() {
            header.insert("__metadata__".to_owned(), json!(self.metadata));
        }
        framed(&serde_json::Value::Object(header).to_string(), &self.data)
    }
}

/// Header length, header, data.
pub(crate) fn framed(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), data].concat()
}

/// Writes a file with these keys and shapes in f16, all zeros, which take no place on the disk.
pub(crate) fn write_sparse<'a>(
    path: &Path,
    keys: impl IntoIterator<Item = (&'a str, &'a [usize])>,
) {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (key, shape) in keys {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]});
        header.insert(key.to_owned(), entry);
    }
    let head = framed(&serde_json::Value::Object(header).to_string(), &[]);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&head).unwrap();
    file.set_len((head.len() + end) as u64).unwrap();
}
