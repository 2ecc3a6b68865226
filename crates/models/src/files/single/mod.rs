//! Single-file checkpoints: every part of a model in one safetensors file, in LDM's names.
//!
//! Such a file has no configs. Sizes are read off the shapes; what shapes do not tell
//! (features per attention head, groups of the normalisations, the noise schedule) is taken
//! from the published SDXL 1.0, unless the caller has configs.

mod shapes;
mod text;
mod unet;
mod vae;

use std::path::Path;

use crate::error::{Error, Result};
use crate::files::weights::Builder;
use crate::files::{
    BlockNames, Family, Folder, FrozenWeight, ModelDefaults, ModelIndex, ModelKind, ModelParts,
    PredictionType, SchedulerConfig, TensorFile, TextEncoderConfig, UnetConfig, VaeConfig,
    VaeParts,
};
use shapes::Shapes;

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
/// The base's first text encoder.
const FIRST: &str = "conditioner.embedders.0.transformer.";
/// The base's second text encoder.
const SECOND: &str = "conditioner.embedders.1.model.";
/// The refiner's only text encoder, which is the base's second.
const ONLY: &str = "conditioner.embedders.0.model.";

/// Leftovers of training and marks for other programs.
const IGNORED: [&str; 12] = [
    "denoiser.",
    "model_ema.",
    "loss.",
    "betas",
    "alphas_cumprod",
    "sqrt_",
    "log_one_minus_",
    "posterior_",
    "logvar",
    "v_pred",
    "ztsnr",
    "edm_",
];

/// Opens a checkpoint; `configs` is a folder in diffusers layout whose configs describe it.
pub(super) fn open_model(path: &Path, configs: Option<&Folder>) -> Result<ModelParts> {
    let file = TensorFile::open(path)?;
    let family = Family::recognise(&file);
    if family != Family::Sdxl {
        return Err(wrong_model(&file, family.to_string(), "a single-file checkpoint of SDXL"));
    }
    let second =
        [SECOND, ONLY].into_iter().find(|prefix| Shapes::new(&file, prefix).has_openclip());
    let first = Shapes::new(&file, FIRST).has_clip().then_some(FIRST);
    let kind = kind(&file, first, second);
    let configs = Configs { file: &file, folder: configs };
    let unet = configs.unet()?;
    let first_config = first.map(|_| configs.text_encoder()).transpose()?;
    let second_config = second.map(|prefix| configs.text_encoder_2(prefix)).transpose()?;
    let vae_config = Shapes::new(&file, VAE).has_ldm_vae().then(|| configs.vae()).transpose()?;

    let mut split = Split::new(&file, &unet, vae_config.as_ref(), second);
    for (key, weight) in file.weights() {
        split.add(key, Some(weight))?;
    }
    let others = file.names().filter(|key| !file.weights().contains_key(*key));
    for key in others {
        split.add(key, None)?;
    }
    let [unet_weights, first_weights, second_weights, vae_weights] = split.finish();
    Ok(ModelParts {
        name: path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()),
        path: file.path().to_owned(),
        kind,
        index: configs.index(kind)?,
        unet: (unet, unet_weights.build()),
        text_encoder: first_config.map(|config| (config, first_weights.build())),
        text_encoder_2: second_config.map(|config| (config, second_weights.build())),
        vae: vae_config.map(|config| (config, vae_weights.build())),
        scheduler: configs.scheduler()?,
        defaults: ModelDefaults::default(),
    })
}

/// Opens a VAE in a file of its own, or the VAE of a checkpoint.
pub(super) fn open_vae(path: &Path) -> Result<VaeParts> {
    let file = TensorFile::open(path)?;
    match Family::recognise(&file) {
        Family::DiffusersVae => vae::open_diffusers(file),
        Family::LdmVae | Family::Sdxl => {
            let prefix = if Shapes::new(&file, VAE).has_ldm_vae() { VAE } else { "" };
            if !Shapes::new(&file, prefix).has_ldm_vae() {
                let found = "a checkpoint without a VAE".to_owned();
                return Err(wrong_model(&file, found, "a VAE"));
            }
            vae::open_ldm(&file, prefix)
        }
        family => Err(wrong_model(&file, family.to_string(), "a VAE")),
    }
}

