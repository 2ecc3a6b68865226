//! The weights of one network, under the keys its code asks for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result, Shape};
use crate::files::{Bytes, Folder, FrozenWeight, TensorFile};

/// The weights of one network, under the keys its code asks for.
///
/// Remembers what was asked for, so that a file with keys nobody used can be reported. Cloning
/// shares everything.
#[derive(Debug, Clone)]
pub struct Weights(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The file, or the folder of the shards.
    path: String,
    files: Vec<(Arc<str>, Bytes)>,
    entries: BTreeMap<String, Entry>,
    /// Tensors in a number format that is not read, with the format's name.
    unreadable: BTreeMap<String, (String, Arc<str>)>,
}

#[derive(Debug)]
struct Entry {
    weight: FrozenWeight,
    file: Arc<str>,
    used: AtomicBool,
}

impl Weights {
    /// The weights of a safetensors file of the disk, under their own keys.
    pub fn open(path: &std::path::Path) -> Result<Self> {
        Self::of(TensorFile::open(path)?)
    }

    /// The weights of a safetensors file in a folder, under their own keys.
    pub fn open_in(folder: &Folder, name: &str) -> Result<Self> {
        Self::of(TensorFile::open_in(folder, name)?)
    }

    /// The weights of an open file, under their own keys.
    pub fn of(file: TensorFile) -> Result<Self> {
        let path = file.path().to_owned();
        let mut builder = Builder::new(&path);
        builder.add_file(file, |key| Some(key.to_owned()))?;
        Ok(builder.build())
    }

    /// Where a network starts to ask.
    #[must_use]
    pub fn root(&self) -> WeightPath {
        WeightPath { weights: self.clone(), prefix: String::new() }
    }

    /// Keys that were never asked for.
    #[must_use]
    pub fn unused(&self) -> Vec<String> {
        let unused = self.0.entries.iter().filter(|(_, entry)| !entry.used.load(Ordering::Relaxed));
        unused.map(|(key, _)| key.clone()).collect()
    }

    /// Every module with a weight, and the weight's shape: what a LoRA can attach to.
    #[must_use]
    pub fn modules(&self) -> BTreeMap<String, Vec<usize>> {
        let modules = self.0.entries.iter().filter_map(|(key, entry)| {
            Some((key.strip_suffix(".weight")?.to_owned(), entry.weight.shape().to_vec()))
        });
        modules.collect()
    }

    /// Every module with a weight: its name, its weight, and its bias where it has one.
    pub(crate) fn layers(
        &self,
    ) -> impl Iterator<Item = (String, FrozenWeight, Option<FrozenWeight>)> {
        let entries = &self.0.entries;
        entries.iter().filter_map(|(key, entry)| {
            let name = key.strip_suffix(".weight")?;
            let bias = entries.get(&format!("{name}.bias")).map(|entry| entry.weight.clone());
            Some((name.to_owned(), entry.weight.clone(), bias))
        })
    }

    /// The weight under a key as the file has it, which does not count as asking for it.
    #[must_use]
    pub fn look_at(&self, key: &str) -> Option<&FrozenWeight> {
        self.0.entries.get(key).map(|entry| &entry.weight)
    }

    /// How to name the file in a message.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The files the weights lie in: name and content.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.0.files.iter().map(|(path, bytes)| (&**path, bytes))
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.entries.keys().map(String::as_str)
    }
}

/// A place in the tree of keys, such as `down_blocks.0.attentions.1`.
#[derive(Debug, Clone)]
pub struct WeightPath {
    weights: Weights,
    /// Empty or ends in a dot.
    prefix: String,
}

impl WeightPath {
    /// The place `name` below this one; `name` may have several parts.
    #[must_use]
    pub fn path(&self, name: impl std::fmt::Display) -> Self {
        Self { weights: self.weights.clone(), prefix: format!("{}{name}.", self.prefix) }
    }

