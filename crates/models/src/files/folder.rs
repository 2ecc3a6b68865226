//! A folder of model files, on disk or in the program.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::files::Bytes;

/// Files in the program: path with `/` between the parts, and content.
pub type EmbeddedFiles = &'static [(&'static str, &'static [u8])];

/// Configs and indexes are small; the largest in use, a shard index, has 0.2 MB.
const LARGEST_SMALL_FILE: u64 = 16 << 20;

/// A folder of model files, on disk or in the program.
///
/// Names inside use `/` on every system.
#[derive(Debug, Clone)]
pub struct Folder(Place);

#[derive(Debug, Clone)]
enum Place {
    Disk(PathBuf),
    /// `prefix` is empty or ends in `/`.
    Embedded {
        files: EmbeddedFiles,
        prefix: String,
    },
}

impl Folder {
    /// A folder on disk.
    pub fn disk(path: impl Into<PathBuf>) -> Self {
        Self(Place::Disk(path.into()))
    }

    /// The folder at the top of embedded files.
    #[must_use]
    pub const fn embedded(files: EmbeddedFiles) -> Self {
        Self(Place::Embedded { files, prefix: String::new() })
    }

    /// The folder `name` in this one; it need not exist.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        Self(match &self.0 {
            Place::Disk(path) => Place::Disk(path.join(name)),
            Place::Embedded { files, prefix } => {
                Place::Embedded { files, prefix: format!("{prefix}{}/", name.trim_matches('/')) }
            }
        })
    }

    /// The bytes of a file, without reading them yet.
    pub fn open(&self, name: &str) -> Result<Bytes> {
        match &self.0 {
            Place::Disk(path) => Bytes::map(&path.join(name)),
            Place::Embedded { .. } => self
                .find(name)
                .map(Bytes::embedded)
                .ok_or_else(|| Error::NotFound { path: self.display(name) }),
        }
    }

    /// The text of a small file such as a config.
    pub fn read_text(&self, name: &str) -> Result<String> {
        let path = self.display(name);
        let bytes = match &self.0 {
            Place::Disk(folder) => read_small(&folder.join(name), &path)?,
            Place::Embedded { .. } => self.open(name)?.to_vec(),
        };
        String::from_utf8(bytes)
            .map_err(|_| Error::Malformed { path, reason: "it is not UTF-8 text".to_owned() })
    }

    /// Whether the file `name` is there.
    #[must_use]
    pub fn exists(&self, name: &str) -> bool {
        match &self.0 {
            Place::Disk(path) => path.join(name).is_file(),
            Place::Embedded { .. } => self.find(name).is_some(),
        }
    }

    /// Whether this folder itself is there.
    #[must_use]
    pub fn is_there(&self) -> bool {
        match &self.0 {
            Place::Disk(path) => path.is_dir(),
            Place::Embedded { files, prefix } => {
                files.iter().any(|(name, _)| name.starts_with(prefix))
            }
        }
    }

    /// The names of the files directly in this folder, sorted.
    pub fn list(&self) -> Result<Vec<String>> {
        let mut names = BTreeSet::new();
        match &self.0 {
            Place::Disk(path) => {
                let failed = |source| Error::Io { path: path.display().to_string(), source };
                for entry in fs::read_dir(path).map_err(failed)? {
                    let entry = entry.map_err(failed)?;
                    if entry.path().is_file() {
                        names.insert(entry.file_name().to_string_lossy().into_owned());
                    }
                }
            }
            Place::Embedded { files, prefix } => {
                let inside = files.iter().filter_map(|(name, _)| name.strip_prefix(&**prefix));
                names.extend(inside.filter(|name| !name.contains('/')).map(str::to_owned));
            }
        }
        Ok(names.into_iter().collect())
    }

    /// How to name the file `name` of this folder in a message; "" names the folder.
    #[must_use]
    pub fn display(&self, name: &str) -> String {
        match &self.0 {
            Place::Disk(path) if name.is_empty() => path.display().to_string(),
            Place::Disk(path) => path.join(name).display().to_string(),
            Place::Embedded { prefix, .. } => {
                format!("embedded {}", format!("{prefix}{name}").trim_end_matches('/'))
            }
        }
    }

    /// The last part of the folder's path: `base` of `models/base`.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.0 {
            Place::Disk(path) => {
                // `.` and `..` have no name of their own until they are resolved.
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                path.file_name()
                    .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
            }
            Place::Embedded { prefix, .. } => {
                prefix.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
            }
        }
    }

    fn find(&self, name: &str) -> Option<&'static [u8]> {
        match &self.0 {
            Place::Disk(_) => None,
            Place::Embedded { files, prefix } => files
                .iter()
                .find(|(path, _)| path.strip_prefix(&**prefix) == Some(name))
                .map(|(_, bytes)| *bytes),
        }
    }
}

fn read_small(path: &std::path::Path, shown: &str) -> Result<Vec<u8>> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::NotFound { path: shown.to_owned() },
        _ => Error::Io { path: shown.to_owned(), source },
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > LARGEST_SMALL_FILE {
        let reason = if metadata.is_file() {
            format!("it has {} bytes, more than any config", metadata.len())
        } else {
            "it is no file".to_owned()
        };
        return Err(Error::Malformed { path: shown.to_owned(), reason });
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    file.take(LARGEST_SMALL_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
