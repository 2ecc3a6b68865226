//! What may follow `unwrong eval`.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use unwrong::GenerateRequest;
use unwrong_eval::{Experiment, Follow, Seeds, Unit, Variant, prompts};

use super::{DynamicArgs, ModelArgs, SamplingArgs, number};
use crate::failure::wrong_request;
use crate::prompts::Templates;

pub(super) const EXAMPLES: &str = "Examples:
  unwrong eval --prompts prompts.txt --seeds 0..8 --primary sharpness -o eval/
  unwrong eval --prompts prompts.txt --variant none --variant both \\
      --variant half:wrong=0.5 --variant \"plain:negative-prompt=blurry, ugly\" -o eval/

The default variants: none; word (`wrong` as the negative prompt, no LoRA); lora (the \
wrong-LoRA, no negative prompt); both (the method); keywords (the 13 keywords as the negative \
prompt, no LoRA). Keys of others: negative-prompt=TEXT, wrong=SCALE (the LoRA and its word), \
lora=SCALE (the LoRA without it), guidance-scale=N, prefix=TEXT, suffix=TEXT; a SCALE of `auto` \
is the model's own; `\\,` is a comma inside a text before `key=`.

With `--dynamic` each line of the file is drawn once, for all its seeds.";

#[derive(Debug, Args)]
#[command(mut_arg("seed", |arg| arg.hide(true)))]
#[command(mut_arg("negative_prompt", |arg| arg.hide(true)))]
#[command(mut_arg("prompt_2", |arg| arg.hide(true)))]
#[command(mut_arg("negative_prompt_2", |arg| arg.hide(true)))]
#[command(mut_arg("wrong", |arg| arg.hide(true)))]
#[expect(clippy::option_option, reason = "absent, bare and with a number are three things")]
pub(crate) struct EvalArgs {
    /// A text file with one prompt a line; blank lines and lines with `#` in front are skipped.
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: PathBuf,
    /// The seeds of each prompt, the end not among them, or one seed.
    #[arg(long, value_name = "A..B", default_value = "0..8")]
    pub(crate) seeds: String,
    /// What to compare: the name of a default variant, or a name with what it changes; may be
    /// given several times [default: all five].
    #[arg(long = "variant", value_name = "NAME[:KEY=VALUE,…]")]
    pub(crate) variants: Vec<String>,
    /// What the others are compared with [default: the first variant].
    #[arg(long, value_name = "NAME")]
    pub(crate) baseline: Option<String>,
    /// The metric that decides, named before the pictures are drawn; stands first in the report.
    #[arg(long, value_name = "METRIC")]
    pub(crate) primary: Option<String>,
    /// What counts as one observation.
    #[arg(long, default_value = "pair")]
    pub(crate) unit: UnitArg,
    /// Also ask the model whether each picture follows its prompt: its denoising loss under that
    /// prompt and others of the file, N in all [default N: 8].
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true,
        value_parser = number::<usize>("a whole number, 2 or more"))]
    pub(crate) follow: Option<Option<usize>>,
    /// Levels of noise at which it is asked [default: 4].
    #[arg(long, value_name = "N", requires = "follow",
        value_parser = number::<usize>("a whole number, 1 or more"))]
    pub(crate) follow_levels: Option<usize>,
    /// The folder of pictures, results.jsonl and report.html; a run that was stopped goes on.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,

    #[command(flatten)]
    pub(crate) models: ModelArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) dynamic: DynamicArgs,

    /// One JSON object with the statistics on standard output, in place of the two paths.
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Use a folder with other contents; pictures that are not of this experiment are redrawn.
    #[arg(long, help_heading = "Output")]
    pub(crate) force: bool,
}

/// What counts as one observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum UnitArg {
    /// One prompt with one seed.
    Pair,
    /// One prompt: the mean of its seeds, which are not independent.
    Prompt,
}

impl EvalArgs {
    /// The experiment, all checked that can be checked without a model.
    pub(crate) fn experiment(&self) -> Result<Experiment> {
        self.refuse_what_variants_say()?;
        let shared = self.sampling.over(self.models.over(GenerateRequest::default()));
        // Parsed here and not by clap, which knows no hints.
        let seeds: Seeds = self.seeds.parse()?;
        let prompts = self.drawn(prompts::read(&self.prompts)?, seeds.range().start)?;
        let variants = self.variants.iter().map(|text| text.parse::<Variant>());
        let variants = variants.collect::<Result<_, _>>()?;
        let mut experiment = Experiment::new(prompts, seeds, variants, shared)?;
        experiment = experiment.with_unit(match self.unit {
            UnitArg::Pair => Unit::Pair,
            UnitArg::Prompt => Unit::Prompt,
        });
        if let Some(captions) = self.follow {
            let captions = captions.unwrap_or(Follow::CAPTIONS);
            let levels = self.follow_levels.unwrap_or(Follow::LEVELS);
            let follow = Follow::new(captions, levels, experiment.prompts.len())?;
            experiment = experiment.with_follow(follow);
        }
        if let Some(name) = &self.baseline {
            experiment = experiment.with_baseline(name)?;
        }
        if let Some(name) = &self.primary {
            experiment = experiment.with_primary(name)?;
        }
        Ok(experiment)
    }

    /// The prompts with what they draw from their lists: line by line, from `seed` upwards.
    ///
    /// Once for all seeds, as the pictures of one prompt are compared and counted together.
    fn drawn(&self, prompts: Vec<String>, seed: u64) -> Result<Vec<String>> {
        let draw = |(prompt, seed)| {
            let request = GenerateRequest { seed: Some(seed), ..GenerateRequest::new(prompt) };
            Ok(Templates::read(&request, &self.dynamic)?.draw(request)?.prompt)
        };
        let drawn: Vec<String> =
            prompts.into_iter().zip(seed..).map(draw).collect::<Result<_>>()?;
        let mut seen = HashSet::new();
        match drawn.iter().find(|prompt| !seen.insert(prompt.as_str())) {
            Some(prompt) => Err(wrong_request(
                format!("two prompts draw `{prompt}`"),
                "each prompt counts once: give other seeds or other lists",
            )),
            None => Ok(drawn),
        }
    }

    /// What differs between the variants cannot be the same for all of them.
    fn refuse_what_variants_say(&self) -> Result<()> {
        for (given, flag, hint) in [
            (self.sampling.seed.is_some(), "--seed", "give `--seeds`, such as `--seeds 0..8`"),
            (
                self.sampling.negative_prompt.is_some(),
                "--negative-prompt",
                "give it to a variant: `--variant \"mine:negative-prompt=blurry\"`",
            ),
            (
                self.sampling.prompt_2.is_some() || self.sampling.negative_prompt_2.is_some(),
                "--prompt-2",
                "both text encoders read the prompts of the file",
            ),
            (
                self.models.wrong.is_some(),
                "--wrong",
                "give it to a variant: `--variant mine:wrong=0.5`",
            ),
        ] {
            if given {
                return Err(wrong_request(format!("`{flag}` is not for `eval`"), hint));
            }
        }
        Ok(())
    }
}
