//! What a picture is drawn with beyond prompt and seed: one column of the experiment.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use unwrong::request::{GenerateRequest, LoraRequest, WRONG};
use unwrong::{Error, Result};
use unwrong_models::files::ModelDefaults;

use crate::wrong_request;

/// The method's thirteen keywords, as its author published them in August 2023.
pub const KEYWORDS: &str = "low quality, bad hands, random text, error, missing or extra fingers, \
                            cropped, jpeg artifacts, signature, watermark, blurry, ugly, \
                            duplicate, mutilated";

/// Names of the default variants, the baseline first.
///
/// Together they tell the LoRA apart from any negative prompt: nothing, the word alone, the
/// LoRA alone, both, and a plain negative prompt of ordinary words.
pub const DEFAULTS: [&str; 5] = ["none", "word", "lora", "both", "keywords"];

/// Keys of [`Variant::from_str`].
const KEYS: [&str; 6] = ["negative-prompt", "wrong", "lora", "guidance-scale", "prefix", "suffix"];
const LONGEST_NAME: usize = 32;

/// A named change of the request that all pictures share.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Variant {
    /// Short, and part of its pictures' names.
    pub name: String,
    /// The negative prompt; absent is not the same as empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// The method: the wrong-LoRA, and `wrong` in front of the negative prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wrong: Option<Scale>,
    /// The wrong-LoRA without the word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Scale>,
    /// Another weight of guidance than the other variants have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// Text in front of each prompt, taken as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Text behind each prompt, taken as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suffix: Option<String>,
}

/// How strongly the wrong-LoRA is applied.
///
/// Printed as people read it: `the model's scale`, `scale 0.5`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scale {
    /// As the model's maker recommends, else 1.
    Auto,
    /// This much.
    Fixed(f64),
}

impl Variant {
    /// One of [`DEFAULTS`].
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let plain = Self { name: name.to_owned(), ..Self::default() };
        Some(match name {
            "none" => plain,
            "word" => Self { negative_prompt: Some(WRONG.to_owned()), ..plain },
            "lora" => Self { lora: Some(Scale::Auto), ..plain },
            "both" => Self { wrong: Some(Scale::Auto), ..plain },
            "keywords" => Self { negative_prompt: Some(KEYWORDS.to_owned()), ..plain },
            _ => return None,
        })
    }

    /// The five default variants.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        DEFAULTS.iter().filter_map(|name| Self::named(name)).collect()
    }

    /// The request of one picture; `shared` is the same for all variants.
    #[must_use]
    pub fn request(
        &self,
        shared: &GenerateRequest,
        prompt: &str,
        defaults: &ModelDefaults,
    ) -> GenerateRequest {
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        let mut request = GenerateRequest {
            prompt: format!("{}{prompt}{}", part(&self.prefix), part(&self.suffix)),
            negative_prompt: self.negative_prompt.clone(),
            wrong: self.wrong.map(|scale| scale.resolve(defaults)),
            // A request that does not use the method may not name its file.
            wrong_lora: shared.wrong_lora.clone().filter(|_| self.wrong.is_some()),
            guidance_scale: self.guidance_scale.or(shared.guidance_scale),
            ..shared.clone()
        };
        if let Some(scale) = self.lora {
            let path = shared.wrong_lora.clone().unwrap_or_else(|| WRONG.to_owned());
            request.loras.push(LoraRequest::new(path, scale.resolve(defaults)));
        }
        request
    }
}

impl Scale {
    fn resolve(self, defaults: &ModelDefaults) -> f64 {
        match self {
            Self::Auto => defaults.wrong_lora_scale.unwrap_or(1.0),
            Self::Fixed(scale) => scale,
        }
    }
}

impl FromStr for Variant {
    type Err = Error;

    /// `NAME:KEY=VALUE[,KEY=VALUE…]`, or the name of a default variant.
    ///
    /// A comma starts a new pair only where a key and `=` follow it, so a negative prompt may
    /// hold commas; `\,` is always a comma of the text.
    fn from_str(text: &str) -> Result<Self> {
        let Some((name, pairs)) = text.split_once(':') else {
            return Self::named(text).ok_or_else(|| {
                wrong_request(
                    format!("`{text}` is not a variant that is known by name"),
                    format!("the known ones: {}; others: `NAME:KEY=VALUE`", DEFAULTS.join(", ")),
                )
            });
        };
        check_name(name)?;
        let mut variant = Self { name: name.to_owned(), ..Self::default() };
        let mut given: Vec<&str> = Vec::new();
        for pair in split(pairs) {
            let key = variant.take(&pair)?;
            if given.contains(&key) {
                return Err(refused(name, &format!("gives `{key}` twice")));
            }
            given.push(key);
        }
        if variant.wrong.is_some() && variant.lora.is_some() {
            return Err(refused(name, "gives `wrong` and `lora`, and both apply the wrong-LoRA"));
        }
        Ok(variant)
    }
}

