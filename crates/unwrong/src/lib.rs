//! Request to picture: SDXL base, refiner and LoRA in one library.
pub mod catalog;
pub mod compare;
mod denoiser;
pub mod encode;
pub mod error;
pub mod generate;
mod identity;
pub mod noise;
pub mod picture;
pub mod pipeline;
pub mod plan;
pub mod progress;
pub mod request;
pub mod sampler;
pub mod schedule;

pub use error::{Error, Result};
pub use request::GenerateRequest;
