//! Pictures to a LoRA file: data, gradients and optimizer state.
//!
//! A folder is read and checked ([`data::Dataset::scan`]), the model is opened
//! ([`unwrong::Pipeline`]), and a [`Trainer`] makes one step after the other, put aside in
//! [`Checkpoints`], until it writes the LoRA.

mod checkpoint;
pub mod data;
mod diffusion;
pub mod error;
mod layers;
pub mod metadata;
mod optimizer;
mod options;
mod run;
mod trainer;

pub use checkpoint::Checkpoints;
pub use diffusion::{Diffusion, LossOptions, Sample, loss};
pub use error::{Error, Result};
pub use layers::{Layer, LayerChoice};
pub use optimizer::{AdamW, AdamWOptions, RateSchedule, clip, norm};
pub use options::TrainOptions;
pub use run::{RunOptions, TrainEvent, Watcher};
pub use trainer::{State, StepReport, Trainer};
pub use unwrong_models::lora::Dialect;
