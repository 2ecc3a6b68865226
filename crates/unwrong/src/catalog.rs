//! Where models are found: built-in ones by name, all others by path.

use std::path::Path;
use std::sync::Arc;

use unwrong_models::files::{EmbeddedFiles, Folder, ModelDefaults, ModelParts, VaeParts, Weights};
use unwrong_models::lora::Scales;

use crate::error::{Error, Result};
use crate::identity::file_name;
use crate::lora_files::{LoraFiles, OpenLora};
use crate::prompt_loras::PromptLora;
use crate::request::{GenerateRequest, WRONG};

/// A model folder that holds several models has them under these names.
const BASE: &str = "base";
const REFINER: &str = "refiner";
/// The method's LoRA beside a model, where `unwrong.toml` names no other.
const WRONG_LORA: &str = "wrong-lora.safetensors";
/// Where the published models are, on Hugging Face.
const SDXL_BASE: &str = "stabilityai/stable-diffusion-xl-base-1.0";
const SDXL_REFINER: &str = "stabilityai/stable-diffusion-xl-refiner-1.0";
const SDXL_WRONG_LORA: &str = "minimaxir/sdxl-wrong-lora";
/// The word for "no refiner" in a request.
const NONE: &str = "none";

/// The models a program knows by name.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    builtin: Vec<(&'static str, EmbeddedFiles)>,
}

/// A model's place: a folder of its own, or a single file.
#[derive(Debug, Clone)]
enum Place {
    Folder(Folder),
    File(String),
}

/// A LoRA file with what it is called and how strongly it is applied.
pub(crate) struct NamedLora {
    pub(crate) name: String,
    pub(crate) open: Arc<OpenLora>,
    pub(crate) scales: Scales,
}

/// The models one request names, opened as far as their headers.
pub(crate) struct Opened {
    /// What the model is called: its name in the catalog, or the last part of its path.
    pub(crate) name: String,
    pub(crate) base: ModelParts,
    pub(crate) refiner: Option<ModelParts>,
    /// The VAE in place of the model's own, and its name.
    pub(crate) vae: Option<(String, VaeParts)>,
    pub(crate) defaults: ModelDefaults,
    /// Folders in which the wrong-LoRA may lie, nearest first.
    beside: Vec<Folder>,
    lora_files: LoraFiles,
}

impl Catalog {
    /// A catalog that knows no names.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a model inside the program; the first one is the default.
    #[must_use]
    pub fn with_builtin(mut self, name: &'static str, files: EmbeddedFiles) -> Self {
        self.builtin.push((name, files));
        self
    }

    /// The name of the default model, if there is one.
    #[must_use]
    pub fn default_model(&self) -> Option<&'static str> {
        self.builtin.first().map(|(name, _)| *name)
    }

    /// Opens what the request names; reads headers and configs only.
    pub(crate) fn open(&self, request: &GenerateRequest) -> Result<Opened> {
        let name = match &request.model {
            Some(name) => name,
            None => self.default_model().ok_or_else(|| Error::Request {
                problem: "no model is named".to_owned(),
                hint: Some("name one with `--model`".to_owned()),
            })?,
        };
        let place = self.place(name, BASE)?;
        let base = place.open()?;
        let bundle = self.bundle(name);

        let refiner = match request.refiner.as_deref() {
            Some(NONE) => None,
            Some(name) => Some(self.place(name, REFINER)?.open()?),
            None => match bundle.as_ref().map(|bundle| bundle.join(REFINER)) {
                Some(folder) if folder.is_there() => Some(ModelParts::open_folder(&folder)?),
                _ => None,
            },
        };
        let vae = match &request.vae {
            Some(path) => Some((file_name(path), VaeParts::open(Path::new(path))?)),
            None => None,
        };

        let mut beside = Vec::new();
        match &place {
            Place::Folder(folder) => {
                beside.push(folder.clone());
                // A folder of the disk: what lies next to it, too.
                let above = if bundle.is_none() { Path::new(name).parent() } else { None };
                beside.extend(above.map(Folder::disk));
            }
            Place::File(path) => {
                beside.extend(Path::new(path).parent().map(Folder::disk));
            }
        }
        beside.extend(bundle);
        let (name, defaults) = (file_name(name), base.defaults.clone());
        let lora_files = LoraFiles::default();
        Ok(Opened { name, base, refiner, vae, defaults, beside, lora_files })
    }

    /// The folder that holds `base` and `refiner`, when the name means one.
    fn bundle(&self, name: &str) -> Option<Folder> {
        let folder = match self.builtin.iter().find(|(builtin, _)| *builtin == name) {
            Some((name, files)) => Folder::embedded(name, files),
            None => Folder::disk(name),
        };
        folder.join(BASE).exists("model_index.json").then_some(folder)
    }

    fn place(&self, name: &str, part: &str) -> Result<Place> {
        let path = Path::new(name);
        Ok(match self.bundle(name) {
            Some(bundle) => Place::Folder(bundle.join(part)),
            None if path.is_file() => Place::File(name.to_owned()),
            None if path.exists() => Place::Folder(Folder::disk(name)),
            None => return Err(self.no_model(name)),
        })
    }

    fn no_model(&self, name: &str) -> Error {
        let known: Vec<_> = self.builtin.iter().map(|(name, _)| format!("`{name}`")).collect();
        let built_in = if known.is_empty() {
            String::new()
        } else {
            format!(", nor is it built in, as {} is", known.join(", "))
        };
        Error::Request {
            problem: format!("the model `{name}` is neither a folder nor a file{built_in}"),
            hint: Some(format!(
                "check the path; SDXL itself is at huggingface.co under {SDXL_BASE} and \
                 {SDXL_REFINER}: download a folder or its single file and name it"
            )),
        }
    }
}

