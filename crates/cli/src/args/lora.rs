//! What may be typed behind `unwrong lora`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use unwrong::lora::{Dialect, Dtype, Keep, Writing};
use unwrong::request::{Blocks, LoraRequest};

use super::number;

const CONVERT_EXAMPLES: &str = "Example:
  unwrong lora convert wrong.safetensors --to kohya -o wrong-a1111.safetensors";

const MERGE_EXAMPLES: &str = "Examples:
  unwrong lora merge ink.safetensors:0.7 light.safetensors:-0.3 -o both.safetensors
  unwrong lora merge ink.safetensors light.safetensors --rank 16 -o both.safetensors
  unwrong lora merge ink.safetensors:0.8 --into sdxl/ -o sdxl-ink/";

const EXTRACT_EXAMPLES: &str = "Example:
  unwrong lora extract --base sdxl.safetensors --tuned ink-xl.safetensors --rank 32 -o ink.safetensors";

const RESIZE_EXAMPLES: &str = "Examples:
  unwrong lora resize ink.safetensors --rank 8 -o ink-8.safetensors
  unwrong lora resize ink.safetensors --energy 0.95 --rank 32 -o ink-small.safetensors";

const BLOCKS_EXAMPLES: &str = "Examples:
  unwrong lora blocks ink.safetensors --weights 1,0,0,0,0,1,1,1,1,1,1,1 -o ink-out.safetensors
  unwrong lora blocks ink.safetensors --weights BASE=0,IN=0,MID=0.5 -o ink-out.safetensors";

#[derive(Debug, Subcommand)]
pub(crate) enum LoraCommand {
    /// Say what a LoRA file changes, and how much.
    Inspect(LoraInspectArgs),
    /// Write a LoRA file in another dialect: every layer does what it did.
    ///
    /// Where a dialect has no word for alpha, the factor goes into the matrices if that is exact,
    /// or into the header as PEFT's config; what cannot be said is refused.
    #[command(after_help = CONVERT_EXAMPLES)]
    Convert(LoraConvertArgs),
    /// Merge LoRA files into one, or into a model.
    ///
    /// Into one file: exactly, ranks add up, or with --rank as the closest in that rank. Into a
    /// model, a folder in diffusers layout or a single-file checkpoint: weight + scale × product,
    /// rounded to the dtype that the model has, one tensor in memory at a time.
    #[command(after_help = MERGE_EXAMPLES)]
    Merge(LoraMergeArgs),
    /// Make a LoRA of what a model has beyond another.
    ///
    /// Linear layers of transformers and text encoders, and with --conv-rank convolutions.
    #[command(after_help = EXTRACT_EXAMPLES)]
    Extract(LoraExtractArgs),
    /// Write a LoRA in fewer ranks: each layer becomes the closest of that rank.
    #[command(after_help = RESIZE_EXAMPLES)]
    Resize(LoraResizeArgs),
    /// Write a LoRA that does at scale 1 what this one does at another.
    #[command(allow_negative_numbers = true)]
    Scale(LoraScaleArgs),
    /// Weigh the blocks of a LoRA, or leave some out.
    #[command(after_help = BLOCKS_EXAMPLES)]
    Blocks(LoraBlocksArgs),
    /// Print the hashes that programs and sites know files by.
    Hash(LoraHashArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LoraInspectArgs {
    /// The LoRA.
    pub(crate) file: PathBuf,
    /// One JSON object on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LoraConvertArgs {
    /// The LoRA, in any dialect.
    pub(crate) file: PathBuf,
    /// Whose keys.
    #[arg(long, value_name = "DIALECT")]
    pub(crate) to: LoraDialect,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// How numbers are stored [default: as they are].
    #[arg(long)]
    pub(crate) dtype: Option<LoraDtype>,
    /// Replace a file that exists.
    #[arg(long)]
    pub(crate) force: bool,
}

/// Whose keys a LoRA file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoraDialect {
    /// Attention processors, as in 2023: UNet attention and text encoders only.
    Diffusers,
    /// What diffusers and PEFT write today.
    Peft,
    /// kohya's scripts, A1111, Forge, ComfyUI.
    Kohya,
}

impl From<LoraDialect> for Dialect {
    fn from(dialect: LoraDialect) -> Self {
        match dialect {
            LoraDialect::Diffusers => Self::Diffusers,
            LoraDialect::Peft => Self::Peft,
            LoraDialect::Kohya => Self::Kohya,
        }
    }
}

/// How the matrices of a LoRA file are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoraDtype {
    /// Single precision, which takes up almost any alpha.
    F32,
    /// Half precision: half as large, each number rounded.
    F16,
    /// The upper half of a single: half as large, coarser than f16, with the range of f32.
    Bf16,
}

