//! `unwrong.toml`: what the maker of a model recommends.

use serde::Deserialize;

use crate::error::{Error, Result};

/// `unwrong.toml`: what the maker of a model recommends. What the user gives wins.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelDefaults {
    /// Guidance of a single picture.
    pub guidance_scale: Option<f64>,
    /// Guidance of a comparison.
    pub compare_guidance_scale: Option<f64>,
    /// Steps of base and refiner together.
    pub steps: Option<u32>,
    /// `WIDTHxHEIGHT`.
    pub size: Option<String>,
    /// File of the wrong-LoRA, seen from the folder of this file.
    pub wrong_lora: Option<String>,
    /// Its scale.
    pub wrong_lora_scale: Option<f64>,
}

impl ModelDefaults {
    /// Reads and checks the text of the file; `path` names it in messages.
    pub fn parse(text: &str, path: &str) -> Result<Self> {
        let defaults: Self = toml::from_str(text).map_err(|error| Error::Malformed {
            path: path.to_owned(),
            reason: error.to_string().trim_end().to_owned(),
        })?;
        let numbers = [
            ("guidance_scale", defaults.guidance_scale),
            ("compare_guidance_scale", defaults.compare_guidance_scale),
            ("wrong_lora_scale", defaults.wrong_lora_scale),
        ];
        let wrong = |field: &str, found: String, expected: &str| Error::Config {
            field: field.to_owned(),
            found,
            expected: expected.to_owned(),
            path: path.to_owned(),
        };
        for (field, number) in numbers {
            if let Some(number) = number
                && !number.is_finite()
            {
                return Err(wrong(field, number.to_string(), "a finite number"));
            }
        }
        if defaults.steps == Some(0) {
            return Err(wrong("steps", "0".to_owned(), "at least 1"));
        }
        Ok(defaults)
    }
}
