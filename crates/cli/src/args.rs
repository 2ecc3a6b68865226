//! What may be typed: `unwrong COMMAND …`.
//!
//! Every help text here is also in `docs/cli.md`. Flags carry the names of the request's
//! fields, and what a request may leave out stays absent here: the library knows the
//! defaults once it knows the model.

mod eval;
mod lora;
mod train;

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use unwrong::picture::Quality;
use unwrong::request::{
    Crop, EmbeddingRequest, GenerateRequest, LongPrompt, LoraRequest, NoiseKind, SchedulerName,
    Size, Syntax, WRONG, Weights,
};
use unwrong::wrongs::WEIGHT;

pub(crate) use self::eval::EvalArgs;
pub(crate) use self::lora::{
    LoraBlocksArgs, LoraCommand, LoraConvertArgs, LoraDialect, LoraExtractArgs, LoraHashArgs,
    LoraInspectArgs, LoraMergeArgs, LoraResizeArgs, LoraScaleArgs, LoraWritingArgs,
};
pub(crate) use self::train::{CardArgs, TrainArgs};
use crate::from::located;

/// Pictures from prompts with SDXL, and what the wrong-LoRA does to them.
#[derive(Debug, Parser)]
#[command(name = "unwrong", version, max_term_width = 100, infer_long_args = false)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Draw a prompt.
    #[command(after_help = GENERATE_EXAMPLES, allow_negative_numbers = true)]
    Generate(Box<GenerateArgs>),
    /// Draw a prompt twice, side by side: without the wrong-LoRA and with it.
    ///
    /// Right: the wrong-LoRA, and `wrong` in front of the negative prompt. All else is the same,
    /// the seed too.
    #[command(after_help = COMPARE_EXAMPLES, allow_negative_numbers = true)]
    Compare(Box<CompareArgs>),
    /// Draw the pictures that a wrong-LoRA is trained on.
    ///
    /// Every keyword in turn weighs more than the others, at every guidance scale: by default 78
    /// pictures. The folder is an `imagefolder` of Hugging Face's datasets. A run that was
    /// interrupted goes on when it is started again.
    #[command(after_help = WRONGS_EXAMPLES, allow_negative_numbers = true)]
    Wrongs(Box<WrongsArgs>),
    /// Train a LoRA on a folder of pictures.
    ///
    /// All pictures are looked at before a weight is read. A training that was interrupted goes
    /// on when it is started again, and comes to the same file.
    #[command(after_help = train::EXAMPLES)]
    Train(Box<TrainArgs>),
    /// Compare variants of the method over prompts and seeds, in numbers and pictures.
    ///
    /// Each prompt and seed is drawn by every variant, at the guidance scale of `compare`; a run
    /// that was stopped goes on where it was, and a folder of another experiment is left alone.
    #[command(after_help = eval::EXAMPLES, allow_negative_numbers = true)]
    Eval(Box<EvalArgs>),
    /// Show how a prompt is read: fragments, weights, token ids.
    Tokens(TokensArgs),
    /// Look into LoRA files, change them, and make others of them.
    #[command(subcommand)]
    Lora(LoraCommand),
    /// Print the request that a picture carries.
    Metadata(MetadataArgs),
    /// Measure one part of the work: seconds and memory.
    ///
    /// Weights are touched once before the clock starts; inputs are noise. Peaks of memory
    /// are of the whole program, loading included. `first-step` and `picture` are timed from the
    /// start of the program.
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(Box<BenchArgs>),
}

const GENERATE_EXAMPLES: &str = "Examples:
  unwrong generate \"a red apple, (flat)++\" --seed 7 -o apple.webp
  unwrong generate \"a yellow star\" --wrong --count 4 -o out/
  unwrong generate --from apple.webp --steps 50 -o again.png";

const COMPARE_EXAMPLES: &str = "Example:
  unwrong compare \"a rocket\" --seed 7 -o rocket.webp";

const WRONGS_EXAMPLES: &str = "Examples:
  unwrong wrongs -o wrong-pictures/ --seed 0
  unwrong wrongs -o few/ --keywords blurry,cropped --guidance-scales 10,13 --count 5";