impl From<LoraDtype> for Dtype {
    fn from(dtype: LoraDtype) -> Self {
        match dtype {
            LoraDtype::F32 => Self::F32,
            LoraDtype::F16 => Self::F16,
            LoraDtype::Bf16 => Self::Bf16,
        }
    }
}

/// How a LoRA file is written.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct LoraWritingArgs {
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Whose keys [default: those of the source].
    #[arg(long, value_name = "DIALECT")]
    pub(crate) to: Option<LoraDialect>,
    /// How numbers are stored [default: as they are; `extract`: f32].
    #[arg(long)]
    pub(crate) dtype: Option<LoraDtype>,
    /// Replace a file that exists.
    #[arg(long)]
    pub(crate) force: bool,
}

impl LoraWritingArgs {
    pub(crate) fn writing(&self) -> Writing {
        Writing { dialect: self.to.map(Into::into), dtype: self.dtype.map(Into::into) }
    }
}

/// Which ranks are kept.
#[derive(Debug, Args)]
pub(crate) struct KeepArgs {
    /// Ranks of a layer; with one of the rules below, at most so many.
    #[arg(long, value_name = "N", required_unless_present_any = ["energy", "cumulative", "ratio"],
        value_parser = number::<usize>("a whole number, 1 or more"))]
    pub(crate) rank: Option<usize>,
    /// Keep this part of each layer's Frobenius norm (kohya's `sv_fro`).
    #[arg(long, value_name = "PART", conflicts_with_all = ["cumulative", "ratio"],
        value_parser = number::<f64>("a number above 0, up to 1"))]
    pub(crate) energy: Option<f64>,
    /// Keep this part of the sum of each layer's singular values (kohya's `sv_cumulative`).
    #[arg(long, value_name = "PART", conflicts_with = "ratio",
        value_parser = number::<f64>("a number above 0, up to 1"))]
    pub(crate) cumulative: Option<f64>,
    /// Keep singular values above the greatest divided by this (kohya's `sv_ratio`).
    #[arg(long, value_name = "RATIO", value_parser = number::<f64>("a number of 1 or more"))]
    pub(crate) ratio: Option<f64>,
}

impl KeepArgs {
    pub(crate) fn keep(&self) -> Keep {
        let energy = self.energy.map(Keep::Frobenius);
        let cumulative = self.cumulative.map(Keep::Cumulative);
        energy.or(cumulative).or(self.ratio.map(Keep::Ratio)).unwrap_or(Keep::Rank)
    }

    /// Without a number, as many as the rule keeps.
    pub(crate) fn rank(&self) -> usize {
        self.rank.unwrap_or(usize::MAX)
    }
}

