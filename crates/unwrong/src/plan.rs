//! What the program needs for one picture, all checked: ripgrep's `HiArgs` to the request's
//! `LowArgs`.
//!
//! Stage 1 of the flow. A [`Plan`] is made from a request and the opened models, before any
//! weight is read; after it nothing is optional.

use std::sync::Arc;

use unwrong_models::files::ModelDefaults;
use unwrong_prompt::{Language, Script};

use crate::denoiser::is_guided;
use crate::embeddings::EmbeddingSet;
use crate::error::{Error, Result};
use crate::request::{Crop, GenerateRequest, LongPrompt, NoiseKind, Size, Syntax, Weights};

/// diffusers' defaults where neither the user nor the model says anything.
pub(crate) const STEPS: u32 = 50;
const GUIDANCE_SCALE: f64 = 7.5;
const HIGH_NOISE_FRACTION: f64 = 0.8;
const AESTHETIC_SCORE: f64 = 6.0;
const NEGATIVE_AESTHETIC_SCORE: f64 = 2.5;

/// One picture to make.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the picture shows.
    pub prompt: String,
    /// What it should not show.
    pub negative_prompt: NegativePrompt,
    /// What the second of two text encoders reads in place of the prompt.
    pub prompt_2: Option<String>,
    /// What it reads in place of the negative prompt.
    pub negative_prompt_2: Option<String>,
    /// Seed of this picture.
    pub seed: u64,
    /// Steps of base and refiner together.
    pub steps: usize,
    /// Weight of classifier-free guidance.
    pub guidance_scale: f64,
    /// Size of the picture in pixels.
    pub size: Size,
    /// Size conditioning of the picture, and of its negative half.
    pub conditions: Conditions,
    /// Part of the noise levels that the base takes; 1 without a refiner.
    pub high_noise_fraction: f64,
    /// Whose random numbers the seed stands for.
    pub noise: NoiseKind,
    /// How weights are written in the prompts.
    pub syntax: Syntax,
    /// What happens to a prompt of more than 75 tokens.
    pub long_prompt: LongPrompt,
    /// How the UNets' weights enter the arithmetic.
    pub weights: Weights,
    /// What the words of textual inversions stand for.
    pub(crate) embeddings: Arc<EmbeddingSet>,
    /// The request that makes this picture alone.
    pub alone: GenerateRequest,
}

/// What the picture should not show. Absent is not empty: the two give different pictures.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NegativePrompt {
    /// No negative text: the unconditional embeddings follow the model's config.
    Absent,
    /// This text, which may be empty, is encoded like any other.
    Text(String),
}

/// SDXL's micro-conditioning, as the user gave it and completed as diffusers does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    original: Size,
    crop: Crop,
    target: Size,
    negative_original: Option<Size>,
    negative_crop: Crop,
    negative_target: Option<Size>,
    aesthetic_score: f64,
    negative_aesthetic_score: f64,
}

impl Conditions {
    /// `[height, width, top, left, target height, target width]` of the base: positive, negative.
    ///
    /// The negative sizes count only when both are given, as in `StableDiffusionXLPipeline`.
    #[must_use]
    pub fn base(&self) -> [Vec<f32>; 2] {
        let positive = sizes(self.original, self.crop, Some(self.target));
        let negative = match (self.negative_original, self.negative_target) {
            (Some(original), Some(target)) => sizes(original, self.negative_crop, Some(target)),
            _ => positive.clone(),
        };
        [positive, negative]
    }

    /// `[height, width, top, left, aesthetic score]` of the refiner: positive, negative; or with
    /// the target size in place of the score for a model that knows no score.
    ///
    /// Here a missing negative value has its own default, as in `StableDiffusionXLImg2ImgPipeline`.
    #[must_use]
    pub fn refiner(&self, aesthetics: bool) -> [Vec<f32>; 2] {
        let negative_original = self.negative_original.unwrap_or(self.original);
        if aesthetics {
            let mut positive = sizes(self.original, self.crop, None);
            positive.push(self.aesthetic_score as f32);
            let mut negative = sizes(negative_original, self.negative_crop, None);
            negative.push(self.negative_aesthetic_score as f32);
            [positive, negative]
        } else {
            let negative_target = self.negative_target.unwrap_or(self.target);
            [
                sizes(self.original, self.crop, Some(self.target)),
                sizes(negative_original, self.negative_crop, Some(negative_target)),
            ]
        }
    }
}

fn sizes(original: Size, crop: Crop, target: Option<Size>) -> Vec<f32> {
    [original.height, original.width, crop.y, crop.x]
        .into_iter()
        .chain(target.into_iter().flat_map(|target| [target.height, target.width]))
        .map(|pixels| pixels as f32)
        .collect()
}

