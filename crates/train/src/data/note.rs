//! What was noticed while a folder was read, and is no error.

use std::fmt;
use std::path::PathBuf;

/// Something about a folder of pictures that its owner may want to know.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Note {
    /// A file that looks like a picture and cannot be used.
    Skipped {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Two files with the same bytes; both are trained.
    SameContent {
        /// The later file.
        path: PathBuf,
        /// The earlier one.
        first: PathBuf,
    },
    /// A film of which one picture is used.
    FirstFrame {
        /// The file.
        path: PathBuf,
    },
    /// A picture with transparent pixels.
    Flattened {
        /// The file.
        path: PathBuf,
        /// What shows through.
        background: [u8; 3],
    },
    /// A picture that is blurred, because it is much smaller than its bucket.
    Enlarged {
        /// The file.
        path: PathBuf,
        /// How many times wider it becomes.
        times: f64,
    },
    /// A picture of which more than half is cropped away.
    Cropped {
        /// The file.
        path: PathBuf,
        /// Share that is left, 0 to 1.
        kept: f64,
    },
    /// A caption file with more than the one line that is read.
    OneLine {
        /// The file.
        path: PathBuf,
        /// How many it has.
        lines: usize,
    },
    /// A caption that is longer than the text encoders read.
    LongCaption {
        /// The picture.
        path: PathBuf,
        /// Tokens at its end that are not read.
        dropped: usize,
    },
    /// A caption without text.
    EmptyCaption {
        /// The picture.
        path: PathBuf,
    },
    /// A picture whose own caption file says other than `metadata.jsonl`; the former is used.
    TwoCaptions {
        /// The picture.
        path: PathBuf,
    },
    /// Captions in `metadata.jsonl` for no picture.
    NoSuchPicture {
        /// The metadata file.
        path: PathBuf,
        /// The first name that no file has.
        name: String,
        /// How many more.
        others: usize,
    },
    /// A file of captions in a form that is not read.
    UnreadCaptions {
        /// The file.
        path: PathBuf,
    },
    /// A folder of samples and checkpoints that a training left.
    Training {
        /// The folder.
        path: PathBuf,
    },
    /// Folders within the folder that were not looked into.
    Folders {
        /// How many.
        count: usize,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skipped { path, problem } => {
                write!(f, "`{}` is left out: it {problem}", path.display())
            }
            Self::SameContent { path, first } => {
                write!(
                    f,
                    "`{}` is the same file as `{}`; both are trained",
                    path.display(),
                    first.display()
                )
            }
            Self::FirstFrame { path } => {
                write!(f, "`{}` is animated; its first picture is used", path.display())
            }
            Self::Flattened { path, background: [red, green, blue] } => write!(
                f,
                "`{}` is transparent in places; #{red:02x}{green:02x}{blue:02x} shows through",
                path.display()
            ),
            Self::Enlarged { path, times } => {
                write!(f, "`{}` is enlarged {times:.1} times", path.display())
            }
            Self::Cropped { path, kept } => {
                write!(f, "`{}` is cropped to {:.0} % of its area", path.display(), kept * 100.0)
            }
            Self::OneLine { path, lines } => {
                write!(f, "`{}` has {lines} lines; the first is the caption", path.display())
            }
            Self::LongCaption { path, dropped } => write!(
                f,
                "the caption of `{}` is too long: its last {dropped} tokens are not trained on",
                path.display()
            ),
            Self::EmptyCaption { path } => {
                write!(f, "the caption of `{}` is empty", path.display())
            }
            Self::TwoCaptions { path } => write!(
                f,
                "`{}` has another caption in `metadata.jsonl`; its own file is used",
                path.display()
            ),
            Self::NoSuchPicture { path, name, others } => {
                write!(f, "`{}` has a caption for `{name}`", path.display())?;
                if *others > 0 {
                    write!(f, " and {others} more")?;
                }
                write!(f, ", of which there is no file")
            }
            Self::UnreadCaptions { path } => write!(
                f,
                "`{}` is not read; captions come from `.txt` files or `metadata.jsonl`",
                path.display()
            ),
            Self::Training { path } => {
                write!(f, "`{}` is left out: it is what a training left", path.display())
            }
            Self::Folders { count: 1 } => write!(f, "1 folder in it is not looked into"),
            Self::Folders { count } => write!(f, "{count} folders in it are not looked into"),
        }
    }
}
