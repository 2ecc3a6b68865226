//! Request to picture: SDXL base, refiner and LoRA in one library.
//!
//! A [`GenerateRequest`] is what the user wrote; [`Pipeline::open`] finds the files it names and
//! reads their headers; [`Pipeline::generate`] runs it. One request goes straight down:
//!
//! | # | stage | in → out | where |
//! |---|---|---|---|
//! | 1 | validate | request → [`Plan`](plan::Plan) | [`plan`] |
//! | 2–4 | parse, tokenize, encode | text → [`Conditioning`](encode::Conditioning) | [`encode`] |
//! | 5 | schedule | steps, split → [`Schedule`](schedule::Schedule) per model | [`schedule`] |
//! | 6 | noise | seed → latents `[1, 4, H/8, W/8]` | [`noise`] |
//! | 7–8 | denoise | base, then refiner | [`sampler`] |
//! | 9 | decode | latents → [`Pixels`](picture::Pixels) | [`generate`] |
//! | 10 | write | pixels → file, the request inside | [`picture`] |

pub mod bench;
pub mod captions;
pub mod catalog;
pub mod compare;
mod denoiser;
pub mod embeddings;
pub mod encode;
pub mod error;
pub mod generate;
mod identity;
pub mod lock;
pub mod lora;
mod lora_files;
pub mod memory;
pub mod noise;
pub mod picture;
pub mod pipeline;
pub mod plan;
pub mod progress;
mod prompt_loras;
mod questions;
mod recent;
pub mod request;
pub mod sampler;
pub mod schedule;
mod together;
pub mod training;
pub mod wildcards;
pub mod wrongs;

pub use catalog::Catalog;
pub use compare::compare_requests;
pub use error::{Error, Result};
pub use generate::Generation;
pub use pipeline::{Options, Pipeline};
pub use request::GenerateRequest;
pub use unwrong_models::{Alarm, Recycling};
