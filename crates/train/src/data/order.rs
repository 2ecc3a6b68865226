//! What each step of training sees.

use std::collections::BTreeMap;

use super::dataset::Dataset;
use super::draws::{Draws, Purpose};
use super::item::{Crop, Example, Item};
use super::options::CropChoice;

impl Dataset {
    /// Batches in an epoch: every one of them has one bucket, so some are not full.
    #[must_use]
    pub fn batches_per_epoch(&self) -> u64 {
        let full = self.options().batch_size;
        self.places_by_bucket().values().map(|places| places.len().div_ceil(full) as u64).sum()
    }

    /// All batches of an epoch, from 0: every picture `repeats` times, those of a batch of one
    /// bucket, in an order that follows from seed and epoch.
    #[must_use]
    pub fn batches(&self, epoch: u64) -> Vec<Vec<Example<'_>>> {
        let options = self.options();
        let mut batches = Vec::new();
        for ((width, height), mut places) in self.places_by_bucket() {
            let numbers = [options.seed, epoch, u64::from(width), u64::from(height)];
            Draws::new(Purpose::Order, &numbers).shuffle(&mut places);
            let example = |&(place, repeat): &_| self.example(place, epoch, repeat);
            let alike = places.chunks(options.batch_size);
            batches.extend(alike.map(|places| places.iter().map(example).collect()));
        }
        Draws::new(Purpose::Order, &[options.seed, epoch]).shuffle(&mut batches);
        batches
    }

    /// The batch of a step, counted from 0 through all epochs. Needs nothing of the steps before.
    #[must_use]
    pub fn batch(&self, step: u64) -> Vec<Example<'_>> {
        let each = self.batches_per_epoch();
        self.batches(step / each).swap_remove((step % each) as usize)
    }

    /// One look at the picture in a place of [`Dataset::items`], as epoch and repeat decide.
    ///
    /// # Panics
    /// If there is no such place.
    #[must_use]
    pub fn example(&self, place: usize, epoch: u64, repeat: u32) -> Example<'_> {
        let (item, options) = (&self.items()[place], self.options());
        let numbers = [options.seed, epoch, place as u64, u64::from(repeat)];
        let draws = |purpose| Draws::new(purpose, &numbers);
        let is_dropped = draws(Purpose::CaptionDropout).uniform() < options.caption_dropout;
        Example {
            item,
            caption: if is_dropped { "" } else { &item.caption },
            crop: match options.crop {
                CropChoice::Centre => item.centre(),
                CropChoice::Random => random_crop(item, &mut draws(Purpose::Crop)),
            },
            flip: options.flip && draws(Purpose::Flip).uniform() < 0.5,
        }
    }

    /// Places and repeats, by width and height of the bucket.
    fn places_by_bucket(&self) -> BTreeMap<(u32, u32), Vec<(usize, u32)>> {
        let mut by_bucket: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (place, item) in self.items().iter().enumerate() {
            let places = by_bucket.entry((item.bucket.width, item.bucket.height)).or_default();
            places.extend((0..self.options().repeats).map(|repeat| (place, repeat)));
        }
        by_bucket
    }
}

fn random_crop(item: &Item, draws: &mut Draws) -> Crop {
    let [top, left] = item.room().map(|room| draws.below(u64::from(room) + 1) as u32);
    Crop { top, left }
}
