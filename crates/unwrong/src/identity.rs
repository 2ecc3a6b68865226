//! Which files made a picture: names and SHA-256, computed while the picture is made.
//!
//! Hashing gigabytes takes seconds, so it runs on a thread of its own beside the first steps: not
//! before, where it would hold them up. It is only waited for when the first picture is finished.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};
use unwrong_models::files::Weights;
use unwrong_models::lora::Scales;

use crate::catalog::{NamedLora, Opened};
use crate::error::{Error, Result};
use crate::picture::{EmbeddedLora, EmbeddedModels, EmbeddedRequest, EmbeddedWord, ModelId};
use crate::request::{Blocks, EmbeddingRequest, GenerateRequest, LoraRequest};

/// A model's name and the weights that tell it from others.
type Source = (String, Weights);

/// The models of a pipeline, by name and hash.
pub(crate) struct Identity {
    base: Source,
    refiner: Option<Source>,
    vae: Option<Source>,
    hashing: Mutex<Option<JoinHandle<EmbeddedModels>>>,
    models: OnceLock<EmbeddedModels>,
}

impl Identity {
    /// Of what was opened; nothing is read yet.
    pub(crate) fn new(opened: &Opened) -> Self {
        let refiner = opened.refiner.as_ref();
        let vae = opened.vae.as_ref();
        Self {
            base: (opened.name.clone(), opened.base.unet.1.clone()),
            refiner: refiner.map(|parts| (parts.name.clone(), parts.unet.1.clone())),
            vae: vae.map(|(name, vae)| (name.clone(), vae.weights.clone())),
            hashing: Mutex::new(None),
            models: OnceLock::new(),
        }
    }

    /// Begins to hash, unless that was done before.
    pub(crate) fn start(&self) {
        drop(self.started());
    }

    fn started(&self) -> MutexGuard<'_, Option<JoinHandle<EmbeddedModels>>> {
        let mut hashing = self.hashing.lock().unwrap_or_else(PoisonError::into_inner);
        if hashing.is_none() && self.models.get().is_none() {
            let (base, refiner, vae) = (self.base.clone(), self.refiner.clone(), self.vae.clone());
            let hash = move || EmbeddedModels {
                base: identify(base),
                refiner: refiner.map(identify),
                vae: vae.map(identify),
            };
            // Where no thread can be had, it is done when it is asked for.
            *hashing = std::thread::Builder::new().spawn(hash).ok();
        }
        hashing
    }

    /// What a picture carries: the request that makes it alone, with names in place of paths.
    pub(crate) fn embed(
        &self,
        alone: &GenerateRequest,
        loras: &[EmbeddedLora],
        embeddings: &[EmbeddedWord],
    ) -> Result<EmbeddedRequest> {
        let models = self.models()?.clone();
        let named =
            |lora: &LoraRequest| LoraRequest { path: file_name(&lora.path), ..lora.clone() };
        let request = GenerateRequest {
            model: Some(models.base.name.clone()),
            refiner: alone.refiner.as_deref().map(file_name),
            vae: alone.vae.as_deref().map(file_name),
            loras: alone.loras.iter().map(named).collect(),
            // A folder of this machine; `--from` asks for one where the prompt names a LoRA.
            lora_dir: None,
            embeddings: alone
                .embeddings
                .iter()
                .map(|own| EmbeddingRequest { path: file_name(&own.path), ..own.clone() })
                .collect(),
            wrong_lora: alone.wrong_lora.as_deref().map(file_name),
            ..alone.clone()
        };
        Ok(EmbeddedRequest {
            version: EmbeddedRequest::VERSION,
            request,
            models,
            loras: loras.to_vec(),
            embeddings: embeddings.to_vec(),
        })
    }

    /// The hashes of base and VAE.
    pub(crate) fn text(&self) -> Result<String> {
        let models = self.models()?;
        let vae = models.vae.as_ref().map_or("own", |vae| vae.sha256.as_str());
        Ok(format!("base {}, VAE {vae}", models.base.sha256))
    }

    fn models(&self) -> Result<&EmbeddedModels> {
        if let Some(hashing) = self.started().take() {
            // It can only panic where a mapped file was cut short, which ends the program anyway.
            let models = hashing.join().map_err(|_| Error::HashFailed)?;
            return Ok(self.models.get_or_init(|| models));
        }
        Ok(self.models.get_or_init(|| EmbeddedModels {
            base: identify(self.base.clone()),
            refiner: self.refiner.clone().map(identify),
            vae: self.vae.clone().map(identify),
        }))
    }
}

/// Name, hash and scales of a LoRA file.
pub(crate) fn identify_lora(lora: &NamedLora) -> EmbeddedLora {
    let Scales { unet, text_encoder, text_encoder_2, blocks } = lora.scales;
    let other = |scale: f64| (scale.to_bits() != unet.to_bits()).then_some(scale);
    EmbeddedLora {
        name: lora.name.clone(),
        sha256: lora.open.sha256.clone(),
        scale: unet,
        text_encoder: other(text_encoder),
        text_encoder_2: other(text_encoder_2),
        blocks: (!blocks.is_neutral()).then_some(Blocks(blocks)),
    }
}

/// The last part of a path, as every system writes it.
pub(crate) fn file_name(path: &str) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    // `.` and `..` have no name of their own.
    name(Path::new(path))
        .or_else(|| Path::new(path).canonicalize().ok().as_deref().and_then(name))
        .unwrap_or_else(|| path.to_owned())
}

/// A model goes by the hash of its UNet's file: of a single-file checkpoint that is the hash
/// every program and site knows it by.
fn identify((name, weights): Source) -> ModelId {
    let mut hash = Sha256::new();
    for (_, bytes) in weights.files() {
        hash.update(&**bytes);
    }
    ModelId { name, sha256: hex(&hash.finalize()) }
}

/// Two digits for each byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}
