//! Why a pickled file is not read, before it is known how to name the file.

use crate::error::Error;
use crate::files::tensor_file::shown;

pub(super) type Result<T, E = Refusal> = std::result::Result<T, E>;

/// What to do about a file that contradicts itself.
pub(super) const DAMAGED: &str = "the file may be damaged: get it again";
/// What to do about a file that is more than tensors.
pub(super) const NOT_ONLY_TENSORS: &str =
    "get a .safetensors of it; do not open it in Python unless you trust whoever made it";

/// Why a pickled file is not read.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is no file of tensors, or one that contradicts itself.
    Wrong { reason: String, hint: Option<&'static str> },
    /// It ends before its data does.
    Truncated { have: u64, need: u64 },
}

impl Refusal {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self::Wrong { reason: reason.into(), hint: None }
    }

    pub(super) fn hint(self, hint: &'static str) -> Self {
        match self {
            Self::Wrong { reason, .. } => Self::Wrong { reason, hint: Some(hint) },
            truncated @ Self::Truncated { .. } => truncated,
        }
    }

    /// The same, with the place in the pickle.
    pub(super) fn at(self, byte: usize) -> Self {
        match self {
            Self::Wrong { reason, hint } => {
                Self::Wrong { reason: format!("{reason} (byte {byte} of its pickle)"), hint }
            }
            truncated @ Self::Truncated { .. } => truncated,
        }
    }

    /// The same, of a tensor: `reason` is what the tensor does.
    pub(super) fn tensor(self, name: &str) -> Self {
        match self {
            Self::Wrong { reason, hint } => {
                Self::Wrong { reason: format!("`{}` {reason}", shown(name)), hint }
            }
            truncated @ Self::Truncated { .. } => truncated,
        }
    }

    /// The error of the file `path`.
    pub(super) fn of(self, path: &str) -> Error {
        let path = path.to_owned();
        match self {
            Self::Wrong { reason, hint } => Error::Pickled { path, reason, hint },
            Self::Truncated { have, need } => Error::Truncated { path, have, need },
        }
    }
}
