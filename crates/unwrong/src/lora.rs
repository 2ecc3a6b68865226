//! LoRA files as such: what is in one, the same in another dialect, and others made of them.

mod extract;
mod hash;
mod inspect;
mod into;
mod merge;
mod resize;
mod scale;
mod source;
mod sum;
mod svd;
mod triggers;

use std::path::Path;

use unwrong_models::files::Bytes;
use unwrong_models::lora::{LoraFile, LoraLayer, write_lora};

use crate::error::Result;

pub use extract::{Extract, Extracted, extract};
pub use hash::{Hashes, hashes};
pub use inspect::{Count, LoraReport, Modules, Norms, inspect};
pub use into::{IntoModel, merge_into};
pub use merge::{Merge, merge};
pub use resize::{Keep, Resize, Resized, resize};
pub use scale::{ScaleIn, blocks, scale};
pub use source::{Made, Writing};
pub use triggers::Trigger;
pub use unwrong_models::files::Dtype;
pub use unwrong_models::lora::{Applied, BlockWeights, Dialect};

/// A LoRA in another dialect.
#[derive(Debug)]
pub struct Converted {
    /// The file.
    pub bytes: Bytes,
    /// Number of layers in it.
    pub layers: usize,
    /// Keys of the source that belong to no layer and are left out, with the reason.
    pub ignored: Vec<String>,
    /// Its alphas are in the header, as PEFT's config, where not every program looks.
    pub has_peft_config: bool,
    /// All its matrices are f32, which holds most.
    pub is_f32: bool,
}

/// Writes the LoRA at `path` in another dialect: every layer does what it did.
///
/// With a `dtype` its matrices are rounded to that first; f32 can take up almost any alpha.
pub fn convert(path: &Path, dialect: Dialect, dtype: Option<Dtype>) -> Result<Converted> {
    let file = LoraFile::open(path)?;
    let mut layers = file.to_layers()?;
    if let Some(dtype) = dtype {
        let rounded = layers.iter().map(|layer| layer.in_dtype(dtype));
        layers = rounded.collect::<unwrong_models::Result<_>>()?;
    }
    let bytes = Bytes::owned(write_lora(&layers, dialect, file.metadata())?);
    // What cannot be read again is never handed out.
    let written = LoraFile::parse(&bytes, &path.display().to_string())?;
    let is_f32 =
        |layer: &LoraLayer| layer.tensors().iter().all(|tensor| tensor.dtype() == Dtype::F32);
    Ok(Converted {
        is_f32: layers.iter().all(is_f32),
        layers: written.layers(),
        ignored: file.left_out(),
        has_peft_config: written.has_peft_config(),
        bytes,
    })
}
