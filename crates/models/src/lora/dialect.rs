//! The dialects that LoRA files are written in, and the keys of a layer in each.
//!
//! | dialect | UNet | text encoders |
//! |---|---|---|
//! | diffusers, 2023 | `unet.….attn1.processor.to_q_lora.down.weight` | `text_encoder.….q_proj.lora_linear_layer.down.weight` |
//! | PEFT | `unet.….attn1.to_q.lora_A.weight` | `text_encoder.….q_proj.lora_A.weight` |
//! | kohya | `lora_unet_…_attn1_to_q.lora_down.weight`, `.alpha` | `lora_te1_…_q_proj.lora_down.weight`, `.alpha` |
//!
//! Only kohya's dialect has words for more than two matrices: LyCORIS' tensors (`hada_…`,
//! `lokr_…`, `diff`, `w_norm`), which A1111, Forge and ComfyUI read. PEFT's has DoRA.
//!
//! Kohya's blocks are called as in diffusers (`down_blocks`), which A1111, Forge, ComfyUI and
//! diffusers read; diffusers' own `convert_state_dict_to_kohya` writes them so.

use crate::lora::keys::Network;

/// A way to name the tensors of a LoRA file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Attention processors, as diffusers wrote them in 2023. UNet attention and text encoders
    /// only, without alpha.
    Diffusers,
    /// What diffusers and PEFT write today. Alpha is in the header, where it must be said.
    Peft,
    /// kohya's scripts, A1111, Forge and ComfyUI. Alpha lies beside the matrices.
    Kohya,
}

/// How the keys of one layer begin, and what its two matrices are called.
pub(super) struct Stem {
    text: String,
    pub(super) down: &'static str,
    pub(super) up: &'static str,
}

impl Stem {
    /// The key of one of its tensors.
    pub(super) fn key(&self, end: &str) -> String {
        format!("{}.{end}", self.text)
    }
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Diffusers, Self::Peft, Self::Kohya];

    /// One lower-case word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Diffusers => "diffusers",
            Self::Peft => "peft",
            Self::Kohya => "kohya",
        }
    }

    /// How the keys of the layer with this checkpoint name begin, if the dialect has words for it.
    pub(super) fn stem(self, network: Network, name: &str) -> Option<Stem> {
        let part = network.part();
        let (text, down, up) = match (self, network) {
            (Self::Diffusers, Network::Unet) => {
                (format!("unet.{}_lora", processor(name)?), "down.weight", "up.weight")
            }
            (Self::Diffusers, _) => {
                let inside = name.contains(".self_attn.") || name.contains(".mlp.");
                let stem = format!("{part}.{name}.lora_linear_layer");
                (inside.then_some(stem)?, "down.weight", "up.weight")
            }
            (Self::Peft, _) => (format!("{part}.{name}"), "lora_A.weight", "lora_B.weight"),
            (Self::Kohya, _) => (kohya_stem(network, name), "lora_down.weight", "lora_up.weight"),
        };
        Some(Stem { text, down, up })
    }
}

/// What to call the dialect of a file with this key, those included that are only read.
pub(super) fn spoken(key: &str) -> &'static str {
    let begins = |starts: &[&str]| starts.iter().any(|start| key.starts_with(start));
    if begins(&["lora_unet_", "lora_te"]) {
        "kohya"
    } else if begins(&["diffusion_model.", "model.diffusion_model.", "text_encoders."]) {
        "ComfyUI"
    } else if [".lora_A", ".lora_B", ".lora_magnitude"].iter().any(|mark| key.contains(mark)) {
        "PEFT"
    } else if key.contains("_lora.") || key.contains(".lora_linear_layer.") {
        "diffusers (2023)"
    } else {
        "diffusers"
    }
}

/// `….attn1.processor.to_q` for `….attn1.to_q`; nothing else had a LoRA in 2023.
fn processor(name: &str) -> Option<String> {
    let (attention, projection) = name.strip_suffix(".0").unwrap_or(name).rsplit_once('.')?;
    let known = ["to_q", "to_k", "to_v", "to_out"].contains(&projection)
        && attention.rsplit('.').next().is_some_and(|name| ["attn1", "attn2"].contains(&name));
    known.then(|| format!("{attention}.processor.{projection}"))
}

fn kohya_stem(network: Network, name: &str) -> String {
    let network = match network {
        Network::Unet => "unet",
        Network::TextEncoder => "te1",
        Network::TextEncoder2 => "te2",
    };
    // diffusers reads only LDM's names of these two.
    let name = match name {
        "add_embedding.linear_1" => "label_emb.0.0",
        "add_embedding.linear_2" => "label_emb.0.2",
        name => name,
    };
    format!("lora_{network}_{}", name.replace('.', "_"))
}
