//! The bytes of one file, wherever they are: a map, the program itself, or memory.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{Error, Result};

/// The bytes of one file. Cloning shares them.
#[derive(Clone)]
pub struct Bytes(Holder);

#[derive(Clone)]
enum Holder {
    Mapped(Arc<Mmap>),
    Static(&'static [u8]),
    Owned(Arc<[u8]>),
}

impl Bytes {
    /// Maps a file of the disk into memory; it is read page by page when used.
    ///
    /// Files must not be cut short while they are open: the system then ends the program.
    pub fn map(path: &Path) -> Result<Self> {
        let io_error = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Error::NotFound { path: path.display().to_string() },
            _ => Error::Io { path: path.display().to_string(), source },
        };
        // Asked before opening: opening a named pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(io_error)?;
        if !metadata.is_file() {
            return Err(Error::WrongModel {
                path: path.display().to_string(),
                found: if metadata.is_dir() { "a folder" } else { "a device or pipe" }.to_owned(),
                expected: "a file".to_owned(),
            });
        }
        let file = File::open(path).map_err(io_error)?;
        if file.metadata().map_err(io_error)?.len() == 0 {
            return Ok(Self(Holder::Static(&[])));
        }
        #[expect(unsafe_code, reason = "a map is the only way to use weights without copying them")]
        // SAFETY: the map is read-only and every value is valid for the bytes we read from it.
        // That nobody changes the file meanwhile is asked for in the doc above.
        let map = unsafe { Mmap::map(&file) }.map_err(io_error)?;
        Ok(Self(Holder::Mapped(Arc::new(map))))
    }

    /// Bytes that are part of the program.
    #[must_use]
    pub const fn embedded(bytes: &'static [u8]) -> Self {
        Self(Holder::Static(bytes))
    }

    /// Bytes in memory.
    #[must_use]
    pub fn owned(bytes: Vec<u8>) -> Self {
        Self(Holder::Owned(bytes.into()))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Holder::Mapped(map) => map,
            Holder::Static(bytes) => bytes,
            Holder::Owned(bytes) => bytes,
        }
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let holder = match &self.0 {
            Holder::Mapped(_) => "mapped",
            Holder::Static(_) => "embedded",
            Holder::Owned(_) => "owned",
        };
        write!(f, "{holder} bytes, {} long", self.len())
    }
}
