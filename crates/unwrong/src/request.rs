//! What the user wrote: the one struct behind CLI, HTTP body and picture metadata.
//!
//! Stage 1 of the flow. Absent is not zero and not empty: every field that the user
//! may leave out is an `Option`, and the defaults are filled in where the model is
//! known, in the plan. [`GenerateRequest::check`] refuses everything that can be
//! refused without a model.

mod embedding;
mod lora;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::embeddings;
use crate::error::{Error, Result};

pub use embedding::EmbeddingRequest;
pub use lora::{Blocks, LoraRequest};

/// Longest accepted prompt in bytes, about 50 chunks of 75 tokens. All prompts of a request
/// together may have twice as many: they fit into every picture format's metadata.
pub const MAX_PROMPT_BYTES: usize = 16 * 1024;

/// The word the wrong-LoRA is trained on.
pub const WRONG: &str = "wrong";

/// Most pictures in one request.
pub const MAX_COUNT: u32 = 10_000;

/// One wish: a prompt, and whatever the user chose to say beyond it.
///
/// ```
/// use unwrong::request::GenerateRequest;
///
/// let request: GenerateRequest =
///     serde_json::from_str(r#"{"prompt": "a red apple", "size": "512x512", "seed": 0}"#)?;
/// request.check()?;
/// assert_eq!(request.seed, Some(0));
/// assert_eq!(request.negative_prompt, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerateRequest {
    /// What the picture shows.
    pub prompt: String,
    /// What it should not show. Absent is not the same as empty: the unconditional
    /// embeddings of an absent one follow the model's config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt: Option<String>,
    /// What the second text encoder reads in place of the prompt; the pooled vector is of it, too.
    /// The refiner, which has that encoder alone, reads the prompt, as in diffusers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_2: Option<String>,
    /// What the second text encoder reads in place of the negative prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_prompt_2: Option<String>,

    /// Name or path of the model; absent means the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Name or path of the refiner, or `none`; absent means the model's own, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refiner: Option<String>,
    /// Path of a VAE that replaces the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
    /// LoRA files on the base, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraRequest>,
    /// The method in one field: the model's wrong-LoRA at this scale, and `wrong` in
    /// front of the negative prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong: Option<f64>,
    /// The wrong-LoRA to use with `wrong`, in place of the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong_lora: Option<String>,
    /// The folder of the LoRA files that a prompt names with `<lora:name:1>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_dir: Option<String>,
    /// Textual inversions: files whose vectors a word of the prompts stands for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<EmbeddingRequest>,
    /// The folder of the textual inversions that prompts name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_dir: Option<String>,

    /// Seed of the first picture; absent means a random one. 0 is a seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How many pictures; picture `k` has seed `seed + k`. Absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Denoising steps of base and refiner together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// Weight of classifier-free guidance; 1 and below mean none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_scale: Option<f64>,
    /// Size of the picture in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// The sampling method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<SchedulerName>,
    /// Part of the noise levels that the base takes; the refiner takes the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_noise_fraction: Option<f64>,

    /// Size conditioning: the size the picture had before cropping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_size: Option<Size>,
    /// Size conditioning: the left upper corner of the crop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<Crop>,
    /// Size conditioning: the size the picture is meant for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_size: Option<Size>,
    /// `original_size` of the negative half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_original_size: Option<Size>,
    /// `crop` of the negative half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_crop: Option<Crop>,
    /// `target_size` of the negative half.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_target_size: Option<Size>,
    /// How pretty the refiner should think the picture is (diffusers uses 6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aesthetic_score: Option<f64>,
    /// `aesthetic_score` of the negative half (diffusers uses 2.5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_aesthetic_score: Option<f64>,

    /// Whose random numbers a seed stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<NoiseKind>,
    /// How weights are written in the prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syntax: Option<Syntax>,
    /// What happens to a prompt of more than 75 tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long_prompt: Option<LongPrompt>,
    /// How the UNets' weights enter the arithmetic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
}

impl GenerateRequest {
    /// A request that says nothing but the prompt.
    #[must_use]
    pub fn new(prompt: impl Into<String>) -> Self {
        Self { prompt: prompt.into(), ..Self::default() }
    }

    /// The negative prompt with `wrong` in front, if the method is on.
    #[must_use]
    pub fn full_negative_prompt(&self) -> Option<String> {
        self.with_wrong(self.negative_prompt.as_deref())
    }

    /// The same for the second text encoder, if it reads another one.
    #[must_use]
    pub fn full_negative_prompt_2(&self) -> Option<String> {
        self.negative_prompt_2.as_deref().and_then(|text| self.with_wrong(Some(text)))
    }

