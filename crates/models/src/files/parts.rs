//! A model, opened: configs and weights of its parts, nothing of them read yet.

use std::path::Path;

use crate::error::{Error, Result};
use crate::files::{
    Folder, ModelDefaults, ModelIndex, SchedulerConfig, TextEncoderConfig, UnetConfig, VaeConfig,
    Weights,
};

/// Time ids of the base: original size, crop, target size.
const BASE_TIME_IDS: usize = 6;
/// Time ids of the refiner: original size, crop, aesthetic score.
const REFINER_TIME_IDS: usize = 5;

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    /// Draws from pure noise.
    Base,
    /// Finishes what a base began.
    Refiner,
}

/// A model, opened: configs and weights of its parts, nothing of them read yet.
///
/// What a refiner lacks, the caller takes from the base.
#[derive(Debug, Clone)]
pub struct ModelParts {
    /// A short name to show.
    pub name: String,
    /// The folder or file it came from, as shown in messages.
    pub path: String,
    /// Base or refiner.
    pub kind: ModelKind,
    /// How the parts are used together.
    pub index: ModelIndex,
    /// Noisy latents in, noise out.
    pub unet: (UnetConfig, Weights),
    /// CLIP ViT-L.
    pub text_encoder: Option<(TextEncoderConfig, Weights)>,
    /// OpenCLIP bigG, with a projection.
    pub text_encoder_2: Option<(TextEncoderConfig, Weights)>,
    /// Latents to pixels and back.
    pub vae: Option<(VaeConfig, Weights)>,
    /// Which noise levels the model was trained on.
    pub scheduler: SchedulerConfig,
    /// What its maker recommends.
    pub defaults: ModelDefaults,
}

/// A VAE, opened.
#[derive(Debug, Clone)]
pub struct VaeParts {
    /// Its config.
    pub config: VaeConfig,
    /// Its weights.
    pub weights: Weights,
}

impl ModelParts {
    /// Opens a folder in diffusers layout.
    pub fn open_folder(folder: &Folder) -> Result<Self> {
        super::diffusers::open_model(folder)?.checked()
    }

    /// Opens a single-file checkpoint.
    pub fn open_file(path: &Path) -> Result<Self> {
        super::single::open_model(path, None)?.checked()
    }

    /// Opens a single-file checkpoint of a model that is not SDXL's size, with its configs from
    /// a folder in diffusers layout.
    pub fn open_file_with_configs(path: &Path, configs: &Folder) -> Result<Self> {
        super::single::open_model(path, Some(configs))?.checked()
    }

    /// All weights, part by part.
    pub fn weights(&self) -> impl Iterator<Item = &Weights> {
        let encoders = [&self.text_encoder, &self.text_encoder_2].into_iter().flatten();
        std::iter::once(&self.unet.1)
            .chain(encoders.map(|(_, weights)| weights))
            .chain(self.vae.as_ref().map(|(_, weights)| weights))
    }

    /// The parts fit each other: the UNet expects the features the encoders make.
    fn checked(self) -> Result<Self> {
        let unet = &self.unet.0;
        let Some((second, _)) = &self.text_encoder_2 else { return Ok(self) };
        let first = self.text_encoder.as_ref().map_or(0, |(first, _)| first.hidden_size);
        let (kind, ids, width) = match self.kind {
            ModelKind::Base if first == 0 => return Ok(self),
            ModelKind::Base => ("base", BASE_TIME_IDS, first + second.hidden_size),
            ModelKind::Refiner => ("refiner", REFINER_TIME_IDS, second.hidden_size),
        };
        if unet.cross_attention_dim != width {
            return Err(self.misfit(
                format!(
                    "a UNet for prompts of {} features with encoders that make {width}",
                    unet.cross_attention_dim
                ),
                kind,
            ));
        }
        if unet.time_ids(second.projection_dim) != Some(ids) {
            return Err(self.misfit(
                format!(
                    "a UNet for {} conditions, where {} of pooled text and {ids} sizes of {} each \
                     are given",
                    unet.projection_class_embeddings_input_dim,
                    second.projection_dim,
                    unet.addition_time_embed_dim,
                ),
                kind,
            ));
        }
        Ok(self)
    }

    fn misfit(&self, found: String, kind: &str) -> Error {
        let expected = format!("the parts of one SDXL {kind}");
        Error::WrongModel { path: self.path.clone(), found, expected }
    }
}

impl VaeParts {
    /// Opens a folder with a VAE and its config, a model folder, or a single file of any layout.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return super::single::open_vae(path);
        }
        let folder = Folder::disk(path);
        let inner = folder.join("vae");
        if !folder.exists("config.json") && inner.exists("config.json") {
            return super::diffusers::open_vae(&inner);
        }
        super::diffusers::open_vae(&folder)
    }
}
