//! What `unwrong train` may be told.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use unwrong_train::data::{CropChoice, DataOptions, Framing};
use unwrong_train::{
    LayerChoice, LossOptions, OptimizerKind, OptimizerOptions, RateSchedule as Schedule,
    RunOptions, SampleOptions, TrainOptions,
};

use super::{Device, LoraDialect, SEED, number};

pub(super) const EXAMPLES: &str = "Examples:
  unwrong wrongs -o wrong-pictures/ --seed 0
  unwrong train wrong-pictures/ --preset wrong -o wrong.safetensors \\
      --sample-prompt \"a red apple\" --sample-every 50
  unwrong train cats/ --trigger \"a photo of my cat\" --rank 16 --rate 2e-4 \\
      -o cat.safetensors";

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// A folder of pictures (PNG, JPEG, WebP). Captions are in NAME.txt beside a picture, in
    /// metadata.jsonl, or one for all: --trigger.
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// The LoRA. Checkpoints and what was computed once lie beside it, in NAME.training/.
    #[arg(short, long, value_name = "LORA.safetensors")]
    pub(crate) output: PathBuf,
    /// Begin with the options of this; what else is given wins.
    #[arg(long)]
    pub(crate) preset: Option<Preset>,
    /// Model: a name, a folder or a single file [default: demo].
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) model: Option<String>,
    /// A VAE in place of the model's own.
    #[arg(long, value_name = "PATH")]
    pub(crate) vae: Option<String>,

    #[command(flatten, next_help_heading = "Pictures")]
    pub(crate) pictures: PictureArgs,
    #[command(flatten, next_help_heading = "Class pictures")]
    pub(crate) class: ClassArgs,

    /// Steps of the optimiser [default: 500].
    #[arg(long, value_name = "N", help_heading = "Training",
        value_parser = number::<u64>("a whole number, 1 to 10000000"))]
    pub(crate) steps: Option<u64>,
    /// Pictures that go through the network at once [default: 1].
    #[arg(long, value_name = "N", help_heading = "Training",
        value_parser = number::<usize>("a whole number, 1 or more"))]
    pub(crate) batch: Option<usize>,
    /// Batches that make one step [default: 4].
    #[arg(long, value_name = "N", help_heading = "Training",
        value_parser = number::<usize>("a whole number, 1 to 100000"))]
    pub(crate) accumulation: Option<usize>,
    /// Rank of the matrices [default: 4].
    #[arg(long, value_name = "N", help_heading = "Training",
        value_parser = number::<usize>("a whole number, 1 to 1024"))]
    pub(crate) rank: Option<usize>,
    /// Their product is multiplied with alpha / rank [default: the rank].
    #[arg(long, value_name = "ALPHA", help_heading = "Training",
        allow_negative_numbers = true, value_parser = number::<f64>("a number, 1e-6 to 1e6"))]
    pub(crate) alpha: Option<f64>,
    /// What moves the matrices [default: adamw].
    #[arg(long, help_heading = "Training")]
    pub(crate) optimizer: Option<OptimizerArg>,
    /// Learning rate [default: 1e-4; with Prodigy: 1].
    #[arg(long, value_name = "RATE", help_heading = "Training",
        allow_negative_numbers = true,
        value_parser = number::<f64>("a number above 0, at most 1e6, such as `1e-4`"))]
    pub(crate) rate: Option<f64>,
    /// How the learning rate changes [default: constant].
    #[arg(long, help_heading = "Training")]
    pub(crate) schedule: Option<RateSchedule>,
    /// Steps in which the learning rate rises to it [default: 0].
    #[arg(long, value_name = "N", help_heading = "Training",
        value_parser = number::<u64>("a whole number, 0 to the number of steps"))]
    pub(crate) warmup: Option<u64>,
    /// Which layers of the UNet are trained [default: attention].
    #[arg(long, value_delimiter = ',', value_name = "LIST", help_heading = "Training")]
    pub(crate) layers: Vec<Layers>,
    /// Train the attention of both text encoders, too; with --layers feed-forward also the two
    /// layers after it.
    #[arg(long, visible_alias = "train-text-encoder", help_heading = "Training")]
    pub(crate) train_text_encoders: bool,
    /// Their learning rate [default: that of the UNet].
    #[arg(long, value_name = "RATE", requires = "train_text_encoders", help_heading = "Training",
        allow_negative_numbers = true,
        value_parser = number::<f64>("a number above 0, at most 1e6, such as `5e-5`"))]
    pub(crate) text_encoder_rate: Option<f64>,
    /// Share of a layer's inputs, 0 to 1, that its matrices do not see in a step [default: 0].
    #[arg(long, value_name = "SHARE", help_heading = "Training",
        allow_negative_numbers = true, value_parser = number::<f64>("a number, 0 to below 1"))]
    pub(crate) dropout: Option<f64>,
    /// Weigh little noise no more than this signal-to-noise ratio (min-SNR; 5 is usual).
    #[arg(long, value_name = "GAMMA", help_heading = "Training",
        allow_negative_numbers = true, value_parser = number::<f64>("a number above 0"))]
    pub(crate) snr_gamma: Option<f64>,
    /// Add a constant per channel to the noise, this large [default: 0].
    #[arg(long, value_name = "SIZE", help_heading = "Training",
        allow_negative_numbers = true, value_parser = number::<f64>("a number, 0 to 1"))]
    pub(crate) noise_offset: Option<f64>,
    /// Longest gradient of a step; 0 for any [default: 1].
    #[arg(long, value_name = "LENGTH", help_heading = "Training",
        allow_negative_numbers = true,
        value_parser = number::<f64>("a finite number above 0, or 0 for any length"))]
    pub(crate) max_grad_norm: Option<f64>,
    /// Share of a matrix that is taken away per unit of the rate [default: 0.01].
    #[arg(long, value_name = "SHARE", help_heading = "Training",
        allow_negative_numbers = true, value_parser = number::<f64>("a number, 0 or more"))]
    pub(crate) weight_decay: Option<f64>,
    /// Write running means of the matrices, which keep up to this share in a step (EMA; 0.99 to
    /// 0.9999 are usual).
    #[arg(long, value_name = "DECAY", help_heading = "Training",
        allow_negative_numbers = true, value_parser = number::<f64>("a number, 0 to below 1"))]
    pub(crate) ema: Option<f64>,
    /// What order, crops, noise and first matrices follow from.
    #[arg(long, value_name = "SEED", default_value_t = 0, help_heading = "Training",
        value_parser = number::<u64>(SEED))]
    pub(crate) seed: u64,

    #[command(flatten, next_help_heading = "Watching")]
    pub(crate) watching: WatchArgs,
    #[command(flatten, next_help_heading = "Model card")]
    pub(crate) card: CardArgs,

    /// Steps from one checkpoint to the next; 0 for none but the last.
    #[arg(long, value_name = "N", default_value_t = 100, help_heading = "Running",
        value_parser = number::<u64>("a whole number, 0 or more"))]
    pub(crate) checkpoint_every: u64,
    /// How the file names its tensors.
    #[arg(long, value_name = "DIALECT", default_value = "kohya", help_heading = "Running")]
    pub(crate) format: LoraDialect,
    /// Begin anew where checkpoints are, and overwrite the LoRA. Logs and samples beside the
    /// checkpoints go, too.
    #[arg(long, help_heading = "Running")]
    pub(crate) force: bool,
    /// What computes.
    #[arg(long, default_value = "cpu", help_heading = "Running")]
    pub(crate) device: Device,
    /// How many processor threads work [default: all].
    #[arg(long, value_name = "N", help_heading = "Running",
        value_parser = number::<usize>("a whole number, 1 to 256"))]
    pub(crate) threads: Option<usize>,
    /// Memory beside the weights in 10⁹ bytes; a training that needs more is refused before it
    /// begins [default: what is free].
    #[arg(long, value_name = "GB", value_parser = super::gigabytes, help_heading = "Running")]
    pub(crate) memory: Option<u64>,
}

