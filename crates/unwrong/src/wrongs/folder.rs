//! A folder of training pictures that may be interrupted and goes on: `000.png` and so on, and
//! `metadata.jsonl` as the `imagefolder` of Hugging Face's datasets reads it.
//!
//! The pictures are the state: each is written whole or not at all and carries its request.
//! The table is made from them, so a run that ends between the two loses nothing.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::picture::{EmbeddedRequest, read_metadata, write_atomically};
use crate::pipeline::Pipeline;
use crate::request::GenerateRequest;

/// The table of an `imagefolder`.
const TABLE: &str = "metadata.jsonl";

/// A folder of training pictures: some are there, some are missing.
#[derive(Debug)]
pub struct WrongFolder {
    path: PathBuf,
    text: String,
    pictures: usize,
    /// Lines of the table, by picture.
    rows: BTreeMap<usize, String>,
    /// Held as long as this run lives.
    _lock: Option<File>,
}

/// A line of the table.
#[derive(Serialize)]
struct Row<'a> {
    file_name: String,
    /// What training says the picture shows; what it was drawn from is in the request.
    text: &'a str,
    unwrong: &'a EmbeddedRequest,
}

impl WrongFolder {
    /// The seed that the first picture of a begun folder has.
    pub fn first_seed(path: &Path) -> Result<Option<u64>> {
        let Some(index) = numbered(path)?.first().copied() else { return Ok(None) };
        let picture = path.join(name(index));
        // A picture that is not ours is refused when the folder is opened.
        let found = read_metadata(&picture).and_then(|metadata| metadata.into_request(&picture));
        let seed = found.ok().and_then(|found| found.request.seed);
        Ok(seed.and_then(|seed| seed.checked_sub(index as u64)))
    }

    /// Opens or makes the folder for these pictures, which training is to call `text`.
    ///
    /// What is there must have been made by the same requests with the same models, else it is
    /// refused, or with `force` drawn anew.
    pub fn open(
        path: &Path,
        text: &str,
        requests: &[GenerateRequest],
        pipeline: &Pipeline,
        force: bool,
    ) -> Result<Self> {
        let cannot = |source| Error::Io { action: "create", path: path.to_owned(), source };
        if !force {
            refuse_others(path)?;
        }
        fs::create_dir_all(path).map_err(cannot)?;
        let lock = lock(path)?;
        remove_remains(path)?;
        let (path, text, pictures) = (path.to_owned(), text.to_owned(), requests.len());
        let mut folder = Self { path, text, pictures, rows: BTreeMap::new(), _lock: lock };
        for index in numbered(&folder.path)? {
            let expected = match requests.get(index) {
                Some(request) => pipeline.embedded(std::slice::from_ref(request))?.pop(),
                None => None,
            };
            match folder.check(index, expected.as_ref()) {
                Ok(row) => drop(folder.rows.insert(index, row)),
                // No run would come by it, and it may be all that somebody has.
                Err(problem) if index >= pictures => return Err(folder.refuse_foreign(&problem)),
                Err(problem) if !force => return Err(folder.refuse(&problem)),
                Err(_) => {} // drawn anew later
            }
        }
        if !force {
            folder.check_table().map_err(|problem| folder.refuse(&problem))?;
        }
        folder.write_table()?;
        Ok(folder)
    }

    /// Pictures that are not there yet.
    #[must_use]
    pub fn missing(&self) -> Vec<usize> {
        (0..self.pictures).filter(|index| !self.rows.contains_key(index)).collect()
    }

    /// Where picture `index` goes.
    #[must_use]
    pub fn picture(&self, index: usize) -> PathBuf {
        self.path.join(name(index))
    }

    /// Takes a picture that has been written into the table.
    pub fn add(&mut self, index: usize, embedded: &EmbeddedRequest) -> Result<()> {
        self.rows.insert(index, self.row(index, embedded));
        self.write_table()
    }

    fn row(&self, index: usize, unwrong: &EmbeddedRequest) -> String {
        let row = Row { file_name: name(index), text: &self.text, unwrong };
        serde_json::to_string(&row).expect("strings and numbers always make JSON")
    }

    /// The row of a picture that is there, or how it differs from the one that belongs there.
    fn check(&self, index: usize, expected: Option<&EmbeddedRequest>) -> Result<String, String> {
        let Some(expected) = expected else {
            return Err(format!("there is a `{}`, beyond {} pictures", name(index), self.pictures));
        };
        let path = self.picture(index);
        let metadata = read_metadata(&path).and_then(|metadata| metadata.into_request(&path));
        let found = metadata.map_err(|error| error.to_string())?;
        let (found, expected) = (self.row(index, &found), self.row(index, expected));
        match differences(&json(&found), &json(&expected)) {
            None => Ok(expected),
            Some(differences) => Err(format!("`{}` has {differences}", name(index))),
        }
    }

    /// Whether the table that is there says the same about the pictures that are there.
    fn check_table(&self) -> Result<(), String> {
        let Ok(table) = fs::read_to_string(self.path.join(TABLE)) else { return Ok(()) };
        for (number, line) in table.lines().enumerate() {
            let found: Value = serde_json::from_str(line)
                .map_err(|error| format!("line {} of `{TABLE}` is no JSON: {error}", number + 1))?;
            let rows = self.rows.iter();
            let expected =
                rows.map(|(_, row)| json(row)).find(|row| row["file_name"] == found["file_name"]);
            // Of a picture that has gone: it is drawn again.
            let Some(expected) = expected else { continue };
            if let Some(differences) = differences(&found, &expected) {
                return Err(format!("line {} of `{TABLE}` has {differences}", number + 1));
            }
        }
        Ok(())
    }

