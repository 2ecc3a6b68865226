//! `scheduler/scheduler_config.json`.

use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result};

/// What the UNet predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    #[default]
    Epsilon,
    /// A mixture of noise and picture (Salimans and Ho 2022).
    VPrediction,
}

/// `scheduler/scheduler_config.json`, as diffusers' `EulerDiscreteScheduler` reads it.
///
/// The words stay as the file has them: which of them a schedule can be made from, the
/// schedule decides.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "the file has them, each for itself")]
pub struct SchedulerConfig {
    /// Steps of the training.
    pub num_train_timesteps: usize,
    /// Variance added at the first step.
    pub beta_start: f64,
    /// Variance added at the last step.
    pub beta_end: f64,
    /// How it grows between them.
    pub beta_schedule: String,
    /// All of them, instead.
    pub trained_betas: Option<Vec<f64>>,
    /// What the UNet predicts.
    pub prediction_type: PredictionType,
    /// How sigmas between two training steps are found.
    pub interpolation_type: String,
    /// Sigmas spaced as by Karras et al. 2022.
    #[serde(deserialize_with = "flag")]
    pub use_karras_sigmas: bool,
    /// Sigmas spaced evenly in the logarithm.
    #[serde(deserialize_with = "flag")]
    pub use_exponential_sigmas: bool,
    /// Sigmas spaced by a beta distribution.
    #[serde(deserialize_with = "flag")]
    pub use_beta_sigmas: bool,
    /// Least sigma of those three.
    pub sigma_min: Option<f64>,
    /// Greatest sigma of those three.
    pub sigma_max: Option<f64>,
    /// Which training steps are taken.
    pub timestep_spacing: String,
    /// Whether the UNet is told the step or the sigma.
    pub timestep_type: String,
    /// Added to the training steps of `leading` spacing.
    pub steps_offset: usize,
    /// The last training step is pure noise.
    #[serde(deserialize_with = "flag")]
    pub rescale_betas_zero_snr: bool,
    /// What follows the last step.
    pub final_sigmas_type: String,
}

impl Default for SchedulerConfig {
    /// diffusers' defaults, which are no SDXL model's.
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: "linear".to_owned(),
            trained_betas: None,
            prediction_type: PredictionType::Epsilon,
            interpolation_type: "linear".to_owned(),
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            sigma_min: None,
            sigma_max: None,
            timestep_spacing: "linspace".to_owned(),
            timestep_type: "discrete".to_owned(),
            steps_offset: 0,
            rescale_betas_zero_snr: false,
            final_sigmas_type: "zero".to_owned(),
        }
    }
}

impl SchedulerConfig {
    /// Reads the text of a config; `path` names it in messages.
    pub fn parse(text: &str, path: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Class {
            #[serde(default, rename = "_class_name")]
            class_name: Option<String>,
        }

        let malformed = |error: serde_json::Error| Error::Malformed {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let class: Class = serde_json::from_str(text).map_err(malformed)?;
        // The schedulers of SDXL share these fields; those of another parametrisation do not.
        if let Some(name) = class.class_name
            && (name.starts_with("EDM") || name.starts_with("FlowMatch"))
        {
            return Err(Error::Config {
                field: "_class_name".to_owned(),
                found: name,
                expected: "`EulerDiscreteScheduler`".to_owned(),
                path: path.to_owned(),
            });
        }
        serde_json::from_str(text).map_err(malformed)
    }

    /// `scheduler/scheduler_config.json` of `stabilityai/stable-diffusion-xl-base-1.0` and of
    /// the refiner, which are the same: single-file checkpoints carry none.
    #[must_use]
    pub fn sdxl() -> Self {
        Self {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: "scaled_linear".to_owned(),
            timestep_spacing: "leading".to_owned(),
            steps_offset: 1,
            ..Self::default()
        }
    }
}

/// Published configs write `null` for false.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<bool>::deserialize(deserializer)?.unwrap_or_default())
}
