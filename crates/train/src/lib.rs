//! Pictures to a LoRA file: data, gradients and optimizer state.
//!
//! A folder is read and checked ([`data::Dataset::scan`]), the model is opened
//! ([`unwrong::Pipeline`]), and a [`Trainer`] makes one step after the other, put aside in
//! [`Checkpoints`] and watched through [`Records`], until it writes the LoRA and its [`card`].

mod average;
pub mod card;
mod checkpoint;
mod curve;
pub mod data;
mod diffusion;
pub mod error;
mod journal;
mod layers;
mod memory;
pub mod metadata;
mod optimizer;
mod options;
mod run;
mod samples;
mod settings;
mod trainer;

pub use average::Average;
pub use checkpoint::{Checkpoints, Last};
pub use curve::write_curve;
pub use diffusion::{Diffusion, LossOptions, Sample, loss};
pub use error::{Error, Result};
pub use journal::Journal;
pub use layers::{Layer, LayerChoice};
pub use optimizer::{AdamW, OptimizerKind, OptimizerOptions, Prodigy, RateSchedule, clip, norm};
pub use options::TrainOptions;
pub use run::{Records, RunOptions, TrainEvent, Watcher};
pub use samples::{SampleOptions, Samples};
pub use trainer::{State, StepReport, Trainer};
pub use unwrong_models::lora::Dialect;
