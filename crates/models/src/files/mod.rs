//! Models as files: folders, safetensors and pickled files, configs and the weights in them.
//!
//! Stage 0 of a run, before the first token. Nothing is copied: a [`FrozenWeight`] is a view
//! into a file map or into bytes of the program. Nothing is believed either: a file is checked
//! against its own length before anything is read or allocated for it.

mod bytes;
mod config;
mod diffusers;
mod family;
mod folder;
mod foreign;
mod frozen;
mod header;
mod ldm;
mod parts;
mod single;
mod tensor_file;
mod torch;
mod weights;
mod write;

pub use bytes::Bytes;
pub use config::{
    HiddenAct, ModelDefaults, ModelIndex, PredictionType, SchedulerConfig, TextEncoderConfig,
    UnetConfig, VaeConfig,
};
pub(crate) use family::Family;
pub use folder::{EmbeddedFiles, Folder};
pub use foreign::Foreign;
pub use frozen::{Dtype, FrozenWeight};
pub(crate) use ldm::BlockNames;
pub use parts::{ModelKind, ModelParts, VaeParts};
pub(crate) use single::{SingleLayers, single_layers};
pub use tensor_file::TensorFile;
pub use weights::{WeightPath, Weights};
pub use write::{TensorSlot, safetensors_bytes, safetensors_header};
