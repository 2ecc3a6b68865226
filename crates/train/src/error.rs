//! What can go wrong between a folder of pictures and a LoRA file.
//!
//! One enum for the crate. Every message says what was found, where, and what was expected;
//! [`Error::hint`] is the way out where there is one, and [`Error::is_request_error`] is the line
//! between "ask differently" (exit code 1) and "something broke" (exit code 2).

use std::io;
use std::path::{Path, PathBuf};

use unwrong::memory::gigabytes;

use crate::settings::flag;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a folder of pictures and a LoRA file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The options choose no layer of the model.
    #[error("the options choose none of the model's layers to train")]
    NoLayers,

    /// A number that is infinite or none.
    #[error("{} of step {step} is {value}, which is no finite number", what.name())]
    NotFinite {
        /// Counted from 1.
        step: u64,
        /// Which number.
        what: StepNumber,
        /// What it was.
        value: f64,
    },

    /// Checkpoints of another training are where this one's should be.
    #[error("the checkpoints are of another training: {difference}")]
    OtherTraining {
        /// The first thing that differs.
        difference: String,
    },

    /// Activations, matrices and what the optimiser keeps do not fit into memory.
    #[error(
        "{what} takes about {} of memory, and {} may be used",
        gigabytes(*needs), gigabytes(*budget)
    )]
    NotEnoughMemory {
        /// `a step`, `encoding a picture of 1024x1024`.
        what: String,
        /// Bytes, as estimated.
        needs: u64,
        /// Bytes that are free, or that the options allow.
        budget: u64,
    },

    /// The training was put aside.
    #[error("interrupted after step {step}")]
    Interrupted {
        /// Steps that were made.
        step: u64,
    },

    /// Settings that cannot be written down.
    #[error(transparent)]
    Json(#[from] serde_json::Error),

    /// A number outside what makes sense.
    #[error("`{}` is {value}, expected {expected}", flag(field))]
    OutOfRange {
        /// The option.
        field: &'static str,
        /// What was asked.
        value: String,
        /// What would be accepted.
        expected: String,
    },

    /// A folder without one picture to train on.
    #[error("`{}` has no picture to train on: {seen}", folder.display())]
    NoPictures {
        /// The folder.
        folder: PathBuf,
        /// What is there instead.
        seen: String,
        /// The way out.
        hint: String,
    },

    /// Files that cannot be used, and the options ask for all to be good.
    #[error("{count} of the pictures in `{}` cannot be used: {problems}", folder.display())]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// How many.
        count: usize,
        /// The first of them, each with its reason.
        problems: String,
    },

    /// Pictures that nothing describes.
    #[error("{} {}", no_caption(path, *others), expected_caption(path))]
    NoCaption {
        /// The first of them.
        path: PathBuf,
        /// How many more.
        others: usize,
    },

    /// A file of captions that cannot be read as one.
    #[error("`{}` {problem}", path.display())]
    Caption {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        problem: String,
    },

    /// A picture that could be read before and cannot any more.
    #[error("`{}` cannot be used: it {problem}", path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// What was found in it.
        problem: String,
    },

    /// A picture that is not what it was when training began.
    #[error("`{}` has changed since the folder was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },

    /// The operating system refused a file.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// A verb: `read`, `write`, `create`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The library that makes pictures refused something.
    #[error(transparent)]
    Unwrong(Box<unwrong::Error>),

    /// A model file cannot be used, or a network failed.
    #[error(transparent)]
    Models(#[from] unwrong_models::Error),

    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// A number that a step comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepNumber {
    /// Mean over its pictures.
    Loss,
    /// Length of its gradient.
    Gradient,
    /// A number in the matrices, after it.
    Matrices,
    /// A number in the running means of the matrices, after it.
    Average,
    /// A number that the optimiser keeps, after it.
    Optimizer,
}

impl StepNumber {
    fn name(self) -> &'static str {
        match self {
            Self::Loss => "the loss",
            Self::Gradient => "the length of the gradient",
            Self::Matrices => "a number in the matrices",
            Self::Average => "a number in the matrices' running means",
            Self::Optimizer => "a number in the optimiser",
        }
    }
}

impl From<unwrong::Error> for Error {
    fn from(error: unwrong::Error) -> Self {
        Self::Unwrong(Box::new(error))
    }
}

impl Error {
    /// One sentence on what to do next, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoPictures { hint, .. } => Some(hint.clone()),
            Self::Unusable { .. } => Some(
                "mend or remove them, or leave `--strict` out to train on the others".to_owned(),
            ),
            Self::NoCaption { .. } => {
                Some("give one caption for all that have none: `--trigger wrong`".to_owned())
            }
            Self::NoLayers => Some("choose `attention` or `feed-forward`".to_owned()),
            Self::NotFinite { .. } => {
                Some("try a lower `--rate`; checkpoints that were made before are kept".to_owned())
            }
            Self::NotEnoughMemory { .. } => Some(
                "try a smaller `--resolution`, `--batch` or `--rank`, or allow more with `--memory`"
                    .to_owned(),
            ),
            Self::OtherTraining { .. } => Some(
                "give the options it was begun with, another output, or `--force` to begin anew"
                    .to_owned(),
            ),
            Self::Changed { .. } => Some("start again: the folder is read anew".to_owned()),
            Self::Io { action: "read", source, .. }
                if source.kind() == io::ErrorKind::NotADirectory =>
            {
                Some("give the folder that holds the pictures".to_owned())
            }
            Self::Unwrong(error) => error.hint(),
            Self::Models(error) => error.hint(),
            _ => None,
        }
    }

    /// Whether asking differently helps (exit code 1), or something broke (exit code 2).
    #[must_use]
    pub fn is_request_error(&self) -> bool {
        match self {
            Self::OutOfRange { .. }
            | Self::NoLayers
            | Self::NotEnoughMemory { .. }
            | Self::OtherTraining { .. }
            | Self::NoPictures { .. }
            | Self::Unusable { .. }
            | Self::NoCaption { .. }
            | Self::Caption { .. }
            | Self::Picture { .. }
            | Self::Changed { .. } => true,
            // A name that is not there was mistyped; a disk that fails was not.
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            }
            Self::Unwrong(error) => error.is_request_error(),
            Self::Models(error) => error.is_file_error(),
            Self::NotFinite { .. } | Self::Interrupted { .. } | Self::Tensor(_) | Self::Json(_) => {
                false
            }
        }
    }

    /// For `map_err`: the system refused to `action` this file.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

fn no_caption(path: &Path, others: usize) -> String {
    match others {
        0 => format!("`{}` has no caption,", path.display()),
        1 => format!("`{}` and 1 more picture have no caption,", path.display()),
        _ => format!("`{}` and {others} more pictures have no caption,", path.display()),
    }
}

fn expected_caption(path: &Path) -> String {
    let text = path.with_extension("txt");
    let text = text.file_name().unwrap_or_default().to_string_lossy().into_owned();
    format!("expected `{text}` beside it, a line in `metadata.jsonl`, or one caption for all")
}
