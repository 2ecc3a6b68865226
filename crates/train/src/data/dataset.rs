//! From a folder to pictures with captions and buckets.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rayon::prelude::*;
use unwrong::request::Size;
use unwrong::training::caption_dropped;

use super::captions::Captions;
use super::found::Found;
use super::item::Item;
use super::listing::Listing;
use super::note::Note;
use super::options::DataOptions;
use super::survey::Survey;
use crate::error::{Error, Result};

/// Pictures with their captions and buckets, in the order of their names.
#[derive(Debug, Clone)]
pub struct Dataset {
    items: Vec<Item>,
    options: DataOptions,
}

impl Dataset {
    /// Reads a folder: lists it, decodes every picture once, finds captions and buckets.
    ///
    /// Files that cannot be used are named in the notes with the reason, or are an error with
    /// [`DataOptions::strict`]. A folder without a picture is an error, and so is a picture
    /// without a caption. For prior preservation the folder of class pictures is scanned the
    /// same way, with another caption.
    pub fn scan(folder: &Path, options: &DataOptions) -> Result<(Self, Vec<Note>)> {
        options.check()?;
        let mut notes = Vec::new();
        let listing = Listing::read(folder, options.recursive)?;
        let captions = Captions::read(&listing, options.caption.as_deref(), &mut notes)?;

        let large = Mutex::new(());
        let survey = |path: &PathBuf| Survey::of(path, options.background, &large);
        let surveys: Vec<Survey> = listing.files.par_iter().map(survey).collect();

        let mut found = Found::new(options);
        for (path, survey) in listing.files.iter().zip(surveys) {
            found.add(path, survey);
        }
        found.check(folder, &listing)?;
        let mut items = found.items;
        notes.extend(found.notes);
        let trainings = listing.trainings.iter();
        notes.extend(trainings.map(|path| Note::Training { path: path.clone() }));
        if listing.folders > 0 {
            notes.push(Note::Folders { count: listing.folders });
        }
        describe(&mut items, &captions, &mut notes)?;
        Ok((Self { items, options: options.clone() }, notes))
    }

    /// The pictures, in the order of their names.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// What the folder was read with.
    #[must_use]
    pub fn options(&self) -> &DataOptions {
        &self.options
    }

    /// The buckets in use and how many pictures each has, by width and height.
    #[must_use]
    pub fn buckets(&self) -> Vec<(Size, usize)> {
        let mut buckets: Vec<(Size, usize)> = Vec::new();
        for item in &self.items {
            match buckets.iter_mut().find(|(bucket, _)| *bucket == item.bucket) {
                Some((_, count)) => *count += 1,
                None => buckets.push((item.bucket, 1)),
            }
        }
        buckets.sort_by_key(|(bucket, _)| (bucket.width, bucket.height));
        buckets
    }
}

/// Gives every picture its caption; those that have none are an error that names the first.
fn describe(items: &mut [Item], captions: &Captions<'_>, notes: &mut Vec<Note>) -> Result<()> {
    let mut without = Vec::new();
    for item in items {
        match captions.of(&item.path, notes)? {
            Some(caption) => {
                let dropped = caption_dropped(&caption);
                if dropped > 0 {
                    notes.push(Note::LongCaption { path: item.path.clone(), dropped });
                }
                item.caption = caption;
            }
            None => without.push(item.path.clone()),
        }
    }
    match without.first() {
        Some(path) => Err(Error::NoCaption { path: path.clone(), others: without.len() - 1 }),
        None => Ok(()),
    }
}
