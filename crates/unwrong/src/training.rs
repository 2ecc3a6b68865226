//! What a training asks of an open model.

use candle_core::{Device, Tensor};
use unwrong_models::Run;
use unwrong_models::files::{PredictionType, SchedulerConfig};
use unwrong_models::lora::{Network, Targets};
use unwrong_models::ops::Ops;
use unwrong_models::text_encoder::TextEncoder;
use unwrong_models::unet::Unet;
use unwrong_models::vae::Posterior;
use unwrong_prompt::{Encoder, Prompt};

use crate::encode::{Conditioning, encode_pair};
use crate::error::Result;
use crate::pipeline::Pipeline;
use crate::plan::Plan;
use crate::request::{GenerateRequest, LongPrompt, Syntax};
use crate::schedule::alphas_cumprod;

/// Tokens at the end of a caption that do not fit in 77 with the two that frame it, and are not
/// trained on.
#[must_use]
pub fn caption_dropped(caption: &str) -> usize {
    let (prompt, _) = Prompt::parse(caption, Syntax::Plain);
    prompt.plan(Encoder::BigG, LongPrompt::Truncate.into()).dropped
}

impl Pipeline {
    /// The base's UNet.
    #[must_use]
    pub fn unet(&self) -> &Unet {
        &self.base.unet
    }

    /// Which implementation of the operations runs.
    #[must_use]
    pub fn ops(&self) -> Ops {
        self.ops
    }

    /// Where its tensors are.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The layers that a LoRA can change.
    #[must_use]
    pub fn layers(&self) -> &Targets {
        &self.targets
    }

    /// How the base was trained.
    #[must_use]
    pub fn noise_levels(&self) -> &SchedulerConfig {
        &self.base.scheduler
    }

    /// What the base predicts.
    #[must_use]
    pub fn prediction_type(&self) -> PredictionType {
        self.base.scheduler.prediction_type
    }

    /// The share of the picture's variance that is left at every training step, falling; what
    /// diffusers calls `alphas_cumprod`.
    pub fn alphas_cumprod(&self) -> Result<Vec<f32>> {
        alphas_cumprod(&self.base.scheduler)
    }

    /// What the base is told about a caption, as it is written: weights are no syntax here, and
    /// what does not fit in 77 tokens is cut off, as in diffusers' training scripts.
    pub fn caption(&self, caption: &str) -> Result<Conditioning> {
        let request = GenerateRequest {
            prompt: caption.to_owned(),
            syntax: Some(Syntax::Plain),
            long_prompt: Some(LongPrompt::Truncate),
            seed: Some(0),
            ..GenerateRequest::default()
        };
        let plan = Plan::expand(&request, self.defaults(), self.native_size(), false)?.remove(0);
        Ok(encode_pair(&self.readers(&self.base, &self.unchanged), &plan, true, &self.device)?
            .positive)
    }

    /// The base's text encoders. The last one pools.
    pub fn text_encoders(&self) -> impl Iterator<Item = (Network, &TextEncoder)> {
        self.base.encoders.iter().map(|shared| {
            let network = match shared.encoder {
                Encoder::ClipL => Network::TextEncoder,
                Encoder::BigG => Network::TextEncoder2,
            };
            (network, &shared.network)
        })
    }

    /// The 77 ids that each of them reads of a caption: what [`Pipeline::caption`] has encoded.
    #[must_use]
    pub fn caption_ids(&self, caption: &str) -> Vec<Vec<u32>> {
        let (prompt, _) = Prompt::parse(caption, Syntax::Plain);
        let ids = |encoder| prompt.plan(encoder, LongPrompt::Truncate.into()).chunks[0].ids;
        self.base.encoders.iter().map(|shared| ids(shared.encoder).to_vec()).collect()
    }

    /// The distribution of a picture's latents, not yet scaled.
    ///
    /// # Shapes
    /// - `pixels`: `[1, H, W, 3]` in −1…1; result: `[1, H/8, W/8, 4]`
    pub fn posterior(&self, pixels: &Tensor) -> Result<Posterior> {
        Ok(self.vae.encode(&Run::new(self.ops.exact(), &self.none), pixels)?)
    }

    /// Tells the weights of one model and VAE from those of others.
    pub fn weights_identity(&self) -> Result<String> {
        self.identity.text()
    }

    /// What latents are multiplied with after the VAE.
    #[must_use]
    pub fn scaling_factor(&self) -> f64 {
        self.vae.config().scaling_factor
    }
}
