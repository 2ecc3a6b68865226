//! What a training is asked to do.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use unwrong_models::lora::Network;

use crate::diffusion::LossOptions;
use crate::error::{Error, Result};
use crate::layers::LayerChoice;
use crate::optimizer::{OptimizerKind, OptimizerOptions, RateSchedule};

/// What a training is asked to do, but for its pictures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// Steps of the optimiser.
    pub steps: u64,
    /// Rows of `down`.
    pub rank: usize,
    /// The product is multiplied with `alpha / rank`; absent: 1.
    pub alpha: Option<f64>,
    /// Share of a layer's inputs, 0 to 1, that its matrices do not see; others in every step.
    pub dropout: f64,
    /// Which layers are trained.
    pub layers: LayerChoice,
    /// The learning rate.
    pub rate: f64,
    /// That of the text encoders, where they are trained; absent: the same.
    pub text_encoder_rate: Option<f64>,
    /// How the rate changes.
    pub schedule: RateSchedule,
    /// Steps in which the rate rises to it.
    pub warmup: u64,
    /// Batches whose gradients make one step.
    pub accumulation: usize,
    /// Longest gradient of a step; absent: any.
    pub max_grad_norm: Option<f64>,
    /// What moves the matrices.
    pub optimizer: OptimizerOptions,
    /// How answers count.
    pub loss: LossOptions,
    /// How much the loss of class pictures counts, where there are some.
    pub prior_weight: f64,
    /// The file gets running means of the matrices, of which a step keeps up to this share;
    /// absent: the matrices of the last step.
    pub ema: Option<f64>,
    /// What everything random follows from.
    pub seed: u64,
}

/// Beyond these a number of the LoRA's file, or a step, is none that means anything.
const ALPHAS: RangeInclusive<f64> = 1e-6..=1e6;
const MOST_RATE: f64 = 1e6;
const MOST_WEIGHT: f64 = 1e6;

impl Default for TrainOptions {
    /// The method's: rank 4 on attention, 500 steps of 4 pictures. (What the published
    /// wrong-LoRA was trained with is known for its rank and layers only.)
    fn default() -> Self {
        Self {
            steps: 500,
            rank: 4,
            alpha: None,
            dropout: 0.0,
            layers: LayerChoice::default(),
            rate: 1e-4,
            text_encoder_rate: None,
            schedule: RateSchedule::Constant,
            warmup: 0,
            accumulation: 4,
            max_grad_norm: Some(1.0),
            optimizer: OptimizerOptions::default(),
            loss: LossOptions::default(),
            prior_weight: 1.0,
            ema: None,
            seed: 0,
        }
    }
}

impl TrainOptions {
    /// `alpha`, or what stands for it.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }

    /// The learning rate of a network's layers.
    #[must_use]
    pub fn rate_of(&self, network: Network) -> f64 {
        match network {
            Network::Unet => self.rate,
            Network::TextEncoder | Network::TextEncoder2 => {
                self.text_encoder_rate.unwrap_or(self.rate)
            }
        }
    }

    /// Refuses what nothing can be trained with.
    pub fn check(&self) -> Result<()> {
        let refuse = |field, value: &dyn ToString, expected: &str| {
            let (value, expected) = (value.to_string(), expected.to_owned());
            Err(Error::OutOfRange { field, value, expected })
        };
        if !(1..=10_000_000).contains(&self.steps) {
            return refuse("steps", &self.steps, "1 to 10000000");
        }
        if !(1..=1024).contains(&self.rank) {
            return refuse("rank", &self.rank, "1 to 1024");
        }
        if !ALPHAS.contains(&self.alpha()) {
            return refuse("alpha", &self.alpha(), "0.000001 to 1000000");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse("dropout", &self.dropout, "0 to below 1");
        }
        let is_rate = |rate: f64| rate > 0.0 && rate <= MOST_RATE;
        if !is_rate(self.rate) {
            return refuse("rate", &self.rate, "a number above 0, at most 1000000");
        }
        if let Some(rate) = self.text_encoder_rate.filter(|rate| !is_rate(*rate)) {
            return refuse("text_encoder_rate", &rate, "a number above 0, at most 1000000");
        }
        if self.warmup > self.steps {
            return refuse("warmup", &self.warmup, "at most as many as there are steps");
        }
        if !(1..=100_000).contains(&self.accumulation) {
            return refuse("accumulation", &self.accumulation, "1 to 100000");
        }
        let is_length = |limit: f64| limit.is_finite() && limit > 0.0;
        if let Some(limit) = self.max_grad_norm.filter(|limit| !is_length(*limit)) {
            return refuse("max_grad_norm", &limit, "a finite number above 0, or 0 for any length");
        }
        if !(0.0..=MOST_WEIGHT).contains(&self.prior_weight) {
            return refuse("prior_weight", &self.prior_weight, "0 to 1000000");
        }
        if let Some(decay) = self.ema.filter(|decay| !(0.0..1.0).contains(decay)) {
            return refuse("ema", &decay, "0 to below 1");
        }
        let OptimizerOptions { kind, betas, eps, weight_decay } = self.optimizer;
        if let Some(rate) = self.text_encoder_rate.filter(|_| kind == OptimizerKind::Prodigy)
            && rate.to_bits() != self.rate.to_bits()
        {
            return refuse("text_encoder_rate", &rate, "none: Prodigy finds one rate for all");
        }
        for beta in [betas.0, betas.1] {
            if !(0.0..1.0).contains(&beta) {
                return refuse("betas", &beta, "0 to below 1");
            }
        }
        if !(eps.is_finite() && eps > 0.0) {
            return refuse("eps", &eps, "a number above 0");
        }
        if !(0.0..=MOST_WEIGHT).contains(&weight_decay) {
            return refuse("weight_decay", &weight_decay, "0 to 1000000");
        }
        self.loss.check()
    }
}
