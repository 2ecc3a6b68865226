//! The request that rides in a picture.

use serde::{Deserialize, Serialize};

use crate::request::{Blocks, GenerateRequest};

/// Everything to make one picture again: the request that makes it alone, and which files it
/// was made with.
///
/// No clock and no local path: the same request gives the same bytes, and a picture that is
/// passed on tells nothing about the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddedRequest {
    /// Version of this layout, [`EmbeddedRequest::VERSION`].
    pub version: u32,
    /// The request, with the picture's own seed; files are named, not located.
    pub request: GenerateRequest,
    /// The models it was made with.
    pub models: EmbeddedModels,
    /// The LoRA files it was made with, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<EmbeddedLora>,
    /// The textual inversions that it was made with, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub embeddings: Vec<EmbeddedWord>,
}

/// The models a picture was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddedModels {
    /// The base.
    pub base: ModelId,
    /// The refiner, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refiner: Option<ModelId>,
    /// The VAE, if it was not the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae: Option<ModelId>,
}

/// A file without its place: what it is called, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelId {
    /// Its name, without folders.
    pub name: String,
    /// SHA-256 of the contents, in hex.
    pub sha256: String,
}

/// A LoRA file and how strongly it was applied.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EmbeddedLora {
    /// Its name, without folders.
    pub name: String,
    /// SHA-256 of the contents, in hex.
    pub sha256: String,
    /// Strength in the UNet.
    pub scale: f64,
    /// Strength in the first text encoder, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder: Option<f64>,
    /// Strength in the second text encoder, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_encoder_2: Option<f64>,
    /// Factors of blocks, where there are some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Blocks>,
}

/// A textual inversion and the word that stands for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddedWord {
    /// Its name, without folders.
    pub name: String,
    /// SHA-256 of the contents, in hex.
    pub sha256: String,
    /// What prompts say for it.
    pub word: String,
}

impl EmbeddedRequest {
    /// The version of the layout that this program writes and reads.
    pub const VERSION: u32 = 1;

    /// One line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always make JSON")
    }

    /// Reads what [`EmbeddedRequest::to_json`] wrote; the error is a sentence.
    pub(super) fn from_json(json: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let found = |error: serde_json::Error| format!("the embedded request is broken: {error}");
        let Version { version } = serde_json::from_str(json).map_err(found)?;
        if version != Self::VERSION {
            let known = Self::VERSION;
            return Err(format!("the embedded request has version {version}, expected {known}"));
        }
        serde_json::from_str(json).map_err(found)
    }
}
