//! What can go wrong between a request and a picture.
//!
//! One enum for the crate. Every message says what was found, where, and what was
//! expected; [`Error::hint`] is the way out where there is one, and
//! [`Error::is_request_error`] is the line between "ask differently" (exit code 1,
//! HTTP 4xx) and "something broke" (exit code 2, HTTP 5xx).

use std::io;
use std::path::{Path, PathBuf};

use crate::memory::gigabytes;
use crate::request::Size;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a request and a picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A side of the picture that the VAE's factor of 8 does not divide.
    #[error("{field} is {value}, which is not a multiple of 8")]
    SizeNotAligned {
        /// `width` or `height`.
        field: &'static str,
        /// What the request says.
        value: u32,
    },

    /// A number outside what makes sense, infinities and NaN included.
    #[error("`{field}` is {value}, expected {min} to {max}")]
    OutOfRange {
        /// The request's field.
        field: &'static str,
        /// What the request says.
        value: f64,
        /// Smallest accepted value.
        min: f64,
        /// Largest accepted value.
        max: f64,
    },

    /// A name that is not in the list of names.
    #[error("`{field}` is `{value}`, expected one of: {expected}")]
    UnknownName {
        /// The request's field.
        field: &'static str,
        /// What the request says.
        value: String,
        /// The names, separated by commas.
        expected: &'static str,
    },

    /// Text that is not of the form its field has.
    #[error("`{value}` is not {expected}")]
    Malformed {
        /// What the request says.
        value: String,
        /// The form, with an example.
        expected: &'static str,
    },

    /// More text than any prompt needs; each 75 tokens cost a chunk of memory.
    #[error("`{field}` has {bytes} bytes, expected at most {limit}")]
    PromptTooLong {
        /// `prompt` or `negative_prompt`.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// The longest accepted.
        limit: usize,
    },

    /// The last picture of the series would need a seed above the largest.
    #[error("seed {seed} with count {count} runs past the largest seed, {}", u64::MAX)]
    SeedOverflow {
        /// The first seed.
        seed: u64,
        /// How many pictures.
        count: u32,
    },

    /// Anything else that the request asks and that cannot be: found while planning.
    #[error("{problem}")]
    Request {
        /// What was found, where, and what was expected.
        problem: String,
        /// The way out.
        hint: Option<String>,
    },

    /// A scheduler config that asks for something this crate does not compute.
    #[error(
        "the scheduler config has `{option}: {value}`, which is not supported; expected {expected}"
    )]
    SchedulerOption {
        /// The key in `scheduler_config.json`.
        option: &'static str,
        /// Its value there.
        value: String,
        /// What would be accepted.
        expected: &'static str,
    },

    /// A file name whose ending names no picture format.
    #[error("`{}` does not say a picture format, expected a name that ends in .png, .webp, .jpg or .jpeg", path.display())]
    UnknownFormat {
        /// The name.
        path: PathBuf,
    },

    /// The file is there already and the user did not say to replace it.
    #[error("`{}` exists", path.display())]
    FileExists {
        /// The file.
        path: PathBuf,
    },

    /// Something that is no file is where one is to be written.
    #[error("`{}` is {found}, expected a file", path.display())]
    NotAFile {
        /// What is there.
        path: PathBuf,
        /// Its kind.
        found: &'static str,
    },

    /// Another run of the program works in the folder.
    #[error("another run is at work in `{}`", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },

    /// A file that is not the picture it should be.
    #[error("`{}` cannot be read as a picture: {problem}", path.display())]
    NotAPicture {
        /// The file.
        path: PathBuf,
        /// What was found in it.
        problem: String,
    },

    /// A picture without our request in it.
    #[error("`{}` carries no request of unwrong", path.display())]
    NoRequestInPicture {
        /// The file.
        path: PathBuf,
        /// Whether it carries something else: texts of other programs.
        has_texts: bool,
    },

    /// A name that the user gave and that nothing has.
    #[error("`{}` does not exist, expected {expected}", path.display())]
    NotThere {
        /// The name.
        path: PathBuf,
        /// What should be there: `a picture`.
        expected: &'static str,
    },

    /// A picture that does not fit into the format of the file.
    #[error("the picture does not fit into {format}: {problem}")]
    Encode {
        /// `PNG`, `WebP` or `JPEG`.
        format: &'static str,
        /// What does not fit.
        problem: String,
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

    /// Someone who watches the progress said stop.
    #[error("cancelled")]
    Cancelled,

    /// Numbers that are not finite where a picture should be.
    #[error("{what} are not finite numbers")]
    NotFinite {
        /// Plural: `the latents after the base`, `the decoded pixels`.
        what: &'static str,
    },

    /// Activations of a picture that do not fit into memory.
    #[error(
        "{what} at {size} takes about {} of memory, and {} may be used",
        gigabytes(*needs), gigabytes(*budget)
    )]
    NotEnoughMemory {
        /// `a step`, `decoding`, `decoding, even in tiles,` or `encoding`.
        what: &'static str,
        /// Size of the picture.
        size: Size,
        /// Bytes, as estimated.
        needs: u64,
        /// Bytes that are free, or that the options allow.
        budget: u64,
    },

    /// The files of a model could not be hashed.
    #[error("the model's files cannot be hashed: were they changed while in use?")]
    HashFailed,

    /// The last encoder of a model has no projection, so there is no pooled vector.
    #[error("the last text encoder has no projection, expected SDXL's second encoder")]
    NoPooledOutput,

    /// A model or LoRA file cannot be used, or a network failed.
    #[error(transparent)]
    Models(#[from] unwrong_models::Error),

    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// For `map_err`: the system did not let us read what should be `expected`.
    pub fn reading(path: &Path, expected: &'static str) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::NotFound => Self::NotThere { path: path.clone(), expected },
            _ => Self::Io { action: "read", path: path.clone(), source },
        }
    }

    /// One sentence on what to do next, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::SizeNotAligned { value, .. } => {
                let above = value.checked_next_multiple_of(8).unwrap_or(u32::MAX - 7);
                Some(format!("try {above}"))
            }
            Self::PromptTooLong { .. } => Some("keep what the picture shows".to_owned()),
            Self::SeedOverflow { count, .. } => {
                Some(format!("try a seed up to {}", u64::MAX - u64::from(count.saturating_sub(1))))
            }
            Self::Request { hint, .. } => hint.clone(),
            Self::NotEnoughMemory { .. } => {
                Some("try a smaller `--size`, or allow more with `--memory`".to_owned())
            }
            Self::Models(error) => error.hint(),
            Self::FileExists { .. } => {
                Some("give another name, or `--force` to replace it".to_owned())
            }
            Self::NotAFile { .. } => Some("give another name".to_owned()),
            Self::Busy { .. } => {
                Some("wait until it is done, or give another folder or name".to_owned())
            }
            Self::NoRequestInPicture { has_texts: true, .. } => {
                Some("`unwrong metadata` prints what the picture does carry".to_owned())
            }
            Self::NoRequestInPicture { has_texts: false, .. } => Some(
                "pictures that `unwrong` wrote carry theirs, unless another program has saved \
                 them since; for this one, type the prompt"
                    .to_owned(),
            ),
            Self::NotThere { .. } => Some("check the path".to_owned()),
            Self::NotFinite { what } => Some(if what.contains("decoded") {
                "the VAE may overflow: try another one with `--vae`".to_owned()
            } else {
                "a weight of the model or of a LoRA may be broken: try without the LoRA, or copy \
                 the model again"
                    .to_owned()
            }),
            _ => None,
        }
    }

    /// Whether asking differently helps (exit code 1), or something broke (exit code 2).
    #[must_use]
    pub fn is_request_error(&self) -> bool {
        match self {
            Self::SizeNotAligned { .. }
            | Self::OutOfRange { .. }
            | Self::UnknownName { .. }
            | Self::Malformed { .. }
            | Self::PromptTooLong { .. }
            | Self::SeedOverflow { .. }
            | Self::Request { .. }
            | Self::UnknownFormat { .. }
            | Self::FileExists { .. }
            | Self::NotAFile { .. }
            | Self::Busy { .. }
            | Self::NotAPicture { .. }
            | Self::SchedulerOption { .. }
            | Self::NotEnoughMemory { .. }
            | Self::NoRequestInPicture { .. }
            | Self::NotThere { .. } => true,
            // A name that is not there was mistyped; a disk that fails was not.
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Models(error) => error.is_file_error(),
            _ => false,
        }
    }
}