    /// The weight `name`, which must have this shape.
    ///
    /// Dimensions of 1 at the end do not count: a 1×1 convolution and the matrix that says
    /// the same are both written by somebody.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<FrozenWeight> {
        match self.try_get(name, shape)? {
            Some(weight) => Ok(weight),
            None => Err(Error::MissingWeight {
                key: self.key(name),
                path: self.weights.path().to_owned(),
            }),
        }
    }

    /// The weight `name` if it is there; then it must have this shape.
    pub fn try_get(&self, name: &str, shape: &[usize]) -> Result<Option<FrozenWeight>> {
        let key = self.key(name);
        let inner = &*self.weights.0;
        if let Some((dtype, file)) = inner.unreadable.get(&key) {
            let path = file.to_string();
            return Err(Error::WeightDtype { key, found: dtype.clone(), path });
        }
        let Some(entry) = inner.entries.get(&key) else { return Ok(None) };
        entry.used.store(true, Ordering::Relaxed);
        let found = entry.weight.shape();
        if found == shape {
            return Ok(Some(entry.weight.clone()));
        }
        if without_ones(found) == without_ones(shape) {
            return Ok(Some(entry.weight.reshaped(shape)));
        }
        Err(Error::WeightShape {
            key,
            found: found.into(),
            expected: Shape(shape.to_vec()),
            path: entry.file.to_string(),
        })
    }

    /// Whether the weight `name` is there.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.weights.0.entries.contains_key(&self.key(name))
    }

    /// The full name of this place, without a dot at the end: the name LoRA files use.
    #[must_use]
    pub fn name(&self) -> &str {
        self.prefix.strip_suffix('.').unwrap_or(&self.prefix)
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// Collects weights from files, under translated keys.
pub(crate) struct Builder {
    inner: Inner,
}

impl Builder {
    pub(crate) fn new(path: &str) -> Self {
        let path = path.to_owned();
        let (entries, unreadable) = (BTreeMap::new(), BTreeMap::new());
        Self { inner: Inner { path, files: Vec::new(), entries, unreadable } }
    }

    /// Adds all weights for which `translate` has a key. Tensors that are no numbers of ours
    /// are remembered only for the message if somebody asks for them.
    pub(crate) fn add_file(
        &mut self,
        file: TensorFile,
        translate: impl Fn(&str) -> Option<String>,
    ) -> Result<()> {
        let path = self.add_source(&file);
        let (weights, others) = file.into_parts();
        for (key, weight) in weights {
            if let Some(key) = translate(&key) {
                self.add(key, weight, &path)?;
            }
        }
        for (key, other) in others {
            if let Some(key) = translate(&key) {
                self.add_unreadable(key, &other.dtype, &path);
            }
        }
        Ok(())
    }

    /// Notes that weights of this file follow.
    pub(crate) fn add_source(&mut self, file: &TensorFile) -> Arc<str> {
        let path = file.shared_path();
        self.inner.files.push((Arc::clone(&path), file.bytes().clone()));
        path
    }

    pub(crate) fn add(&mut self, key: String, weight: FrozenWeight, file: &Arc<str>) -> Result<()> {
        if self.inner.entries.contains_key(&key) {
            let reason = format!("it holds `{key}` under two names");
            return Err(Error::Malformed { path: file.to_string(), reason });
        }
        let entry = Entry { weight, file: Arc::clone(file), used: AtomicBool::new(false) };
        self.inner.entries.insert(key, entry);
        Ok(())
    }

    pub(crate) fn add_unreadable(&mut self, key: String, dtype: &str, file: &Arc<str>) {
        self.inner.unreadable.insert(key, (dtype.to_owned(), Arc::clone(file)));
    }

    pub(crate) fn build(self) -> Weights {
        Weights(Arc::new(self.inner))
    }
}

fn without_ones(shape: &[usize]) -> &[usize] {
    let end = shape.iter().rposition(|dim| *dim != 1).map_or(0, |last| last + 1);
    &shape[..end]
}
