//! What the network is told in a training pass, and what every unit sees of it.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use super::TrainingPass;
use crate::error::{Error, Result};
use crate::layers::Run;
use crate::lora::Network;
use crate::text_encoder::{TextEncoder, TokenRow};
use crate::unet::unit::Context;
use crate::unet::{Prepared, Unet};

/// What the network is told about the pictures of a training pass.
#[derive(Clone, Copy)]
pub enum Told<'a> {
    /// Features that stay as they are.
    Features {
        /// `[B, 77n, D]`.
        prompt_embeds: &'a Tensor,
        /// `[B, P]`.
        pooled_embeds: &'a Tensor,
    },
    /// What encoders make of captions, for encoders that are trained. The last one pools.
    Captions(&'a [Reading<'a>]),
}

/// A batch's captions as one encoder reads them.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    /// Which of the model's networks the encoder is.
    pub network: Network,
    /// The encoder.
    pub encoder: &'a TextEncoder,
    /// Token ids of each picture's caption, 77 of them.
    pub ids: &'a [Vec<u32>],
}

impl Told<'_> {
    /// Prompt embeds and pooled embeds; `run` is the pass through a network.
    fn features<'r>(
        &self,
        run: impl Fn(Network) -> Run<'r>,
        device: &Device,
    ) -> Result<(Tensor, Tensor)> {
        let readings = match *self {
            Self::Features { prompt_embeds, pooled_embeds } => {
                return Ok((prompt_embeds.clone(), pooled_embeds.clone()));
            }
            Self::Captions(readings) => readings,
        };
        let (mut embeds, mut pooled) = (None, None);
        for Reading { network, encoder, ids } in readings {
            let run = run(*network);
            let rows: Vec<_> =
                ids.iter().map(|ids| TokenRow { ids, mask: None, added: None }).collect();
            let states = encoder.encode(&run, &rows, device)?;
            pooled = encoder.pool(&run, &states, &rows)?;
            embeds = Some(match embeds {
                Some(before) => run.joined([&before, &states])?,
                None => states,
            });
        }
        embeds.zip(pooled).ok_or(Error::NoPooledOutput)
    }
}

/// What every unit of a training pass looks at.
pub(super) struct Head {
    /// SiLU of the embedding of timesteps and sizes, `[B, E]`.
    pub(super) embedding: Tensor,
    /// `[B, 77n, D]`.
    pub(super) prompt_embeds: Tensor,
}

impl Head {
    /// The same as units take it.
    pub(super) fn prepared(&self) -> Prepared {
        Prepared {
            embedding: self.embedding.clone(),
            keys: HashMap::new(),
            context: Some(self.prompt_embeds.clone()),
        }
    }

    pub(super) fn context<'a>(&'a self, prepared: &'a Prepared) -> Context<'a> {
        Context { embedding: &self.embedding, prepared }
    }
}

impl Unet {
    /// Text, sizes and timesteps; `run` is the pass through a network.
    pub(super) fn head<'r>(
        &self,
        pass: &TrainingPass<'_>,
        run: impl Fn(Network) -> Run<'r>,
    ) -> Result<Head> {
        let (prompt_embeds, pooled_embeds) = pass.told.features(&run, pass.latents.device())?;
        let run = run(Network::Unet);
        let sizes = self.prepare_sizes(&run, &prompt_embeds, &pooled_embeds, pass.time_ids)?;
        let embedding = self.embed(&run, pass.timesteps, &sizes)?;
        Ok(Head { embedding, prompt_embeds })
    }
}