const BENCH_EXAMPLES: &str = "Examples:
  unwrong bench unet --model sdxl/ --size 512x512
  unwrong bench vae-decode --size 1024x1024 --runs 3 --json";

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// What the picture shows; `word++` and `(some words)1.3` weigh more, `word-` less.
    #[arg(required_unless_present_any = ["from", "prompts"])]
    pub(crate) prompt: Option<String>,
    /// A text file with one prompt a line; blank lines and lines with `#` in front are skipped.
    /// Each is drawn with the same seeds.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "from"])]
    pub(crate) prompts: Option<PathBuf>,
    /// How many pictures; each has a seed of its own, one above the last.
    #[arg(long, value_name = "N", value_parser = number::<u32>("a whole number, 1 to 10000"))]
    pub(crate) count: Option<u32>,
    /// Start from the request that a picture carries; what else is given wins.
    #[arg(long, value_name = "PICTURE")]
    pub(crate) from: Option<PathBuf>,
    /// The picture (.png, .webp, .jpg), or a folder, with a slash at its end, for
    /// numbered ones [default: outputs/].
    #[arg(short, long, value_name = "FILE|DIR/")]
    pub(crate) output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) models: ModelArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) dynamic: DynamicArgs,
    #[command(flatten)]
    pub(crate) writing: WritingArgs,
}

/// Prompts that the seed completes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Lists in prompts")]
pub(crate) struct DynamicArgs {
    /// Draw from lists in the prompts, by the seed: `{red|green}`, `{2$$a|b|c}`,
    /// `{3::often|rarely}`.
    #[arg(long)]
    pub(crate) dynamic: bool,
    /// The folder of wildcards: `__animals__` draws a line of animals.txt; implies --dynamic.
    #[arg(long, value_name = "DIR")]
    pub(crate) wildcards: Option<PathBuf>,
}

impl DynamicArgs {
    /// Whether lists are drawn from.
    pub(crate) fn is_asked(&self) -> bool {
        self.dynamic || self.wildcards.is_some()
    }
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// What the pictures show; `word++` and `(some words)1.3` weigh more, `word-` less.
    #[arg(required_unless_present = "prompts")]
    pub(crate) prompt: Option<String>,
    /// A text file with one prompt a line; blank lines and lines with `#` in front are skipped.
    /// Each makes a pair, all with the same seed.
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub(crate) prompts: Option<PathBuf>,
    /// The two pictures in one (.png, .webp, .jpg), or a folder, with a slash at its end, for
    /// numbered ones [default: outputs/].
    #[arg(short, long, value_name = "GRID|DIR/")]
    pub(crate) output: Option<PathBuf>,
    /// Also write the two pictures as 01.png and 02.png here, of several pairs in a numbered
    /// folder each.
    #[arg(long, value_name = "DIR")]
    pub(crate) parts: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) models: ModelArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) dynamic: DynamicArgs,
    #[command(flatten)]
    pub(crate) writing: WritingArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WrongsArgs {
    /// The folder of the pictures and of metadata.jsonl; one that was begun goes on.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// What goes wrong: words with commas between them, or a file with one on each line
    /// [default: the method's 13].
    #[arg(long, value_name = "LIST|FILE")]
    pub(crate) keywords: Option<String>,
    /// How much more one of them weighs: plus signs or a number.
    #[arg(long, value_name = "WEIGHT", default_value = WEIGHT, allow_hyphen_values = true)]
    pub(crate) weight: String,
    /// Each makes a picture of each keyword [default: 8,9,10,11,12,13].
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "guidance_scale",
        value_parser = number::<f64>("numbers, 0 to 1000, with commas between them"))]
    pub(crate) guidance_scales: Vec<f64>,
    /// How many of each; every picture has a seed of its own, one above the last.
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = number::<u32>("a whole number, 1 to 10000"))]
    pub(crate) count: u32,
    /// What training is to say that the pictures show.
    #[arg(long, value_name = "TEXT", default_value = WRONG)]
    pub(crate) text: String,

    #[command(flatten)]
    pub(crate) models: ModelArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) writing: WritingArgs,
}

