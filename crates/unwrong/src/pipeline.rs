//! The opened models of a request, ready to run.
//!
//! Opening finds every file, checks every config, key and shape, and reads no weight.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use candle_core::{Device, Tensor};
use unwrong_models::files::{
    ModelIndex, ModelKind, ModelParts, SchedulerConfig, TextEncoderConfig, Weights,
};
use unwrong_models::layers::Run;
use unwrong_models::lora::{Adapters, Applied, LayerAdapters, LoraFile, Targets, attach};
use unwrong_models::ops::Ops;
use unwrong_models::text_encoder::TextEncoder;
use unwrong_models::textual_inversion::TextualInversion;
use unwrong_models::unet::Unet;
use unwrong_models::vae::Vae;
use unwrong_prompt::{Encoder, FIRST_ADDED};

use crate::catalog::{Catalog, Opened};
use crate::denoiser::Question;
use crate::embeddings::{EmbeddingKey, EmbeddingSet, with_those_of_the_folder};
use crate::encode::{Guide, Reader, Row};
use crate::error::{Error, Result};
use crate::identity::{Identity, identify_lora};
use crate::picture::EmbeddedLora;
use crate::plan::{Plan, STEPS};
use crate::progress::Part;
use crate::prompt_loras::{PromptLora, prompt_loras};
use crate::recent::Recent;
use crate::request::{self, GenerateRequest, LoraRequest, Size};

/// Pixels to a latent, in both directions: the VAE halves three times.
pub(crate) const VAE_FACTOR: u32 = 8;

/// Sets of LoRA files, and prompts for each UNet, that stay ready for the next picture: the two
/// sides of a comparison. A prompt of 77 tokens takes 100 MB in the base.
const READY: usize = 2;
/// Encoded prompts that stay ready; 1.3 MB for a pair of 77 tokens.
const ENCODED: usize = 32;
/// Rows of tokens whose states an encoder remembers; 0.4 MB each in the second encoder.
const ROWS: usize = 32;

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
    /// As above, of a whole model.
    pub(crate) unchanged: Adapters,
    opened: Opened,
    /// Model, refiner and VAE as the request named them.
    named: [Option<String>; 3],
    pub(crate) targets: Targets,
    refiner_targets: Option<Targets>,
    sets: Recent<AdapterKey, Arc<AdapterSet>>,
    embeddings: Recent<EmbeddingKey, Arc<EmbeddingSet>>,
    warnings: Vec<String>,
}

/// One UNet with the encoders and the schedule it was trained with.
pub(crate) struct Stage {
    pub(crate) index: ModelIndex,
    pub(crate) scheduler: SchedulerConfig,
    pub(crate) unet: Unet,
    /// The base has two, the refiner one; the last of them pools.
    pub(crate) encoders: Vec<Arc<PromptEncoder>>,
    /// What the encoders said.
    pub(crate) conditioned: Recent<Told, Arc<Vec<Guide>>>,
    /// What the UNet made of it, for pictures that are drawn together and the place in each
    /// one's guides.
    pub(crate) questions: Recent<Vec<(Told, usize)>, Arc<Vec<Question>>>,
}

/// A text encoder and what it has read lately. Base and refiner may share one.
pub(crate) struct PromptEncoder {
    pub(crate) encoder: Encoder,
    pub(crate) network: TextEncoder,
    recent: Recent<Row, Tensor>,
}

/// All that what a UNet is told depends on.
#[derive(Clone)]
pub(crate) struct Told {
    /// Absent for a refiner that no LoRA file changes.
    pub(crate) adapters: Option<Arc<AdapterSet>>,
    pub(crate) plan: Plan,
}

impl PartialEq for Told {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.adapters, &other.adapters) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        same && self.plan.same_conditioning(&other.plan)
    }
}

/// What the LoRA files of one request do.
pub(crate) struct AdapterSet {
    pub(crate) key: AdapterKey,
    base: Adapters,
    refiner: Adapters,
    pub(crate) applied: Vec<Applied>,
    pub(crate) embedded: Vec<EmbeddedLora>,
}

impl AdapterSet {
    /// What they do to a model.
    pub(crate) fn of(&self, part: Part) -> &Adapters {
        match part {
            Part::Base => &self.base,
            Part::Refiner => &self.refiner,
        }
    }
}

