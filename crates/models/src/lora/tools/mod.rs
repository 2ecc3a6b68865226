//! What changes a model's own weights: its files as they lie there, and the sum of weight and
//! LoRA.

mod checkpoint;
mod fuse;

pub use checkpoint::{Checkpoint, CheckpointFile, RawTensor};
