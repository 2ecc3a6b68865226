//! `unet/config.json`.

use serde_json::Value;

use super::{Fields, MOST_CHANNELS, MOST_LAYERS};
use crate::error::{Error, Result};

/// `unet/config.json`: what the UNet needs to know about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct UnetConfig {
    /// Latents of this height and width are drawn best.
    pub sample_size: usize,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the noise.
    pub out_channels: usize,
    /// Channels of every level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Resnets of every level on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// Whether the levels on the way down attend, finest first.
    down_attention: Vec<bool>,
    /// Whether the levels on the way up attend, coarsest first.
    up_attention: Vec<bool>,
    /// Transformer blocks in every attention of a level.
    pub transformer_layers_per_block: Vec<usize>,
    /// Attention heads of every level. The file calls them `attention_head_dim`: a mistake of
    /// diffusers' first release that every published config follows.
    pub heads: Vec<usize>,
    /// Width of the prompt's features.
    pub cross_attention_dim: usize,
    /// Groups of every group normalisation.
    pub norm_num_groups: usize,
    /// Added to the variance in group normalisations outside the transformers.
    pub norm_eps: f64,
    /// `proj_in` and `proj_out` are linear layers, not 1×1 convolutions.
    pub use_linear_projection: bool,
    /// Sinusoids per time id.
    pub addition_time_embed_dim: usize,
    /// Width of pooled text and all time ids together.
    pub projection_class_embeddings_input_dim: usize,
}

impl UnetConfig {
    /// Reads and checks the text of a config; `path` names it in messages.
    pub fn parse(text: &str, path: &str) -> Result<Self> {
        let fields = Fields::parse(text, path)?;
        refuse_other_networks(&fields)?;
        let block_out_channels = fields.list("block_out_channels", 1..=MOST_CHANNELS)?;
        let levels = block_out_channels.len();
        let config = Self {
            sample_size: sample_size(&fields)?,
            in_channels: fields.count("in_channels", Some(4), 4..=4)?,
            out_channels: fields.count("out_channels", Some(4), 4..=4)?,
            layers_per_block: fields.uniform("layers_per_block", Some(2), 1..=MOST_LAYERS)?,
            down_attention: block_types(&fields, "down_block_types", levels)?,
            up_attention: block_types(&fields, "up_block_types", levels)?,
            transformer_layers_per_block: fields.counts(
                "transformer_layers_per_block",
                Some(1),
                levels,
                0..=MOST_LAYERS,
            )?,
            heads: fields.counts("attention_head_dim", Some(8), levels, 1..=MOST_CHANNELS)?,
            cross_attention_dim: fields.uniform(
                "cross_attention_dim",
                Some(1280),
                1..=MOST_CHANNELS,
            )?,
            norm_num_groups: fields.count("norm_num_groups", Some(32), 1..=MOST_CHANNELS)?,
            norm_eps: fields.positive("norm_eps", 1e-5, 1.0)?,
            use_linear_projection: fields.flag("use_linear_projection", false)?,
            addition_time_embed_dim: fields.count(
                "addition_time_embed_dim",
                None,
                2..=MOST_CHANNELS,
            )?,
            projection_class_embeddings_input_dim: fields.count(
                "projection_class_embeddings_input_dim",
                None,
                1..=MOST_CHANNELS,
            )?,
            block_out_channels,
        };
        config.check(&fields)?;
        Ok(config)
    }

    /// Number of resolutions.
    #[must_use]
    pub fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Whether level `level` attends on the way down.
    #[must_use]
    pub fn down_attention(&self, level: usize) -> bool {
        self.down_attention[level]
    }

    /// Whether block `index` attends on the way up, where 0 is the coarsest level.
    #[must_use]
    pub fn up_attention(&self, index: usize) -> bool {
        self.up_attention[index]
    }

