//! Textual inversion: learned vectors that a word of the prompt stands for.
//!
//! Gal et al. 2022, arXiv:2208.01618. A file for SDXL holds `clip_l`, `[N, 768]`, and `clip_g`,
//! `[N, 1280]`: N tokens for each of the two text encoders.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files::{Bytes, Family, FrozenWeight, TensorFile};

/// More tokens than that leave no room for a prompt.
const MOST_TOKENS: usize = 75;

/// The vectors of one file, checked to be finite.
#[derive(Debug, Clone)]
pub struct TextualInversion {
    /// For the first and the second text encoder, `[N, D]`.
    vectors: [FrozenWeight; 2],
    bytes: Bytes,
}

impl TextualInversion {
    /// Opens a file of the disk. `widths` are those of the model's two text encoders.
    pub fn open(path: &Path, widths: [usize; 2]) -> Result<Self> {
        Self::read(&TensorFile::open(path)?, widths)
    }

    /// How many tokens the word of a file stands for, whatever the model is.
    pub fn tokens_in(path: &Path) -> Result<usize> {
        let file = TensorFile::open(path)?;
        let width = |key, usual| match file.shape(key) {
            Some([_, width]) => *width,
            _ => usual,
        };
        Ok(Self::read(&file, [width("clip_l", 768), width("clip_g", 1280)])?.tokens())
    }

    /// How many tokens the word stands for.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.vectors[0].shape()[0]
    }

    /// For the first and the second text encoder, `[N, D]`.
    #[must_use]
    pub fn vectors(&self) -> &[FrozenWeight; 2] {
        &self.vectors
    }

    /// The whole file.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn read(file: &TensorFile, widths: [usize; 2]) -> Result<Self> {
        let refuse =
            |reason: String| Error::TextualInversion { path: file.path().to_owned(), reason };
        let vector = |(key, width): (&str, usize)| {
            let weight = file.weights().get(key).ok_or_else(|| refuse(missing(file, key)))?;
            let shape = weight.shape();
            if shape.len() != 2 || shape[1] != width || !(1..=MOST_TOKENS).contains(&shape[0]) {
                return Err(refuse(format!(
                    "`{key}` has the shape {shape:?}, expected [1 to {MOST_TOKENS}, {width}]"
                )));
            }
            match weight.values_f32().iter().position(|value| !value.is_finite()) {
                Some(place) => Err(refuse(format!("number {place} of `{key}` is no number"))),
                None => Ok(weight.clone()),
            }
        };
        let [first, second] = [("clip_l", widths[0]), ("clip_g", widths[1])].map(vector);
        let vectors = [first?, second?];
        let [first, second] = vectors.each_ref().map(|vector| vector.shape()[0]);
        if first != second {
            return Err(refuse(format!(
                "`clip_l` has {first} tokens and `clip_g` {second}, expected as many"
            )));
        }
        Ok(Self { vectors, bytes: file.bytes().clone() })
    }
}

/// What a file without a key is instead.
fn missing(file: &TensorFile, key: &str) -> String {
    let names = ["emb_params", "string_to_param.*", "clip_l", "clip_g"];
    // diffusers names the one tensor of a file after the word.
    let only = file.names().next().filter(|_| file.names().count() == 1);
    let width = names.into_iter().chain(only).find_map(|name| file.shape(name)?.last());
    let family = match width {
        Some(768) => "one for Stable Diffusion 1",
        Some(1024) => "one for Stable Diffusion 2",
        Some(1280) => "one for the SDXL refiner alone",
        _ => return format!("it has no `{key}`: it is {}", Family::recognise(file)),
    };
    format!("it has no `{key}`: it is {family}, expected `clip_l` and `clip_g`")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::files::safetensors_bytes;

    fn read(tensors: &[(&str, &[usize])]) -> Result<TextualInversion> {
        let tensors: BTreeMap<String, FrozenWeight> = tensors
            .iter()
            .map(|(name, shape)| {
                let values = vec![0.5; shape.iter().product()];
                ((*name).to_owned(), FrozenWeight::from_f32(&values, shape))
            })
            .collect();
        let bytes = Bytes::owned(safetensors_bytes(&tensors, &BTreeMap::new()));
        TextualInversion::read(&TensorFile::parse(&bytes, "word.safetensors")?, [768, 1280])
    }

    #[test]
    fn a_file_has_as_many_tokens_for_both_encoders() -> Result<()> {
        assert_eq!(read(&[("clip_l", &[3, 768]), ("clip_g", &[3, 1280])])?.tokens(), 3);
        for (tensors, words) in [
            (&[("clip_l", &[3, 768][..]), ("clip_g", &[2, 1280])][..], "3 tokens and `clip_g` 2"),
            (&[("clip_l", &[3, 1280]), ("clip_g", &[3, 1280])], "expected [1 to 75, 768]"),
            (&[("clip_l", &[0, 768]), ("clip_g", &[0, 1280])], "expected [1 to 75, 768]"),
            (&[("clip_l", &[768]), ("clip_g", &[1280])], "shape [768]"),
            (&[("emb_params", &[3, 768])], "Stable Diffusion 1"),
            (&[("emb_params", &[3, 1024])], "Stable Diffusion 2"),
            (&[("clip_g", &[3, 1280])], "refiner alone"),
            (&[("x.lora_up.weight", &[3, 4])], "it is a LoRA"),
        ] {
            let error = read(tensors).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("word.safetensors") && error.contains(words), "{error}");
        }
        Ok(())
    }
}