/// Which files make the picture.
#[derive(Debug, Args)]
#[command(next_help_heading = "Models")]
#[expect(clippy::option_option, reason = "absent, bare and with a scale are three things")]
pub(crate) struct ModelArgs {
    /// The model: a folder in diffusers layout, a .safetensors checkpoint, or `demo`.
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) model: Option<String>,
    /// Another model for the last steps, or `none`.
    #[arg(long, value_name = "NAME|PATH|none")]
    pub(crate) refiner: Option<String>,
    /// A VAE in place of the model's.
    #[arg(long, value_name = "PATH")]
    pub(crate) vae: Option<String>,
    /// A LoRA file and its scale, or `wrong` for the model's wrong-LoRA without its word; may be
    /// given several times [default scale: 1].
    ///
    /// Behind it may stand, each after a colon, other scales for parts of the model, `unet=`,
    /// `te1=`, `te2=`, `te=`, and factors of blocks, `blocks=IN04=0.5,OUT=0` or 12, 20 or 26
    /// numbers: `style.safetensors:0.8:te=0:blocks=OUT=0.5`.
    #[arg(long = "lora", value_name = "PATH[:SCALE]")]
    pub(crate) loras: Vec<LoraRequest>,
    /// Use the model's wrong-LoRA, and put `wrong` in front of the negative prompt.
    #[arg(long, value_name = "SCALE", num_args = 0..=1, require_equals = true,
        value_parser = number::<f64>("a scale, -100 to 100"))]
    pub(crate) wrong: Option<Option<f64>>,
    /// Another wrong-LoRA than the model's.
    #[arg(long, value_name = "PATH")]
    pub(crate) wrong_lora: Option<String>,
    /// The folder of the LoRA files that a prompt names with `<lora:name:1>`.
    #[arg(long, value_name = "DIR")]
    pub(crate) lora_dir: Option<String>,
    /// A textual inversion and the word that stands for it in prompts (ComfyUI's syntax:
    /// `embedding:WORD`); may be given several times [default word: the file's name without its
    /// ending].
    #[arg(long = "embedding", value_name = "PATH[:WORD]")]
    pub(crate) embeddings: Vec<EmbeddingRequest>,
    /// The folder of the textual inversions that prompts name: `name` or `<name>`, and
    /// `embedding:name` in ComfyUI's syntax.
    #[arg(long, value_name = "DIR")]
    pub(crate) embedding_dir: Option<String>,
    /// What computes.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: Device,
    /// How many processor threads work [default: all].
    #[arg(long, value_name = "N", value_parser = number::<usize>("a whole number, 1 to 256"))]
    pub(crate) threads: Option<usize>,
    /// Memory for activations in 10⁹ bytes; a picture that needs more is decoded in overlapping
    /// tiles [default: what is free].
    #[arg(long, value_name = "GB", value_parser = gigabytes)]
    pub(crate) memory: Option<u64>,
}

