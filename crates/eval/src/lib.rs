//! Whether the method helped: pictures of several variants, measured and compared in pairs.
//!
//! An [`Experiment`] is prompts × seeds × variants. [`run()`] draws what is missing through the
//! library's own pipeline, measures the files and writes `results.jsonl` and `report.html`:
//!
//! | # | stage | in → out | where |
//! |---|---|---|---|
//! | 1 | ask | prompts, seeds, variants → [`Experiment`] | [`experiment`], [`variant`] |
//! | 2 | claim | a folder, new or of the same experiment | [`folder`] |
//! | 3 | draw | cells without a picture → PNG files | [`run`](mod@run) |
//! | 4 | measure | files → [`Row`](measure::Row)s | [`measure`], [`metrics`], [`follow`] |
//! | 5 | compare | rows → [`Comparison`](summary::Comparison)s | [`summary`], [`statistics`] |
//! | 6 | report | all of it → one page, one contact sheet | [`report`] |
//!
//! Errors are the library's own: all that can be asked wrongly here is a request.

pub mod experiment;
pub mod folder;
pub mod follow;
pub mod measure;
pub mod metrics;
mod picture;
pub mod prompts;
pub mod report;
pub mod run;
pub mod seeds;
mod sheet;
pub mod statistics;
pub mod summary;
pub mod variant;

pub use experiment::{Experiment, Unit};
pub use folder::Folder;
pub use follow::Follow;
pub use run::{Outcome, run};
pub use seeds::Seeds;
pub use variant::Variant;

/// A wrong request with the way out.
fn wrong_request(problem: impl Into<String>, hint: impl Into<String>) -> unwrong::Error {
    unwrong::Error::Request { problem: problem.into(), hint: Some(hint.into()) }
}
