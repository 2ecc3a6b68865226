//! LoRA files that were opened lately: another scale looks at no number again.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use unwrong_models::files::Folder;
use unwrong_models::lora::LoraFile;

use crate::error::Result;
use crate::identity::hex;
use crate::pipeline::{Stamp, stamp};
use crate::recent::Recent;

/// Files that stay open. They are mapped: what they take, the system can have back.
const OPEN: usize = 16;

/// LoRA files that were opened lately, each as it was then.
pub(crate) struct LoraFiles(Recent<(String, Option<Stamp>), Arc<OpenLora>>);

/// A LoRA file, read and checked.
pub(crate) struct OpenLora {
    pub(crate) file: LoraFile,
    pub(crate) sha256: String,
}

impl Default for LoraFiles {
    fn default() -> Self {
        Self(Recent::new(OPEN))
    }
}

impl LoraFiles {
    /// A file of the disk.
    pub(crate) fn open(&self, path: &Path) -> Result<Arc<OpenLora>> {
        let key = (path.display().to_string(), stamp(path));
        self.0.get_or_make(key, || Ok(OpenLora::new(LoraFile::open(path)?)))
    }

    /// A file of a folder, which may be inside the program and then has no stamp.
    pub(crate) fn open_in(&self, folder: &Folder, name: &str) -> Result<Arc<OpenLora>> {
        let path = folder.display(name);
        let key = (path.clone(), stamp(Path::new(&path)));
        self.0.get_or_make(key, || Ok(OpenLora::new(LoraFile::open_in(folder, name)?)))
    }
}

impl OpenLora {
    fn new(file: LoraFile) -> Arc<Self> {
        let sha256 = hex(&Sha256::digest(&**file.bytes()));
        Arc::new(Self { file, sha256 })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_file_is_read_once_until_another_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let demo =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model/wrong-lora.safetensors");
        fs::copy(&demo, &path).unwrap();
        let files = LoraFiles::default();
        let first = files.open(&path).unwrap();
        assert!(Arc::ptr_eq(&first, &files.open(&path).unwrap()));

        let later = SystemTime::now() + Duration::from_secs(9);
        fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        let second = files.open(&path).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!(first.sha256, second.sha256);
    }
}
