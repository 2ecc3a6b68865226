//! The folder of an experiment: what is there already, and whether it may be.
//!
//! ```text
//! DIR/experiment.json                what was asked
//! DIR/pictures/000-7-both.png        prompt, seed, variant; the request rides inside
//! DIR/follow.jsonl                   what the model says of prompt and picture, where it is asked
//! DIR/results.jsonl                  one line per picture
//! DIR/sheet.webp                     a few prompts in every variant
//! DIR/report.html
//! ```
//!
//! Every file appears under its name only when it is complete, so a run may end at any moment:
//! the next one goes on with the pictures that are missing. What follows from the pictures,
//! `results.jsonl` and `report.html`, is written anew at the end of each run.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use unwrong::lock::{FolderLock, LOCK};
use unwrong::picture::{EmbeddedRequest, read_metadata, write_atomically};
use unwrong::{Error, Result};

use crate::{Experiment, wrong_request};

/// What was asked, beside the pictures.
const MANIFEST: &str = "experiment.json";
/// How [`write_atomically`] calls what is not complete.
const UNFINISHED: (&str, &str) = (".unwrong-", ".part");

/// Where an experiment goes.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    force: bool,
}

impl Folder {
    /// Refuses a folder with other contents; writes nothing yet.
    pub fn new(path: &Path, experiment: &Experiment, force: bool) -> Result<Self> {
        let folder = Self { path: path.to_owned(), force };
        if !force {
            folder.refuse_others(experiment)?;
        }
        Ok(folder)
    }

    /// The place of a file inside.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn refuse_others(&self, experiment: &Experiment) -> Result<()> {
        let shown = self.path.display();
        let cannot = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { action: "read", path, source }
        };
        if self.path.symlink_metadata().is_err() {
            return Ok(());
        }
        if !self.path.is_dir() {
            return Err(wrong_request(
                format!("`{shown}` is a file, expected a folder"),
                "give another name with `-o`",
            ));
        }
        let manifest = self.file(MANIFEST);
        if !manifest.exists() {
            let mut entries = fs::read_dir(&self.path).map_err(cannot(&self.path))?.flatten();
            let is_ours = |name: &str| name == LOCK || is_unfinished(name);
            let other = entries.find(|entry| !is_ours(&entry.file_name().to_string_lossy()));
            let Some(other) = other else { return Ok(()) };
            return Err(wrong_request(
                format!(
                    "`{shown}` holds `{}` and no experiment",
                    other.file_name().to_string_lossy()
                ),
                "give a new or empty folder, or `--force` to write beside what is there",
            ));
        }
        let text = fs::read_to_string(&manifest).map_err(cannot(&manifest))?;
        let ours = experiment.manifest();
        let theirs: Value = serde_json::from_str(&text).unwrap_or_default();
        match difference(&theirs, &ours) {
            None => Ok(()),
            Some(difference) => Err(wrong_request(
                format!("`{shown}` holds another experiment: {difference}"),
                "give another folder, or `--force` to go on here; pictures that both have are kept",
            )),
        }
    }

    /// Keeps other runs out of the folder, which is made if it is not there.
    pub(crate) fn lock(&self) -> Result<FolderLock> {
        FolderLock::take(&self.path)
    }

    /// Makes the folder this experiment's, and removes what a killed run left unfinished.
    pub(crate) fn claim(&self, experiment: &Experiment) -> Result<()> {
        for folder in [self.path.clone(), self.file("pictures")] {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if is_unfinished(&entry.file_name().to_string_lossy()) {
                    let path = entry.path();
                    fs::remove_file(&path).map_err(|source| Error::Io {
                        action: "remove",
                        path,
                        source,
                    })?;
                }
            }
        }
        let manifest = serde_json::to_string_pretty(&experiment.manifest())
            .expect("strings and numbers always make JSON");
        self.write(MANIFEST, format!("{manifest}\n").as_bytes())
    }

    /// Whether this picture is there, complete and of this very request.
    ///
    /// Another picture under its name is an error, or, with `force`, redone.
    pub(crate) fn has(&self, name: &str, expected: &EmbeddedRequest) -> Result<bool> {
        let path = self.file(name);
        if path.symlink_metadata().is_err() {
            return Ok(false);
        }
        let found = read_metadata(&path).and_then(|metadata| metadata.into_request(&path));
        match found {
            Ok(found) if found == *expected => Ok(true),
            _ if self.force => Ok(false),
            Ok(found) => Err(wrong_request(
                format!("`{}` is another picture: {}", path.display(), changed(&found, expected)),
                "give another folder, or `--force` to draw it again",
            )),
            Err(error) => Err(wrong_request(
                error.to_string(),
                "give another folder, or `--force` to draw it again",
            )),
        }
    }

    /// Writes a picture; one that is there is replaced only by force.
    pub(crate) fn write_picture(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_atomically(&self.file(name), bytes, self.force)
    }

    /// Writes what follows from the pictures, in place of what an earlier run wrote.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_atomically(&self.file(name), bytes, true)
    }
}

fn is_unfinished(name: &str) -> bool {
    let (prefix, suffix) = UNFINISHED;
    name.starts_with(prefix) && name.ends_with(suffix)
}

/// What differs between two manifests; none if nothing does.
fn difference(theirs: &Value, ours: &Value) -> Option<String> {
    let fields = ours.as_object()?;
    let (key, value) =
        fields.iter().find(|(key, value)| theirs.get(key.as_str()) != Some(*value))?;
    Some(match theirs.get(key) {
        Some(Value::String(other)) => format!("its {key} are {other}, not {}", plain(value)),
        Some(Value::Array(others)) if value.as_array().is_some_and(|v| v.len() != others.len()) => {
            format!("it has {} {key}, not {}", others.len(), value.as_array().map_or(0, Vec::len))
        }
        Some(Value::Object(other)) => {
            let differs = |key: &&String| other.get(*key) != value.get(key.as_str());
            let keys = value.as_object().into_iter().flatten().map(|(key, _)| key);
            let key = keys.chain(other.keys()).find(differs)?;
            let side = |from: Option<&Value>| from.map_or("absent".to_owned(), plain);
            format!("its `{key}` is {}, not {}", side(other.get(key)), side(value.get(key)))
        }
        Some(_) => format!("its {key} are others"),
        None => format!("its `{MANIFEST}` has no `{key}`"),
    })
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What differs between the picture that is there and the one that is asked for.
fn changed(found: &EmbeddedRequest, expected: &EmbeddedRequest) -> String {
    if found.models != expected.models {
        return "it was made with another model".to_owned();
    }
    if found.loras != expected.loras {
        return "it was made with other LoRA files or scales".to_owned();
    }
    let [found, expected] = [found, expected]
        .map(|embedded| serde_json::to_value(&embedded.request).unwrap_or_default());
    difference(&Value::from_iter([("request", found)]), &Value::from_iter([("request", expected)]))
        .unwrap_or_else(|| "it has another version".to_owned())
}
