//! `model_index.json`.

use super::Fields;
use crate::error::Result;

/// `model_index.json`: how the parts of a model are used together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIndex {
    /// No negative prompt means zeros, not the encoded empty text.
    pub force_zeros_for_empty_prompt: bool,
    /// The model is told an aesthetic score in the place of the target size: a refiner.
    pub requires_aesthetics_score: bool,
}

impl ModelIndex {
    /// What the published base says: also diffusers' defaults.
    pub const BASE: Self =
        Self { force_zeros_for_empty_prompt: true, requires_aesthetics_score: false };

    /// What the published refiner says.
    pub const REFINER: Self =
        Self { force_zeros_for_empty_prompt: false, requires_aesthetics_score: true };

    /// Reads the text of an index; `path` names it in messages.
    pub fn parse(text: &str, path: &str) -> Result<Self> {
        let fields = Fields::parse(text, path)?;
        if let Some(class) = fields.get("_class_name").and_then(|class| class.as_str())
            && !class.starts_with("StableDiffusionXL")
        {
            return Err(fields.wrong("_class_name", "a pipeline of Stable Diffusion XL"));
        }
        Ok(Self {
            force_zeros_for_empty_prompt: fields
                .flag("force_zeros_for_empty_prompt", Self::BASE.force_zeros_for_empty_prompt)?,
            requires_aesthetics_score: fields
                .flag("requires_aesthetics_score", Self::BASE.requires_aesthetics_score)?,
        })
    }
}
