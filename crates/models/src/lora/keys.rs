//! The dialects in which LoRA files name their tensors.
//!
//! A key is a network, a layer and a role. Dotted layer names are paths; kohya's have
//! underscores for dots, which nobody can turn back without knowing the model: they are kept
//! flat here and looked up in a list of its layers ([`Targets`](super::Targets)).
//!
//! | dialect | example |
//! |---|---|
//! | diffusers, 2023 | `unet.….attn1.processor.to_q_lora.down.weight` |
//! | diffusers | `unet.….attn1.to_q.lora.down.weight` |
//! | diffusers, text | `text_encoder.….q_proj.lora_linear_layer.down.weight` |
//! | PEFT | `base_model.model.….to_q.lora_A.default.weight` |
//! | kohya | `lora_unet_…_attn1_to_q.lora_down.weight`, `.alpha` |
//! | ComfyUI | `diffusion_model.input_blocks.4.1.….to_q.lora_A.weight` |
//!
//! Any layer may have LyCORIS' tensors in place of the two matrices (`hada_…`, `lokr_…`, `diff`,
//! `w_norm`), and those of DoRA beside them (`dora_scale`, PEFT's `lora_magnitude_vector`).
//!
//! Names: LyCORIS 4.1.3 (`weight_list` of its modules), ComfyUI `comfy/weight_adapter`, PEFT
//! 0.21.2.

/// Which network of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// The UNet.
    Unet,
    /// The first text encoder.
    TextEncoder,
    /// The second text encoder.
    TextEncoder2,
}

impl Network {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Unet, Self::TextEncoder, Self::TextEncoder2];

    /// The name of its folder in a model, which dotted keys begin with.
    #[must_use]
    pub const fn part(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
        }
    }
}

/// What a tensor is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Role {
    /// `[rank, in]`.
    Down,
    /// `[out, rank]`.
    Up,
    /// `[rank, rank, k, k]`, between the two: the kernel of a Tucker decomposition.
    Mid,
    /// LoHa's first product: `[out, rank]` and `[rank, in]`.
    HadaW1A,
    HadaW1B,
    /// LoHa's second product.
    HadaW2A,
    HadaW2B,
    /// Kernels of their Tucker decompositions.
    HadaT1,
    HadaT2,
    /// LoKr's first factor, whole or as a product.
    LokrW1,
    LokrW1A,
    LokrW1B,
    /// LoKr's second factor.
    LokrW2,
    LokrW2A,
    LokrW2B,
    LokrT2,
    /// A whole difference of a weight.
    Diff,
    /// The same of a norm's scale.
    NormDiff,
    /// A difference of a bias, or of a norm's shift.
    BiasDiff,
    NormBiasDiff,
    /// Bias of `up`: alpha counts for it.
    UpBias,
    /// DoRA's length of every row or column of the changed weight.
    Magnitude,
    /// The same in PEFT, always of rows.
    RowMagnitude,
    /// Numerator of the scale.
    Alpha,
}

/// What one key says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// A tensor of a layer. `layer` is dotted or flat.
    Tensor { network: Network, layer: String, role: Role },
    /// Part of a method that is not implemented.
    Method(&'static str),
    /// Part of a LoRA for another kind of model.
    Family(&'static str),
    /// No key of a LoRA.
    Unknown,
}

/// Endings of keys, and what has them.
const ROLES: [(&str, Role); 37] = [
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid),
    (".lora_up.bias", Role::UpBias),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A", Role::Down),
    (".lora_B", Role::Up),
    (".lora_B.bias", Role::UpBias),
    (".hada_w1_a", Role::HadaW1A),
    (".hada_w1_b", Role::HadaW1B),
    (".hada_w2_a", Role::HadaW2A),
    (".hada_w2_b", Role::HadaW2B),
    (".hada_t1", Role::HadaT1),
    (".hada_t2", Role::HadaT2),
    (".lokr_w1", Role::LokrW1),
    (".lokr_w1_a", Role::LokrW1A),
    (".lokr_w1_b", Role::LokrW1B),
    (".lokr_w2", Role::LokrW2),
    (".lokr_w2_a", Role::LokrW2A),
    (".lokr_w2_b", Role::LokrW2B),
    (".lokr_t2", Role::LokrT2),
    (".diff", Role::Diff),
    (".diff_b", Role::BiasDiff),
    (".w_norm", Role::NormDiff),
    (".b_norm", Role::NormBiasDiff),
    (".dora_scale", Role::Magnitude),
    (".lora_magnitude_vector", Role::RowMagnitude),
    (".lora_magnitude_vector.weight", Role::RowMagnitude),
    (".lora_magnitude_vector.default", Role::RowMagnitude),
    (".alpha", Role::Alpha),
];

