//! The SDXL UNet: noisy latents in, predicted noise out.
//!
//! Stages 7 and 8 of the flow. Base and refiner are the same code with different
//! [`UnetConfig`] values; nothing here asks which one it is. Field names equal checkpoint keys
//! (`down_blocks.0.attentions.1.…`), so loading needs no key map.
//!
//! Reference: diffusers 0.42.1 `UNet2DConditionModel`, compared block by block in
//! `tests/parity.rs`.

mod blocks;
mod embedding;
mod gradients;
mod memory;
mod transformer;
mod unit;

use std::collections::HashMap;

use candle_core::Tensor;

use self::blocks::{DownBlock, MidBlock, UpBlock};
use self::embedding::{Mlp, sinusoid};
pub use self::gradients::{KEPT_BYTES, Reading, Told, TrainingPass};
use self::unit::{Context, Kept, Unit};
use crate::error::{Error, Result};
use crate::files::{UnetConfig, Weights};
use crate::layers::{Conv, Norm, Run};

/// The network, with its weights where the file map has them.
pub struct Unet {
    config: UnetConfig,
    time_embedding: Mlp,
    add_embedding: Mlp,
    conv_in: Conv,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: Norm,
    conv_out: Conv,
}

/// What a prompt and its adapters come to, the same at every step.
pub struct Prepared {
    /// Pooled text and sizes, `[B, 4·C]`, added to the embedding of the timestep.
    embedding: Tensor,
    /// Keys and values `[B, 77n, C]` of every attention to the prompt, by its name.
    keys: HashMap<String, (Tensor, Tensor)>,
    /// The prompt itself, `[B, 77n, D]`, where keys and values are trained too.
    context: Option<Tensor>,
}

impl Prepared {
    fn keys_of(&self, attention: &str) -> Result<(&Tensor, &Tensor)> {
        let found = self.keys.get(attention).map(|(key, value)| (key, value));
        found.ok_or_else(|| Error::NotPrepared { attention: attention.to_owned() })
    }
}

/// The prompts of a batch, without those that are all zeros: an absent negative prompt is.
/// Its keys and values are zeros too, for these layers have no bias unless a LoRA gives them one.
struct Prompts {
    /// `[N, 77n, D]`.
    embeds: Tensor,
    /// Which of them each prompt of the batch is; absent for zeros.
    places: Vec<Option<usize>>,
}

/// Whether a LoRA makes keys or values of a prompt that is all zeros.
fn keys_have_bias(run: &Run<'_>) -> bool {
    run.adapters.iter().any(|(name, adapter)| {
        let is_key = [".attn2.to_k", ".attn2.to_v"].iter().any(|end| name.ends_with(end));
        is_key && adapter.bias.is_some()
    })
}

impl Prompts {
    fn new(prompt_embeds: &Tensor) -> Result<Self> {
        let mut said = Vec::new();
        let mut places = Vec::new();
        for index in 0..prompt_embeds.dim(0)? {
            let prompt = prompt_embeds.narrow(0, index, 1)?;
            let largest = prompt.detach().abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
            places.push((largest != 0.0).then_some(said.len()));
            if largest != 0.0 {
                said.push(prompt);
            }
        }
        if said.is_empty() || said.len() == places.len() {
            return Self::all(prompt_embeds);
        }
        Ok(Self { embeds: Tensor::cat(&said, 0)?, places })
    }

    /// Every prompt, zeros or not.
    fn all(prompt_embeds: &Tensor) -> Result<Self> {
        let places = (0..prompt_embeds.dim(0)?).map(Some).collect();
        Ok(Self { embeds: prompt_embeds.clone(), places })
    }

    /// What was computed from the prompts, with zeros for the others, `[B, 77n, C]`.
    fn whole(&self, computed: Tensor) -> Result<Tensor> {
        if computed.dim(0)? == self.places.len() {
            return Ok(computed);
        }
        let zeros = computed.narrow(0, 0, 1)?.zeros_like()?;
        let part = |place: &Option<usize>| match place {
            Some(place) => computed.narrow(0, *place, 1),
            None => Ok(zeros.clone()),
        };
        let parts = self.places.iter().map(part).collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }
}

impl Unet {
    /// Finds every weight and checks its shape; reads none.
    pub fn load(config: &UnetConfig, weights: &Weights) -> Result<Self> {
        let root = weights.root();
        let first = config.block_out_channels[0];
        let last = config.levels() - 1;
        let embedding = 4 * first;
        let down = root.path("down_blocks");
        let up = root.path("up_blocks");
        Ok(Self {
            time_embedding: Mlp::load(&root.path("time_embedding"), first, embedding)?,
            add_embedding: Mlp::load(
                &root.path("add_embedding"),
                config.projection_class_embeddings_input_dim,
                embedding,
            )?,
            conv_in: Conv::load(&root.path("conv_in"), config.in_channels, first, 3)?,
            down_blocks: (0..=last)
                .map(|level| DownBlock::load(&down.path(level), config, level))
                .collect::<Result<_>>()?,
            mid_block: MidBlock::load(&root.path("mid_block"), config)?,
            up_blocks: (0..=last)
                .map(|index| UpBlock::load(&up.path(index), config, index))
                .collect::<Result<_>>()?,
            conv_norm_out: Norm::load(&root.path("conv_norm_out"), first, config.norm_eps)?,
            conv_out: Conv::load(&root.path("conv_out"), first, config.out_channels, 3)?,
            config: config.clone(),
        })
    }