    fn with_wrong(&self, negative: Option<&str>) -> Option<String> {
        match (self.wrong, negative) {
            (None, negative) => negative.map(str::to_owned),
            (Some(_), Some(text)) if !text.trim().is_empty() => Some(format!("{WRONG}, {text}")),
            (Some(_), _) => Some(WRONG.to_owned()),
        }
    }

    /// Refuses everything that can be refused without a model.
    pub fn check(&self) -> Result<()> {
        let texts = [
            ("prompt", Some(&self.prompt)),
            ("negative_prompt", self.negative_prompt.as_ref()),
            ("prompt_2", self.prompt_2.as_ref()),
            ("negative_prompt_2", self.negative_prompt_2.as_ref()),
        ];
        let mut room = 2 * MAX_PROMPT_BYTES;
        for (field, text) in texts {
            let bytes = text.map_or(0, String::len);
            let limit = room.min(MAX_PROMPT_BYTES);
            if bytes > limit {
                return Err(Error::PromptTooLong { field, bytes, limit });
            }
            room -= bytes;
        }

        for (field, name) in [
            ("model", &self.model),
            ("refiner", &self.refiner),
            ("vae", &self.vae),
            ("wrong_lora", &self.wrong_lora),
            ("lora_dir", &self.lora_dir),
            ("embedding_dir", &self.embedding_dir),
        ] {
            check_name(field, name.as_deref())?;
        }
        for lora in &self.loras {
            lora.check()?;
        }
        check_range("embeddings", Some(self.embeddings.len() as f64), 0.0, MOST_EMBEDDINGS)?;
        for embedding in &self.embeddings {
            check_name("embedding", Some(&embedding.path))?;
        }
        embeddings::check(&self.embeddings)?;
        check_range("wrong", self.wrong, -100.0, 100.0)?;
        if self.wrong_lora.is_some() && self.wrong.is_none() {
            return Err(Error::Request {
                problem: "`wrong_lora` is given, but `wrong` is not".to_owned(),
                hint: Some(
                    "give `--wrong` as well, or the file as an ordinary LoRA: `--lora`".to_owned(),
                ),
            });
        }

        let count = self.count.unwrap_or(1);
        check_range("count", Some(f64::from(count)), 1.0, f64::from(MAX_COUNT))?;
        if let Some(seed) = self.seed
            && seed.checked_add(u64::from(count) - 1).is_none()
        {
            return Err(Error::SeedOverflow { seed, count });
        }

        check_range("steps", self.steps.map(f64::from), 1.0, 1000.0)?;
        check_range("guidance_scale", self.guidance_scale, 0.0, 1000.0)?;
        check_range("high_noise_fraction", self.high_noise_fraction, 0.0, 1.0)?;
        check_range("aesthetic_score", self.aesthetic_score, -1000.0, 1000.0)?;
        check_range("negative_aesthetic_score", self.negative_aesthetic_score, -1000.0, 1000.0)?;

        if let Some(size) = self.size {
            size.check()?;
        }
        for (field, size) in [
            ("original_size", self.original_size),
            ("target_size", self.target_size),
            ("negative_original_size", self.negative_original_size),
            ("negative_target_size", self.negative_target_size),
        ] {
            check_range(field, size.map(|size| f64::from(size.width)), 1.0, MAX_CONDITION)?;
            check_range(field, size.map(|size| f64::from(size.height)), 1.0, MAX_CONDITION)?;
        }
        for (field, crop) in [("crop", self.crop), ("negative_crop", self.negative_crop)] {
            check_range(field, crop.map(|crop| f64::from(crop.x)), 0.0, MAX_CONDITION)?;
            check_range(field, crop.map(|crop| f64::from(crop.y)), 0.0, MAX_CONDITION)?;
        }
        Ok(())
    }
}

/// Most textual inversions of one request.
const MOST_EMBEDDINGS: f64 = 100.0;
/// Largest side or offset that size conditioning accepts.
const MAX_CONDITION: f64 = 65_536.0;

fn check_name(field: &'static str, name: Option<&str>) -> Result<()> {
    if name.is_some_and(|name| name.is_empty() || name.contains('\0')) {
        return Err(Error::Request {
            problem: format!("`{field}` is empty or holds a NUL, expected a name or a path"),
            hint: None,
        });
    }
    Ok(())
}

/// NaN is in no range, so it is refused as well.
fn check_range(field: &'static str, value: Option<f64>, min: f64, max: f64) -> Result<()> {
    match value {
        Some(value) if !(min..=max).contains(&value) => {
            Err(Error::OutOfRange { field, value, min, max })
        }
        _ => Ok(()),
    }
}

/// Width and height in pixels, `1024x768`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size {
    /// Pixels from left to right.
    pub width: u32,
    /// Pixels from top to bottom.
    pub height: u32,
}

