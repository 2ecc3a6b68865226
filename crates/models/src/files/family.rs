//! What kind of model a safetensors file holds, told from its keys and a few shapes.

use std::fmt;

use crate::files::TensorFile;

/// What kind of model a safetensors file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Family {
    /// A single-file checkpoint with a UNet like SDXL's.
    Sdxl,
    /// A LoRA, in whatever dialect.
    Lora,
    /// A VAE alone, in the names of LDM.
    LdmVae,
    /// A VAE alone, in the names of diffusers.
    DiffusersVae,
    /// Something else that has a name.
    Other(&'static str),
    /// Something else; one of its keys.
    Unknown(String),
}

/// First words of keys and what has them, the surest first.
const MARKS: [(&str, &str); 22] = [
    ("model.diffusion_model.double_blocks.", "a Flux checkpoint"),
    ("double_blocks.", "a Flux transformer"),
    ("model.diffusion_model.joint_blocks.", "a Stable Diffusion 3 checkpoint"),
    ("single_transformer_blocks.", "a Flux transformer"),
    ("joint_transformer_blocks.", "a transformer, not a UNet"),
    ("transformer_blocks.", "a transformer, not a UNet"),
    ("model.diffusion_model.blocks.", "a transformer, not a UNet"),
    ("control_model.", "a ControlNet"),
    ("controlnet_", "a ControlNet"),
    ("input_hint_block.", "a ControlNet"),
    ("adapter.body.", "a T2I-Adapter"),
    ("image_proj.", "an IP-Adapter"),
    ("ip_adapter.", "an IP-Adapter"),
    ("emb_params", "a textual-inversion embedding"),
    ("string_to_param", "a textual-inversion embedding"),
    ("clip_l", "a textual-inversion embedding"),
    ("clip_g", "a textual-inversion embedding"),
    ("conditioner.embedders.", "the text encoders of a checkpoint, without a UNet"),
    ("cond_stage_model.", "the text encoder of an older checkpoint, without a UNet"),
    ("text_model.", "a text encoder alone"),
    ("down_blocks.", "a diffusers UNet without its config (name the folder above it)"),
    ("mid_block.", "a diffusers UNet without its config (name the folder above it)"),
];

/// Parts of keys that only LoRA files and their relatives have.
const LORA_MARKS: [&str; 13] = [
    ".lora_down.",
    ".lora_up.",
    ".lora_A.",
    ".lora_B.",
    ".lora.down.",
    ".lora.up.",
    "_lora.down.",
    "_lora.up.",
    ".lora_linear_layer.",
    ".hada_w",
    ".lokr_w",
    ".dora_scale",
    ".lora_mid.",
];

impl Family {
    pub(crate) fn recognise(file: &TensorFile) -> Self {
        let has = |start: &str| file.names().any(|name| name.starts_with(start));
        if file.names().any(|name| {
            name.starts_with("lora_") || LORA_MARKS.iter().any(|mark| name.contains(mark))
        }) {
            return Self::Lora;
        }
        if file.shape("model.diffusion_model.input_blocks.0.0.weight").is_some() {
            return Self::of_unet(file);
        }
        if let Some((_, name)) = MARKS[..13].iter().find(|(start, _)| has(start)) {
            return Self::Other(name);
        }
        for prefix in ["first_stage_model.", ""] {
            if file.shape(&format!("{prefix}decoder.mid.block_1.conv1.weight")).is_some() {
                return Self::LdmVae;
            }
        }
        if file.shape("decoder.mid_block.resnets.0.conv1.weight").is_some() {
            return Self::DiffusersVae;
        }
        if let Some((_, name)) = MARKS[13..].iter().find(|(start, _)| has(start)) {
            return Self::Other(name);
        }
        let key = file.names().next().map_or_else(String::new, str::to_owned);
        Self::Unknown(key)
    }

    fn of_unet(file: &TensorFile) -> Self {
        const UNET: &str = "model.diffusion_model.";
        let dim = |name: &str, axis: usize| {
            file.shape(&format!("{UNET}{name}")).and_then(|shape| shape.get(axis).copied())
        };
        match dim("input_blocks.0.0.weight", 1) {
            Some(9) => return Self::Other("an inpainting checkpoint (9 input channels)"),
            Some(8) => return Self::Other("an instruct-pix2pix checkpoint (8 input channels)"),
            _ => {}
        }
        let context = file
            .names()
            .find(|name| name.starts_with(UNET) && name.ends_with("attn2.to_k.weight"))
            .and_then(|name| file.shape(name))
            .and_then(|shape| shape.get(1).copied());
        match (context, file.shape(&format!("{UNET}label_emb.0.0.weight"))) {
            (_, Some(_)) if context != Some(1024) => Self::Sdxl,
            (Some(768), _) => Self::Other("a Stable Diffusion 1 checkpoint"),
            (Some(1024), _) => Self::Other("a Stable Diffusion 2 checkpoint"),
            _ => Self::Other("a checkpoint with a UNet that is not SDXL's"),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sdxl => f.write_str("an SDXL checkpoint"),
            Self::Lora => f.write_str("a LoRA"),
            Self::LdmVae | Self::DiffusersVae => f.write_str("a VAE alone"),
            Self::Other(name) => f.write_str(name),
            Self::Unknown(key) if key.is_empty() => f.write_str("a file without tensors"),
            Self::Unknown(key) => write!(f, "a file of unknown kind (with `{key}`)"),
        }
    }
}