    fn write_table(&self) -> Result<()> {
        let table: String = self.rows.values().flat_map(|row| [row.as_str(), "\n"]).collect();
        let path = self.path.join(TABLE);
        if fs::read(&path).is_ok_and(|there| there == table.as_bytes()) {
            return Ok(());
        }
        write_atomically(&path, table.as_bytes(), true)
    }

    fn refuse_foreign(&self, problem: &str) -> Error {
        Error::Request {
            problem: format!("`{}` holds what is not of this set: {problem}", self.path.display()),
            hint: Some("give another folder, or move it away: nothing is deleted".to_owned()),
        }
    }

    fn refuse(&self, problem: &str) -> Error {
        Error::Request {
            problem: format!("`{}` was begun with other settings: {problem}", self.path.display()),
            hint: Some("give another folder, or `--force` to draw what differs anew".to_owned()),
        }
    }
}

fn name(index: usize) -> String {
    format!("{index:03}.png")
}

/// Refuses a folder that holds other things and no table of ours: pictures would be drawn among
/// them, and a table of others replaced.
fn refuse_others(path: &Path) -> Result<()> {
    let table = fs::read_to_string(path.join(TABLE)).ok();
    if table.as_deref().is_some_and(is_ours) {
        return Ok(());
    }
    let is_other = |name: &String| {
        let is_picture = name
            .strip_suffix(".png")
            .is_some_and(|stem| stem.parse().is_ok_and(|index| self::name(index) == *name));
        // Pictures are looked into later: they may be all that is left of a set.
        !name.starts_with('.') && !is_picture
    };
    match names(path)?.into_iter().filter(is_other).min() {
        None => Ok(()),
        Some(name) => Err(Error::Request {
            problem: format!("`{}` holds `{name}` and no set of wrong pictures", path.display()),
            hint: Some(
                "give a new or empty folder, or `--force` to draw beside what is there".to_owned(),
            ),
        }),
    }
}

/// Whether every line says how its picture was drawn; of none, all do.
fn is_ours(table: &str) -> bool {
    table
        .lines()
        .all(|line| serde_json::from_str::<Value>(line).is_ok_and(|row| row["unwrong"].is_object()))
}

/// Numbers of the pictures in a folder, sorted; none if there is no folder.
fn numbered(folder: &Path) -> Result<Vec<usize>> {
    let names = names(folder)?.into_iter();
    let numbers = names.filter_map(|entry| {
        let index = entry.strip_suffix(".png")?.parse().ok()?;
        (name(index) == entry).then_some(index)
    });
    let mut numbers: Vec<usize> = numbers.collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let cannot = |source| Error::Io { action: "read", path: folder.to_owned(), source };
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(cannot)? {
        names.extend(entry.map_err(cannot)?.file_name().into_string());
    }
    Ok(names)
}

/// Keeps a second run out of the folder. Where a folder cannot be opened as a file, nothing does.
fn lock(folder: &Path) -> Result<Option<File>> {
    let Ok(file) = File::open(folder) else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Error::Request {
            problem: format!("another run is drawing into `{}`", folder.display()),
            hint: Some("wait for it, or give another folder".to_owned()),
        }),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Removes files that a run was writing when it was killed.
fn remove_remains(folder: &Path) -> Result<()> {
    for name in names(folder)? {
        let part = name.strip_prefix(".unwrong-").and_then(|name| name.strip_suffix(".part"));
        if part.is_some() {
            let path = folder.join(name);
            fs::remove_file(&path).map_err(|source| Error::Io {
                action: "remove",
                path,
                source,
            })?;
        }
    }
    Ok(())
}

fn json(row: &str) -> Value {
    serde_json::from_str(row).expect("rows are JSON")
}

/// How two rows differ, in words: in the requests if they do, else anywhere.
fn differences(found: &Value, expected: &Value) -> Option<String> {
    let mut differences = Vec::new();
    let request = |row: &Value| row["unwrong"]["request"].clone();
    compare(&request(found), &request(expected), "", &mut differences);
    if differences.is_empty() {
        compare(found, expected, "", &mut differences);
    }
    (!differences.is_empty()).then(|| differences.join(", "))
}

/// Collects where two values differ; `place` is where they are.
fn compare(found: &Value, expected: &Value, place: &str, differences: &mut Vec<String>) {
    if let (Value::Object(one), Value::Object(other)) = (found, expected) {
        for key in one.keys().chain(other.keys().filter(|key| !one.contains_key(*key))) {
            let place = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
            compare(&found[key], &expected[key], &place, differences);
        }
    } else if found != expected {
        let said = |value: &Value| match value {
            Value::Null => "nothing".to_owned(),
            Value::String(text) => format!("`{text}`"),
            value => format!("`{value}`"),
        };
        differences.push(format!("`{place}` {} instead of {}", said(found), said(expected)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_difference_is_named() {
        let one = json!({"text": "wrong", "unwrong": {"request": {"steps": 2, "seed": 1}}});
        assert_eq!(differences(&one, &one), None);
        let mut other = one.clone();
        other["text"] = json!("bad");
        let said = differences(&one, &other);
        assert_eq!(said.as_deref(), Some("`text` `wrong` instead of `bad`"));
        other["unwrong"]["request"] = json!({"steps": 3, "seed": 1, "vae": "fix"});
        let said = differences(&one, &other);
        let expected = "`steps` `2` instead of `3`, `vae` nothing instead of `fix`";
        assert_eq!(said.as_deref(), Some(expected));
    }
}