impl NegativePrompt {
    /// What there is to read.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Absent => "",
            Self::Text(text) => text,
        }
    }
}

impl Plan {
    /// Whether there is nothing to go away from. In A1111 (`sd_models_xl.py`,
    /// `force_zero_negative_prompt`) an empty negative prompt is none.
    pub(crate) fn has_no_negative(&self) -> bool {
        if self.syntax.is_a1111() {
            self.negative_prompt.text().is_empty() && self.negative_prompt_2.is_none()
        } else {
            self.negative_prompt == NegativePrompt::Absent
        }
    }

    /// How the prompts are read.
    pub(crate) fn language(&self) -> Language {
        Language { added: self.embeddings.words.clone(), ..self.syntax.into() }
    }

    /// How many prompts the first step asks about.
    pub(crate) fn rows(&self) -> usize {
        let (script, _) = Script::parse(&self.prompt, self.syntax, self.steps);
        let parts = script.parts.len();
        if self.is_guided(parts) { parts + 1 } else { 1 }
    }

    /// Whether the negative prompt counts: also where several positive ones are joined.
    pub(crate) fn is_guided(&self, parts: usize) -> bool {
        is_guided(self.guidance_scale) || parts > 1
    }

    /// Whether two pictures are told the same, so that they can share what is computed from it.
    pub(crate) fn same_conditioning(&self, other: &Self) -> bool {
        self.prompt == other.prompt
            && self.negative_prompt == other.negative_prompt
            && self.prompt_2 == other.prompt_2
            && self.negative_prompt_2 == other.negative_prompt_2
            && self.conditions == other.conditions
            && self.syntax == other.syntax
            && self.long_prompt == other.long_prompt
            && Arc::ptr_eq(&self.embeddings, &other.embeddings)
            // Schedules count the steps.
            && (self.steps == other.steps || !self.syntax.is_a1111())
            && is_guided(self.guidance_scale) == is_guided(other.guidance_scale)
    }

    /// The plans of one request: `count` of them, with seeds that follow each other.
    pub(crate) fn expand(
        request: &GenerateRequest,
        defaults: &ModelDefaults,
        native: Size,
        has_refiner: bool,
    ) -> Result<Vec<Self>> {
        request.check()?;
        let high_noise_fraction = fraction(request, has_refiner)?;
        let size = request.size.or(defaults_size(defaults)?).unwrap_or(native);
        let first = request.seed.unwrap_or_else(random_seed);
        let steps = request.steps.or(defaults.steps).unwrap_or(STEPS);
        let guidance_scale =
            request.guidance_scale.or(defaults.guidance_scale).unwrap_or(GUIDANCE_SCALE);
        // What a model's `unwrong.toml` recommends is held to the limits of a request.
        let filled = GenerateRequest {
            steps: Some(steps),
            guidance_scale: Some(guidance_scale),
            ..request.clone()
        };
        filled.check()?;
        let plan = |k: u32| {
            let seed = first + u64::from(k);
            // What came from defaults is written down: a default may change, a picture may not.
            let alone = GenerateRequest {
                seed: Some(seed),
                count: None,
                steps: Some(steps),
                guidance_scale: Some(guidance_scale),
                size: Some(size),
                high_noise_fraction: has_refiner.then_some(high_noise_fraction),
                ..request.clone()
            };
            Self {
                prompt: request.prompt.clone(),
                negative_prompt: match request.full_negative_prompt() {
                    Some(text) => NegativePrompt::Text(text),
                    // One encoder has something to read: the other reads nothing.
                    None if request.negative_prompt_2.is_some() => {
                        NegativePrompt::Text(String::new())
                    }
                    None => NegativePrompt::Absent,
                },
                prompt_2: request.prompt_2.clone(),
                negative_prompt_2: request.full_negative_prompt_2(),
                seed,
                steps: steps as usize,
                guidance_scale,
                size,
                conditions: conditions(request, size),
                high_noise_fraction,
                noise: request.noise.unwrap_or_default(),
                syntax: request.syntax.unwrap_or_default(),
                long_prompt: request.long_prompt.unwrap_or_default(),
                weights: request.weights.unwrap_or_default(),
                embeddings: Arc::default(),
                alone,
            }
        };
        Ok((0..request.count.unwrap_or(1)).map(plan).collect())
    }
}

fn conditions(request: &GenerateRequest, size: Size) -> Conditions {
    Conditions {
        original: request.original_size.unwrap_or(size),
        crop: request.crop.unwrap_or_default(),
        target: request.target_size.unwrap_or(size),
        negative_original: request.negative_original_size,
        negative_crop: request.negative_crop.unwrap_or_default(),
        negative_target: request.negative_target_size,
        aesthetic_score: request.aesthetic_score.unwrap_or(AESTHETIC_SCORE),
        negative_aesthetic_score: request
            .negative_aesthetic_score
            .unwrap_or(NEGATIVE_AESTHETIC_SCORE),
    }
}