    /// How many time ids are left beside this much pooled text; `None` if it does not come out.
    #[must_use]
    pub fn time_ids(&self, pooled_width: usize) -> Option<usize> {
        let rest = self.projection_class_embeddings_input_dim.checked_sub(pooled_width)?;
        rest.is_multiple_of(self.addition_time_embed_dim)
            .then(|| rest / self.addition_time_embed_dim)
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        let groups = self.norm_num_groups;
        if self.block_out_channels.iter().any(|channels| !channels.is_multiple_of(groups)) {
            let expected = format!("multiples of the {groups} groups of `norm_num_groups`");
            return Err(fields.wrong("block_out_channels", &expected));
        }
        // Half of them sines, half cosines.
        if !self.block_out_channels[0].is_multiple_of(2) {
            return Err(fields.wrong("block_out_channels", "an even number first"));
        }
        if !self.addition_time_embed_dim.is_multiple_of(2) {
            return Err(fields.wrong("addition_time_embed_dim", "an even number"));
        }
        let last = self.levels() - 1;
        for level in 0..=last {
            let attends =
                self.down_attention[level] || self.up_attention[last - level] || level == last;
            let channels = self.block_out_channels[level];
            if attends && !channels.is_multiple_of(self.heads[level]) {
                let expected = format!("numbers of heads that divide the {channels} channels");
                return Err(fields.wrong("attention_head_dim", &expected));
            }
        }
        Ok(())
    }
}

/// Everything the UNet here takes for granted.
fn refuse_other_networks(fields: &Fields) -> Result<()> {
    fields.only("_class_name", "UNet2DConditionModel")?;
    if fields.get("addition_embed_type").and_then(Value::as_str) != Some("text_time") {
        return Err(fields.wrong("addition_embed_type", "`text_time`, as SDXL has it"));
    }
    for (field, expected) in [
        ("mid_block_type", "UNetMidBlock2DCrossAttn"),
        ("act_fn", "silu"),
        ("resnet_time_scale_shift", "default"),
        ("time_embedding_type", "positional"),
        ("attention_type", "default"),
    ] {
        fields.only(field, expected)?;
    }
    for (field, expected) in [
        ("center_input_sample", false),
        ("flip_sin_to_cos", true),
        ("only_cross_attention", false),
        ("mid_block_only_cross_attention", false),
        ("dual_cross_attention", false),
        ("resnet_skip_time_act", false),
        ("class_embeddings_concat", false),
    ] {
        fields.only(field, expected)?;
    }
    for (field, expected) in [
        ("freq_shift", 0),
        ("downsample_padding", 1),
        ("mid_block_scale_factor", 1),
        ("resnet_out_scale_factor", 1),
        ("conv_in_kernel", 3),
        ("conv_out_kernel", 3),
    ] {
        fields.only(field, expected)?;
    }
    for field in [
        "reverse_transformer_layers_per_block",
        "encoder_hid_dim",
        "encoder_hid_dim_type",
        "num_attention_heads",
        "class_embed_type",
        "num_class_embeds",
        "time_embedding_dim",
        "time_embedding_act_fn",
        "timestep_post_act",
        "time_cond_proj_dim",
        "cross_attention_norm",
    ] {
        fields.only(field, Value::Null)?;
    }
    Ok(())
}

/// One number, or height and width; square only, since it serves as the default size.
fn sample_size(fields: &Fields) -> Result<usize> {
    fields.uniform("sample_size", Some(128), 1..=512)
}

fn block_types(fields: &Fields, field: &str, levels: usize) -> Result<Vec<bool>> {
    let names = fields.texts(field)?;
    if names.len() != levels {
        return Err(fields.wrong(field, &format!("{levels} blocks, as `block_out_channels` has")));
    }
    let way = if field == "down_block_types" { "Down" } else { "Up" };
    let (plain, attending) = (format!("{way}Block2D"), format!("CrossAttn{way}Block2D"));
    let attention = names.iter().map(|name| match *name {
        name if name == plain => Ok(false),
        name if name == attending => Ok(true),
        name => Err(unknown_block(fields, field, name, &[&plain, &attending])),
    });
    attention.collect()
}

fn unknown_block(fields: &Fields, field: &str, name: &str, known: &[&str]) -> Error {
    let expected = format!("only `{}` (found `{name}`)", known.join("` and `"));
    fields.wrong(field, &expected)
}