    /// The config it was built from.
    #[must_use]
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// Everything that depends on the prompt and the adapters alone.
    ///
    /// # Shapes
    /// - `prompt_embeds`: `[B, 77n, D]`; `pooled_embeds`: `[B, P]`; `time_ids`: `[B, 6]` (base)
    ///   or `[B, 5]` (refiner), in pixels and aesthetic score
    pub fn prepare(
        &self,
        run: &Run<'_>,
        prompt_embeds: &Tensor,
        pooled_embeds: &Tensor,
        time_ids: &Tensor,
    ) -> Result<Prepared> {
        // Computed once per prompt: there is no time to win.
        let run = &run.exact();
        let mut prepared = self.prepare_sizes(run, prompt_embeds, pooled_embeds, time_ids)?;
        let prompts = if keys_have_bias(run) {
            Prompts::all(prompt_embeds)?
        } else {
            Prompts::new(prompt_embeds)?
        };
        for block in &self.down_blocks {
            block.prepare(run, &prompts, &mut prepared)?;
        }
        self.mid_block.prepare(run, &prompts, &mut prepared)?;
        for block in &self.up_blocks {
            block.prepare(run, &prompts, &mut prepared)?;
        }
        Ok(prepared)
    }

    /// The embedding of pooled text and sizes.
    fn prepare_sizes(
        &self,
        run: &Run<'_>,
        prompt_embeds: &Tensor,
        pooled_embeds: &Tensor,
        time_ids: &Tensor,
    ) -> Result<Prepared> {
        let (batch, ids) = time_ids.dims2()?;
        let width = self.config.addition_time_embed_dim;
        let found = (prompt_embeds.dim(2)?, pooled_embeds.dim(1)? + ids * width);
        let config = &self.config;
        let expected = (config.cross_attention_dim, config.projection_class_embeddings_input_dim);
        if found != expected {
            return Err(Error::Conditioning { found, expected });
        }
        let ids = time_ids.flatten_all()?.to_vec1::<f32>()?;
        let ids = sinusoid(&ids, width, prompt_embeds.device())?.reshape((batch, ()))?;
        let added = run.joined([pooled_embeds, &ids])?;
        let embedding = self.add_embedding.forward(run, &added)?;
        run.observe("add_embedding", &embedding);
        Ok(Prepared { embedding, keys: HashMap::new(), context: None })
    }

    /// The noise in `latents` (or v, for a v-prediction model).
    ///
    /// # Shapes
    /// - `latents` and the result: `[B, H/8, W/8, 4]`, channels last
    ///
    /// `timestep` is the training index, 0…999; `latents` are already divided by
    /// `sqrt(sigma² + 1)`.
    pub fn forward(
        &self,
        run: &Run<'_>,
        latents: &Tensor,
        timestep: f32,
        prepared: &Prepared,
    ) -> Result<Tensor> {
        let timesteps = vec![timestep; latents.dim(0)?];
        let embedding = self.embed(run, &timesteps, prepared)?;
        let context = Context { embedding: &embedding, prepared };
        let mut kept = Kept::default();
        let mut hidden = latents.clone();
        for unit in self.units() {
            let inputs = kept.inputs(unit, hidden)?;
            hidden = unit.forward(run, inputs, context)?;
        }
        Ok(hidden)
    }

    /// SiLU of the embedding of timesteps, one per picture, and of sizes; every resnet takes it.
    fn embed(&self, run: &Run<'_>, timesteps: &[f32], prepared: &Prepared) -> Result<Tensor> {
        let first = self.config.block_out_channels[0];
        let time = sinusoid(timesteps, first, prepared.embedding.device())?;
        let time = self.time_embedding.forward(run, &time)?;
        run.observe("time_embedding", &time);
        run.silu(&run.added([&time, &prepared.embedding])?)
    }

    /// Down, keeping what the way up will need; middle; up; out.
    fn units(&self) -> Vec<Unit<'_>> {
        let mut units = vec![Unit::Conv { name: "conv_in", conv: &self.conv_in }, Unit::Keep];
        self.down_blocks.iter().for_each(|block| block.list(&mut units));
        self.mid_block.list(&mut units);
        self.up_blocks.iter().for_each(|block| block.list(&mut units));
        let (norm, conv) = (&self.conv_norm_out, &self.conv_out);
        units.push(Unit::Out { norm, groups: self.config.norm_num_groups, conv });
        units
    }
}
