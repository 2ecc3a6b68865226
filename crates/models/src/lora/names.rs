//! One name for every layer: its checkpoint key, whatever a file calls it, without a model.
//!
//! Kohya's names have underscores for dots. They can be turned back because SDXL's layers are
//! made of few words; a name with any other word is refused rather than guessed.

use crate::files::BlockNames;
use crate::lora::keys::Network;

/// Words of layer names, diffusers' and LDM's. Where two fit, the longer one counts.
const WORDS: [&str; 61] = [
    "add_embedding",
    "attentions",
    "attn1",
    "attn2",
    "conv",
    "conv1",
    "conv2",
    "conv_in",
    "conv_norm_out",
    "conv_out",
    "conv_shortcut",
    "down_blocks",
    "downsamplers",
    "emb_layers",
    "encoder",
    "fc1",
    "fc2",
    "ff",
    "final_layer_norm",
    "in_layers",
    "input_blocks",
    "k_proj",
    "label_emb",
    "layer_norm1",
    "layer_norm2",
    "layers",
    "linear_1",
    "linear_2",
    "mid_block",
    "middle_block",
    "mlp",
    "net",
    "norm",
    "norm1",
    "norm2",
    "norm3",
    "op",
    "out",
    "out_layers",
    "out_proj",
    "output_blocks",
    "proj",
    "proj_in",
    "proj_out",
    "q_proj",
    "resnets",
    "self_attn",
    "skip_connection",
    "text_model",
    "text_projection",
    "time_emb_proj",
    "time_embed",
    "time_embedding",
    "to_k",
    "to_out",
    "to_q",
    "to_v",
    "transformer_blocks",
    "up_blocks",
    "upsamplers",
    "v_proj",
];

/// The 2023 dialect's words for the attention of text encoders.
const ENCODER_WORDS: [(&str, &str); 4] =
    [(".to_q", ".q_proj"), (".to_k", ".k_proj"), (".to_v", ".v_proj"), (".to_out", ".out_proj")];

/// Turns any name of a layer into its checkpoint name.
pub(super) struct LayerNames {
    blocks: BlockNames,
}

impl LayerNames {
    /// Of SDXL's base and refiner, whose blocks are counted alike.
    pub(super) fn sdxl() -> Self {
        Self { blocks: BlockNames::unet(4, 2) }
    }

    /// The checkpoint name of what a file calls `name`, dotted or flat.
    pub(super) fn checkpoint_name(&self, network: Network, name: &str) -> Option<String> {
        let name = if name.contains('.') { name.to_owned() } else { dotted(name)? };
        Some(match network {
            Network::Unet => {
                let name = self.blocks.to_diffusers(&name).unwrap_or(name);
                if name.ends_with(".to_out") { format!("{name}.0") } else { name }
            }
            Network::TextEncoder | Network::TextEncoder2 => encoder_name(&name),
        })
    }
}

/// Published names have `text_model` in front, all but the projection's.
fn encoder_name(name: &str) -> String {
    let mut name = name.to_owned();
    for (theirs, ours) in ENCODER_WORDS {
        if let Some(layer) = name.strip_suffix(theirs) {
            name = format!("{layer}{ours}");
        }
    }
    if name.starts_with("encoder.") { format!("text_model.{name}") } else { name }
}

/// A flat name with its dots; none if it has words that no layer has.
fn dotted(flat: &str) -> Option<String> {
    let mut parts = Vec::new();
    let mut rest = Some(flat);
    while let Some(text) = rest {
        let known = WORDS.iter().filter(|word| begins(text, word)).max_by_key(|word| word.len());
        let number = text.split('_').next().filter(|part| part.parse::<u32>().is_ok());
        let part = known.copied().or(number)?;
        parts.push(part);
        rest = text[part.len()..].strip_prefix('_');
    }
    Some(parts.join("."))
}

/// Whole words only.
fn begins(text: &str, word: &str) -> bool {
    text.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_layer_is_the_same_name() {
        let names = LayerNames::sdxl();
        let layer = "up_blocks.0.attentions.1.transformer_blocks.7.attn2.to_out.0";
        for name in [
            "up_blocks.0.attentions.1.transformer_blocks.7.attn2.to_out",
            "up_blocks_0_attentions_1_transformer_blocks_7_attn2_to_out_0",
            "output_blocks_1_1_transformer_blocks_7_attn2_to_out_0",
            "output_blocks.1.1.transformer_blocks.7.attn2.to_out.0",
            layer,
        ] {
            let found = names.checkpoint_name(Network::Unet, name);
            assert_eq!(found.as_deref(), Some(layer), "{name}");
        }
        let layer = "text_model.encoder.layers.3.self_attn.q_proj";
        for name in [
            "encoder.layers.3.self_attn.q_proj",
            "text_model.encoder.layers.3.self_attn.to_q",
            "text_model_encoder_layers_3_self_attn_q_proj",
        ] {
            let found = names.checkpoint_name(Network::TextEncoder2, name);
            assert_eq!(found.as_deref(), Some(layer), "{name}");
        }
    }

    #[test]
    fn words_that_no_layer_has_are_not_guessed() {
        let names = LayerNames::sdxl();
        for name in ["down_blocks_0_attentions_0_to_x", "nowhere", "", "conv_", "time_embedded"] {
            assert_eq!(names.checkpoint_name(Network::Unet, name), None, "{name}");
        }
    }
}
