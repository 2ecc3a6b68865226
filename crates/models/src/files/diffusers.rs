//! Folders in diffusers layout: `model_index.json` and one folder for each part.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files::weights::Builder;
use crate::files::{
    Folder, ModelDefaults, ModelIndex, ModelKind, ModelParts, SchedulerConfig, TensorFile,
    TextEncoderConfig, UnetConfig, VaeConfig, VaeParts, Weights,
};

const CONFIG: &str = "config.json";
const INDEX: &str = "model_index.json";
const DEFAULTS: &str = "unwrong.toml";
const SCHEDULER: &str = "scheduler_config.json";
/// File name of UNet and VAE, before the variant.
const DIFFUSERS_STEM: &str = "diffusion_pytorch_model";
/// File name of text encoders, before the variant.
const TRANSFORMERS_STEM: &str = "model";
/// File name endings, in the order in which they are looked for.
const VARIANTS: [&str; 6] = [
    ".safetensors",
    ".safetensors.index.json",
    ".fp16.safetensors",
    ".safetensors.index.fp16.json",
    ".bf16.safetensors",
    ".safetensors.index.bf16.json",
];

/// Endings of older folders, where weights are pickled.
const PICKLED: [&str; 3] = [".bin", ".bin.index.json", ".fp16.bin"];

/// Opens a model. Parts that are not there are `None`; only the UNet must be.
pub(super) fn open_model(folder: &Folder) -> Result<ModelParts> {
    if !folder.is_there() {
        return Err(Error::NotFound { path: folder.display("") });
    }
    if !folder.exists(INDEX) {
        return Err(no_model(folder));
    }
    let index = ModelIndex::parse(&folder.read_text(INDEX)?, &folder.display(INDEX))?;
    let kind = if index.requires_aesthetics_score { ModelKind::Refiner } else { ModelKind::Base };

    let unet = folder.join("unet");
    let config = UnetConfig::parse(&unet.read_text(CONFIG)?, &unet.display(CONFIG))?;
    let scheduler = folder.join("scheduler");
    let defaults = if folder.exists(DEFAULTS) {
        ModelDefaults::parse(&folder.read_text(DEFAULTS)?, &folder.display(DEFAULTS))?
    } else {
        ModelDefaults::default()
    };
    let vae = folder.join("vae");
    Ok(ModelParts {
        name: folder.name(),
        path: folder.display(""),
        kind,
        index,
        unet: (config, open_weights(&unet, DIFFUSERS_STEM, |key| Some(key.to_owned()))?),
        text_encoder: open_text_encoder(&folder.join("text_encoder"), false)?,
        text_encoder_2: open_text_encoder(&folder.join("text_encoder_2"), true)?,
        vae: if vae.exists(CONFIG) {
            let VaeParts { config, weights } = open_vae(&vae)?;
            Some((config, weights))
        } else {
            None
        },
        scheduler: SchedulerConfig::parse(
            &scheduler.read_text(SCHEDULER)?,
            &scheduler.display(SCHEDULER),
        )?,
        defaults,
    })
}

/// Opens a VAE from the folder that holds its config.
pub(super) fn open_vae(folder: &Folder) -> Result<VaeParts> {
    let config = VaeConfig::parse(&folder.read_text(CONFIG)?, &folder.display(CONFIG))?;
    Ok(VaeParts {
        config,
        weights: open_weights(folder, DIFFUSERS_STEM, |key| Some(vae_key(key)))?,
    })
}

fn open_text_encoder(
    folder: &Folder,
    has_projection: bool,
) -> Result<Option<(TextEncoderConfig, Weights)>> {
    if !folder.exists(CONFIG) {
        return Ok(None);
    }
    let text = folder.read_text(CONFIG)?;
    let config = TextEncoderConfig::parse(&text, &folder.display(CONFIG), has_projection)?;
    Ok(Some((config, open_weights(folder, TRANSFORMERS_STEM, encoder_key)?)))
}

/// Opens `STEM.safetensors`, a variant of it, or the shards that an index names.
fn open_weights(
    folder: &Folder,
    stem: &str,
    translate: impl Fn(&str) -> Option<String>,
) -> Result<Weights> {
    let names = VARIANTS.iter().map(|variant| format!("{stem}{variant}"));
    let stem_of_pickles = if stem == "model" { "pytorch_model" } else { stem };
    let pickled = PICKLED.iter().map(|variant| format!("{stem_of_pickles}{variant}"));
    let Some(name) = names.chain(pickled).find(|name| folder.exists(name)) else {
        return Err(Error::NotFound { path: folder.display(&format!("{stem}.safetensors")) });
    };
    if std::path::Path::new(&name).extension().is_some_and(|extension| extension == "json") {
        return open_shards(folder, &name, translate);
    }
    let mut builder = Builder::new(&folder.display(&name));
    builder.add_file(TensorFile::open_in(folder, &name)?, translate)?;
    Ok(builder.build())
}

fn open_shards(
    folder: &Folder,
    name: &str,
    translate: impl Fn(&str) -> Option<String>,
) -> Result<Weights> {
    #[derive(Deserialize)]
    struct ShardIndex {
        weight_map: BTreeMap<String, String>,
    }

    let path = folder.display(name);
    let malformed = |reason: String| Error::Malformed { path: path.clone(), reason };
    let index: ShardIndex = serde_json::from_str(&folder.read_text(name)?)
        .map_err(|error| malformed(error.to_string()))?;
    let shards: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    let mut builder = Builder::new(&folder.display(""));
    for shard in shards {
        if shard.contains(['/', '\\', ':']) || shard.starts_with('.') {
            return Err(malformed(format!("`{shard}` is no name of a file in this folder")));
        }
        let file = TensorFile::open_in(folder, shard)?;
        let promised = index.weight_map.iter().filter(|(_, place)| *place == shard);
        for (key, _) in promised {
            if file.shape(key).is_none() {
                let path = folder.display(shard);
                return Err(Error::MissingWeight { key: key.clone(), path });
            }
        }
        builder.add_file(file, &translate)?;
    }
    Ok(builder.build())
}

/// Positions are counted, not read.
fn encoder_key(key: &str) -> Option<String> {
    (!key.ends_with("embeddings.position_ids")).then(|| key.to_owned())
}

/// The attention of a VAE had other names in files written before 2023.
pub(super) fn vae_key(key: &str) -> String {
    let Some((block, rest)) = key.split_once(".attentions.0.") else {
        return key.to_owned();
    };
    let (layer, parameter) = rest.rsplit_once('.').unwrap_or((rest, ""));
    let layer = match layer {
        "query" => "to_q",
        "key" => "to_k",
        "value" => "to_v",
        "proj_attn" => "to_out.0",
        other => other,
    };
    format!("{block}.attentions.0.{layer}.{parameter}")
}

fn no_model(folder: &Folder) -> Error {
    let checkpoint = folder.list().ok().and_then(|names| {
        names.into_iter().find(|name| name.to_lowercase().ends_with(".safetensors"))
    });
    Error::WrongModel {
        path: folder.display(""),
        found: match checkpoint {
            Some(name) => format!("a folder without `{INDEX}` (it has `{name}`: name that file)"),
            None => format!("a folder without `{INDEX}`"),
        },
        expected: "a model folder in diffusers layout, or a single .safetensors file".to_owned(),
    }
}