impl Size {
    /// Smallest side of a picture, in pixels.
    pub const MIN_SIDE: u32 = 64;
    /// Largest side of a picture, in pixels.
    pub const MAX_SIDE: u32 = 8192;

    /// Refuses a size that no SDXL latents have.
    pub fn check(self) -> Result<()> {
        for (field, value) in [("width", self.width), ("height", self.height)] {
            let (min, max) = (f64::from(Self::MIN_SIDE), f64::from(Self::MAX_SIDE));
            check_range(field, Some(f64::from(value)), min, max)?;
            if !value.is_multiple_of(8) {
                return Err(Error::SizeNotAligned { field, value });
            }
        }
        Ok(())
    }
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (width, height) = text.split_once(['x', 'X', '×'])?;
            Some(Self { width: decimal(width)?, height: decimal(height)? })
        };
        parse().ok_or_else(|| Error::Malformed {
            value: text.to_owned(),
            expected: "a size in pixels, WIDTHxHEIGHT, such as `1024x768`",
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl Syntax {
    /// Whether it is A1111's, whatever its weights do.
    #[must_use]
    pub fn is_a1111(self) -> bool {
        matches!(self, Self::A1111 | Self::A1111Original)
    }
}

/// Left upper corner of a crop in pixels, `X,Y`.
///
/// diffusers writes the same corner as `(top, left)`, which is `(y, x)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Crop {
    /// Pixels cut off on the left.
    pub x: u32,
    /// Pixels cut off at the top.
    pub y: u32,
}

impl FromStr for Crop {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (x, y) = text.split_once(',')?;
            Some(Self { x: decimal(x.trim())?, y: decimal(y.trim())? })
        };
        parse().ok_or_else(|| Error::Malformed {
            value: text.to_owned(),
            expected: "a corner in pixels, X,Y, such as `0,0`",
        })
    }
}

impl fmt::Display for Crop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.x, self.y)
    }
}

/// Digits only: `u32::from_str` alone would take `+8`.
fn decimal(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Strings in JSON, as on the command line.
macro_rules! as_string {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}

/// An enum of names that serde, `FromStr` and `Display` spell alike.
macro_rules! names {
    (
        $(#[$meta:meta])*
        $name:ident in $field:literal, expected $expected:literal {
            $($(#[$variant_meta:meta])* $variant:ident = $text:literal),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in requests and on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(Error::UnknownName {
                        field: $field,
                        value: text.to_owned(),
                        expected: $expected,
                    }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        as_string!($name);
    };
}

as_string!(Size, Crop, Blocks);

names! {
    /// The sampling method.
    SchedulerName in "scheduler", expected "euler" {
        /// Euler's method on the model's own schedule, as SDXL's config asks.
        #[default]
        Euler = "euler",
    }
}

names! {
    /// Whose random numbers a seed stands for.
    NoiseKind in "noise", expected "torch-cpu, torch-cuda" {
        /// `torch.randn` on the CPU: diffusers with a CPU generator, ComfyUI.
        #[default]
        TorchCpu = "torch-cpu",
        /// `torch.randn` on CUDA: diffusers with a CUDA generator, A1111.
        TorchCuda = "torch-cuda",
    }
}

names! {
    /// How weights are written in the prompts.
    Syntax in "syntax", expected "compel, a1111, a1111-original, comfy, plain" {
        /// `word++`, `(some words)1.3`: the library that the method uses.
        #[default]
        Compel = "compel",
        /// A1111 and Forge: `(word:1.3)`, `[word]`, `BREAK`, `AND`, `[a:b:0.5]`, `<lora:name:1>`;
        /// weights as they do it for SDXL, "No norm".
        A1111 = "a1111",
        /// The same with weights that keep the mean of the features, "Original".
        A1111Original = "a1111-original",
        /// `ComfyUI`: `(word:1.3)`.
        Comfy = "comfy",
        /// No weights: every character is text.
        Plain = "plain",
    }
}

names! {
    /// What happens to a prompt of more than 75 tokens.
    LongPrompt in "long_prompt", expected "pad, truncate" {
        /// More chunks; the shorter prompt of the two is padded.
        #[default]
        Pad = "pad",
        /// The rest is dropped, with a warning.
        Truncate = "truncate",
    }
}

names! {
    /// How the UNets' weights enter the arithmetic.
    Weights in "weights", expected "native, int8" {
        /// As the file has them, in f32.
        #[default]
        Native = "native",
        /// Rounded to integers in linear layers, and what they meet as well: faster, and
        /// almost the same picture. LoRA branches stay f32.
        Int8 = "int8",
    }
}

#[cfg(test)]
mod tests;