/// The layers that a tensor of a checkpoint holds.
pub(crate) struct SingleLayers {
    /// The part of the model that they are in, as its folder is called.
    pub(crate) part: &'static str,
    /// Keys and weights in the order of the tensor's rows.
    pub(crate) layers: Vec<(String, FrozenWeight)>,
    /// The tensor is the transposed weight.
    pub(crate) transposed: bool,
}

/// The layers that the tensor `key` holds, if it is of the UNet or a text encoder.
pub(crate) fn single_layers(
    key: &str,
    weight: &FrozenWeight,
    unet_names: &BlockNames,
) -> Option<SingleLayers> {
    let one = |part, name: String| {
        let layers = vec![(name, weight.clone())];
        Some(SingleLayers { part, layers, transposed: false })
    };
    if let Some(name) = key.strip_prefix(UNET) {
        return one("unet", unet_names.to_diffusers(name)?);
    }
    if let Some(name) = key.strip_prefix(FIRST) {
        return one("text_encoder", name.to_owned());
    }
    let name = key.strip_prefix(SECOND).or_else(|| key.strip_prefix(ONLY))?;
    let layers = text::openclip_parts(name, Some(weight)).into_iter();
    let layers = layers.filter_map(|part| Some((part.name, part.weight?))).collect();
    let transposed = name == "text_projection" && weight.shape().len() == 2;
    Some(SingleLayers { part: "text_encoder_2", layers, transposed })
}

/// Which encoders there are tells; without them, what is added to the embedding of time.
fn kind(file: &TensorFile, first: Option<&str>, second: Option<&str>) -> ModelKind {
    /// Width of what the published refiner adds: 1280 pooled + 5 · 256.
    const REFINER_WIDTH: usize = 2560;

    let added = Shapes::new(file, UNET).dim("label_emb.0.0.weight", 1);
    match (first, second) {
        (Some(_), _) => ModelKind::Base,
        (None, Some(prefix)) if prefix == ONLY => ModelKind::Refiner,
        _ if added == Some(REFINER_WIDTH) => ModelKind::Refiner,
        _ => ModelKind::Base,
    }
}

/// Where the configs of a checkpoint come from: a folder, or shapes and the published ones.
struct Configs<'a> {
    file: &'a TensorFile,
    folder: Option<&'a Folder>,
}

impl Configs<'_> {
    fn unet(&self) -> Result<UnetConfig> {
        let (text, path) =
            self.text("unet/config.json", || unet::config(&Shapes::new(self.file, UNET)))?;
        UnetConfig::parse(&text, &path)
    }

    fn text_encoder(&self) -> Result<TextEncoderConfig> {
        let (text, path) = self.text("text_encoder/config.json", || {
            text::clip_config(&Shapes::new(self.file, FIRST))
        })?;
        TextEncoderConfig::parse(&text, &path, false)
    }

    fn text_encoder_2(&self, prefix: &str) -> Result<TextEncoderConfig> {
        let (text, path) = self.text("text_encoder_2/config.json", || {
            text::openclip_config(&Shapes::new(self.file, prefix))
        })?;
        TextEncoderConfig::parse(&text, &path, true)
    }

    fn vae(&self) -> Result<VaeConfig> {
        let (text, path) =
            self.text("vae/config.json", || vae::ldm_config(&Shapes::new(self.file, VAE)))?;
        VaeConfig::parse(&text, &path)
    }

    fn index(&self, kind: ModelKind) -> Result<ModelIndex> {
        const INDEX: &str = "model_index.json";
        match self.folder {
            Some(folder) => ModelIndex::parse(&folder.read_text(INDEX)?, &folder.display(INDEX)),
            None => Ok(match kind {
                ModelKind::Base => ModelIndex::BASE,
                ModelKind::Refiner => ModelIndex::REFINER,
            }),
        }
    }

    fn scheduler(&self) -> Result<SchedulerConfig> {
        const CONFIG: &str = "scheduler/scheduler_config.json";
        if let Some(folder) = self.folder {
            return SchedulerConfig::parse(&folder.read_text(CONFIG)?, &folder.display(CONFIG));
        }
        let mut config = SchedulerConfig::sdxl();
        // Two customs: empty tensors that mark the file, and the metadata of ModelSpec.
        let spec = self.file.metadata().get("modelspec.prediction_type");
        if self.file.shape("v_pred").is_some() || spec.is_some_and(|kind| kind.starts_with('v')) {
            config.prediction_type = PredictionType::VPrediction;
        }
        config.rescale_betas_zero_snr = self.file.shape("ztsnr").is_some();
        Ok(config)
    }

    /// The text of a config and the name of its file.
    fn text(
        &self,
        name: &str,
        from_shapes: impl FnOnce() -> Result<serde_json::Value>,
    ) -> Result<(String, String)> {
        match self.folder {
            Some(folder) => Ok((folder.read_text(name)?, folder.display(name))),
            None => Ok((from_shapes()?.to_string(), self.file.path().to_owned())),
        }
    }
}