/// How the picture is made.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// What the picture should not show.
    #[arg(short, long, value_name = "PROMPT")]
    pub(crate) negative_prompt: Option<String>,
    /// What the second text encoder reads in place of the prompt.
    #[arg(long, value_name = "PROMPT")]
    pub(crate) prompt_2: Option<String>,
    /// What the second text encoder reads in place of the negative prompt.
    #[arg(long, value_name = "PROMPT")]
    pub(crate) negative_prompt_2: Option<String>,
    /// The same seed gives the same picture [default: a random one, which is printed].
    #[arg(long, value_name = "N", value_parser = number::<u64>(SEED))]
    pub(crate) seed: Option<u64>,
    /// Denoising steps, base and refiner together [default: the model's, else 50].
    #[arg(long, value_name = "N", value_parser = number::<u32>("a whole number, 1 to 1000"))]
    pub(crate) steps: Option<u32>,
    /// How strongly the prompt pulls [default: the model's, else 7.5; `compare` and `eval`: 13;
    /// `wrongs`: 8 to 13].
    #[arg(long, value_name = "SCALE", value_parser = number::<f64>("a number, 0 to 1000"))]
    pub(crate) guidance_scale: Option<f64>,
    /// Size in pixels: sides of 64 to 8192, multiples of 8 [default: the model's].
    #[arg(long, value_name = "WxH")]
    pub(crate) size: Option<Size>,
    /// The method: euler.
    #[arg(long, value_name = "NAME")]
    pub(crate) scheduler: Option<SchedulerName>,
    /// The part of the noise that the base removes; the refiner removes the rest
    /// [default: 0.8].
    #[arg(long, value_name = "FRACTION", value_parser = number::<f64>("a number, 0 to 1"))]
    pub(crate) high_noise_fraction: Option<f64>,
    /// Whose random numbers a seed stands for: torch-cpu, torch-cuda [default: torch-cpu].
    #[arg(long, value_name = "KIND")]
    pub(crate) noise: Option<NoiseKind>,
    /// How weights are written: compel, a1111, a1111-original, comfy, plain [default: compel].
    #[arg(long, value_name = "NAME")]
    pub(crate) syntax: Option<Syntax>,
    /// Beyond 75 tokens: pad (more chunks), truncate [default: pad].
    #[arg(long, value_name = "NAME")]
    pub(crate) long_prompt: Option<LongPrompt>,
    /// How the UNets compute: native (f32), int8 (linear layers in integers: faster, almost the
    /// same picture) [default: native].
    #[arg(long, value_name = "NAME")]
    pub(crate) weights: Option<Weights>,

    /// Tell the model of another original size [default: the size].
    #[arg(long, value_name = "WxH", help_heading = "Size conditioning")]
    pub(crate) original_size: Option<Size>,
    /// Tell it of a crop's left upper corner [default: 0,0].
    #[arg(long, value_name = "X,Y", help_heading = "Size conditioning")]
    pub(crate) crop: Option<Crop>,
    /// Tell it of another target size [default: the size].
    #[arg(long, value_name = "WxH", help_heading = "Size conditioning")]
    pub(crate) target_size: Option<Size>,
    /// The original size of the negative half.
    #[arg(long, value_name = "WxH", help_heading = "Size conditioning")]
    pub(crate) negative_original_size: Option<Size>,
    /// The crop of the negative half.
    #[arg(long, value_name = "X,Y", help_heading = "Size conditioning")]
    pub(crate) negative_crop: Option<Crop>,
    /// The target size of the negative half.
    #[arg(long, value_name = "WxH", help_heading = "Size conditioning")]
    pub(crate) negative_target_size: Option<Size>,
    /// Tell the refiner how pretty the picture is [default: 6].
    #[arg(long, value_name = "SCORE", help_heading = "Size conditioning",
        value_parser = number::<f64>("a number, -1000 to 1000"))]
    pub(crate) aesthetic_score: Option<f64>,
    /// The aesthetic score of the negative half [default: 2.5].
    #[arg(long, value_name = "SCORE", help_heading = "Size conditioning",
        value_parser = number::<f64>("a number, -1000 to 1000"))]
    pub(crate) negative_aesthetic_score: Option<f64>,
}

