//! LoRA files: what they do to which layer.
//!
//! A file is opened and its keys are read in whatever dialect they are written
//! ([`LoraFile`]); [`attach`] then finds the layer of every tensor in a model's [`Targets`] and
//! checks all of them before anything takes effect. The mapped weights are never changed: a
//! layer looks its [`Adapter`] up when it runs.

mod adapter;
mod attach;
mod file;
mod keys;
mod metadata;
mod targets;

pub use adapter::{Adapter, Adapters, LayerAdapters, LowRank};
pub use attach::{Applied, attach};
pub use file::LoraFile;
pub use keys::Network;
pub use targets::Targets;
