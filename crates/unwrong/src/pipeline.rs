//! The opened models of a request, ready to run.
//!
//! Opening finds every file, checks every config, key and shape, and reads no weight.

use candle_core::Device;
use unwrong_models::files::{ModelIndex, ModelKind, ModelParts, SchedulerConfig};
use unwrong_models::layers::Run;
use unwrong_models::lora::{Adapters, Applied, LayerAdapters, Targets};
use unwrong_models::ops::Ops;
use unwrong_models::text_encoder::TextEncoder;
use unwrong_models::unet::Unet;
use unwrong_models::vae::Vae;
use unwrong_prompt::Encoder;

use crate::catalog::{Catalog, Opened};
use crate::encode::Reader;
use crate::error::{Error, Result};
use crate::identity::{Identity, identify_lora};
use crate::picture::EmbeddedLora;
use crate::request::{GenerateRequest, Size};

/// Pixels to a latent, in both directions: the VAE halves three times.
pub(crate) const VAE_FACTOR: u32 = 8;

/// Where a pipeline runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The device of all tensors.
    pub device: Device,
    /// Which implementation of the operations; absent means the best one of the device, or what
    /// `UNWRONG_OPS` says.
    pub ops: Option<Ops>,
    /// Bytes that activations may take; absent means what is free when pictures are asked for.
    ///
    /// A VAE that needs more works in tiles, a picture that needs more is refused.
    pub memory: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { device: Device::Cpu, ops: None, memory: None }
    }
}

/// Base, refiner and VAE, with their weights where the file maps have them.
pub struct Pipeline {
    pub(crate) device: Device,
    pub(crate) ops: Ops,
    pub(crate) memory: Option<u64>,
    pub(crate) base: Stage,
    pub(crate) refiner: Option<Stage>,
    pub(crate) vae: Vae,
    pub(crate) identity: Identity,
    pub(crate) none: LayerAdapters,
    opened: Opened,
    /// Model, refiner and VAE as the request named them.
    named: [Option<String>; 3],
    targets: Targets,
    warnings: Vec<String>,
}

/// One UNet with the encoders and the schedule it was trained with.
pub(crate) struct Stage {
    pub(crate) index: ModelIndex,
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) unet: Unet,
    /// The base has two, the refiner one; the last of them pools.
    pub(crate) encoders: Vec<(Encoder, TextEncoder)>,
}

/// What the LoRA files of one request do.
#[derive(Default)]
pub(crate) struct AdapterSet {
    pub(crate) adapters: Adapters,
    pub(crate) applied: Vec<Applied>,
    pub(crate) embedded: Vec<EmbeddedLora>,
}

impl Pipeline {
    /// Finds and checks everything the request names: model, refiner, VAE.
    pub fn open(request: &GenerateRequest, catalog: &Catalog, options: &Options) -> Result<Self> {
        request.check()?;
        let opened = catalog.open(request)?;
        let base = Stage::base(&opened)?;
        let refiner = Stage::refiner(&opened)?;
        let named = opened.vae.as_ref().map(|(_, vae)| (&vae.config, &vae.weights));
        let own = opened.base.vae.as_ref().map(|(config, weights)| (config, weights));
        let (config, weights) = named.or(own).ok_or_else(|| no_part(&opened, "VAE"))?;
        let vae = Vae::load(config, weights)?;
        let mut pipeline = Self {
            ops: match options.ops {
                Some(ops) => ops,
                None => Ops::for_device(&options.device)?,
            },
            device: options.device.clone(),
            memory: options.memory,
            identity: Identity::start(&opened),
            targets: Targets::of(&opened.base),
            warnings: Vec::new(),
            none: LayerAdapters::default(),
            base,
            refiner,
            vae,
            opened,
            named: names(request),
        };
        pipeline.warnings = pipeline.unused_weights();
        Ok(pipeline)
    }