/// How files are written and reported.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct WritingArgs {
    /// For .webp and .jpg: 1 to 100, or `lossless` (.webp) [default: 90].
    #[arg(long, value_name = "QUALITY")]
    pub(crate) quality: Option<Quality>,
    /// One JSON object per picture on standard output, in place of its path.
    #[arg(long)]
    pub(crate) json: bool,
    /// Replace files that exist.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TokensArgs {
    /// The prompt to read.
    pub(crate) prompt: String,
    /// How weights are written: compel, a1111, a1111-original, comfy, plain.
    #[arg(long, value_name = "NAME", default_value_t)]
    pub(crate) syntax: Syntax,
    /// Steps that schedules such as `[a:b:0.5]` are read for.
    #[arg(long, value_name = "N", default_value_t = 50,
        value_parser = number::<u32>("a whole number, 1 to 1000"))]
    pub(crate) steps: u32,
    /// Beyond 75 tokens: pad (more chunks), truncate.
    #[arg(long, value_name = "NAME", default_value_t)]
    pub(crate) long_prompt: LongPrompt,
    /// The seed that draws from lists.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number::<u64>(SEED))]
    pub(crate) seed: u64,
    /// A textual inversion and the word that stands for it; may be given several times.
    #[arg(long = "embedding", value_name = "PATH[:WORD]")]
    pub(crate) embeddings: Vec<EmbeddingRequest>,
    /// The folder of the textual inversions that the prompt names.
    #[arg(long, value_name = "DIR")]
    pub(crate) embedding_dir: Option<String>,
    /// One JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) dynamic: DynamicArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MetadataArgs {
    /// A picture that this program made.
    pub(crate) picture: PathBuf,
    /// One JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure.
    pub(crate) row: Row,
    /// Size in pixels: sides of 64 to 8192, multiples of 8 [default: the model's].
    #[arg(long, value_name = "WxH")]
    pub(crate) size: Option<Size>,
    /// Pictures, prompts or halves of guidance in one call [default: 2 for UNets and text
    /// encoders, else 1].
    #[arg(long, value_name = "N", value_parser = |text: &str| within::<u8>(text, &(1..=8)))]
    pub(crate) batch: Option<u8>,
    /// How often it is timed; the median counts.
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = |text: &str| within::<u16>(text, &(1..=u16::MAX)))]
    pub(crate) runs: u16,
    /// How the UNets compute: native, int8 [default: native].
    #[arg(long, value_name = "NAME")]
    pub(crate) weights: Option<Weights>,
    /// One JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) models: ModelArgs,
}

/// What `bench` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// One step of the base's UNet.
    Unet,
    /// One step of the refiner's UNet.
    RefinerUnet,
    /// Latents to pixels.
    VaeDecode,
    /// Pixels to latents.
    VaeEncode,
    /// Both text encoders on prompts of 77 tokens.
    TextEncoders,
    /// The gradients of one training step, rank 4 on every attention.
    Training,
    /// Everything before the first call of the UNet.
    FirstStep,
    /// A whole picture of 3 steps, the last of them the refiner's.
    Picture,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// The processor.
    Cpu,
    /// An NVIDIA card: not yet, no build has it.
    Cuda,
    /// An Apple GPU: not yet, no build has it.
    Metal,
}

/// What a seed is.
const SEED: &str = "a whole number, 0 to 18446744073709551615";

/// Reads a number; what is none is answered with what was `expected`. Whether it makes sense is
/// for the library to say.
fn number<T: FromStr>(expected: &'static str) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| text.trim().parse().map_err(|_| format!("expected {expected}"))
}

/// Reads a whole number of a range.
fn within<T>(text: &str, range: &RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("expected a whole number, {} to {}", range.start(), range.end()))
}

/// Bytes of a number of gigabytes.
fn gigabytes(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok((number * 1e9) as u64),
        _ => Err("expected a number of gigabytes above 0, such as `2.5`".to_owned()),
    }
}

/// Overwrites each field of a request that was given on the command line.
macro_rules! overwrite {
    ($request:ident, $($arguments:expr => $($field:ident),+;)+) => {
        $($(
            if $arguments.$field.is_some() {
                $request.$field.clone_from(&$arguments.$field);
            }
        )+)+
    };
}

impl GenerateArgs {
    /// What the command line says, over `request`.
    pub(crate) fn over(&self, mut request: GenerateRequest) -> GenerateRequest {
        if let Some(prompt) = &self.prompt {
            request.prompt.clone_from(prompt);
        }
        overwrite!(request, self => count;);
        self.sampling.over(self.models.over(request))
    }
}

impl CompareArgs {
    pub(crate) fn request(&self) -> GenerateRequest {
        let prompt = self.prompt.clone().unwrap_or_default();
        self.sampling.over(self.models.over(GenerateRequest::new(prompt)))
    }
}

