//! What can go wrong between a model on disk and its output.

use std::fmt;
use std::io;

use crate::files::Foreign;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a model on disk and its output.
///
/// `path` is always the name to show: a path on disk, or the name of an embedded file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused to read a file.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },

    /// A file or folder that must exist does not.
    #[error("{path} does not exist")]
    NotFound {
        /// The file or folder.
        path: String,
    },

    /// The file is not in safetensors format, and it is recognisable what it is.
    #[error("{path} is not a safetensors file: it is {found}")]
    NotSafetensors {
        /// The file.
        path: String,
        /// What it is instead.
        found: Foreign,
    },

    /// The file ends before the data its header announces.
    #[error("{path} is cut off: it has {have} bytes, its header asks for {need}")]
    Truncated {
        /// The file.
        path: String,
        /// Bytes in the file.
        have: u64,
        /// Bytes the header announces.
        need: u64,
    },

    /// The header of a safetensors file contradicts itself or the file.
    #[error("the header of {path} is wrong: {reason}")]
    Header {
        /// The file.
        path: String,
        /// The contradiction.
        reason: String,
    },

    /// A file that `torch.save` wrote, or seems to have written, cannot be read.
    #[error("cannot read {path}, a pickled file: {reason}")]
    Pickled {
        /// The file.
        path: String,
        /// What was found.
        reason: String,
        /// What to do about it, where there is something to do.
        hint: Option<&'static str>,
    },

    /// A weight the network needs is not in the file.
    #[error("`{key}` is missing in {path}")]
    MissingWeight {
        /// The key, as the network asks for it.
        key: String,
        /// The file or files searched.
        path: String,
    },

    /// A weight has another shape than the config asks for.
    #[error("`{key}` has shape {found} in {path}, expected {expected}")]
    WeightShape {
        /// The key, as the network asks for it.
        key: String,
        /// Shape in the file.
        found: Shape,
        /// Shape the config asks for.
        expected: Shape,
        /// The file.
        path: String,
    },

    /// A weight is stored in a number format the networks do not read.
    #[error("`{key}` is stored as {found} in {path}, expected F16, BF16 or F32")]
    WeightDtype {
        /// The key.
        key: String,
        /// Number format in the file.
        found: String,
        /// The file.
        path: String,
    },

    /// A config asks for something wrong or not implemented.
    #[error("`{field}` is {found} in {path}, expected {expected}")]
    Config {
        /// The field in the config.
        field: String,
        /// Its value.
        found: String,
        /// The values that work.
        expected: String,
        /// The config file.
        path: String,
    },

    /// A config or index is not well-formed.
    #[error("cannot understand {path}: {reason}")]
    Malformed {
        /// The file.
        path: String,
        /// What the parser said.
        reason: String,
    },

    /// The file or folder is not a model this program runs.
    #[error("{path} is {found}, expected {expected}")]
    WrongModel {
        /// The file or folder.
        path: String,
        /// What it is.
        found: String,
        /// What was asked for.
        expected: String,
    },

    /// A LoRA file cannot be used.
    #[error("cannot use the LoRA {path}: {reason}")]
    Lora {
        /// The LoRA file.
        path: String,
        /// Why not.
        reason: String,
        /// What to do about it, where there is something to do.
        hint: Option<String>,
    },

    /// A LoRA says something that the dialect asked for has no words for.
    #[error("cannot write this LoRA as {dialect}: {reason}")]
    LoraDialect {
        /// The dialect.
        dialect: &'static str,
        /// What it cannot say.
        reason: String,
        /// What to do about it, where there is something to do.
        hint: Option<String>,
    },

    /// Weights of blocks that are none.
    #[error(
        "`{value}` are no block weights: {reason}; expected 12, 20 or 26 numbers with commas \
         between them, or blocks such as `IN04=0.5,OUT=0`"
    )]
    BlockWeights {
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A textual-inversion file cannot be used.
    #[error("cannot use the textual inversion {path}: {reason}")]
    TextualInversion {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },

    /// A number of a LoRA does not fit into the dtype asked for.
    #[error("the LoRA's `{layer}` has the value {value}, which {dtype} cannot hold")]
    LoraRange {
        /// The layer's checkpoint key.
        layer: String,
        /// The number.
        value: f32,
        /// What was asked for.
        dtype: &'static str,
    },

    /// All numbers of a matrix are too small for the dtype asked for.
    #[error(
        "the LoRA's `{layer}` has a matrix whose greatest value is {greatest:e}; in {dtype} all \
         of them would be 0"
    )]
    LoraVanishes {
        /// The layer's checkpoint key.
        layer: String,
        /// The greatest number, without its sign.
        greatest: f32,
        /// What was asked for.
        dtype: &'static str,
    },

    /// `UNWRONG_OPS` names no implementation.
    #[error("`UNWRONG_OPS` is {value}, expected `cpu` or `reference`")]
    UnknownOps {
        /// The value.
        value: String,
    },

    /// `UNWRONG_ISA` names no instruction level of this machine.
    #[error("{reason}")]
    UnknownIsa {
        /// What it holds and what it may hold.
        reason: String,
    },

    /// A fused operation was given a tensor that tracks gradients.
    #[error("`{op}` has no backward, but its input tracks gradients")]
    NoBackward {
        /// The operation.
        op: &'static str,
    },

    /// The UNet was given the conditioning of another model.
    #[error(
        "conditioning of {} features per token and {} in all, expected {} and {}",
        found.0, found.1, expected.0, expected.1
    )]
    Conditioning {
        /// Features per token, and of pooled text with sizes.
        found: (usize, usize),
        /// The same, as the UNet has them.
        expected: (usize, usize),
    },

    /// The UNet ran with conditioning prepared for another network.
    #[error("no keys were prepared for `{attention}`")]
    NotPrepared {
        /// Name of the attention.
        attention: String,
    },

    /// The blocks of a UNet's config do not fit each other.
    #[error("the up blocks need more outputs than the down blocks left")]
    SkipsExhausted,

    /// A VAE without an encoder was asked to encode.
    #[error("the VAE has no encoder")]
    NoEncoder,

    /// No text encoder has a projection, or there is none.
    #[error("no text encoder gives a pooled vector")]
    NoPooledOutput,

    /// Rows of tokens must be of one length that the encoder has positions for.
    #[error("a row of {tokens} tokens, expected at most {most}")]
    TokenRow {
        /// Tokens in the row.
        tokens: usize,
        /// Positions of the encoder.
        most: usize,
    },

    /// A token id beyond the encoder's vocabulary.
    #[error("token id {id}, but the encoder knows {vocabulary}")]
    TokenId {
        /// The id.
        id: usize,
        /// Size of the vocabulary.
        vocabulary: usize,
    },

    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// Whether another file would help: a missing, broken or foreign one, as opposed to a disk
    /// that fails or a network that was used wrongly.
    #[must_use]
    pub fn is_file_error(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::NoBackward { .. }
            | Self::NotPrepared { .. }
            | Self::SkipsExhausted
            | Self::NoEncoder
            | Self::NoPooledOutput
            | Self::TokenRow { .. }
            | Self::TokenId { .. }
            | Self::Tensor(_) => false,
            _ => true,
        }
    }

    /// One sentence on what to do next, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotSafetensors { found, .. } => found.hint().map(str::to_owned),
            Self::Pickled { hint, .. } => hint.map(str::to_owned),
            Self::NotFound { path } if path.contains(':') => Some(
                "check the path; a LoRA's scale is a number after a colon: `FILE:0.8`".to_owned(),
            ),
            Self::NotFound { .. } => Some("check the path".to_owned()),
            Self::TextualInversion { reason, .. } if reason.ends_with("it is a LoRA") => {
                Some("give it with `--lora`".to_owned())
            }
            Self::TextualInversion { .. } => {
                Some("take one for SDXL: a .safetensors file with `clip_l` and `clip_g`".to_owned())
            }
            Self::Truncated { .. } => Some("download or copy the file again".to_owned()),
            Self::WeightDtype { .. } => Some("use a file in f16, bf16 or f32".to_owned()),
            Self::MissingWeight { .. } => {
                Some("the file is incomplete, or of another kind of model".to_owned())
            }
            Self::WrongModel { found, .. } => match found.as_str() {
                "a LoRA" => Some("give it with `--lora`".to_owned()),
                "a VAE alone" => Some("give it with `--vae`".to_owned()),
                _ => None,
            },
            Self::Lora { hint, .. } | Self::LoraDialect { hint, .. } => hint.clone(),
            Self::LoraRange { .. } => Some("bf16 has the range of f32".to_owned()),
            Self::LoraVanishes { .. } => {
                Some("bf16 and f32 hold smaller values: `--dtype bf16`".to_owned())
            }
            _ => None,
        }
    }
}

/// A tensor shape that prints as `[320, 4, 3, 3]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape(pub Vec<usize>);

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Self(dims.to_vec())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
