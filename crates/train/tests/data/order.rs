//! What each step of training sees.

use std::collections::HashSet;

use unwrong_train::data::{CropChoice, DataOptions, Example, Framing};

use crate::support::{Folder, options, png};

/// Seven squares and four wide pictures.
fn folder() -> Folder {
    let folder = Folder::new();
    for seed in 0..7 {
        folder.write(&format!("square-{seed}.png"), &png(64, 64, seed));
    }
    for seed in 0..4 {
        folder.write(&format!("wide-{seed}.png"), &png(96, 40, seed + 100));
    }
    folder
}

fn names(batches: &[Vec<Example<'_>>]) -> Vec<Vec<String>> {
    let name = |example: &Example<'_>| {
        example.item.path.file_name().unwrap().to_string_lossy().into_owned()
    };
    batches.iter().map(|batch| batch.iter().map(name).collect()).collect()
}

#[test]
fn an_epoch_has_every_picture_as_often_as_it_repeats_and_one_bucket_a_batch() {
    let (dataset, _) = folder().scan(&DataOptions { batch_size: 3, repeats: 2, ..options() });
    let batches = dataset.batches(0);
    // 14 squares make 5 batches, 8 wide ones 3.
    assert_eq!(batches.len(), 8);
    assert_eq!(dataset.batches_per_epoch(), 8);
    for batch in &batches {
        assert!((1..=3).contains(&batch.len()));
        assert!(batch.iter().all(|example| example.item.bucket == batch[0].item.bucket));
    }
    let mut all = names(&batches).concat();
    all.sort();
    assert_eq!(all.len(), 22);
    assert!(all.chunks(2).all(|pair| pair[0] == pair[1]), "{all:?}");
    assert_eq!(dataset.buckets().len(), 2);
    assert_eq!(dataset.buckets().iter().map(|(_, count)| count).sum::<usize>(), 11);
}

#[test]
fn the_order_follows_from_seed_and_epoch_alone() {
    let folder = folder();
    let batches = |seed, epoch| {
        let (dataset, _) = folder.scan(&DataOptions { batch_size: 2, seed, ..options() });
        names(&dataset.batches(epoch))
    };
    assert_eq!(batches(7, 3), batches(7, 3));
    assert_ne!(batches(7, 3), batches(7, 4));
    assert_ne!(batches(7, 3), batches(8, 3));
}

#[test]
fn a_step_needs_nothing_of_the_steps_before() {
    let (dataset, _) = folder().scan(&DataOptions { batch_size: 2, ..options() });
    let each = dataset.batches_per_epoch();
    let straight: Vec<_> = (0..3).flat_map(|epoch| names(&dataset.batches(epoch))).collect();
    for (step, expected) in straight.iter().enumerate().rev() {
        assert_eq!(names(&[dataset.batch(step as u64)])[0], *expected);
    }
    assert_eq!(straight.len() as u64, each * 3);
}

/// A resumed run must see what it would have seen.
#[test]
fn draws_are_frozen() {
    let random = DataOptions {
        framing: Framing::Square,
        crop: CropChoice::Random,
        flip: true,
        caption_dropout: 0.5,
        seed: 42,
        ..options()
    };
    let (dataset, _) = folder().scan(&random);
    let draws = |place| {
        let example = dataset.example(place, 2, 0);
        (example.crop.left, example.flip, example.caption.is_empty())
    };
    assert_eq!([draws(7), draws(8), draws(9), draws(10)], FROZEN);
    let first = names(&dataset.batches(2)).concat();
    assert_eq!(first[..3], ["square-1.png", "square-4.png", "square-0.png"]);
}

const FROZEN: [(u32, bool, bool); 4] =
    [(87, false, true), (61, true, false), (2, true, false), (61, true, true)];

#[test]
fn captions_are_dropped_as_often_as_asked_and_others_in_every_epoch() {
    let (dataset, _) = folder().scan(&DataOptions { caption_dropout: 0.25, ..options() });
    let mut dropped = 0;
    let mut patterns = HashSet::new();
    for epoch in 0..200 {
        let places = 0..dataset.items().len();
        let is_dropped = |place| dataset.example(place, epoch, 0).caption.is_empty();
        let pattern: Vec<bool> = places.map(is_dropped).collect();
        dropped += pattern.iter().filter(|dropped| **dropped).count();
        patterns.insert(pattern);
    }
    // 2200 draws at 0.25: 550, and a standard deviation of 20.
    assert!((470..630).contains(&dropped), "{dropped}");
    assert!(patterns.len() > 100, "{}", patterns.len());
    for (share, expected) in [(0.0, 0), (1.0, 11)] {
        let (dataset, _) = folder().scan(&DataOptions { caption_dropout: share, ..options() });
        let dropped = (0..11).filter(|place| dataset.example(*place, 5, 0).caption.is_empty());
        assert_eq!(dropped.count(), expected);
    }
}

#[test]
fn random_crops_lie_inside_and_reach_both_ends() {
    let folder = Folder::with(&[("a.png", png(70, 64, 1))]);
    let random = DataOptions { framing: Framing::Square, crop: CropChoice::Random, ..options() };
    let (dataset, _) = folder.scan(&random);
    let lefts: HashSet<u32> =
        (0..200).map(|epoch| dataset.example(0, epoch, 0).crop.left).collect();
    assert_eq!(lefts, (0..=6).collect());
    assert!((0..9).all(|epoch| dataset.example(0, epoch, 0).crop.top == 0));
}
