//! How a request names a LoRA file and says how strongly to apply it where.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use unwrong_models::lora::{BlockWeights, Scales};

use super::{check_name, check_range};
use crate::error::{Error, Result};

/// A LoRA file and how strongly to apply it; on the command line
/// `PATH[:SCALE][:unet=…][:te1=…][:te2=…][:blocks=…]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraRequest {
    /// Path of a file, or `wrong` for the model's wrong-LoRA, here without its word in the
    /// negative prompt.
    pub path: String,
    /// Strength; 0 changes nothing, not even a bit.
    #[serde(default = "one")]
    pub scale: f64,
    /// Strength in the UNet, in place of `scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unet: Option<f64>,
    /// Strength in the first text encoder, in place of `scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<f64>,
    /// Strength in the second text encoder, in place of `scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder_2: Option<f64>,
    /// Factors of these, block by block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Blocks>,
}

fn one() -> f64 {
    1.0
}

/// How strongly a LoRA counts in each block, as text: 12, 20 or 26 numbers, or `IN04=0.5,OUT=0`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Blocks(pub BlockWeights);

impl FromStr for Blocks {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(Self(text.parse()?))
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl LoraRequest {
    /// A file at a scale that counts everywhere.
    #[must_use]
    pub fn new(path: impl Into<String>, scale: f64) -> Self {
        Self { path: path.into(), scale, ..Self::default() }
    }

    /// How strongly it counts where.
    #[must_use]
    pub fn scales(&self) -> Scales {
        Scales {
            unet: self.unet.unwrap_or(self.scale),
            text_encoder: self.text_encoder.unwrap_or(self.scale),
            text_encoder_2: self.text_encoder_2.unwrap_or(self.scale),
            blocks: self.blocks.unwrap_or_default().0,
        }
    }

    /// Refuses what can be refused without a file.
    pub(crate) fn check(&self) -> Result<()> {
        check_name("lora", Some(&self.path))?;
        self.numbers().try_for_each(|scale| check_range("lora scale", Some(scale), -100.0, 100.0))
    }

    /// Every number that is given.
    fn numbers(&self) -> impl Iterator<Item = f64> {
        let apart = [self.unet, self.text_encoder, self.text_encoder_2].into_iter().flatten();
        let blocks = self.blocks.iter().flat_map(|blocks| blocks.0.numbers());
        std::iter::once(self.scale).chain(apart).chain(blocks)
    }

    /// Takes one of the options behind the path; false if it is none.
    fn take(&mut self, option: &str, has_scale: &mut bool) -> Result<bool> {
        let Some((key, value)) = option.split_once('=') else {
            let scale = option.parse().ok().filter(|_| !*has_scale);
            self.scale = scale.unwrap_or(self.scale);
            *has_scale |= scale.is_some();
            return Ok(scale.is_some());
        };
        let number = || {
            value.trim().parse().map(Some).map_err(|_| Error::Malformed {
                value: option.to_owned(),
                expected: "a scale such as `unet=0.8`",
            })
        };
        match key {
            "unet" => self.unet = number()?,
            "te1" => self.text_encoder = number()?,
            "te2" => self.text_encoder_2 = number()?,
            "te" => {
                self.text_encoder = number()?;
                self.text_encoder_2 = self.text_encoder;
            }
            "blocks" | "lbw" => self.blocks = Some(value.parse()?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl FromStr for LoraRequest {
    type Err = Error;

    /// What stands behind the last colons are options if they read so; so `C:\wrong` and
    /// `style:v2.safetensors` are paths.
    fn from_str(text: &str) -> Result<Self> {
        let mut lora = Self::new("", 1.0);
        let (mut path, mut has_scale) = (text, false);
        while let Some((rest, option)) = path.rsplit_once(':') {
            if rest.is_empty() || !lora.take(option, &mut has_scale)? {
                break;
            }
            path = rest;
        }
        if path.is_empty() {
            return Err(Error::Malformed {
                value: text.to_owned(),
                expected: "a LoRA such as `wrong.safetensors`, `wrong.safetensors:0.8` or \
                           `wrong.safetensors:0.8:te=0:blocks=OUT=0.5`",
            });
        }
        path.clone_into(&mut lora.path);
        Ok(lora)
    }
}

impl fmt::Display for LoraRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path, self.scale)?;
        for (name, scale) in
            [("unet", self.unet), ("te1", self.text_encoder), ("te2", self.text_encoder_2)]
        {
            if let Some(scale) = scale {
                write!(f, ":{name}={scale}")?;
            }
        }
        match self.blocks {
            Some(blocks) => write!(f, ":blocks={blocks}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_blocks_have_scales_of_their_own() -> Result<()> {
        let text = "C:\\a.safetensors:0.8:unet=-1:te2=0:blocks=0,1,1,1,1,1,1,1,1,1,1,0.5";
        let lora: LoraRequest = text.parse()?;
        let scales = lora.scales();
        assert_eq!(lora.path, "C:\\a.safetensors");
        let all = [lora.scale, scales.unet, scales.text_encoder, scales.text_encoder_2];
        assert_eq!(all.map(f64::to_bits), [0.8, -1.0, 0.8, 0.0].map(f64::to_bits));
        assert_eq!(
            lora.blocks.map(|blocks| blocks.to_string()).as_deref(),
            Some("BASE=0,OUT05=0.5")
        );
        assert_eq!(lora.to_string().parse::<LoraRequest>()?, lora);
        let json = serde_json::to_string(&lora).expect("a request is JSON");
        assert_eq!(serde_json::from_str::<LoraRequest>(&json).ok(), Some(lora));
        Ok(())
    }

    #[test]
    fn both_text_encoders_have_a_word_and_so_has_the_extension() -> Result<()> {
        let lora: LoraRequest = "a:te=0.5:lbw=OUT=0".parse()?;
        assert_eq!((lora.text_encoder, lora.text_encoder_2), (Some(0.5), Some(0.5)));
        assert_eq!((lora.scale, lora.unet), (1.0, None));
        // What is no option is part of the path.
        assert_eq!("a:x=1".parse::<LoraRequest>()?.path, "a:x=1");
        assert_eq!("a:0.5:0.25".parse::<LoraRequest>()?, LoraRequest::new("a:0.5", 0.25));
        for wrong in ["a:unet=much", "a:blocks=1,2", "a:blocks=IN99=1"] {
            assert!(wrong.parse::<LoraRequest>().is_err(), "{wrong}");
        }
        Ok(())
    }
}
