//! Prompt text to weighted token chunks for SDXL's two encoders.
//!
//! Stages 2 and 3 of one request: text becomes a [`Conjunction`] of [`Prompt`]s of weighted
//! fragments. It becomes one [`ConjunctionPlan`] per encoder, a prompt one [`EncodePlan`]: they
//! say exactly what to run through that encoder and how to put the results together. No tensors
//! here; a plan is executed where they are.
//!
//! ```
//! use unwrong_prompt::{Encoder, LongPrompt, Prompt, Syntax};
//!
//! let (prompt, warnings) = Prompt::parse("a red apple, (flat)++", Syntax::Compel);
//! assert!(warnings.is_empty());
//! assert_eq!(prompt.fragments()[1].text, "flat");
//!
//! let plan = prompt.plan(Encoder::BigG, LongPrompt::Pad);
//! assert_eq!(plan.chunks.len(), 1);
//! ```
//!
//! Syntax, ids and formulas follow compel 2.5.1 (`CompelForSDXL`) and transformers 5.24; every
//! stage is compared with them in `tests/` and by `parity/check_plan.py`.

mod compel;
mod conjunction;
mod conjunction_plan;
mod description;
mod encoder;
mod plan;
mod prompt;
mod tokenizer;
mod warning;

pub use conjunction::{Blend, Blended, Conjunction, LoraWeight, Part};
pub use conjunction_plan::{ConjunctionPlan, PartPlan, SharedPlan};
pub use description::{Description, EncoderDescription, PartDescription, PromptDescription};
pub use encoder::{CHUNK_TOKENS, END_OF_TEXT, Encoder, START_OF_TEXT};
pub use plan::{Chunk, EncodePlan, LongPrompt, Variant};
pub use prompt::{Fragment, Prompt, Syntax};
pub use tokenizer::Tokenizer;
pub use warning::Warning;
