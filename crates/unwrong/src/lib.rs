//! Request to picture: SDXL base, refiner and LoRA in one library.

pub mod error;
pub mod request;

pub use error::{Error, Result};
pub use request::GenerateRequest;