/// The LoRA files of a request, as they were when it came.
#[derive(Clone, PartialEq)]
pub(crate) struct AdapterKey {
    loras: Vec<LoraRequest>,
    wrong: Option<f64>,
    wrong_lora: Option<String>,
    /// Named in the prompt.
    in_prompt: Vec<PromptLora>,
    /// Length and time of each named file: another one may have taken its place.
    stamps: Vec<Option<Stamp>>,
}

/// Length and time of a file.
pub(crate) type Stamp = (u64, SystemTime);

/// What tells a file from another one that took its place.
pub(crate) fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

impl AdapterKey {
    pub(crate) fn of(request: &GenerateRequest) -> Result<Self> {
        let in_prompt = prompt_loras(request)?;
        let paths = request.loras.iter().map(|lora| &lora.path).chain(&request.wrong_lora);
        let paths = paths.map(Path::new).chain(in_prompt.iter().map(|lora| lora.path.as_path()));
        let stamps = paths.map(stamp).collect();
        Ok(Self {
            loras: request.loras.clone(),
            wrong: request.wrong,
            wrong_lora: request.wrong_lora.clone(),
            in_prompt,
            stamps,
        })
    }
}

impl Pipeline {
    /// Finds and checks everything the request names: model, refiner, VAE.
    pub fn open(request: &GenerateRequest, catalog: &Catalog, options: &Options) -> Result<Self> {
        request.check()?;
        let opened = catalog.open(request)?;
        let base = Stage::base(&opened)?;
        let refiner = Stage::refiner(&opened, &base)?;
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
            identity: Identity::new(&opened),
            targets: Targets::of(&opened.base),
            refiner_targets: opened.refiner.as_ref().map(Targets::of),
            sets: Recent::new(READY),
            embeddings: Recent::new(READY),
            warnings: Vec::new(),
            none: LayerAdapters::default(),
            unchanged: Adapters::default(),
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
    pub(crate) fn adapters(
        &self,
        request: &GenerateRequest,
        key: AdapterKey,
    ) -> Result<Arc<AdapterSet>> {
        self.sets.get_or_make(key.clone(), || {
            let loras = self.opened.loras(request, &key.in_prompt)?;
            let embedded = loras.iter().map(identify_lora).collect();
            let (of_refiner, of_base): (Vec<_>, Vec<_>) =
                (0..loras.len()).partition(|place| self.is_for_refiner(&loras[*place].open.file));
            let attached = |places: &[usize], targets: &Targets| {
                let files: Vec<_> = places
                    .iter()
                    .map(|place| (loras[*place].open.file.clone(), loras[*place].scales))
                    .collect();
                attach(&files, targets)
            };
            let (base, of_first) = attached(&of_base, &self.targets)?;
            let (refiner, of_second) = match &self.refiner_targets {
                Some(targets) => attached(&of_refiner, targets)?,
                None => Default::default(),
            };
            // As they were asked for.
            let reports = of_base.into_iter().zip(of_first);
            let mut reports: Vec<_> =
                reports.chain(of_refiner.into_iter().zip(of_second)).collect();
            reports.sort_by_key(|(place, _)| *place);
            let applied = reports.into_iter().map(|(_, report)| report).collect();
            Ok(Arc::new(AdapterSet { key, base, refiner, applied, embedded }))
        })
    }

    /// Whether a file was trained for models like the refiner and not for ones like the base, told
    /// from the width of the prompts that it reads.
    fn is_for_refiner(&self, file: &LoraFile) -> bool {
        let width = |targets: &Targets| targets.cross_attention_dim();
        let refiner = self.refiner_targets.as_ref().and_then(width);
        let found = file.cross_attention_dim();
        found.is_some() && found == refiner && found != width(&self.targets)
    }

    /// The request with the textual inversions that its prompts name in its folder, and sentences
    /// on those that cannot be used.
    pub(crate) fn with_embeddings(
        &self,
        request: &GenerateRequest,
    ) -> Result<(GenerateRequest, Vec<String>)> {
        let steps = request.steps.or(self.defaults().steps).unwrap_or(STEPS) as usize;
        with_those_of_the_folder(request, steps, &|path| {
            Ok(TextualInversion::open(Path::new(path), self.text_widths()).map(drop)?)
        })
    }

    /// Opens the textual inversions of a request. The same files give the same set.
    pub(crate) fn embeddings(&self, request: &GenerateRequest) -> Result<Arc<EmbeddingSet>> {
        self.embeddings.get_or_make(EmbeddingKey::of(request), || {
            let odd = |shared: &&Arc<PromptEncoder>| {
                shared.network.config().vocab_size != FIRST_ADDED as usize
            };
            if !request.embeddings.is_empty()
                && let Some(odd) = self.base.encoders.iter().find(odd)
            {
                let found = odd.network.config().vocab_size;
                return Err(Error::Request {
                    problem: format!(
                        "`{}` has a text encoder of {found} tokens, expected {FIRST_ADDED}, so no \
                         word can be added to it",
                        self.opened.name
                    ),
                    hint: Some("leave the textual inversions out".to_owned()),
                });
            }
            Ok(Arc::new(EmbeddingSet::open(&request.embeddings, self.text_widths())?))
        })
    }

    /// Features of a token in the two text encoders of the base.
    fn text_widths(&self) -> [usize; 2] {
        let width = |place: usize| self.base.encoders[place].network.config().hidden_size;
        [width(0), width(1)]
    }

    pub(crate) fn run<'a>(&self, adapters: &'a LayerAdapters) -> Run<'a> {
        Run::new(self.ops, adapters)
    }

    /// A run through a UNet, the only part that may be computed in integers.
    pub(crate) fn unet_run<'a>(
        &self,
        weights: request::Weights,
        adapters: &'a LayerAdapters,
    ) -> Run<'a> {
        match weights {
            request::Weights::Native => self.run(adapters),
            request::Weights::Int8 => Run::new(Ops::Quantized, adapters),
        }
    }

    /// Refuses a request for arithmetic that these operations do not have.
    pub(crate) fn check_weights(&self, request: &GenerateRequest) -> Result<()> {
        if request.weights == Some(request::Weights::Int8) && self.ops != Ops::Cpu {
            return Err(Error::Request {
                problem: "`weights` is `int8`, which only our kernels on the CPU compute"
                    .to_owned(),
                hint: Some("leave `--weights` and `UNWRONG_OPS` out".to_owned()),
            });
        }
        Ok(())
    }

    /// The encoders of a stage, with what the LoRA files do to each.
    pub(crate) fn readers<'a>(
        &'a self,
        stage: &'a Stage,
        adapters: &'a Adapters,
    ) -> Vec<Reader<'a>> {
        stage
            .encoders
            .iter()
            .map(|shared| {
                let layers = match shared.encoder {
                    Encoder::ClipL => &adapters.text_encoder,
                    Encoder::BigG => &adapters.text_encoder_2,
                };
                Reader {
                    encoder: shared.encoder,
                    network: &shared.network,
                    run: self.run(layers),
                    recent: layers.is_empty().then_some(&shared.recent),
                }
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
        let first = PromptEncoder::load(Encoder::ClipL, config, weights)?;
        let (config, weights) =
            parts.text_encoder_2.as_ref().ok_or_else(|| no_part(opened, "second text encoder"))?;
        let second = PromptEncoder::load(Encoder::BigG, config, weights)?;
        Self::with_encoders(parts, vec![first, second])
    }

    fn refiner(opened: &Opened, base: &Self) -> Result<Option<Self>> {
        let Some(parts) = &opened.refiner else { return Ok(None) };
        expect_kind(parts, ModelKind::Refiner, "an SDXL refiner")?;
        // What a refiner folder lacks comes from the base.
        let encoder = if let Some((config, weights)) = &parts.text_encoder_2 {
            PromptEncoder::load(Encoder::BigG, config, weights)?
        } else {
            let shared = base.encoders.last();
            Arc::clone(shared.ok_or_else(|| no_part(opened, "second text encoder"))?)
        };
        Self::with_encoders(parts, vec![encoder]).map(Some)
    }

    fn with_encoders(parts: &ModelParts, encoders: Vec<Arc<PromptEncoder>>) -> Result<Self> {
        let (config, weights) = &parts.unet;
        Ok(Self {
            index: parts.index.clone(),
            scheduler: parts.scheduler.clone(),
            unet: Unet::load(config, weights)?,
            encoders,
            conditioned: Recent::new(ENCODED),
            questions: Recent::new(READY),
        })
    }
}

impl PromptEncoder {
    fn load(encoder: Encoder, config: &TextEncoderConfig, weights: &Weights) -> Result<Arc<Self>> {
        let network = TextEncoder::load(config, weights)?;
        Ok(Arc::new(Self { encoder, network, recent: Recent::new(ROWS) }))
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
