//! What a LoRA file says about itself: `ss_*` as kohya's scripts write it, and `modelspec.*`.
//!
//! A1111, Forge and ComfyUI show the first; the second is Stability's model metadata
//! specification, version 1.0.0. There is no clock in it unless the caller brings one.

use std::collections::BTreeMap;

use serde_json::json;

use crate::data::Dataset;
use crate::trainer::Trainer;

/// What metadata is made from.
pub struct Facts<'a> {
    /// The training, finished or not.
    pub trainer: &'a Trainer<'a>,
    /// Its pictures.
    pub dataset: &'a Dataset,
    /// The model's name.
    pub model: &'a str,
    /// The LoRA's name.
    pub name: &'a str,
    /// Seconds since 1970, where the file shall say when it was made.
    pub time: Option<u64>,
}

/// Keys and texts, sorted.
#[must_use]
pub fn metadata(facts: &Facts<'_>) -> BTreeMap<String, String> {
    let (options, state) = (facts.trainer.options(), facts.trainer.state());
    let data = facts.dataset.options();
    let batches = facts.dataset.batches_per_epoch();
    let epochs = (state.step * options.accumulation as u64).div_ceil(batches.max(1));
    let pictures = facts.dataset.items().len();
    let side = data.side();
    let mut metadata = BTreeMap::new();
    let mut add = |key: &str, value: String| metadata.insert(key.to_owned(), value);

    add("ss_base_model_version", "sdxl_base_v1-0".to_owned());
    add("ss_sd_model_name", facts.model.to_owned());
    add("ss_output_name", facts.name.to_owned());
    add("ss_network_module", "networks.lora".to_owned());
    add("ss_network_dim", options.rank.to_string());
    add("ss_network_alpha", options.alpha().to_string());
    add("ss_network_dropout", options.dropout.to_string());
    add("ss_learning_rate", options.rate.to_string());
    add("ss_unet_lr", options.rate.to_string());
    if options.layers.text_encoders {
        let rate = options.text_encoder_rate.unwrap_or(options.rate);
        add("ss_text_encoder_lr", rate.to_string());
    }
    if options.layers.convolutions {
        let (dim, alpha) = (options.rank.to_string(), options.alpha().to_string());
        add("ss_network_args", json!({ "conv_dim": dim, "conv_alpha": alpha }).to_string());
    }
    add("ss_lr_scheduler", options.schedule.name().to_owned());
    add("ss_lr_warmup_steps", options.warmup.to_string());
    add("ss_optimizer", options.optimizer.kind.name().to_owned());
    add("ss_max_train_steps", options.steps.to_string());
    add("ss_steps", state.step.to_string());
    add("ss_epoch", epochs.to_string());
    add("ss_num_epochs", epochs.to_string());
    add("ss_num_train_images", (pictures * data.repeats as usize).to_string());
    let class = facts.trainer.class().map_or(0, |class| class.items().len());
    add("ss_num_reg_images", (class * data.repeats as usize).to_string());
    if class > 0 {
        add("ss_prior_loss_weight", options.prior_weight.to_string());
    }
    add("ss_num_batches_per_epoch", batches.to_string());
    add("ss_total_batch_size", data.batch_size.to_string());
    add("ss_gradient_accumulation_steps", options.accumulation.to_string());
    add("ss_max_grad_norm", options.max_grad_norm.unwrap_or(0.0).to_string());
    add("ss_noise_offset", options.loss.noise_offset.to_string());
    if let Some(gamma) = options.loss.snr_gamma {
        add("ss_min_snr_gamma", gamma.to_string());
    }
    add("ss_resolution", format!("({side}, {side})"));
    add("ss_seed", options.seed.to_string());
    add("ss_caption_dropout_rate", data.caption_dropout.to_string());
    add("ss_mixed_precision", "no".to_owned());
    add("ss_tag_frequency", json!({ "img": captions(facts.dataset) }).to_string());
    add("ss_bucket_info", buckets(facts.dataset).to_string());

    add("modelspec.sai_model_spec", "1.0.0".to_owned());
    add("modelspec.architecture", "stable-diffusion-xl-v1-base/lora".to_owned());
    add("modelspec.implementation", "https://github.com/Stability-AI/generative-models".to_owned());
    add("modelspec.title", facts.name.to_owned());
    add("modelspec.resolution", format!("{side}x{side}"));
    add("modelspec.prediction_type", facts.trainer.prediction().to_owned());
    if let Some(trigger) = &data.caption {
        add("modelspec.trigger_phrase", trigger.clone());
    }
    if let Some(time) = facts.time {
        add("ss_training_started_at", time.to_string());
        add("modelspec.date", date(time));
    }
    metadata
}

/// How often each caption, or part of one between commas, comes.
fn captions(dataset: &Dataset) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for item in dataset.items() {
        for tag in item.caption.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            *counts.entry(tag).or_insert(0) += 1;
        }
    }
    counts
}

fn buckets(dataset: &Dataset) -> serde_json::Value {
    let buckets = dataset.buckets().into_iter().enumerate().map(|(index, (size, count))| {
        (index.to_string(), json!({ "resolution": [size.width, size.height], "count": count }))
    });
    json!({ "buckets": buckets.collect::<BTreeMap<_, _>>() })
}

/// The day in ISO 8601, by the proleptic Gregorian calendar (Howard Hinnant, "chrono-compatible
/// low-level date algorithms", `civil_from_days`).
fn date(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        let day = 86_400;
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(11_016 * day), "2000-02-29");
        assert_eq!(date(11_017 * day - 1), "2000-02-29");
        assert_eq!(date(47_540 * day), "2100-02-28");
        assert_eq!(date(47_541 * day), "2100-03-01");
    }
}