impl Variant {
    /// Takes one `KEY=VALUE` and tells which key it was.
    fn take(&mut self, pair: &str) -> Result<&'static str> {
        let unknown = || {
            let problem = format!("variant `{}` has `{pair}`, expected `KEY=VALUE`", self.name);
            let keys = KEYS.join(", ");
            wrong_request(problem, format!("the keys: {keys}; `\\,` is a comma inside a value"))
        };
        let (key, value) = pair.split_once('=').ok_or_else(unknown)?;
        let key = key.trim().replace('_', "-");
        let key = *KEYS.iter().find(|known| **known == key).ok_or_else(unknown)?;
        let malformed = |expected| {
            refused(&self.name, &format!("gives `{key}` the value `{value}`, expected {expected}"))
        };
        match key {
            "negative-prompt" => self.negative_prompt = Some(value.to_owned()),
            "prefix" => self.prefix = Some(value.to_owned()),
            "suffix" => self.suffix = Some(value.to_owned()),
            "guidance-scale" => {
                let number = value.trim().parse().map_err(|_| malformed("a number"))?;
                self.guidance_scale = Some(number);
            }
            _ => {
                let scale = value.trim().parse().map_err(malformed)?;
                let slot = if key == "wrong" { &mut self.wrong } else { &mut self.lora };
                *slot = Some(scale);
            }
        }
        Ok(key)
    }
}

/// Names are parts of file names on every system.
fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && name.len() <= LONGEST_NAME && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(wrong_request(
        format!("`{name}` is no name for a variant"),
        format!(
            "up to {LONGEST_NAME} letters, digits, `-`, `_` and `.`, such as `strong:wrong=1.5`"
        ),
    ))
}

fn refused(name: &str, what: &str) -> Error {
    wrong_request(format!("variant `{name}` {what}"), "such as `strong:wrong=1.5,guidance-scale=9`")
}

/// Cuts at the commas that start a new pair, and takes the backslash from `\,`.
fn split(pairs: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = pairs;
    while let Some(at) = rest.find(',') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        let part = parts.last_mut().expect("there is always one part");
        if let Some(before) = before.strip_suffix('\\') {
            part.push_str(before);
            part.push(',');
        } else {
            part.push_str(before);
            if starts_a_pair(after) {
                parts.push(String::new());
            } else {
                part.push(',');
            }
        }
        rest = after;
    }
    parts.last_mut().expect("there is always one part").push_str(rest);
    // `plain:` changes nothing.
    parts.retain(|part| !part.is_empty());
    parts
}

/// Whether a word and `=` come next: a misspelt key is refused rather than taken for text.
fn starts_a_pair(text: &str) -> bool {
    text.split_once('=').is_some_and(|(key, _)| {
        let key = key.trim();
        !key.is_empty()
            && key.bytes().all(|byte| byte.is_ascii_alphabetic() || b"-_".contains(&byte))
    })
}

impl FromStr for Scale {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(scale) => Ok(Self::Fixed(scale)),
            Err(_) if text == "auto" => Ok(Self::Auto),
            Err(_) => Err("a number, or `auto` for what the model recommends"),
        }
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("the model's scale"),
            Self::Fixed(scale) => write!(f, "scale {scale}"),
        }
    }
}

impl Serialize for Scale {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Fixed(scale) => serializer.serialize_f64(*scale),
        }
    }
}

impl fmt::Display for Variant {
    /// What it changes, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |what: &str, text: &Option<String>| {
            text.as_ref().map(|text| format!("{what} `{text}`"))
        };
        let parts = [
            self.wrong.map(|scale| format!("wrong-LoRA at {scale} and the word `{WRONG}`")),
            self.lora.map(|scale| format!("wrong-LoRA at {scale} without its word")),
            text("negative prompt", &self.negative_prompt),
            self.guidance_scale.map(|scale| format!("guidance scale {scale}")),
            text("prefix", &self.prefix),
            text("suffix", &self.suffix),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(&if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") })
    }
}

#[cfg(test)]
mod tests;
