//! Reads goldens (`parity/README.md` has their format) and compares tensors with them.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic and print, and every test binary uses its own part of this module"
)]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// One golden file with its index.
pub struct Goldens {
    name: String,
    index: Index,
    tensors: HashMap<String, Tensor>,
}

#[derive(Deserialize)]
struct Index {
    tensors: BTreeMap<String, Entry>,
    #[serde(flatten)]
    facts: serde_json::Map<String, serde_json::Value>,
}

#[derive(Clone, Deserialize)]
struct Entry {
    shape: Vec<usize>,
    offset: usize,
    stride: usize,
    count: usize,
    max_abs: f64,
    l2: f64,
}

/// How far a tensor is from its golden, relative to the golden's largest value.
#[derive(Clone, Copy, Debug)]
pub struct Difference {
    pub relative: f64,
    pub absolute: f64,
    pub index: usize,
}

impl Goldens {
    pub fn open(name: &str) -> Self {
        Self::open_at(&root().join("parity/goldens"), name)
    }

    pub fn open_at(folder: &Path, name: &str) -> Self {
        let index = std::fs::read(folder.join(format!("{name}.json"))).unwrap();
        let file = folder.join(format!("{name}.safetensors"));
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        Self { name: name.to_owned(), index: serde_json::from_slice(&index).unwrap(), tensors }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.tensors.keys().map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.index.tensors.contains_key(name)
    }

    /// A fact beside the tensors.
    pub fn fact(&self, name: &str) -> &serde_json::Value {
        &self.index.facts[name]
    }

    /// A whole tensor, in torch's layout.
    pub fn tensor(&self, name: &str) -> Tensor {
        let entry = &self.index.tensors[name];
        assert_eq!(entry.stride, 1, "{name} is thinned");
        Tensor::from_vec(self.values(name), entry.shape.as_slice(), &Device::Cpu).unwrap()
    }

    pub fn values(&self, name: &str) -> Vec<f32> {
        let tensor = self.tensors[name].to_dtype(DType::F32).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The golden values that were kept, each with its place in the whole tensor.
    pub fn kept(&self, name: &str) -> impl Iterator<Item = (usize, f32)> {
        let Entry { offset, stride, .. } = self.index.tensors[name];
        let values = self.values(name).into_iter().enumerate();
        values.map(move |(k, value)| (offset + k * stride, value))
    }

    /// Number of values of the whole tensor.
    pub fn count(&self, name: &str) -> usize {
        self.index.tensors[name].shape.iter().product()
    }

    /// Compares a tensor in torch's layout. A missing golden, another shape, another norm of the
    /// values that were left out, or a value that is not finite fails at once.
    pub fn compare(&self, name: &str, tensor: &Tensor) -> Difference {
        let entry = self.index.tensors.get(name);
        let entry = entry.unwrap_or_else(|| panic!("{} has no golden {name}", self.name));
        assert_eq!(tensor.dims(), entry.shape, "shape of {name}");
        let values =
            tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(values.iter().all(|value| value.is_finite()), "{name} is not finite");

        let mut worst = Difference { relative: 0.0, absolute: 0.0, index: 0 };
        for (index, golden) in self.kept(name) {
            let absolute = f64::from((values[index] - golden).abs());
            if absolute > worst.absolute {
                worst = Difference { relative: 0.0, absolute, index };
            }
        }
        worst.relative = worst.absolute / entry.max_abs.max(f64::MIN_POSITIVE);
        let l2 = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let off = (l2 - entry.l2).abs() / entry.l2.max(f64::MIN_POSITIVE);
        assert!(
            off < 1e-3,
            "{name}: the norm of all values is {l2}, expected {} ({worst:?})",
            entry.l2
        );
        worst
    }
}

/// `[B, H, W, C]` as torch has it.
pub fn nchw(tensor: &Tensor) -> Tensor {
    tensor.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
}

/// Torch's images with channels last.
pub fn nhwc(tensor: &Tensor) -> Tensor {
    tensor.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
}

/// A row of the parity table: the stage and the worst of its differences.
pub struct Row {
    stage: String,
    worst: f64,
    at: String,
    bound: f64,
    count: usize,
}

impl Row {
    pub fn new(stage: impl Into<String>, bound: f64) -> Self {
        Self { stage: stage.into(), worst: 0.0, at: String::new(), bound, count: 0 }
    }

    /// Adds a difference; fails at the first that is too large, naming it.
    pub fn add(&mut self, name: &str, difference: Difference) {
        self.count += 1;
        if difference.relative >= self.worst {
            self.worst = difference.relative;
            name.clone_into(&mut self.at);
        }
        assert!(
            difference.relative <= self.bound,
            "{}: {name} differs by {:.3e} of its largest value (absolute {:.3e} at {}), allowed {:.0e}",
            self.stage,
            difference.relative,
            difference.absolute,
            difference.index,
            self.bound,
        );
    }

    /// Prints the row: `cargo test … -- --nocapture` shows the table.
    pub fn print(self) {
        assert!(self.count > 0, "{}: nothing was compared", self.stage);
        println!(
            "| {} | {} | {:.1e} | {:.0e} | {} |",
            self.stage, self.count, self.worst, self.bound, self.at
        );
    }
}