/// Deals the tensors of a checkpoint out to the networks.
struct Split<'a> {
    file: &'a TensorFile,
    unet_names: BlockNames,
    vae_names: Option<BlockNames>,
    second: Option<&'a str>,
    unet: Builder,
    first: Builder,
    second_weights: Builder,
    vae: Builder,
}

impl<'a> Split<'a> {
    fn new(
        file: &'a TensorFile,
        unet: &UnetConfig,
        vae: Option<&VaeConfig>,
        second: Option<&'a str>,
    ) -> Self {
        let builder = || {
            let mut builder = Builder::new(file.path());
            builder.add_source(file);
            builder
        };
        Self {
            file,
            unet_names: BlockNames::unet(unet.levels(), unet.layers_per_block),
            vae_names: vae
                .map(|vae| BlockNames::vae(vae.block_out_channels.len(), vae.layers_per_block)),
            second,
            unet: builder(),
            first: builder(),
            second_weights: builder(),
            vae: builder(),
        }
    }

    /// `weight` is `None` for a tensor that is no number of ours. Keys that fit nowhere stay
    /// with the UNet, to be reported as unused.
    fn add(&mut self, key: &str, weight: Option<&FrozenWeight>) -> Result<()> {
        if IGNORED.iter().any(|ignored| key.starts_with(ignored)) {
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(UNET) {
            let name = self.unet_names.to_diffusers(name).unwrap_or_else(|| key.to_owned());
            return put(&mut self.unet, self.file, key, name, weight);
        }
        if let (Some(name), Some(names)) = (key.strip_prefix(VAE), &self.vae_names) {
            let name = names.to_diffusers(name).unwrap_or_else(|| key.to_owned());
            return put(&mut self.vae, self.file, key, name, weight);
        }
        if let Some(name) = key.strip_prefix(FIRST) {
            if name.ends_with("position_ids") {
                return Ok(());
            }
            return put(&mut self.first, self.file, key, name.to_owned(), weight);
        }
        if let Some(name) = self.second.and_then(|prefix| key.strip_prefix(prefix)) {
            for part in text::openclip_parts(name, weight) {
                put(&mut self.second_weights, self.file, key, part.name, part.weight.as_ref())?;
            }
            return Ok(());
        }
        put(&mut self.unet, self.file, key, key.to_owned(), weight)
    }

    fn finish(self) -> [Builder; 4] {
        [self.unet, self.first, self.second_weights, self.vae]
    }
}

fn put(
    builder: &mut Builder,
    file: &TensorFile,
    key: &str,
    name: String,
    weight: Option<&FrozenWeight>,
) -> Result<()> {
    let Some(weight) = weight else {
        builder.add_unreadable(name, file.dtype(key).unwrap_or_default(), &file.shared_path());
        return Ok(());
    };
    builder.add(name, weight.clone(), &file.shared_path())
}

fn wrong_model(file: &TensorFile, found: String, expected: &str) -> Error {
    Error::WrongModel { path: file.path().to_owned(), found, expected: expected.to_owned() }
}
