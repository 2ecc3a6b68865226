//! Whether a training fits into memory, before it begins.

use unwrong::request::Size;
use unwrong_models::unet::KEPT_BYTES;

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::optimizer::OptimizerKind;
use crate::trainer::Trainer;

/// Tokens of a caption: one chunk.
const TOKENS: usize = 77;
/// Of each trained number, four bytes: itself, both moments, the gradient of a step and of a
/// batch, and its tensor twice while gradients are made.
const COPIES: u64 = 7;

impl Trainer<'_> {
    /// Bytes that the training takes beside the weights, as estimated; the larger of a step and
    /// of encoding a picture, and which of them that is.
    #[must_use]
    pub fn bytes(&self) -> (String, u64) {
        let datasets = [Some(self.dataset()), self.class()].into_iter().flatten();
        let sizes: Vec<(Size, usize)> = datasets.flat_map(largest).collect();
        let step = |&(size, pictures): &(Size, usize)| {
            let latents = [size.height, size.width].map(|side| side as usize / 8);
            let unet = self.pipeline().unet().training_bytes(pictures, latents, TOKENS);
            unet + self.encoders(pictures)
        };
        let step = sizes.iter().map(step).max().unwrap_or(0) + self.matrices();
        let encoding = |(size, _): &(Size, usize)| (self.pipeline().encode_bytes(*size), *size);
        let encoding = sizes.iter().map(encoding).max_by_key(|(bytes, _)| *bytes);
        match encoding {
            Some((bytes, size)) if bytes > step => (format!("encoding a picture of {size}"), bytes),
            _ => ("a step".to_owned(), step),
        }
    }

    /// Refuses a training that needs more than is free, or than the options allow.
    pub fn check_memory(&self) -> Result<()> {
        let (what, needs) = self.bytes();
        match self.pipeline().memory() {
            Some(budget) if needs > budget => Err(Error::NotEnoughMemory { what, needs, budget }),
            _ => Ok(()),
        }
    }

    /// Bytes of activations that a step may keep rather than compute twice: of what is left, as
    /// much as pays.
    pub(crate) fn kept_bytes(&self) -> usize {
        let left = self.pipeline().memory().map(|budget| budget.saturating_sub(self.bytes().1));
        let most = KEPT_BYTES as u64;
        left.map_or(most, |left| left.min(most)) as usize
    }

    /// Text encoders, where they are trained.
    fn encoders(&self, pictures: usize) -> u64 {
        if !self.options().layers.text_encoders {
            return 0;
        }
        let encoders = self.pipeline().text_encoders();
        encoders.map(|(_, encoder)| encoder.training_bytes(pictures, TOKENS)).sum()
    }

    fn matrices(&self) -> u64 {
        let numbers: usize = self.state().tensors.iter().map(Vec::len).sum();
        // Prodigy remembers where it began, and sums of gradients.
        let more = match self.options().optimizer.kind {
            OptimizerKind::AdamW => 0,
            OptimizerKind::Prodigy => 2,
        };
        let copies = COPIES + more + u64::from(self.options().ema.is_some());
        4 * numbers as u64 * copies
    }
}

/// Every bucket and the most pictures of it in a batch.
fn largest(dataset: &Dataset) -> Vec<(Size, usize)> {
    let options = dataset.options();
    let most = |count: usize| (count * options.repeats as usize).min(options.batch_size);
    dataset.buckets().into_iter().map(|(size, count)| (size, most(count))).collect()
}