/// PEFT may put the adapter's name inside: `….lora_A.default.weight`.
const NAMED: [(&str, &str, Role); 4] = [
    (".lora_A", ".weight", Role::Down),
    (".lora_B", ".weight", Role::Up),
    (".lora_B", ".bias", Role::UpBias),
    (".lora_magnitude_vector", ".weight", Role::RowMagnitude),
];

/// Parts of keys that say which other method wrote the file.
const METHODS: [(&str, &str); 10] = [
    (".set_weight", "replaced weights"),
    (".reshape_weight", "weights of another shape"),
    (".oft_", "OFT"),
    (".boft_", "BOFT"),
    (".on_input", "IA3"),
    (".ia3_", "IA3"),
    (".a1.weight", "GLoRA"),
    (".lora_A.bias", "a bias before the up matrix"),
    (".lora_down.bias", "a bias before the up matrix"),
    (".lora_embedding_", "LoRA of embeddings"),
];

/// Beginnings of keys, and what follows them.
const NETWORKS: [(&str, Network); 10] = [
    ("lora_unet_", Network::Unet),
    ("lora_te1_", Network::TextEncoder),
    ("lora_te2_", Network::TextEncoder2),
    ("unet.", Network::Unet),
    // With the dot: `text_encoder_2` begins with `text_encoder`.
    ("text_encoder.", Network::TextEncoder),
    ("text_encoder_2.", Network::TextEncoder2),
    ("text_encoders.clip_l.transformer.", Network::TextEncoder),
    ("text_encoders.clip_g.transformer.", Network::TextEncoder2),
    ("model.diffusion_model.", Network::Unet),
    ("diffusion_model.", Network::Unet),
];

/// Beginnings of dotted keys of a UNet that do not say that it is one.
const BARE_UNET: [&str; 9] = [
    "down_blocks.",
    "mid_block.",
    "up_blocks.",
    "conv_in.",
    "conv_out.",
    "time_embedding.",
    "add_embedding.",
    "input_blocks.",
    "output_blocks.",
];

/// Beginnings of keys that no SDXL has.
const FAMILIES: [(&str, &str); 22] = [
    ("lora_te_", "Stable Diffusion 1 or 2 (it has one text encoder)"),
    ("lora_te3_", "Stable Diffusion 3"),
    ("lora_unet_double_blocks", "Flux"),
    ("lora_unet_single_blocks", "Flux"),
    ("lora_unet_joint_blocks", "Stable Diffusion 3"),
    ("lora_unet_blocks_", "Wan, Anima or another video or picture transformer"),
    ("lora_unet_layers_", "a transformer such as Lumina or Z-Image"),
    ("lora_unet_transformer_blocks_", "a transformer such as Qwen-Image"),
    ("lora_prior_", "Stable Cascade"),
    ("lora_transformer_", "Flux or another transformer"),
    ("lycoris_double_blocks", "Flux"),
    ("lycoris_single_blocks", "Flux"),
    ("lycoris_transformer_", "Flux or another transformer"),
    ("transformer.", "Flux or another transformer"),
    ("single_transformer_blocks.", "Flux or another transformer"),
    ("diffusion_model.double_blocks.", "Flux"),
    ("diffusion_model.single_blocks.", "Flux"),
    ("diffusion_model.joint_blocks.", "Stable Diffusion 3"),
    ("diffusion_model.blocks.", "Wan or another video transformer"),
    ("diffusion_model.layers.", "a transformer such as Lumina or Z-Image"),
    ("diffusion_model.transformer_blocks.", "a transformer such as Qwen-Image"),
    ("text_encoders.t5xxl.", "Flux or Stable Diffusion 3"),
];

impl Key {
    pub(crate) fn parse(key: &str) -> Self {
        let key = key.trim_start_matches("base_model.model.");
        if let Some((_, family)) = FAMILIES.iter().find(|(start, _)| key.starts_with(start)) {
            return Self::Family(family);
        }
        let Some((stem, role)) = split_role(key) else {
            let method = METHODS.iter().find(|(part, _)| has_part(key, part));
            return method.map_or(Self::Unknown, |(_, method)| Self::Method(method));
        };
        let Some((network, layer)) = split_network(stem) else { return Self::Unknown };
        Self::Tensor { network, layer: layer.replace(".processor.", "."), role }
    }
}