impl WrongsArgs {
    /// What all pictures have in common.
    pub(crate) fn request(&self) -> GenerateRequest {
        self.sampling.over(self.models.over(GenerateRequest::default()))
    }
}

impl BenchArgs {
    /// The request that names the models, and a small series of steps.
    pub(crate) fn request(&self) -> GenerateRequest {
        let request = GenerateRequest {
            negative_prompt: Some("blurry, flat".to_owned()),
            seed: Some(0),
            steps: Some(3),
            size: self.size,
            weights: self.weights,
            ..GenerateRequest::new("a red apple on a wooden table")
        };
        self.models.over(request)
    }
}

impl ModelArgs {
    fn over(&self, mut request: GenerateRequest) -> GenerateRequest {
        overwrite!(request, self => model, refiner, vae, wrong_lora, lora_dir, embedding_dir;);
        request.loras = located(&request.loras, &self.loras);
        request.embeddings = located(&request.embeddings, &self.embeddings);
        if let Some(scale) = self.wrong {
            request.wrong = Some(scale.unwrap_or(1.0));
        }
        request
    }
}

impl SamplingArgs {
    fn over(&self, mut request: GenerateRequest) -> GenerateRequest {
        overwrite!(request,
            self => negative_prompt, seed, steps, guidance_scale, size, scheduler, high_noise_fraction;
            self => noise, syntax, long_prompt, weights, prompt_2, negative_prompt_2;
            self => original_size, crop, target_size;
            self => negative_original_size, negative_crop, negative_target_size;
            self => aesthetic_score, negative_aesthetic_score;
        );
        request
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    fn generate(line: &[&str]) -> Box<GenerateArgs> {
        let line = ["unwrong", "generate"].iter().chain(line);
        match Cli::try_parse_from(line).map(|cli| cli.command) {
            Ok(Command::Generate(arguments)) => arguments,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_takes_its_scale_after_an_equals_sign_only() {
        let bare = generate(&["--wrong", "a cat"]);
        assert_eq!((bare.models.wrong, bare.prompt.as_deref()), (Some(None), Some("a cat")));
        assert_eq!(generate(&["a cat", "--wrong=0.5"]).models.wrong, Some(Some(0.5)));
        assert_eq!(generate(&["a cat"]).models.wrong, None);
    }

    #[test]
    fn what_is_given_wins_over_the_picture() {
        let picture = GenerateRequest {
            seed: Some(3),
            steps: Some(20),
            wrong: Some(0.5),
            ..GenerateRequest::new("a cat")
        };
        let arguments = generate(&["--from", "cat.png", "--seed", "0", "-n=-dull"]);
        let expected = GenerateRequest {
            seed: Some(0),
            negative_prompt: Some("-dull".to_owned()),
            ..picture.clone()
        };
        assert_eq!(arguments.over(picture), expected);
    }

    #[test]
    fn no_flag_answers_with_the_words_of_a_parser() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
            let flags = command.get_arguments().filter(|flag| flag.get_action().takes_values());
            for flag in flags.filter_map(clap::Arg::get_long) {
                let line = ["unwrong", command.get_name(), &format!("--{flag}=7x")];
                let Err(error) = Cli::try_parse_from(line) else { continue };
                let text = error.to_string();
                for raw in ["invalid digit", "invalid float", "cannot parse"] {
                    assert!(!text.contains(raw), "{}: {text}", command.get_name());
                }
            }
        }
    }

    #[test]
    fn memory_is_a_positive_number_of_gigabytes() {
        assert_eq!(generate(&["a cat", "--memory", "2.5"]).models.memory, Some(2_500_000_000));
        assert_eq!(generate(&["a cat"]).models.memory, None);
        for wrong in ["0", "-1", "NaN", "inf", "much"] {
            let line = ["unwrong", "generate", "a cat", "--memory", wrong];
            assert!(Cli::try_parse_from(line).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_prompt_may_be_left_out_only_with_a_picture() {
        assert!(Cli::try_parse_from(["unwrong", "generate"]).is_err());
        assert_eq!(generate(&["--from", "cat.png"]).prompt, None);
    }
}
