//! The method's comparison: the same seed without and with the wrong-LoRA.

use unwrong_models::files::ModelDefaults;

use crate::plan::random_seed;
use crate::request::GenerateRequest;

/// What the original comparison uses; a model may recommend another.
const GUIDANCE_SCALE: f64 = 13.0;
const WRONG_SCALE: f64 = 1.0;

/// The weight of guidance at which the method is shown: the request's, else what the model's
/// maker recommends for it, else 13.
#[must_use]
pub fn guidance_scale(request: &GenerateRequest, defaults: &ModelDefaults) -> f64 {
    request.guidance_scale.or(defaults.compare_guidance_scale).unwrap_or(GUIDANCE_SCALE)
}

/// The two requests of a comparison, left and right.
///
/// Left has no wrong-LoRA and, as the method has it, no negative prompt; right has the LoRA and
/// `wrong` as the negative prompt. Both share the seed. A negative prompt of the user's is in
/// both, so that what differs is the method alone; his other LoRAs are, too.
#[must_use]
pub fn compare_requests(
    request: &GenerateRequest,
    defaults: &ModelDefaults,
) -> [GenerateRequest; 2] {
    let shared = GenerateRequest {
        guidance_scale: Some(guidance_scale(request, defaults)),
        seed: request.seed.or_else(|| Some(random_seed())),
        count: None,
        ..request.clone()
    };
    let scale = request.wrong.or(defaults.wrong_lora_scale).unwrap_or(WRONG_SCALE);
    let left = GenerateRequest { wrong: None, wrong_lora: None, ..shared.clone() };
    let right = GenerateRequest { wrong: Some(scale), ..shared };
    [left, right]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_share_all_but_the_method() {
        let request = GenerateRequest::new("a cat");
        let [left, right] = compare_requests(&request, &ModelDefaults::default());
        assert_eq!(left.seed, right.seed);
        assert!(left.seed.is_some(), "two random seeds would compare nothing");
        assert_eq!((left.wrong, right.wrong), (None, Some(1.0)));
        assert_eq!(GenerateRequest { wrong: None, ..right }, left);
        assert_eq!(left.guidance_scale, Some(13.0));
    }

    #[test]
    fn a_model_may_recommend_other_scales_and_the_user_wins() {
        let defaults = ModelDefaults {
            compare_guidance_scale: Some(7.0),
            wrong_lora_scale: Some(0.8),
            ..ModelDefaults::default()
        };
        let request =
            GenerateRequest { guidance_scale: Some(9.0), ..GenerateRequest::new("a cat") };
        let [_, right] = compare_requests(&request, &defaults);
        assert_eq!((right.guidance_scale, right.wrong), (Some(9.0), Some(0.8)));
    }
}
