//! The names of Stability AI's own code (LDM, SGM), which single-file checkpoints and some
//! LoRA files use, next to the names of diffusers, which the code here uses.
//!
//! A block's place in the LDM list follows from the number of levels and of resnets per level
//! alone, so one table serves base, refiner and models of other sizes.
//!
//! Source: `OpenAIModel` and `Model` in Stability-AI/generative-models, and the conversion
//! scripts of diffusers 0.42.1, whose result for every key of SDXL 1.0 is
//! `parity/goldens/keys.json`.

/// Layers of a UNet resnet: LDM, diffusers.
const UNET_RESNET: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// Layers of a VAE resnet that differ: LDM, diffusers.
const VAE_RESNET: [(&str, &str); 1] = [("nin_shortcut", "conv_shortcut")];

/// Layers of the VAE's attention: LDM, diffusers.
const VAE_ATTENTION: [(&str, &str); 5] =
    [("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")];

/// Both names of every block of a network.
pub(crate) struct BlockNames {
    blocks: Vec<Block>,
}

struct Block {
    ldm: String,
    diffusers: String,
    /// Names inside the block that differ.
    layers: &'static [(&'static str, &'static str)],
}

impl BlockNames {
    /// The blocks of a UNet with `resnets` resnets per level on the way down.
    pub(crate) fn unet(levels: usize, resnets: usize) -> Self {
        let mut names = Self { blocks: Vec::new() };
        for (ldm, diffusers) in [
            ("time_embed.0", "time_embedding.linear_1"),
            ("time_embed.2", "time_embedding.linear_2"),
            ("label_emb.0.0", "add_embedding.linear_1"),
            ("label_emb.0.2", "add_embedding.linear_2"),
            ("input_blocks.0.0", "conv_in"),
            ("middle_block.1", "mid_block.attentions.0"),
            ("out.0", "conv_norm_out"),
            ("out.2", "conv_out"),
        ] {
            names.add(ldm, diffusers, &[]);
        }
        names.add("middle_block.0", "mid_block.resnets.0", &UNET_RESNET);
        names.add("middle_block.2", "mid_block.resnets.1", &UNET_RESNET);
        for level in 0..levels {
            let block = format!("down_blocks.{level}");
            let first = 1 + level * (resnets + 1);
            for i in 0..resnets {
                let ldm = format!("input_blocks.{}", first + i);
                names.add(&format!("{ldm}.0"), &format!("{block}.resnets.{i}"), &UNET_RESNET);
                names.add(&format!("{ldm}.1"), &format!("{block}.attentions.{i}"), &[]);
            }
            let down = format!("{block}.downsamplers.0.conv");
            names.add(&format!("input_blocks.{}.0.op", first + resnets), &down, &[]);
        }
        for level in 0..levels {
            let block = format!("up_blocks.{level}");
            let first = level * (resnets + 1);
            for i in 0..=resnets {
                let ldm = format!("output_blocks.{}", first + i);
                names.add(&format!("{ldm}.0"), &format!("{block}.resnets.{i}"), &UNET_RESNET);
                names.add(&format!("{ldm}.1"), &format!("{block}.attentions.{i}"), &[]);
            }
            // It follows the attention, if there is one.
            for place in [1, 2] {
                let ldm = format!("output_blocks.{}.{place}.conv", first + resnets);
                names.add(&ldm, &format!("{block}.upsamplers.0.conv"), &[]);
            }
        }
        names
    }

    /// The blocks of a VAE with `resnets` resnets per level of the encoder.
    pub(crate) fn vae(levels: usize, resnets: usize) -> Self {
        let mut names = Self { blocks: Vec::new() };
        for name in ["quant_conv", "post_quant_conv"] {
            names.add(name, name, &[]);
        }
        for side in ["encoder", "decoder"] {
            for (ldm, diffusers) in
                [("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out")]
            {
                names.add(&format!("{side}.{ldm}"), &format!("{side}.{diffusers}"), &[]);
            }
            let (ldm, diffusers) = (format!("{side}.mid"), format!("{side}.mid_block"));
            names.add(
                &format!("{ldm}.attn_1"),
                &format!("{diffusers}.attentions.0"),
                &VAE_ATTENTION,
            );
            for i in 0..2 {
                let (ldm, diffusers) =
                    (format!("{ldm}.block_{}", i + 1), format!("{diffusers}.resnets.{i}"));
                names.add(&ldm, &diffusers, &VAE_RESNET);
            }
        }
        for level in 0..levels {
            let (down, up) = (format!("encoder.down.{level}"), format!("decoder.up.{level}"));
            let down_block = format!("encoder.down_blocks.{level}");
            // LDM counts the way up from the finest level, diffusers as it is walked.
            let up_block = format!("decoder.up_blocks.{}", levels - 1 - level);
            for i in 0..=resnets {
                let resnet = format!("resnets.{i}");
                if i < resnets {
                    let ldm = format!("{down}.block.{i}");
                    names.add(&ldm, &format!("{down_block}.{resnet}"), &VAE_RESNET);
                }
                names.add(&format!("{up}.block.{i}"), &format!("{up_block}.{resnet}"), &VAE_RESNET);
            }
            let sampler = format!("{down_block}.downsamplers.0.conv");
            names.add(&format!("{down}.downsample.conv"), &sampler, &[]);
            let sampler = format!("{up_block}.upsamplers.0.conv");
            names.add(&format!("{up}.upsample.conv"), &sampler, &[]);
        }
        names
    }

    /// The diffusers name of an LDM key or module.
    pub(crate) fn to_diffusers(&self, ldm: &str) -> Option<String> {
        let blocks = self.blocks.iter().filter_map(|block| Some((block, inside(ldm, &block.ldm)?)));
        // The longest match: `output_blocks.2.1.conv` lies in no attention.
        let (block, rest) = blocks.max_by_key(|(block, _)| block.ldm.len())?;
        let layers = block.layers.iter().map(|(from, to)| (*from, *to));
        Some(format!("{}{}", block.diffusers, renamed(rest, layers)))
    }

    /// The LDM names of a diffusers key or module: one, or two where the way up leaves it open.
    pub(crate) fn to_ldm(&self, diffusers: &str) -> impl Iterator<Item = String> {
        let blocks = self.blocks.iter().filter_map(move |block| {
            Some((block, inside(diffusers, &block.diffusers)?.to_owned()))
        });
        blocks.map(|(block, rest)| {
            let layers = block.layers.iter().map(|(to, from)| (*from, *to));
            format!("{}{}", block.ldm, renamed(&rest, layers))
        })
    }

    fn add(&mut self, ldm: &str, diffusers: &str, layers: &'static [(&'static str, &'static str)]) {
        let (ldm, diffusers) = (ldm.to_owned(), diffusers.to_owned());
        self.blocks.push(Block { ldm, diffusers, layers });
    }
}

/// What follows `block` in `name`: empty, or beginning with a dot.
fn inside<'a>(name: &'a str, block: &str) -> Option<&'a str> {
    name.strip_prefix(block).filter(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// `.layer.parameter` with the layer renamed, where the table has it.
fn renamed<'a>(rest: &str, layers: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let Some(layer) = rest.strip_prefix('.') else { return rest.to_owned() };
    for (from, to) in layers {
        if let Some(parameter) = inside(layer, from) {
            return format!(".{to}{parameter}");
        }
    }
    rest.to_owned()
}