fn fraction(request: &GenerateRequest, has_refiner: bool) -> Result<f64> {
    match request.high_noise_fraction {
        // Stopping early with nobody to go on would leave noise in the picture.
        Some(fraction) if !has_refiner && fraction < 1.0 => Err(Error::Request {
            problem: format!("`high_noise_fraction` is {fraction}, but there is no refiner"),
            hint: Some("name one with `--refiner`, or leave the fraction out".to_owned()),
        }),
        Some(fraction) => Ok(fraction),
        None if has_refiner => Ok(HIGH_NOISE_FRACTION),
        None => Ok(1.0),
    }
}

fn defaults_size(defaults: &ModelDefaults) -> Result<Option<Size>> {
    let Some(text) = &defaults.size else { return Ok(None) };
    let size: Size = text.parse()?;
    size.check()?;
    Ok(Some(size))
}

/// A seed short enough to read out, as the original notebook draws it: 0…10⁸.
pub(crate) fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's only source of randomness: keys of a hash map.
    std::collections::hash_map::RandomState::new().build_hasher().finish() % 100_000_000
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const NATIVE: Size = Size { width: 1024, height: 768 };

    fn plan(request: &GenerateRequest) -> Plan {
        Plan::expand(request, &ModelDefaults::default(), NATIVE, true).unwrap().remove(0)
    }

    #[test]
    fn seed_zero_is_a_seed() {
        let request = GenerateRequest { seed: Some(0), ..GenerateRequest::new("a cat") };
        assert_eq!(plan(&request).seed, 0);
    }

    #[test]
    fn absent_and_empty_negatives_are_two_things() {
        let absent = GenerateRequest::new("a cat");
        let empty = GenerateRequest { negative_prompt: Some(String::new()), ..absent.clone() };
        assert_eq!(plan(&absent).negative_prompt, NegativePrompt::Absent);
        assert_eq!(plan(&empty).negative_prompt, NegativePrompt::Text(String::new()));
    }

    #[test]
    fn wrong_goes_in_front_of_the_negative_prompt() {
        let wrong = GenerateRequest { wrong: Some(1.0), ..GenerateRequest::new("a cat") };
        let both = GenerateRequest { negative_prompt: Some("(dull)++".into()), ..wrong.clone() };
        assert_eq!(plan(&wrong).negative_prompt, NegativePrompt::Text("wrong".into()));
        assert_eq!(plan(&both).negative_prompt, NegativePrompt::Text("wrong, (dull)++".into()));
    }

    #[test]
    fn every_picture_of_a_series_has_its_own_seed_and_request() {
        let request =
            GenerateRequest { seed: Some(3), count: Some(4), ..GenerateRequest::new("a cat") };
        let plans = Plan::expand(&request, &ModelDefaults::default(), NATIVE, true).unwrap();
        assert_eq!(plans.iter().map(|plan| plan.seed).collect::<Vec<_>>(), [3, 4, 5, 6]);
        let alone = GenerateRequest {
            seed: Some(5),
            steps: Some(50),
            guidance_scale: Some(7.5),
            size: Some(NATIVE),
            high_noise_fraction: Some(0.8),
            ..GenerateRequest::new("a cat")
        };
        assert_eq!(plans[2].alone, alone);
    }

    #[test]
    fn a_fraction_without_a_refiner_is_refused() {
        let request =
            GenerateRequest { high_noise_fraction: Some(0.8), ..GenerateRequest::new("a cat") };
        let error = Plan::expand(&request, &ModelDefaults::default(), NATIVE, false).unwrap_err();
        assert!(error.to_string().contains("no refiner"), "{error}");
    }

    #[test]
    fn sizes_are_height_first_and_negatives_follow_diffusers() {
        let request = GenerateRequest {
            crop: Some(Crop { x: 7, y: 5 }),
            negative_original_size: Some(Size { width: 512, height: 256 }),
            ..GenerateRequest::new("a cat")
        };
        let conditions = plan(&request).conditions;
        let positive = vec![768.0, 1024.0, 5.0, 7.0, 768.0, 1024.0];
        // One negative size alone does not count for the base …
        assert_eq!(conditions.base(), [positive.clone(), positive]);
        // … but does for the refiner, whose negative crop has its own default.
        let expected = [vec![768.0, 1024.0, 5.0, 7.0, 6.0], vec![256.0, 512.0, 0.0, 0.0, 2.5]];
        assert_eq!(conditions.refiner(true), expected);
    }
}