impl Place {
    fn open(&self) -> Result<ModelParts> {
        Ok(match self {
            Self::Folder(folder) => ModelParts::open_folder(folder)?,
            Self::File(path) => ModelParts::open_file(Path::new(path))?,
        })
    }
}

impl Opened {
    /// The weights in use: not a VAE that another one replaces, nor the refiner's.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Weights> {
        let replaced = if self.vae.is_some() { self.base.vae.as_ref() } else { None };
        let idle = [replaced, self.refiner.as_ref().and_then(|refiner| refiner.vae.as_ref())];
        self.base
            .weights()
            .chain(self.refiner.iter().flat_map(ModelParts::weights))
            .filter(move |weights| {
                !idle.iter().flatten().any(|(_, idle)| std::ptr::eq(idle, *weights))
            })
            .chain(self.vae.iter().map(|(_, vae)| &vae.weights))
    }

    /// The LoRA files of a request with their names and scales, the wrong-LoRA last.
    ///
    /// `in_prompt` are those that its prompts name.
    pub(crate) fn loras(
        &self,
        request: &GenerateRequest,
        in_prompt: &[PromptLora],
    ) -> Result<Vec<NamedLora>> {
        let mut loras = Vec::new();
        for lora in &request.loras {
            if lora.path == WRONG {
                loras.push(self.wrong_lora(None, lora.scales())?);
                continue;
            }
            let open = self.lora_files.open(Path::new(&lora.path))?;
            loras.push(NamedLora { name: file_name(&lora.path), open, scales: lora.scales() });
        }
        for PromptLora { path, scales } in in_prompt {
            let (open, scales) = (self.lora_files.open(path)?, *scales);
            loras.push(NamedLora { name: file_name(&path.display().to_string()), open, scales });
        }
        if let Some(scale) = request.wrong {
            loras.push(self.wrong_lora(request.wrong_lora.as_deref(), scale.into())?);
        }
        Ok(loras)
    }

    fn wrong_lora(&self, named: Option<&str>, scales: Scales) -> Result<NamedLora> {
        if let Some(path) = named {
            let open = self.lora_files.open(Path::new(path))?;
            return Ok(NamedLora { name: file_name(path), open, scales });
        }
        let name = self.defaults.wrong_lora.as_deref().unwrap_or(WRONG_LORA);
        // The config may point from `base` to the folder above it.
        let name = name.strip_prefix("../").unwrap_or(name);
        match self.beside.iter().find(|folder| folder.exists(name)) {
            Some(folder) => {
                let open = self.lora_files.open_in(folder, name)?;
                Ok(NamedLora { name: file_name(name), open, scales })
            }
            None => Err(Error::Request {
                problem: format!("`{}` has no wrong-LoRA: `{name}` is not beside it", self.name),
                hint: Some(format!(
                    "name one with `--wrong-lora`; the published one for SDXL is at huggingface.co \
                     under {SDXL_WRONG_LORA}"
                )),
            }),
        }
    }
}
