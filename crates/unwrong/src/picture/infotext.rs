//! The text that A1111 writes into its pictures, for the many programs that read it.
//!
//! `create_infotext` in A1111's `modules/processing.py`: the prompt, the negative prompt, then
//! one line of `key: value` pairs in a fixed order. Only what the request says is written.
//! There is no `Version`: A1111 takes a low one as its own and switches to old behaviour.

use std::fmt::Write as _;

use super::{EmbeddedLora, EmbeddedRequest};
use crate::request::NoiseKind;

impl EmbeddedRequest {
    /// The request as A1111 would have written it.
    ///
    /// LoRA files are tags in the prompt there. Weights in the prompt stay in the syntax that
    /// they are in.
    #[must_use]
    pub fn infotext(&self) -> String {
        let mut text = self.request.prompt.clone();
        for lora in &self.loras {
            write!(text, " {}", tag(lora)).expect(INFALLIBLE);
        }
        if let Some(negative) = self.request.full_negative_prompt() {
            write!(text, "\nNegative prompt: {negative}").expect(INFALLIBLE);
        }
        let pairs: Vec<String> = self
            .pairs()
            .into_iter()
            .map(|(key, value)| format!("{key}: {}", quote(&value)))
            .collect();
        text + "\n" + &pairs.join(", ")
    }

    fn pairs(&self) -> Vec<(&'static str, String)> {
        let (request, models) = (&self.request, &self.models);
        let mut pairs = Pairs(vec![]);
        pairs.push("Steps", request.steps);
        pairs.push("Sampler", Some("Euler"));
        pairs.push("Schedule type", Some("Automatic"));
        pairs.push("CFG scale", request.guidance_scale);
        pairs.push("Seed", request.seed);
        pairs.push("Size", request.size);
        pairs.push("Model hash", Some(short(&models.base.sha256)));
        pairs.push("Model", Some(stem(&models.base.name)));
        if let Some(vae) = &models.vae {
            pairs.push("VAE hash", Some(short(&vae.sha256)));
            pairs.push("VAE", Some(&vae.name));
        }
        // A1111's default is the GPU, which it does not write.
        if request.noise.unwrap_or_default() == NoiseKind::TorchCpu {
            pairs.push("RNG", Some("CPU"));
        }
        if let Some(refiner) = &models.refiner {
            let (name, hash) = (stem(&refiner.name), short(&refiner.sha256));
            pairs.push("Refiner", Some(format!("{name} [{hash}]")));
            pairs.push("Refiner switch at", request.high_noise_fraction);
        }
        if !self.loras.is_empty() {
            let hashes: Vec<String> = self
                .loras
                .iter()
                .map(|lora| format!("{}: {}", stem(&lora.name), short(&lora.sha256)))
                .collect();
            pairs.push("Lora hashes", Some(hashes.join(", ")));
        }
        if !self.embeddings.is_empty() {
            let hashes: Vec<String> = self
                .embeddings
                .iter()
                .map(|own| format!("{}: {}", own.word.replace([':', ','], ""), &own.sha256[..12]))
                .collect();
            pairs.push("TI hashes", Some(hashes.join(", ")));
        }
        pairs.push("Generator", Some(concat!("unwrong ", env!("CARGO_PKG_VERSION"))));
        pairs.0
    }
}

/// The text encoders have one scale there, the first one's here; `lbw` is an extension's.
fn tag(lora: &EmbeddedLora) -> String {
    let encoder = lora.text_encoder.map_or_else(String::new, |scale| format!("{scale}:"));
    let blocks = lora.blocks.map_or_else(String::new, |blocks| format!(":lbw={blocks}"));
    format!("<lora:{}:{encoder}{}{blocks}>", stem(&lora.name), lora.scale)
}

const INFALLIBLE: &str = "a string takes any text";

struct Pairs(Vec<(&'static str, String)>);

impl Pairs {
    fn push(&mut self, key: &'static str, value: Option<impl ToString>) {
        self.0.extend(value.map(|value| (key, value.to_string())));
    }
}

/// Values that hold the marks of the line itself are written as JSON strings.
fn quote(value: &str) -> String {
    if value.contains([',', ':', '\n']) {
        serde_json::Value::from(value).to_string()
    } else {
        value.to_owned()
    }
}

/// A1111 names models without the ending of their file.
fn stem(name: &str) -> &str {
    name.strip_suffix(".safetensors").unwrap_or(name)
}

/// The ten hex digits that A1111 and Civitai know a file by.
fn short(sha256: &str) -> &str {
    sha256.get(..10).unwrap_or(sha256)
}
