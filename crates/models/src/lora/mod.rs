//! LoRA files: what they do to which layer.
//!
//! A file is opened and its keys are read in whatever dialect they are written
//! ([`LoraFile`]); [`attach`] then finds the layer of every tensor in a model's [`Targets`] and
//! checks all of them before anything takes effect. The mapped weights are never changed: a
//! layer looks its [`Adapter`] up when it runs.
//!
//! The other way, a list of [`LoraLayer`]s becomes a file in any [`Dialect`]: [`write_lora`].

mod adapter;
mod attach;
mod blocks;
mod change;
mod dialect;
mod effect;
mod file;
mod keys;
mod layer;
mod matrix;
mod metadata;
mod names;
mod read;
mod targets;
mod tools;
mod trained;
mod write;

pub use adapter::{Adapter, Adapters, LayerAdapters, LowRank};
pub use attach::{Applied, Scales, attach};
pub use blocks::{BlockWeights, block_name};
pub use change::{Change, Factor, Pair};
pub use dialect::Dialect;
pub use file::LoraFile;
pub use keys::Network;
pub use layer::LoraLayer;
pub(crate) use matrix::transposed;
pub use targets::Targets;
pub use tools::{Checkpoint, CheckpointFile, RawTensor};
pub use trained::{Branch, BranchGradients, ByLayer, Dropout, Gradients, Trained};
pub use write::write_lora;
