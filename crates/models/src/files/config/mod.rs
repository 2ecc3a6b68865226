//! The configs of a model folder, checked so that nothing later divides by zero or runs away.
//!
//! Every field the networks do not follow must have the value they assume; any other is
//! refused by name. Defaults are those of diffusers 0.42.1 and transformers 5.24.0.

mod defaults;
mod fields;
mod index;
mod scheduler;
mod text_encoder;
mod unet;
mod vae;

pub use defaults::ModelDefaults;
pub use index::ModelIndex;
pub use scheduler::{PredictionType, SchedulerConfig};
pub use text_encoder::{HiddenAct, TextEncoderConfig};
pub use unet::UnetConfig;
pub use vae::VaeConfig;

use fields::Fields;

/// No network in use has more channels, and all products of two stay far from overflow.
const MOST_CHANNELS: usize = 1 << 16;
/// No network in use has more levels, layers or blocks of one kind.
const MOST_LAYERS: usize = 256;
