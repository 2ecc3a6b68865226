//! Which words go with a picture.
//!
//! The first of these that there is:
//!
//! 1. `NAME.txt`, else `NAME.caption`, beside the picture (kohya's sd-scripts): the first line with
//!    text in it;
//! 2. `text` in the line of `metadata.jsonl` whose `file_name` is the picture (Hugging Face's
//!    imagefolder); a file in a folder within wins over those above;
//! 3. the one caption of the options (DreamBooth's instance prompt).

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::listing::Listing;
use super::note::Note;
use crate::error::{Error, Result};

/// Endings of caption files, the first wins.
const ENDINGS: [&str; 2] = ["txt", "caption"];
const METADATA: &str = "metadata.jsonl";
/// Other forms of the imagefolder's metadata.
const UNREAD: [&str; 2] = ["metadata.csv", "metadata.parquet"];
/// Bytes of a caption file at most: larger ones are something else.
const MAX_BYTES: u64 = 1 << 16;

/// All captions of a folder, by picture.
pub(super) struct Captions<'a> {
    listing: &'a Listing,
    metadata: HashMap<PathBuf, String>,
    for_all: Option<&'a str>,
}

#[derive(Deserialize)]
struct Line {
    file_name: String,
    text: Option<String>,
}

impl Line {
    /// What is wrong is said in words that follow the line's number.
    fn parse(line: &str) -> Result<Self, String> {
        const BEGINS: &str = "is not an object with `file_name`: ";
        // A list would do for the parser.
        if let Some(found) = line.trim_start().chars().next().filter(|found| *found != '{') {
            return Err(format!("{BEGINS}it begins with `{found}`, expected `{{`"));
        }
        serde_json::from_str(line).map_err(|error| {
            let said = error.to_string();
            // The parser counts its own lines, of which there is one.
            let said = said.rsplit_once(" at line ").map_or(said.as_str(), |(said, _)| said);
            format!("{BEGINS}{said} in column {}", error.column())
        })
    }
}

impl<'a> Captions<'a> {
    /// Reads the metadata; caption files are read when asked for.
    pub(super) fn read(
        listing: &'a Listing,
        for_all: Option<&'a str>,
        notes: &mut Vec<Note>,
    ) -> Result<Self> {
        let mut metadata = HashMap::new();
        for path in listing.named(METADATA) {
            let lines = read_metadata(path)?;
            let missing = |(picture, _): &&(PathBuf, String)| !listing.has(picture);
            let mut missing = lines.iter().filter(missing);
            if let Some((picture, _)) = missing.next() {
                let name = picture.strip_prefix(folder_of(path)).unwrap_or(picture);
                notes.push(Note::NoSuchPicture {
                    path: path.to_owned(),
                    name: name.display().to_string(),
                    others: missing.count(),
                });
            }
            metadata.extend(lines);
        }
        let unread = UNREAD.iter().flat_map(|name| listing.named(name));
        notes.extend(unread.map(|path| Note::UnreadCaptions { path: path.to_owned() }));
        Ok(Self { listing, metadata, for_all })
    }

    /// The caption of a picture, if it has one.
    pub(super) fn of(&self, picture: &Path, notes: &mut Vec<Note>) -> Result<Option<String>> {
        let listed = self.metadata.get(picture).cloned();
        let beside = ENDINGS.iter().map(|ending| picture.with_extension(ending));
        // A picture may itself be called `a.txt`.
        let own = beside.into_iter().find(|path| path != picture && self.listing.has(path));
        let own = own.map(|path| read_caption(&path, notes)).transpose()?;
        if own.is_some() && listed.is_some() && own != listed {
            notes.push(Note::TwoCaptions { path: picture.to_owned() });
        }
        let caption = own.or(listed).or_else(|| self.for_all.map(str::to_owned));
        if caption.as_deref() == Some("") {
            notes.push(Note::EmptyCaption { path: picture.to_owned() });
        }
        Ok(caption)
    }
}

/// The first line with text in it, without the white space around it.
fn read_caption(path: &Path, notes: &mut Vec<Note>) -> Result<String> {
    let text = read_text(path, Some(MAX_BYTES))?;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.len() > 1 {
        notes.push(Note::OneLine { path: path.to_owned(), lines: lines.len() });
    }
    Ok(lines.first().copied().unwrap_or_default().to_owned())
}

/// Pictures and captions; lines without a caption are left out.
fn read_metadata(path: &Path) -> Result<Vec<(PathBuf, String)>> {
    let folder = folder_of(path);
    let text = read_text(path, None)?;
    let mut lines: Vec<(PathBuf, String)> = Vec::new();
    let mut places: HashMap<PathBuf, usize> = HashMap::new();
    for (index, line) in text.lines().enumerate() {
        let refuse = |problem: String| {
            let problem = format!("line {} {problem}", index + 1);
            Error::Caption { path: path.to_owned(), problem }
        };
        if line.trim().is_empty() {
            continue;
        }
        let Line { file_name, text } = Line::parse(line).map_err(&refuse)?;
        let picture = within(folder, &file_name).ok_or_else(|| {
            refuse(format!("names `{file_name}`, expected a file within the folder"))
        })?;
        let Some(text) = text else { continue };
        let text = text.trim().to_owned();
        match places.insert(picture.clone(), lines.len()) {
            Some(earlier) if lines[earlier].1 != text => {
                return Err(refuse(format!("gives `{file_name}` a second caption")));
            }
            _ => lines.push((picture, text)),
        }
    }
    Ok(lines)
}

/// A text file of at most so many bytes.
fn read_text(path: &Path, limit: Option<u64>) -> Result<String> {
    let refuse = |problem| Error::Caption { path: path.to_owned(), problem };
    let about = fs::metadata(path).map_err(Error::io("read", path))?;
    // Opening a pipe would wait for whoever writes into it.
    if !about.is_file() {
        return Err(refuse("is a device or a pipe, expected a text file".to_owned()));
    }
    if let Some(limit) = limit.filter(|limit| about.len() > *limit) {
        let bytes = about.len();
        return Err(refuse(format!("has {bytes} bytes, expected a caption of at most {limit}")));
    }
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let text = String::from_utf8(bytes).map_err(|_| refuse("is not UTF-8 text".to_owned()))?;
    // Some editors on Windows begin a file with a byte-order mark.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// A name below a folder; none for one that leads out of it or is the folder's own.
fn within(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut path = folder.to_owned();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (path != folder).then_some(path)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}
