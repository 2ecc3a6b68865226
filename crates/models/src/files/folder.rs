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
        name: &'static str,
        files: EmbeddedFiles,
        prefix: String,
    },
}

impl Folder {
    /// A folder on disk.
    pub fn disk(path: impl Into<PathBuf>) -> Self {
        Self(Place::Disk(path.into()))
    }

    /// The folder at the top of embedded files; `name` stands for it in messages.
    #[must_use]
    pub const fn embedded(name: &'static str, files: EmbeddedFiles) -> Self {
        Self(Place::Embedded { name, files, prefix: String::new() })
    }

    /// The folder `name` in this one; it need not exist.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        Self(match &self.0 {
            Place::Disk(path) => Place::Disk(path.join(name)),
            Place::Embedded { name: top, files, prefix } => Place::Embedded {
                name: top,
                files,
                prefix: format!("{prefix}{}/", name.trim_matches('/')),
            },
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
            Place::Embedded { files, prefix, .. } => {
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
            Place::Embedded { files, prefix, .. } => {
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
            Place::Embedded { name: top, prefix, .. } => {
                let path = format!("{top}/{prefix}{name}");
                format!("{} (embedded)", path.trim_end_matches('/'))
            }
        }
    }

    /// A short name for the model in this folder.
    ///
    /// The last part of the path; with the part before it for `base` and `refiner`, which say
    /// nothing alone, and the repository for a folder of the Hugging Face cache.
    #[must_use]
    pub fn name(&self) -> String {
        let parts: Vec<String> = match &self.0 {
            Place::Disk(path) => {
                // `.` and `..` have no name of their own until they are resolved.
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                path.iter().map(|part| part.to_string_lossy().into_owned()).collect()
            }
            Place::Embedded { name, prefix, .. } => std::iter::once(*name)
                .chain(prefix.split('/').filter(|part| !part.is_empty()))
                .map(str::to_owned)
                .collect(),
        };
        match parts.as_slice() {
            [.., repository, snapshots, _]
                if snapshots == "snapshots" && repository.starts_with("models--") =>
            {
                repository["models--".len()..].replace("--", "/")
            }
            [.., above, last] if matches!(last.as_str(), "base" | "refiner") => {
                format!("{above}/{last}")
            }
            [.., last] => last.clone(),
            [] => String::new(),
        }
    }

    fn find(&self, name: &str) -> Option<&'static [u8]> {
        match &self.0 {
            Place::Disk(_) => None,
            Place::Embedded { files, prefix, .. } => files
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