/// Pictures of what the subject is one of, so that the model does not forget the others.
#[derive(Debug, Args)]
pub(crate) struct ClassArgs {
    /// A folder of them; every batch comes with one of these (prior preservation).
    #[arg(long, value_name = "DIR", requires = "class_prompt")]
    pub(crate) class_dir: Option<PathBuf>,
    /// The caption of those without one: what the subject is, without its own word.
    #[arg(long, value_name = "TEXT", requires = "class_dir")]
    pub(crate) class_prompt: Option<String>,
    /// How much their loss counts [default: 1].
    #[arg(long, value_name = "WEIGHT", requires = "class_dir",
        allow_negative_numbers = true, value_parser = number::<f64>("a number, 0 to 1e6"))]
    pub(crate) prior_weight: Option<f64>,
}

/// What a training leaves to look at.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Draw this now and then, into NAME.training/samples/STEP-PROMPT.png; may be given several
    /// times. With --preset wrong, the trained word is the negative prompt.
    #[arg(long = "sample-prompt", value_name = "TEXT")]
    pub(crate) sample_prompts: Vec<String>,
    /// What the samples should not show.
    #[arg(long, value_name = "TEXT", requires = "sample_prompts")]
    pub(crate) sample_negative_prompt: Option<String>,
    /// Steps of the training from one time to the next; 0 for before the first and after the
    /// last only [default: 100].
    #[arg(long, value_name = "N", requires = "sample_prompts",
        value_parser = number::<u64>("a whole number, 0 or more"))]
    pub(crate) sample_every: Option<u64>,
    /// Their denoising steps [default: the model's, else 50].
    #[arg(long, value_name = "N", requires = "sample_prompts",
        value_parser = number::<u32>("a whole number, 1 to 1000"))]
    pub(crate) sample_steps: Option<u32>,
    /// Write TensorBoard's event files into DIR/NAME [default: NAME.training/logs].
    #[arg(long, value_name = "DIR")]
    pub(crate) log_dir: Option<PathBuf>,
}

