//! How a folder of pictures becomes training data.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How a folder of pictures becomes training data.
///
/// Everything that chance decides follows from `seed`, the epoch and the picture's place, so a run
/// that is taken up again needs no state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataOptions {
    /// Side of a square picture in pixels; no bucket has a larger area.
    pub resolution: u32,
    /// Which shapes pictures are trained in.
    pub framing: Framing,
    /// Sides of buckets are multiples of this; absent: see [`DataOptions::step`].
    pub bucket_step: Option<u32>,
    /// Smallest side of a bucket; absent: half of `resolution`.
    pub min_side: Option<u32>,
    /// Largest side of a bucket; absent: twice `resolution`.
    pub max_side: Option<u32>,
    /// Which part of a picture that is larger than its bucket.
    pub crop: CropChoice,
    /// Whether half of the pictures are mirrored, others in every epoch.
    pub flip: bool,
    /// The caption of pictures that have none of their own: DreamBooth's instance prompt.
    pub caption: Option<String>,
    /// Share of the captions, 0 to 1, that are replaced by an empty one, others in every epoch.
    pub caption_dropout: f64,
    /// What shows through transparent pixels: red, green, blue.
    pub background: [u8; 3],
    /// Whether folders within the folder are read, too.
    pub recursive: bool,
    /// Whether a file that cannot be used is an error, rather than a note.
    pub strict: bool,
    /// How often each picture comes in one epoch.
    pub repeats: u32,
    /// Pictures of one bucket in a batch, at most.
    pub batch_size: usize,
    /// What everything random follows from.
    pub seed: u64,
}

/// Which shapes pictures are trained in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// The bucket with the nearest aspect ratio, whatever the size: small pictures are enlarged.
    #[default]
    Buckets,
    /// Small pictures keep their size, and every shape gets a bucket of its own. kohya's rounding
    /// lets a side be half a pixel too long for the area before it is cut down to the step.
    BucketsWithoutUpscale,
    /// A square, as diffusers' script: all else is cropped away.
    Square,
}

/// Which part of a picture that is larger than its bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CropChoice {
    /// The middle.
    #[default]
    Centre,
    /// Another one in every epoch.
    Random,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            resolution: 1024,
            framing: Framing::default(),
            bucket_step: None,
            min_side: None,
            max_side: None,
            crop: CropChoice::default(),
            flip: false,
            caption: None,
            caption_dropout: 0.0,
            background: [255; 3],
            recursive: false,
            strict: false,
            repeats: 1,
            batch_size: 1,
            seed: 0,
        }
    }
}

impl DataOptions {
    /// Pixels to a latent: what sides of buckets are multiples of at least.
    const FACTOR: u32 = 8;

    /// Sides of buckets are multiples of this.
    ///
    /// By default the largest power of two that an eighth of `resolution` holds, within 8 and 64:
    /// 64 at 512 and above, as SDXL was trained, 16 at 128. A step of 64 at a resolution of 128
    /// would leave three shapes.
    #[must_use]
    pub fn step(&self) -> u32 {
        let eighth = (self.resolution / 8).max(1);
        self.bucket_step.unwrap_or_else(|| (1 << eighth.ilog2()).clamp(Self::FACTOR, 64))
    }

    /// Side of the square bucket: `resolution`, down to a multiple of the step.
    #[must_use]
    pub fn side(&self) -> u32 {
        self.resolution / self.step() * self.step()
    }

    /// Smallest and largest side of a bucket.
    ///
    /// By default half and twice the resolution: with 1024 these are the 512 to 2048 of SDXL
    /// (Podell et al. 2023, arXiv:2307.01952, appendix I).
    #[must_use]
    pub fn sides(&self) -> [u32; 2] {
        let half = (self.resolution / 2).next_multiple_of(self.step());
        let twice = self.resolution * 2 / self.step() * self.step();
        [self.min_side.unwrap_or(half), self.max_side.unwrap_or(twice)]
    }

    /// Refuses what no bucket and no batch can be made of.
    pub fn check(&self) -> Result<()> {
        let refuse = |field, value: &dyn ToString, expected: String| {
            Err(Error::OutOfRange { field, value: value.to_string(), expected })
        };
        if !(64..=4096).contains(&self.resolution) {
            return refuse("resolution", &self.resolution, "64 to 4096".to_owned());
        }
        let step = self.step();
        if step == 0 || !step.is_multiple_of(Self::FACTOR) || step > self.resolution {
            let expected = format!("a multiple of 8, at most {}", self.resolution);
            return refuse("bucket_step", &step, expected);
        }
        let ([min, max], side) = (self.sides(), self.side());
        if !(step..=side).contains(&min) || !min.is_multiple_of(step) {
            return refuse("min_side", &min, format!("a multiple of {step}, at most {side}"));
        }
        if !(side..=8192).contains(&max) || !max.is_multiple_of(step) {
            let expected = format!("a multiple of {step}, {side} to 8192");
            return refuse("max_side", &max, expected);
        }
        if !(0.0..=1.0).contains(&self.caption_dropout) {
            return refuse("caption_dropout", &self.caption_dropout, "0 to 1".to_owned());
        }
        if !(1..=100_000).contains(&self.repeats) {
            return refuse("repeats", &self.repeats, "1 to 100000".to_owned());
        }
        if self.batch_size == 0 {
            return refuse("batch_size", &self.batch_size, "1 or more".to_owned());
        }
        Ok(())
    }
}
