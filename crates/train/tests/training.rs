//! Steps of a training of the demo model, taken apart.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use unwrong::pipeline::Options;
use unwrong::{Catalog, GenerateRequest, Pipeline};
use unwrong_train::data::{Cache, DataOptions, Dataset};
use unwrong_train::error::StepNumber;
use unwrong_train::{Error, OptimizerKind, OptimizerOptions, StepReport, TrainOptions, Trainer};

/// A model, folders with a picture each, and a cache.
struct Case {
    folder: tempfile::TempDir,
    pipeline: Pipeline,
}

impl Case {
    fn new() -> Self {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model/base");
        let request = GenerateRequest {
            model: Some(model.display().to_string()),
            refiner: Some("none".to_owned()),
            ..GenerateRequest::new("")
        };
        let pipeline = Pipeline::open(&request, &Catalog::new(), &Options::default()).unwrap();
        let case = Self { folder: tempfile::tempdir().unwrap(), pipeline };
        for (name, colour) in [("instance", [200, 30, 40]), ("class", [20, 90, 220])] {
            fs::create_dir(case.path(name)).unwrap();
            let mut picture = image::RgbImage::from_pixel(64, 64, image::Rgb(colour));
            picture.put_pixel(20, 30, image::Rgb([255, 255, 255]));
            picture.save(case.path(name).join("a.png")).unwrap();
        }
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn dataset(&self, name: &str) -> Dataset {
        let caption = Some(format!("a {name}"));
        let options = DataOptions { resolution: 64, caption, ..DataOptions::default() };
        Dataset::scan(&self.path(name), &options).unwrap().0
    }

    /// The first step.
    fn step(&self, name: &str, class: Option<(&str, f64)>, accumulation: usize) -> StepReport {
        let dataset = self.dataset(name);
        let class_dataset = class.map(|(name, _)| self.dataset(name));
        let cache = Cache::open(&self.path("cache")).unwrap();
        let prior_weight = class.map_or(1.0, |(_, weight)| weight);
        let options = TrainOptions { accumulation, prior_weight, ..TrainOptions::default() };
        let mut trainer = Trainer::new(&self.pipeline, &dataset, &cache, options).unwrap();
        if let Some(class) = &class_dataset {
            trainer = trainer.with_class(class);
        }
        trainer.step().unwrap()
    }
}

#[test]
fn the_loss_of_class_pictures_is_added_times_its_weight() {
    let case = Case::new();
    let instance = case.step("instance", None, 1);
    assert_eq!(instance.prior, None);
    // The class picture of a step has the noise of the batch after the instance's. Of two batches
    // the loss is the mean, so the second alone is twice that less the first.
    let (one, both) = (case.step("class", None, 1), case.step("class", None, 2));
    let prior = 2.0 * both.loss - one.loss;
    for weight in [1.0, 0.25, 0.0] {
        let report = case.step("instance", Some(("class", weight)), 1);
        let expected = instance.loss + weight * prior;
        assert!((report.loss - expected).abs() < 1e-9, "{} {expected}", report.loss);
        assert!((report.prior.unwrap() - prior).abs() < 1e-9, "{:?} {prior}", report.prior);
    }
}

#[test]
fn a_class_that_counts_for_nothing_changes_no_gradient() {
    let case = Case::new();
    let norm = |class| case.step("instance", class, 1).gradient_norm.to_bits();
    assert_eq!(norm(Some(("class", 0.0))), norm(None));
    assert_ne!(norm(Some(("class", 1.0))), norm(None));
}

#[test]
fn a_step_after_which_a_number_is_none_is_an_error() {
    let case = Case::new();
    let dataset = case.dataset("instance");
    let cache = Cache::open(&case.path("cache")).unwrap();
    for kind in [OptimizerKind::AdamW, OptimizerKind::Prodigy] {
        let optimizer = OptimizerOptions { kind, weight_decay: 1e300, ..Default::default() };
        let options = TrainOptions { steps: 1, optimizer, ..TrainOptions::default() };
        let mut trainer = Trainer::new(&case.pipeline, &dataset, &cache, options).unwrap();
        let error = trainer.step().unwrap_err();
        let what = StepNumber::Matrices;
        assert!(matches!(error, Error::NotFinite { step: 1, what: w, .. } if w == what), "{error}");
        assert!(!trainer.is_finished());
    }
}

#[test]
fn what_a_training_takes_grows_with_size_batch_and_rank() {
    let case = Case::new();
    let cache = Cache::open(&case.path("cache")).unwrap();
    let bytes = |resolution, rank, repeats, ema| {
        let options = DataOptions {
            resolution,
            repeats,
            batch_size: 8,
            caption: Some(String::new()),
            ..DataOptions::default()
        };
        let dataset = Dataset::scan(&case.path("instance"), &options).unwrap().0;
        let options = TrainOptions { rank, ema, ..TrainOptions::default() };
        Trainer::new(&case.pipeline, &dataset, &cache, options).unwrap().bytes().1
    };
    let least = bytes(128, 4, 1, None);
    assert!(least < bytes(256, 4, 1, None));
    assert!(least < bytes(128, 512, 1, None));
    assert!(bytes(128, 512, 1, None) < bytes(128, 512, 1, Some(0.9)));
    // There are no more pictures in a batch than there are.
    assert!(least < bytes(128, 4, 8, None));
    assert_eq!(bytes(128, 4, 8, None), bytes(128, 4, 9, None));
}
