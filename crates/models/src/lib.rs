//! SDXL's networks, their weights and LoRA files.
//!
//! [`files`] opens models, [`lora`] what changes them, and [`text_encoder`], [`unet`] and [`vae`]
//! are the networks: stages 4 and 7 to 9 of a request. Every hot operation goes through
//! [`ops`], which has a plain and a fast implementation.

pub mod error;
pub mod files;
pub mod layers;
pub mod lora;
pub mod ops;
mod random;
pub mod text_encoder;
pub mod textual_inversion;
pub mod unet;
pub mod vae;

pub use error::{Error, Result};
pub use layers::{Observer, Run};
pub use random::SplitMix64;

pub use unwrong_kernels::{Alarm, Recycling, kept_bytes};
