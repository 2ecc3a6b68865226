//! A training put aside: one file with all that a step changes, and what the training is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use unwrong::picture::write_atomically;
use unwrong_models::files::{Bytes, FrozenWeight, TensorFile, safetensors_bytes};

use crate::error::{Error, Result};
use crate::settings::difference;
use crate::trainer::State;

/// Metadata: what the training is, word for word.
const SETTINGS: &str = "settings";
/// Metadata: the hash of settings and tensors.
const CHECKSUM: &str = "sha256";
const NAME: (&str, &str) = ("checkpoint-", ".safetensors");

/// The folder in which a training keeps its checkpoints.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: PathBuf,
    /// What the training is; one with other settings is not resumed.
    settings: String,
}

/// What a training goes on from.
#[derive(Debug, Default)]
pub struct Last {
    /// The last state that is whole; absent: the training begins anew.
    pub state: Option<State>,
    /// Later files that are not.
    pub damaged: Vec<PathBuf>,
}

impl Checkpoints {
    /// Makes the folder if it is not there.
    pub fn open(folder: &Path, settings: String) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        Ok(Self { folder: folder.to_owned(), settings })
    }

    /// The file of a step.
    #[must_use]
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{}{step:08}{}", NAME.0, NAME.1))
    }

    /// Writes the state down; the file appears when it is complete.
    pub fn save(&self, state: &State) -> Result<PathBuf> {
        let path = self.path(state.step);
        write_atomically(&path, &encode(state, &self.settings), true)?;
        Ok(path)
    }

    /// The last state that is whole, of a training with the same settings.
    ///
    /// A damaged file is passed over for the one before it. Settings that differ are an error.
    pub fn last(&self, like: &State) -> Result<Last> {
        let mut last = Last::default();
        for path in self.files()?.into_iter().rev() {
            let whole = read(&path);
            if let Some((settings, _)) = &whole
                && *settings != self.settings
            {
                return Err(Error::OtherTraining {
                    difference: difference(settings, &self.settings),
                });
            }
            last.state = whole.and_then(|(_, file)| state(&file, like));
            if last.state.is_some() {
                break;
            }
            last.damaged.push(path);
        }
        Ok(last)
    }

    /// Deletes all but the `keep` newest up to this step. Later ones, which are damaged, are
    /// replaced in time and must not push out good ones.
    pub fn prune(&self, keep: usize, step: u64) -> Result<()> {
        let mut files = self.files()?;
        files.retain(|path| *path <= self.path(step));
        let old = files.len().saturating_sub(keep);
        files[..old]
            .iter()
            .try_for_each(|path| fs::remove_file(path).map_err(Error::io("delete", path)))
    }

    /// All of them, oldest first.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.folder).map_err(Error::io("list", &self.folder))?;
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io("list", &self.folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let step = name.strip_prefix(NAME.0).and_then(|rest| rest.strip_suffix(NAME.1));
            if step.is_some_and(|step| step.parse::<u64>().is_ok()) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

fn encode(state: &State, settings: &str) -> Vec<u8> {
    let mut tensors = BTreeMap::new();
    let mut add = |name: String, values: &[f32]| {
        tensors.insert(name, FrozenWeight::from_f32(values, &[values.len()]));
    };
    add("losses".to_owned(), &state.losses);
    for (index, values) in state.tensors.iter().enumerate() {
        add(format!("{index:06}.value"), values);
    }
    let means = state.average.iter().flat_map(|average| average.tensors.iter().enumerate());
    for (index, means) in means {
        add(format!("{index:06}.average"), means);
    }
    for (name, values) in state.optimizer.parts() {
        add(name, &values);
    }
    let metadata = BTreeMap::from([
        (SETTINGS.to_owned(), settings.to_owned()),
        (CHECKSUM.to_owned(), checksum(settings, &tensors)),
    ]);
    safetensors_bytes(&tensors, &metadata)
}

/// Settings and tensors, if the file is whole.
fn read(path: &Path) -> Option<(String, TensorFile)> {
    let bytes = Bytes::owned(fs::read(path).ok()?);
    let file = TensorFile::parse(&bytes, &path.display().to_string()).ok()?;
    let settings = file.metadata().get(SETTINGS)?.clone();
    if *file.metadata().get(CHECKSUM)? != checksum(&settings, file.weights()) {
        return None;
    }
    Some((settings, file))
}

/// The state in a file, if its tensors are those of `like`.
fn state(file: &TensorFile, like: &State) -> Option<State> {
    let values = |name: &str| Some(file.weights().get(name)?.values_f32());
    let losses = values("losses")?;
    let mut state = like.clone();
    state.step = losses.len() as u64;
    state.losses = losses;
    for (index, tensor) in state.tensors.iter_mut().enumerate() {
        *tensor = values(&format!("{index:06}.value"))?;
    }
    if let Some(average) = &mut state.average {
        average.steps = state.step;
        for (index, means) in average.tensors.iter_mut().enumerate() {
            *means = values(&format!("{index:06}.average"))?;
        }
    }
    state.optimizer = state.optimizer.with_parts(state.step, values)?;
    Some(state)
}

fn checksum(settings: &str, tensors: &BTreeMap<String, FrozenWeight>) -> String {
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    add(settings.as_bytes());
    for (name, weight) in tensors {
        add(name.as_bytes());
        add(weight.bytes());
    }
    format!("{:x}", hash.finalize())
}
