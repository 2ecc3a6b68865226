//! The files of a folder, sorted into pictures and problems.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use unwrong::request::Size;

use super::bucket::{Buckets, Fit};
use super::item::Item;
use super::listing::Listing;
use super::note::Note;
use super::options::DataOptions;
use super::survey::{Seen, Survey};
use crate::error::{Error, Result};

/// A picture may be enlarged this many times: beyond, it is an icon or a mistake.
const MOST_ENLARGED: f64 = 8.0;
/// More than this is worth a note.
const MUCH_ENLARGED: f64 = 2.0;
/// Share of a picture that its bucket keeps at least.
const LEAST_KEPT: f64 = 0.25;
/// Less than this is worth a note.
const LITTLE_KEPT: f64 = 0.5;
/// Files that a message names at most.
const MOST_NAMED: usize = 3;

/// What a scan has found so far.
pub(super) struct Found<'a> {
    options: &'a DataOptions,
    buckets: Buckets,
    pub(super) items: Vec<Item>,
    pub(super) notes: Vec<Note>,
    /// The first file with some content, by hash.
    contents: HashMap<String, PathBuf>,
    problems: Vec<(PathBuf, String)>,
    others: usize,
}

impl<'a> Found<'a> {
    pub(super) fn new(options: &'a DataOptions) -> Self {
        Self {
            options,
            buckets: Buckets::new(options),
            items: Vec::new(),
            notes: Vec::new(),
            contents: HashMap::new(),
            problems: Vec::new(),
            others: 0,
        }
    }

    pub(super) fn add(&mut self, path: &Path, survey: Survey) {
        let problem = match survey {
            Survey::Other => {
                self.others += 1;
                return;
            }
            Survey::Unusable(problem) => problem,
            Survey::Picture(seen) => {
                let fit = self.buckets.fit(seen.size);
                match self.refusal(seen.size, fit) {
                    Some(problem) => problem,
                    None => return self.take(path, seen, fit),
                }
            }
        };
        self.notes.push(Note::Skipped { path: path.to_owned(), problem: problem.clone() });
        self.problems.push((path.to_owned(), problem));
    }

    /// Why a picture of this size cannot be used, in words that follow "it".
    fn refusal(&self, size: Size, Fit { resized, bucket }: Fit) -> Option<String> {
        let (times, kept) = (enlarged(size, resized), Fit { resized, bucket }.kept());
        let step = self.options.step();
        if bucket.width == 0 || bucket.height == 0 {
            Some(format!("is {size}, expected sides of at least {step}"))
        } else if kept < LEAST_KEPT {
            Some(format!(
                "is {size}, of which the nearest bucket, {bucket}, keeps {:.1} %, expected at \
                 least {:.0} %",
                kept * 100.0,
                LEAST_KEPT * 100.0
            ))
        } else if times > MOST_ENLARGED {
            Some(format!(
                "is {size} and would be enlarged {times:.1} times, expected at most {MOST_ENLARGED}"
            ))
        } else {
            None
        }
    }

    fn take(&mut self, path: &Path, seen: Seen, fit: Fit) {
        let path = path.to_owned();
        let background = self.options.background;
        let times = enlarged(seen.size, fit.resized);
        if seen.is_animated {
            self.notes.push(Note::FirstFrame { path: path.clone() });
        }
        if seen.is_transparent {
            self.notes.push(Note::Flattened { path: path.clone(), background });
        }
        if times > MUCH_ENLARGED {
            self.notes.push(Note::Enlarged { path: path.clone(), times });
        }
        if fit.kept() < LITTLE_KEPT {
            self.notes.push(Note::Cropped { path: path.clone(), kept: fit.kept() });
        }
        match self.contents.get(&seen.sha256) {
            Some(first) => {
                self.notes.push(Note::SameContent { path: path.clone(), first: first.clone() });
            }
            None => {
                self.contents.insert(seen.sha256.clone(), path.clone());
            }
        }
        self.items.push(Item {
            path,
            sha256: seen.sha256,
            caption: String::new(),
            original: seen.size,
            resized: fit.resized,
            bucket: fit.bucket,
            background,
        });
    }

    /// Refuses a folder without pictures; with `strict` also one with a bad file.
    pub(super) fn check(&self, folder: &Path, listing: &Listing) -> Result<()> {
        if self.items.is_empty() {
            return Err(self.nothing(folder, listing));
        }
        if self.options.strict && !self.problems.is_empty() {
            return Err(Error::Unusable {
                folder: folder.to_owned(),
                count: self.problems.len(),
                problems: self.problems(),
            });
        }
        Ok(())
    }

    /// The error of a folder without pictures: what is there instead.
    fn nothing(&self, folder: &Path, listing: &Listing) -> Error {
        let mut seen = match listing.files.len() {
            0 => "it holds no file".to_owned(),
            1 => "it holds 1 file".to_owned(),
            files => format!("it holds {files} files"),
        };
        if self.others > 0 {
            seen.extend([", ", &self.others.to_string(), " of other kinds"]);
        }
        if !self.problems.is_empty() {
            let (count, problems) = (self.problems.len().to_string(), self.problems());
            seen.extend([", ", &count, " that cannot be used: ", &problems]);
        }
        let hint = if listing.folders > 0 {
            seen.extend(["; ", &Note::Folders { count: listing.folders }.to_string()]);
            "if the pictures lie in folders within it, use `--recursive`"
        } else if self.problems.is_empty() {
            "give the folder that holds the PNG, JPEG or WebP files"
        } else {
            "mend these files, or give another folder"
        };
        Error::NoPictures { folder: folder.to_owned(), seen, hint: hint.to_owned() }
    }

    /// The first problems, each with its file.
    fn problems(&self) -> String {
        let named = self.problems.iter().take(MOST_NAMED);
        let named = named.map(|(path, problem)| format!("`{}` {problem}", path.display()));
        let mut named: Vec<String> = named.collect();
        if self.problems.len() > MOST_NAMED {
            named.push("…".to_owned());
        }
        named.join("; ")
    }
}

fn enlarged(from: Size, to: Size) -> f64 {
    f64::from(to.width) / f64::from(from.width)
}
