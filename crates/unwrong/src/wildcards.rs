//! Wildcards of prompts from a folder of text files.
//!
//! `animals/cats.txt` is the wildcard `animals/cats`; see [`Dynamic`](unwrong_prompt::Dynamic)
//! for what it holds. Files are looked for at once and read when a prompt names them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use unwrong_prompt::Wildcards;

use crate::error::{Error, Result};

/// Largest accepted file.
const MAX_BYTES: u64 = 16 << 20;
/// Folders in folders: more is a link that leads back up.
const MOST_DEPTH: usize = 32;
/// Files and folders; more is the wrong folder.
const MOST_FILES: usize = 100_000;

/// A folder of `.txt` files and folders of them.
#[derive(Debug, Clone)]
pub struct WildcardFolder {
    files: BTreeMap<String, PathBuf>,
}

impl WildcardFolder {
    /// Finds the files of `folder`. Names that start with a dot, and those that are no Unicode,
    /// are left out.
    pub fn open(folder: &Path) -> Result<Self> {
        let wrong = |problem: String| Error::Request {
            problem,
            hint: Some("name a folder of text files, one entry a line".to_owned()),
        };
        let cannot = Error::reading(folder, "a folder of wildcards");
        if !fs::metadata(folder).map_err(&cannot)?.is_dir() {
            let problem = format!("`{}` is no folder, expected one of wildcards", folder.display());
            return Err(wrong(problem));
        }
        let mut files = BTreeMap::new();
        let mut seen = 0;
        let mut open = vec![(folder.to_owned(), String::new(), 0)];
        while let Some((path, prefix, depth)) = open.pop() {
            let cannot = Error::reading(&path, "a folder of wildcards");
            for entry in fs::read_dir(&path).map_err(&cannot)? {
                let entry = entry.map_err(&cannot)?;
                seen += 1;
                if seen > MOST_FILES || depth > MOST_DEPTH {
                    let limits = format!("{MOST_FILES} files in {MOST_DEPTH} levels");
                    let folder = folder.display();
                    return Err(wrong(format!("`{folder}` has more than {limits} of folders")));
                }
                let name = entry.file_name();
                let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else {
                    continue;
                };
                if entry.path().is_dir() {
                    open.push((entry.path(), format!("{prefix}{name}/"), depth + 1));
                } else if let Some(name) = name.strip_suffix(".txt") {
                    files.insert(format!("{prefix}{name}"), entry.path());
                }
            }
        }
        Ok(Self { files })
    }
}

impl Wildcards for WildcardFolder {
    fn names(&self) -> Vec<&str> {
        self.files.keys().map(String::as_str).collect()
    }

    fn read(&self, name: &str) -> Result<String, String> {
        let path = self.files.get(name).ok_or("it is not in the folder")?;
        let shown = path.display();
        let cannot = |error| format!("`{shown}`: {error}");
        // Asked before opening: opening a named pipe would wait for a writer.
        let about = fs::metadata(path).map_err(cannot)?;
        if !about.is_file() {
            return Err(format!("`{shown}` is a device or a pipe"));
        }
        if about.len() > MAX_BYTES {
            return Err(format!(
                "`{shown}` has {} bytes, expected at most {MAX_BYTES}",
                about.len()
            ));
        }
        let bytes = fs::read(path).map_err(cannot)?;
        String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = before.split(|byte| *byte == b'\n').count();
            format!("`{shown}` is not UTF-8 in line {line}")
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use unwrong_prompt::Dynamic;

    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        folder
    }

    #[test]
    fn a_text_file_in_a_folder_is_a_wildcard_with_a_path() {
        let folder = folder(&[
            ("animals/cats.txt", b"# big\nlion\n"),
            ("fruit.txt", b"fig\r\n"),
            ("fruit.md", b""),
            (".git/x.txt", b""),
        ]);
        let wildcards = WildcardFolder::open(folder.path()).unwrap();
        assert_eq!(wildcards.names(), ["animals/cats", "fruit"]);
        let dynamic = Dynamic::parse("__animals/*__ __fruit__", &wildcards).unwrap();
        assert_eq!(dynamic.draw(0).unwrap(), "lion fig");
    }

    #[test]
    fn a_wildcard_that_is_no_text_is_refused_with_its_line() {
        let folder = folder(&[("a.txt", b"x\ncaf\xe9\n")]);
        let wildcards = WildcardFolder::open(folder.path()).unwrap();
        assert!(wildcards.read("a").unwrap_err().ends_with("a.txt` is not UTF-8 in line 2"));
        let error = Dynamic::parse("__a__", &wildcards).unwrap_err();
        assert!(error.to_string().starts_with("wildcard `a` cannot be read: "), "{error}");
    }

    #[test]
    fn what_is_no_folder_is_refused() {
        let folder = folder(&[("a.txt", b"x")]);
        for path in [folder.path().join("none"), folder.path().join("a.txt")] {
            assert!(WildcardFolder::open(&path).unwrap_err().is_request_error());
        }
    }
}