/// Whole words only, unless the mark is open at its end: `.diff` is not in `model.diffusion_model`.
fn has_part(key: &str, part: &str) -> bool {
    let open = part.ends_with(['_', '.']);
    key.ends_with(part) || key.contains(&format!("{part}.")) || (open && key.contains(part))
}

fn split_role(key: &str) -> Option<(&str, Role)> {
    let known = ROLES.iter().find_map(|(end, role)| Some((key.strip_suffix(end)?, *role)));
    known.or_else(|| {
        NAMED.iter().find_map(|(mark, end, role)| {
            let (stem, _adapter) = key.strip_suffix(end)?.rsplit_once('.')?;
            Some((stem.strip_suffix(mark)?, *role))
        })
    })
}

fn split_network(stem: &str) -> Option<(Network, &str)> {
    let named =
        NETWORKS.iter().find_map(|(start, network)| Some((*network, stem.strip_prefix(start)?)));
    named.or_else(|| {
        let bare = BARE_UNET.iter().any(|start| format!("{stem}.").starts_with(start));
        bare.then_some((Network::Unet, stem))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(key: &str) -> (Network, String, Role) {
        match Key::parse(key) {
            Key::Tensor { network, layer, role } => (network, layer, role),
            other => panic!("{key}: {other:?}"),
        }
    }

    #[test]
    fn every_dialect_names_the_same_layer() {
        let dotted = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";
        for key in [
            format!("unet.{}_lora.down.weight", dotted.replace("to_q", "processor.to_q")),
            format!("{}_lora.down.weight", dotted.replace("to_q", "processor.to_q")),
            format!("unet.{dotted}.lora.down.weight"),
            format!("unet.{dotted}.lora_A.weight"),
            format!("base_model.model.{dotted}.lora_A.default.weight"),
            format!("base_model.model.unet.{dotted}.lora_A.weight"),
            format!("{dotted}.lora_down.weight"),
        ] {
            assert_eq!(tensor(&key), (Network::Unet, dotted.to_owned(), Role::Down), "{key}");
        }
        let flat = dotted.replace('.', "_");
        assert_eq!(
            tensor(&format!("lora_unet_{flat}.lora_up.weight")),
            (Network::Unet, flat, Role::Up)
        );
    }

    #[test]
    fn every_spelling_of_dora_is_known() {
        for (end, role) in [
            ("dora_scale", Role::Magnitude),
            ("lora_magnitude_vector", Role::RowMagnitude),
            ("lora_magnitude_vector.weight", Role::RowMagnitude),
            ("lora_magnitude_vector.default", Role::RowMagnitude),
            ("lora_magnitude_vector.default.weight", Role::RowMagnitude),
        ] {
            let layer = (Network::Unet, "mid_block.proj_in".to_owned(), role);
            assert_eq!(tensor(&format!("unet.mid_block.proj_in.{end}")), layer, "{end}");
        }
    }

    #[test]
    fn the_second_text_encoder_is_not_the_first() {
        let key = "text_encoder_2.text_model.encoder.layers.8.self_attn.q_proj\
                   .lora_linear_layer.down.weight";
        let layer = "text_model.encoder.layers.8.self_attn.q_proj".to_owned();
        assert_eq!(tensor(key), (Network::TextEncoder2, layer.clone(), Role::Down));
        let key = key.replace("text_encoder_2", "text_encoder");
        assert_eq!(tensor(&key), (Network::TextEncoder, layer, Role::Down));
    }

    #[test]
    fn other_methods_and_families_are_named() {
        let cases = [
            ("lora_unet_mid_block_attn.oft_blocks", Key::Method("OFT")),
            ("lora_unet_mid_block_attn.on_input", Key::Method("IA3")),
            ("lora_unet_mid_block_attn.a1.weight", Key::Method("GLoRA")),
            ("lora_unet_double_blocks_0_img_attn.lora_down.weight", Key::Family("Flux")),
            ("model.layers.0.weight", Key::Unknown),
            ("lora_unet_x.weight", Key::Unknown),
            (".alpha", Key::Unknown),
            ("", Key::Unknown),
        ];
        for (key, expected) in cases {
            assert_eq!(Key::parse(key), expected, "{key}");
        }
    }
}