    /// The model's name, as the program should say it.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.opened.name
    }

    /// The refiner's name, if there is one.
    #[must_use]
    pub fn refiner(&self) -> Option<&str> {
        self.opened.refiner.as_ref().map(|refiner| refiner.name.as_str())
    }

    /// What the user should know about the files: weights that nothing uses.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What the model's maker recommends.
    #[must_use]
    pub fn defaults(&self) -> &unwrong_models::files::ModelDefaults {
        &self.opened.defaults
    }

    /// The size the model draws best.
    #[must_use]
    pub fn native_size(&self) -> Size {
        let side = self.base.unet.config().sample_size as u32 * VAE_FACTOR;
        Size { width: side, height: side }
    }

    /// The request with the names of the open models; refuses one that names others.
    pub(crate) fn completed(&self, request: &GenerateRequest) -> Result<GenerateRequest> {
        let same =
            |(asked, open): (&Option<String>, &Option<String>)| asked.is_none() || asked == open;
        if !names(request).iter().zip(&self.named).all(same) {
            return Err(Error::Request {
                problem: format!(
                    "the request names other models than the open `{}`",
                    self.opened.name
                ),
                hint: Some("open a pipeline for it".to_owned()),
            });
        }
        let [model, refiner, vae] = self.named.clone();
        Ok(GenerateRequest { model, refiner, vae, ..request.clone() })
    }

    /// Opens the LoRA files of a request and finds the layer of every tensor.
    pub(crate) fn adapters(&self, request: &GenerateRequest) -> Result<AdapterSet> {
        let loras = self.opened.loras(request)?;
        let embedded = loras.iter().map(identify_lora).collect();
        let files: Vec<_> = loras.into_iter().map(|lora| (lora.file, lora.scale)).collect();
        let (adapters, applied) = unwrong_models::lora::attach(&files, &self.targets)?;
        Ok(AdapterSet { adapters, applied, embedded })
    }

    pub(crate) fn run<'a>(&self, adapters: &'a LayerAdapters) -> Run<'a> {
        Run::new(self.ops, adapters)
    }

    /// The encoders of a stage, with what the LoRA files do to each.
    pub(crate) fn readers<'a>(
        &'a self,
        stage: &'a Stage,
        adapters: Option<&'a Adapters>,
    ) -> Vec<Reader<'a>> {
        stage
            .encoders
            .iter()
            .map(|(encoder, network)| {
                let layers = match (adapters, encoder) {
                    (None, _) => &self.none,
                    (Some(adapters), Encoder::ClipL) => &adapters.text_encoder,
                    (Some(adapters), Encoder::BigG) => &adapters.text_encoder_2,
                };
                Reader { encoder: *encoder, network, run: self.run(layers) }
            })
            .collect()
    }

    fn unused_weights(&self) -> Vec<String> {
        self.opened
            .weights()
            .filter_map(|weights| {
                let unused = weights.unused();
                let first = unused.first()?;
                let path = weights.path();
                Some(match unused.len() {
                    1 => format!("`{first}` in {path} is not used"),
                    more => format!("`{first}` and {} more in {path} are not used", more - 1),
                })
            })
            .collect()
    }
}

impl Stage {
    fn base(opened: &Opened) -> Result<Self> {
        let parts = &opened.base;
        expect_kind(parts, ModelKind::Base, "an SDXL base")?;
        let (config, weights) =
            parts.text_encoder.as_ref().ok_or_else(|| no_part(opened, "first text encoder"))?;
        let first = TextEncoder::load(config, weights)?;
        let (config, weights) =
            parts.text_encoder_2.as_ref().ok_or_else(|| no_part(opened, "second text encoder"))?;
        let second = TextEncoder::load(config, weights)?;
        let (config, weights) = &parts.unet;
        Ok(Self {
            index: parts.index.clone(),
            scheduler: parts.scheduler.clone(),
            unet: Unet::load(config, weights)?,
            encoders: vec![(Encoder::ClipL, first), (Encoder::BigG, second)],
        })
    }

    fn refiner(opened: &Opened) -> Result<Option<Self>> {
        let Some(parts) = &opened.refiner else { return Ok(None) };
        expect_kind(parts, ModelKind::Refiner, "an SDXL refiner")?;
        // What a refiner folder lacks comes from the base.
        let own = parts.text_encoder_2.as_ref();
        let (config, weights) = own
            .or(opened.base.text_encoder_2.as_ref())
            .ok_or_else(|| no_part(opened, "second text encoder"))?;
        let encoder = TextEncoder::load(config, weights)?;
        let (config, weights) = &parts.unet;
        Ok(Some(Self {
            index: parts.index.clone(),
            scheduler: parts.scheduler.clone(),
            unet: Unet::load(config, weights)?,
            encoders: vec![(Encoder::BigG, encoder)],
        }))
    }
}

fn names(request: &GenerateRequest) -> [Option<String>; 3] {
    [request.model.clone(), request.refiner.clone(), request.vae.clone()]
}

fn expect_kind(parts: &ModelParts, kind: ModelKind, expected: &'static str) -> Result<()> {
    if parts.kind == kind {
        return Ok(());
    }
    let found = match parts.kind {
        ModelKind::Base => "an SDXL base",
        ModelKind::Refiner => "an SDXL refiner",
    };
    Err(Error::Request {
        problem: format!("{} is {found}, expected {expected}", parts.path),
        hint: Some("`--model` takes a base, `--refiner` a refiner or `none`".to_owned()),
    })
}

fn no_part(opened: &Opened, part: &'static str) -> Error {
    Error::Request {
        problem: format!("`{}` has no {part}", opened.base.name),
        hint: Some("name a complete SDXL base model".to_owned()),
    }
}
