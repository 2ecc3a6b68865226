//! Request to picture: SDXL base, refiner and LoRA in one library.

pub mod error;
pub mod noise;
pub mod request;
pub mod sampler;
pub mod schedule;

pub use error::{Error, Result};
pub use request::GenerateRequest;
