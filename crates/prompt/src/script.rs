//! A prompt with everything that stands above words and weights: LoRAs, parts, schedules.

use crate::a1111::{self, LoraTag};
use crate::added::Language;
use crate::conjunction::Conjunction;
use crate::prompt::Syntax;
use crate::warning::{self, Warning};

/// What a request's text asks for in a run of so many steps.
///
/// For [`Syntax::A1111`] the text may name LoRAs, have several parts joined with `AND`, and
/// change from step to step. For every other syntax it is one [`Conjunction`] for all steps.
///
/// ```
/// use unwrong_prompt::{Emphasis, Script, Syntax};
///
/// let syntax = Syntax::A1111 { emphasis: Emphasis::NoNorm };
/// let text = "a [cat:dog:0.5] <lora:ink:0.8> AND a garden :0.6";
/// let (script, warnings) = Script::parse(text, syntax, 30);
/// assert!(warnings.is_empty());
/// assert_eq!(script.loras[0].name, "ink");
/// assert_eq!(script.parts[0].prompt_at(15).source(), "a cat");
/// assert_eq!(script.parts[0].prompt_at(16).source(), "a dog");
/// assert_eq!(script.parts[1].weight, 0.6);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// LoRAs in the order in which they are written, which may name one twice.
    pub loras: Vec<LoraTag>,
    /// One at least.
    pub parts: Vec<Part>,
}

/// A prompt that the picture is guided towards with a weight of its own.
///
/// A1111 predicts noise for every part and for the negative prompt, and takes
/// `negative + Σ over parts: weight · guidance_scale · (part − negative)`.
///
/// A1111 1.10.1, `modules/sd_samplers_cfg_denoiser.py`, `combine_denoised`.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What was written for this part, schedules and all, without networks and the weight.
    pub source: String,
    /// 1 is neutral.
    pub weight: f64,
    /// In the order of steps, one at least; the last one is until the last step.
    pub prompts: Vec<ScheduledPrompt>,
}

/// A prompt up to a step.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduledPrompt {
    /// The last step that this prompt is for, counted from 1. These are steps of the schedule,
    /// never calls of the model: a sampler with two calls a step switches at the same step.
    pub until: usize,
    /// What is encoded.
    pub prompt: Conjunction,
}

/// How many steps a run has, and how schedules count them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// Steps of the run; 0 is taken as 1.
    pub count: usize,
    /// What a number in a schedule means.
    pub switch_time: SwitchTime,
}

/// What the number in `[a:b:0.5]` means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SwitchTime {
    /// With a point in it, a share of the steps; without, a step.
    #[default]
    Current,
    /// Below 1, a share of the steps; else a step, rounded down. A1111 before 1.6, and its
    /// setting "Use old prompt editing timelines".
    Old,
}

impl From<usize> for Steps {
    fn from(count: usize) -> Self {
        Self { count, switch_time: SwitchTime::Current }
    }
}

impl Script {
    /// Reads a prompt.
    #[must_use]
    pub fn parse(
        text: &str,
        language: impl Into<Language>,
        steps: impl Into<Steps>,
    ) -> (Self, Vec<Warning>) {
        let (language, steps) = (language.into(), steps.into());
        let Syntax::A1111 { .. } = language.syntax else {
            return Self::single(text, language, steps);
        };
        let (text, loras, mut warnings) = a1111::take_out(text);
        let (parts, unclear) = a1111::split(&text);
        warning::add(&mut warnings, unclear);
        let parts = parts
            .into_iter()
            .map(|(text, weight)| Part::new(text, weight, &language, steps, &mut warnings))
            .collect();
        (Self { loras, parts }, warnings)
    }

    /// Reads a negative prompt, in which A1111 takes no networks and no `AND`.
    #[must_use]
    pub fn parse_negative(
        text: &str,
        language: impl Into<Language>,
        steps: impl Into<Steps>,
    ) -> (Self, Vec<Warning>) {
        let (language, steps) = (language.into(), steps.into());
        let Syntax::A1111 { .. } = language.syntax else {
            return Self::single(text, language, steps);
        };
        let mut warnings = Vec::new();
        let (_, loras, left_out) = a1111::take_out(text);
        if !loras.is_empty() || !left_out.is_empty() {
            let found = "<…>".to_owned();
            let reason = "networks are read in the prompt, not in the negative prompt";
            warnings.push(Warning::Unread { found, reason });
        }
        let part = Part::new(text, 1.0, &language, steps, &mut warnings);
        (Self { loras: Vec::new(), parts: vec![part] }, warnings)
    }

    /// The prompt, where it is one for all steps, with a neutral weight.
    #[must_use]
    #[expect(clippy::float_cmp, reason = "the weight that was not written")]
    pub fn single_prompt(&self) -> Option<&Conjunction> {
        match &*self.parts {
            [Part { weight, prompts, .. }] if *weight == 1.0 && prompts.len() == 1 => {
                Some(&prompts[0].prompt)
            }
            _ => None,
        }
    }

    fn single(text: &str, language: Language, steps: Steps) -> (Self, Vec<Warning>) {
        let (prompt, warnings) = Conjunction::parse(text, language);
        let prompts = vec![ScheduledPrompt { until: steps.count.max(1), prompt }];
        let part = Part { source: text.to_owned(), weight: 1.0, prompts };
        (Self { loras: Vec::new(), parts: vec![part] }, warnings)
    }
}

impl Part {
    fn new(
        text: &str,
        weight: f64,
        language: &Language,
        steps: Steps,
        warnings: &mut Vec<Warning>,
    ) -> Self {
        let steps = Steps { count: steps.count.max(1), ..steps };
        let (texts, unclear) = a1111::read_schedule(text, steps);
        warning::add(warnings, unclear);
        let prompts = texts.into_iter().map(|(until, text)| {
            let (prompt, unclear) = Conjunction::parse(&text, language.clone());
            warning::add(warnings, unclear);
            ScheduledPrompt { until, prompt }
        });
        let prompts = prompts.collect();
        Self { source: text.to_owned(), weight, prompts }
    }

    /// The prompt for a step, counted from 1; steps after the last are the last.
    #[must_use]
    pub fn prompt_at(&self, step: usize) -> &Conjunction {
        let place = self.prompts.partition_point(|scheduled| scheduled.until < step);
        &self.prompts[place.min(self.prompts.len() - 1)].prompt
    }
}