#[derive(Debug, Args)]
pub(crate) struct LoraMergeArgs {
    /// The LoRA files, each with its scale, and scales of parts and blocks, as `--lora` takes
    /// them.
    #[arg(required = true, value_name = "PATH[:SCALE]")]
    pub(crate) loras: Vec<LoraRequest>,
    /// Merge into this model: a folder in diffusers layout or a .safetensors checkpoint.
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["rank", "exact", "to"])]
    pub(crate) into: Option<PathBuf>,
    /// Put matrices side by side, so that nothing is lost [default without --rank].
    #[arg(long, conflicts_with = "rank")]
    pub(crate) exact: bool,
    /// Ranks of a layer in the merged file.
    #[arg(long, value_name = "N", value_parser = number::<usize>("a whole number, 1 or more"))]
    pub(crate) rank: Option<usize>,
    /// Ranks of convolutions larger than 1×1 [default: --rank].
    #[arg(long, value_name = "N", requires = "rank", conflicts_with_all = ["exact", "into"],
        value_parser = number::<usize>("a whole number, 1 or more"))]
    pub(crate) conv_rank: Option<usize>,
    /// Cut off numbers beyond this quantile; kohya's script has 0.99 [default: none].
    #[arg(long, value_name = "QUANTILE", requires = "rank",
        conflicts_with_all = ["exact", "into"],
        value_parser = number::<f64>("a number above 0.5, up to 1"))]
    pub(crate) clamp: Option<f64>,
    /// The file to write, or the folder for a model that is one.
    #[arg(short, long, value_name = "FILE|DIR/")]
    pub(crate) output: PathBuf,
    /// Whose keys [default: those of the first file].
    #[arg(long, value_name = "DIALECT")]
    pub(crate) to: Option<LoraDialect>,
    /// How numbers are stored [default: as they are, where that is exact; a model's: as they are].
    #[arg(long)]
    pub(crate) dtype: Option<LoraDtype>,
    /// Replace a file, or a model's folder, that exists.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LoraExtractArgs {
    /// The model as it was: a folder in diffusers layout or a .safetensors checkpoint.
    #[arg(long, value_name = "MODEL")]
    pub(crate) base: PathBuf,
    /// The model that was trained further.
    #[arg(long, value_name = "MODEL")]
    pub(crate) tuned: PathBuf,
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
    /// Ranks of the layers beside transformers, convolutions among them [default: they are left
    /// out].
    #[arg(long, value_name = "N", value_parser = number::<usize>("a whole number, 1 or more"))]
    pub(crate) conv_rank: Option<usize>,
    /// Text encoders that differ by less are left out.
    #[arg(long, value_name = "DIFFERENCE", default_value_t = 0.01,
        value_parser = number::<f64>("a number of 0 or more"))]
    pub(crate) min_diff: f64,
    /// Cut off numbers beyond this quantile; kohya's script has 0.99 [default: none].
    #[arg(long, value_name = "QUANTILE", value_parser = number::<f64>("a number above 0.5, up to 1"))]
    pub(crate) clamp: Option<f64>,
    /// One JSON object on standard output, in place of the path.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) writing: LoraWritingArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LoraResizeArgs {
    /// The LoRA, in any dialect.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
    /// Ranks of convolutions [default: --rank].
    #[arg(long, value_name = "N", value_parser = number::<usize>("a whole number, 1 or more"))]
    pub(crate) conv_rank: Option<usize>,
    /// One JSON object per layer on standard output, in place of the path.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) writing: LoraWritingArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LoraScaleArgs {
    /// The LoRA, in any dialect.
    pub(crate) file: PathBuf,
    /// What its scale is multiplied with.
    #[arg(value_parser = number::<f64>("a number that is not 0"))]
    pub(crate) factor: f64,
    /// Multiply the `up` matrices, not alpha; they are rounded to their dtype.
    #[arg(long)]
    pub(crate) in_weights: bool,
    #[command(flatten)]
    pub(crate) writing: LoraWritingArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LoraBlocksArgs {
    /// The LoRA, in any dialect.
    pub(crate) file: PathBuf,
    /// 12 numbers (BASE, IN04, IN05, IN07, IN08, MID, OUT00 … OUT05), 20 (BASE, IN00 … IN08, MID,
    /// OUT00 … OUT08) or 26 (to IN11 and OUT11), or blocks by name: `IN04=0.5,OUT=0`. BASE is the
    /// text encoders; what has 0 is left out.
    #[arg(long, value_name = "WEIGHTS", allow_hyphen_values = true)]
    pub(crate) weights: Blocks,
    #[command(flatten)]
    pub(crate) writing: LoraWritingArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LoraHashArgs {
    /// Files of any kind.
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// One JSON object per file on standard output.
    #[arg(long)]
    pub(crate) json: bool,
}
