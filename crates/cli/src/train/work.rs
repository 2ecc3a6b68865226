//! The folder beside a LoRA: `NAME.training` beside `NAME.safetensors`.
//!
//! ```text
//! NAME.training/cache/          what VAE and text encoders said
//! NAME.training/checkpoints/    the last states
//! NAME.training/logs/           TensorBoard's event files
//! NAME.training/samples/        pictures drawn on the way
//! NAME.training/loss.svg        the loss of every step; loss.png is the same
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

pub(super) const WORK: &str = "training";
pub(super) const CACHE: &str = "cache";
pub(super) const CHECKPOINTS: &str = "checkpoints";
pub(super) const LOGS: &str = "logs";
pub(super) const SAMPLES: &str = "samples";

/// Where a training keeps what is not the LoRA.
pub(super) struct Work {
    /// The LoRA's name without its ending.
    pub(super) name: String,
    pub(super) folder: PathBuf,
}

impl Work {
    pub(super) fn beside(output: &Path) -> Self {
        let name = output.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, folder: output.with_extension(WORK) }
    }

    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Deletes what an earlier training left, but for what holds for any.
    pub(super) fn clear(&self) -> Result<()> {
        for folder in [CHECKPOINTS, LOGS, SAMPLES].map(|name| self.folder(name)) {
            if folder.exists() {
                fs::remove_dir_all(&folder)
                    .with_context(|| format!("cannot delete `{}`", folder.display()))?;
            }
        }
        Ok(())
    }
}