/// What NAME.md says that no program knows.
#[derive(Debug, Args)]
pub(crate) struct CardArgs {
    /// The model's name at Hugging Face [default: found in --model, if that says it].
    #[arg(long, value_name = "OWNER/NAME")]
    pub(crate) base_model: Option<String>,
    /// The LoRA's licence, as Hugging Face abbreviates it, such as `openrail++`.
    #[arg(long, value_name = "NAME")]
    pub(crate) license: Option<String>,
}

/// Which pictures, and how they are seen.
#[derive(Debug, Args)]
pub(crate) struct PictureArgs {
    /// The caption of pictures without one.
    #[arg(long, value_name = "TEXT")]
    pub(crate) trigger: Option<String>,
    /// Side of a square picture in pixels [default: what the model draws best].
    #[arg(long, value_name = "PIXELS", value_parser = number::<u32>("a whole number, 64 to 4096"))]
    pub(crate) resolution: Option<u32>,
    /// Which shapes pictures are trained in.
    #[arg(long, default_value = "buckets")]
    pub(crate) framing: FramingArg,
    /// Which part of a picture that is larger than its bucket.
    #[arg(long, default_value = "centre")]
    pub(crate) crop: CropArg,
    /// Mirror half of the pictures.
    #[arg(long)]
    pub(crate) flip: bool,
    /// How often every picture comes in an epoch.
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = number::<u32>("a whole number, 1 to 100000"))]
    pub(crate) repeats: u32,
    /// Share of the captions, 0 to 1, that are left out.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0,
        allow_negative_numbers = true, value_parser = number::<f64>("a number, 0 to 1"))]
    pub(crate) caption_dropout: f64,
    /// Read the folders within, too.
    #[arg(long)]
    pub(crate) recursive: bool,
    /// Refuse a folder with files that cannot be used, rather than name and skip them.
    #[arg(long)]
    pub(crate) strict: bool,
}

/// Which shapes pictures are trained in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FramingArg {
    /// The bucket with the nearest aspect ratio.
    Buckets,
    /// The same, but small pictures are not enlarged.
    NoUpscale,
    /// A square: all else is cropped away.
    Square,
}

/// Which part of a picture is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CropArg {
    /// The middle.
    Centre,
    /// Another one in every epoch.
    Random,
}

/// Options that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// The method: the caption `wrong` for all, rank 4 on attention, 500 steps of 4 pictures.
    Wrong,
}

/// What moves the matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OptimizerArg {
    /// Adam with decoupled weight decay.
    #[value(name = "adamw")]
    AdamW,
    /// Adam that finds its rate; takes the memory of two more copies of the matrices.
    Prodigy,
}

/// How the learning rate changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RateSchedule {
    /// Not at all.
    Constant,
    /// Half a cosine, to zero.
    Cosine,
    /// A straight line, to zero.
    Linear,
}

/// Layers of the UNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layers {
    /// Queries, keys, values and outputs.
    Attention,
    /// The two layers after them, and the projections around a transformer.
    FeedForward,
    /// Those of resnets, and those that change the resolution.
    Convolutions,
    /// What timestep, sizes and pooled text go through.
    Embeddings,
}

