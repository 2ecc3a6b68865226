//! Event files for `TensorBoard`: loss, rate and gradient of every step, and sample pictures.
//!
//! A run appends to a file of its own. One that goes on after a checkpoint says from which step
//! on the files before it no longer count (`SessionLog.START`), so no step is shown twice.

mod event;
mod record;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::trainer::StepReport;
use event::{Image, What};

/// How `TensorBoard` knows its files; the time and a number keep them in order.
const NAME: &str = "events.out.tfevents.";

/// The open event file of a run.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// What stands for the clock.
    time: Option<u64>,
    /// Steps before this one are in earlier files.
    first: u64,
}

impl Journal {
    /// Opens a new file in a folder, which is made if it is not there.
    ///
    /// What earlier files say of step `first` and those after it no longer counts. `time`, in
    /// seconds since 1970, stands for the clock.
    pub fn open(folder: &Path, first: u64, time: Option<u64>) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let now = time.unwrap_or_else(|| since_1970().as_secs());
        let path = folder.join(next_name(folder, now)?);
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        let mut journal = Self { path, file, time, first };
        journal.write(0, &What::Version)?;
        journal.write(first, &What::Start)?;
        Ok(journal)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether earlier files hold what there is to say of a step.
    #[must_use]
    pub fn is_told(&self, step: u64) -> bool {
        step < self.first
    }

    /// Writes down what a step came to and how long it took; the latter only by the real clock.
    pub fn step(&mut self, report: &StepReport, took: Duration) -> Result<()> {
        let mut scalars = vec![
            ("loss", report.loss as f32),
            ("lr", report.rate as f32),
            ("grad_norm", report.gradient_norm as f32),
        ];
        if let Some(prior) = report.prior {
            scalars.push(("loss/prior", prior as f32));
        }
        if self.time.is_none() {
            scalars.push(("steps_per_second", 1.0 / took.as_secs_f32().max(1e-6)));
        }
        self.write(report.step, &What::Scalars(&scalars))
    }

    /// Adds a picture, the PNG file as it is.
    pub fn picture(
        &mut self,
        step: u64,
        tag: &str,
        [width, height]: [u32; 2],
        png: &[u8],
    ) -> Result<()> {
        self.write(step, &What::Image(&Image { tag, width, height, png }))
    }

    fn write(&mut self, step: u64, what: &What<'_>) -> Result<()> {
        let time = match self.time {
            Some(time) => time as f64,
            None => since_1970().as_secs_f64(),
        };
        let record = record::frame(&event::encode(time, step, what));
        self.file.write_all(&record).map_err(Error::io("write", &self.path))
    }
}

/// The name of a file that comes after all others, whatever the clock says.
fn next_name(folder: &Path, now: u64) -> Result<String> {
    let mut time = now;
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let name = entry.map_err(Error::io("list", folder))?.file_name();
        let earlier = name.to_str().and_then(|name| name.strip_prefix(NAME));
        let digits = earlier.map(|rest| rest.split('.').next().unwrap_or(rest));
        let Some(earlier) = digits.and_then(|digits| digits.parse::<u64>().ok()) else { continue };
        time = time.max(earlier.saturating_add(1));
    }
    Ok(format!("{NAME}{time:010}.unwrong"))
}

/// A clock before 1970 counts as 1970.
fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn report(step: u64) -> StepReport {
        StepReport { step, loss: 0.5, prior: None, rate: 1e-4, gradient_norm: 2.0 }
    }

    #[test]
    fn a_later_file_comes_after_an_earlier_one_whatever_the_clock_says() {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<_> = [1000, 1000, 10, 2000]
            .into_iter()
            .map(|time| {
                let journal = Journal::open(folder.path(), 0, Some(time)).unwrap();
                journal.path().file_name().unwrap().to_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(names[0], "events.out.tfevents.0000001000.unwrong");
        assert!(names.is_sorted() && names[1..].iter().all(|name| *name != names[0]), "{names:?}");
        assert_eq!(names[3], "events.out.tfevents.0000002000.unwrong");
    }

    #[test]
    fn with_a_time_of_its_own_the_file_is_always_the_same() {
        let bytes = |took| {
            let folder = tempfile::tempdir().unwrap();
            let mut journal = Journal::open(folder.path(), 0, Some(7)).unwrap();
            journal.step(&report(1), took).unwrap();
            fs::read(journal.path()).unwrap()
        };
        assert!(bytes(Duration::from_secs(1)) == bytes(Duration::from_secs(2)));
    }

    #[test]
    fn every_record_carries_its_length_and_checksums() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), 4, None).unwrap();
        journal.step(&report(4), Duration::from_millis(500)).unwrap();
        journal.picture(4, "sample/0", [1, 1], b"not a picture").unwrap();
        let bytes = fs::read(journal.path()).unwrap();
        let records = record::unframe(&bytes).unwrap();
        assert_eq!(records.len(), 4);
        assert!(records[0].ends_with(b"brain.Event:2"));
        assert!(records[3].ends_with(b"not a picture"));
        let holds = |record: &[u8], text: &[u8]| record.windows(text.len()).any(|at| at == text);
        for tag in ["loss", "lr", "grad_norm", "steps_per_second"] {
            assert!(holds(records[2], tag.as_bytes()), "{tag}");
        }
        assert!(journal.is_told(3) && !journal.is_told(4));
    }
}
