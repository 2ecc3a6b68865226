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
//! Text in A1111's syntax may also name LoRAs, have several parts, and change from step to
//! step: a [`Script`] holds these, and a [`Prompt`] for each part and span of steps.
//!
//! Words may stand for vectors of their own, textual inversions: a [`Language`] knows these.
//!
//! Syntax, ids and formulas follow compel 2.5.1 (`CompelForSDXL`) and transformers 5.24, or
//! A1111 1.10.1, or ComfyUI at a125cd8; every stage is compared with them in `tests/`, and the
//! first also by `parity/check_plan.py`.

mod a1111;
mod added;
mod comfy;
mod compel;
mod conjunction;
mod conjunction_plan;
mod description;
mod dynamic;
mod encoder;
mod error;
mod plan;
mod prompt;
mod python;
mod script;
mod tokenizer;
mod warning;

pub use a1111::{Emphasis, LoraTag};
pub use added::{AddedWords, Language};
pub use conjunction::{Blend, Blended, Conjunction, LoraWeight, Part as ConjunctionPart};
pub use conjunction_plan::{ConjunctionPlan, PartPlan, SharedPlan};
pub use description::{Description, EncoderDescription, PartDescription, PromptDescription};
pub use dynamic::{Dynamic, Wildcards};
pub use encoder::{CHUNK_TOKENS, END_OF_TEXT, Encoder, FIRST_ADDED, START_OF_TEXT};
pub use error::{Error, Place, Result};
pub use plan::{Chunk, EncodePlan, LongPrompt, Variant, Weighting};
pub use prompt::{Fragment, Prompt, Syntax};
pub use script::{Part, ScheduledPrompt, Script, Steps, SwitchTime};
pub use tokenizer::Tokenizer;
pub use warning::Warning;