impl TrainArgs {
    /// The caption for all, by flag or preset.
    pub(crate) fn caption(&self) -> Option<String> {
        let wrong = self.is_negative().then(|| "wrong".to_owned());
        self.pictures.trigger.clone().or(wrong)
    }

    /// What is asked of the pictures, of a model that draws `native` pixels best.
    pub(crate) fn data(&self, native: u32) -> DataOptions {
        let pictures = &self.pictures;
        DataOptions {
            resolution: pictures.resolution.unwrap_or(native),
            framing: match pictures.framing {
                FramingArg::Buckets => Framing::Buckets,
                FramingArg::NoUpscale => Framing::BucketsWithoutUpscale,
                FramingArg::Square => Framing::Square,
            },
            crop: match pictures.crop {
                CropArg::Centre => CropChoice::Centre,
                CropArg::Random => CropChoice::Random,
            },
            flip: pictures.flip,
            caption: self.caption(),
            caption_dropout: pictures.caption_dropout,
            recursive: pictures.recursive,
            strict: pictures.strict,
            repeats: pictures.repeats,
            batch_size: self.batch.unwrap_or(1),
            seed: self.seed,
            ..DataOptions::default()
        }
    }

    /// The folder of class pictures and what is asked of them, if there are to be any.
    pub(crate) fn class_data(&self, native: u32) -> Option<(&Path, DataOptions)> {
        let folder = self.class.class_dir.as_deref()?;
        Some((
            folder,
            DataOptions { caption: self.class.class_prompt.clone(), ..self.data(native) },
        ))
    }

    /// Whether the caption is what pictures should not be.
    pub(crate) fn is_negative(&self) -> bool {
        self.preset.is_some_and(|Preset::Wrong| true)
    }

    /// What is drawn while the training goes on, if anything.
    pub(crate) fn samples(&self) -> Option<SampleOptions> {
        let watching = &self.watching;
        let trained = self.caption().filter(|_| self.is_negative());
        (!watching.sample_prompts.is_empty()).then(|| SampleOptions {
            prompts: watching.sample_prompts.clone(),
            negative_prompt: watching.sample_negative_prompt.clone().or(trained),
            every: watching.sample_every.unwrap_or(100),
            steps: watching.sample_steps,
            seed: self.seed,
        })
    }

    /// What is asked of the training.
    pub(crate) fn training(&self) -> TrainOptions {
        let default = TrainOptions::default();
        let chosen = |layers| self.layers.contains(&layers);
        let kind = match self.optimizer {
            Some(OptimizerArg::Prodigy) => OptimizerKind::Prodigy,
            Some(OptimizerArg::AdamW) | None => OptimizerKind::AdamW,
        };
        TrainOptions {
            steps: self.steps.unwrap_or(default.steps),
            rank: self.rank.unwrap_or(default.rank),
            alpha: self.alpha,
            dropout: self.dropout.unwrap_or(default.dropout),
            layers: LayerChoice {
                attention: self.layers.is_empty() || chosen(Layers::Attention),
                feed_forward: chosen(Layers::FeedForward),
                convolutions: chosen(Layers::Convolutions),
                embeddings: chosen(Layers::Embeddings),
                text_encoders: self.train_text_encoders,
            },
            rate: self.rate.unwrap_or(kind.rate()),
            text_encoder_rate: self.text_encoder_rate,
            schedule: match self.schedule {
                Some(RateSchedule::Cosine) => Schedule::Cosine,
                Some(RateSchedule::Linear) => Schedule::Linear,
                Some(RateSchedule::Constant) | None => Schedule::Constant,
            },
            warmup: self.warmup.unwrap_or(default.warmup),
            accumulation: self.accumulation.unwrap_or(default.accumulation),
            max_grad_norm: match self.max_grad_norm {
                None => default.max_grad_norm,
                Some(length) => (length != 0.0).then_some(length),
            },
            optimizer: OptimizerOptions {
                kind,
                weight_decay: self.weight_decay.unwrap_or(default.optimizer.weight_decay),
                ..default.optimizer
            },
            loss: LossOptions {
                snr_gamma: self.snr_gamma,
                noise_offset: self.noise_offset.unwrap_or(default.loss.noise_offset),
            },
            prior_weight: self.class.prior_weight.unwrap_or(default.prior_weight),
            ema: self.ema,
            seed: self.seed,
        }
    }

    /// How often it is put aside.
    pub(crate) fn running(&self) -> RunOptions {
        RunOptions { checkpoint_every: self.checkpoint_every, ..RunOptions::default() }
    }
}
