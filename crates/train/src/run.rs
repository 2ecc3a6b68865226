//! A whole training: resumed where it stopped, put aside now and then, finished as a file.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use unwrong::picture::write_atomically;
use unwrong::progress::Event;
use unwrong_models::lora::{Dialect, write_lora};

use crate::checkpoint::{Checkpoints, Last};
use crate::curve::write_curve;
use crate::error::{Error, Result};
use crate::journal::Journal;
use crate::samples::{Happening, Picture, Samples};
use crate::trainer::{State, StepReport, Trainer};

/// How often a training is put aside, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunOptions {
    /// Steps from one checkpoint to the next; 0: only when interrupted.
    pub checkpoint_every: u64,
    /// How many checkpoints are kept.
    pub keep: usize,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { checkpoint_every: 100, keep: 2 }
    }
}

/// Where a training leaves word of itself, beside its checkpoints. Nothing of the LoRA depends
/// on any of it.
#[derive(Debug, Default)]
pub struct Records {
    /// Folder of `TensorBoard`'s event files.
    pub logs: Option<PathBuf>,
    /// Seconds since 1970 that stand in them for the clock.
    pub time: Option<u64>,
    /// Pictures that are drawn now and then.
    pub samples: Option<Samples>,
    /// Folder of the picture of the loss, which is drawn with every checkpoint.
    pub curve: Option<PathBuf>,
}

/// What happens in a training.
#[derive(Debug, Clone, Copy)]
pub enum TrainEvent<'a> {
    /// So many of so many pictures are in the cache.
    Prepared {
        /// Pictures that are.
        done: usize,
        /// All of them.
        all: usize,
    },
    /// A checkpoint cannot be used.
    Damaged {
        /// The file.
        path: &'a Path,
        /// The step after which the training goes on instead; absent: it begins anew.
        instead: Option<u64>,
    },
    /// The training goes on after this step.
    Resumed {
        /// Steps that were made before.
        step: u64,
    },
    /// A step was made.
    Step(StepReport),
    /// The state was written.
    Checkpoint {
        /// Steps it holds.
        step: u64,
        /// Where.
        path: &'a Path,
    },
    /// A sample picture is on its way.
    Drawing(Event<'a>),
    /// A sample picture is there.
    Sample {
        /// Steps its LoRA has.
        step: u64,
        /// Where.
        path: &'a Path,
    },
}

/// Told what happens; `Break` puts the training aside and ends it.
pub type Watcher<'a> = dyn FnMut(TrainEvent<'_>) -> ControlFlow<()> + 'a;

impl Trainer<'_> {
    /// Makes all steps that are left.
    ///
    /// Where the watcher says `Break`, the state is written first and the error is
    /// [`Error::Interrupted`]. A loss or a matrix with a number that is none ends the training with
    /// the step; no checkpoint and no file is made of it.
    pub fn run(
        &mut self,
        checkpoints: &Checkpoints,
        options: &RunOptions,
        records: &Records,
        watch: &mut Watcher<'_>,
    ) -> Result<()> {
        let mut first = 0;
        let Last { state, damaged } = checkpoints.last(self.state())?;
        let instead = state.as_ref().map(State::step);
        for path in &damaged {
            tell(watch, TrainEvent::Damaged { path, instead })?;
        }
        if let Some(state) = state {
            let step = state.step;
            self.resume(state)?;
            first = step + 1;
            tell(watch, TrainEvent::Resumed { step })?;
        }
        let logs = records.logs.as_deref();
        let mut journal = logs.map(|logs| Journal::open(logs, first, records.time)).transpose()?;
        self.draw(records, journal.as_mut(), watch)?;
        if !self.is_finished() {
            self.prepare(&mut |done, all| tell(watch, TrainEvent::Prepared { done, all }))?;
        }
        while !self.is_finished() {
            let started = Instant::now();
            let report = self.step()?;
            if let Some(journal) = &mut journal {
                journal.step(&report, started.elapsed())?;
            }
            let stop = watch(TrainEvent::Step(report)).is_break();
            if stop || self.is_due(options, records) {
                let stop = self.put_aside(checkpoints, options, records, watch)?.is_break() || stop;
                if stop && !self.is_finished() {
                    return Err(Error::Interrupted { step: report.step });
                }
            }
            self.draw(records, journal.as_mut(), watch)?;
        }
        Ok(())
    }

    /// Whether the state is put aside now: as often as is asked, before pictures are drawn, and
    /// at the end.
    fn is_due(&self, options: &RunOptions, records: &Records) -> bool {
        let (step, every) = (self.state().step, options.checkpoint_every);
        self.is_finished()
            || every > 0 && step.is_multiple_of(every)
            || self.samples_due(records).is_some()
    }

    fn samples_due<'a>(&self, records: &'a Records) -> Option<&'a Samples> {
        let (step, steps) = (self.state().step, self.options().steps);
        records.samples.as_ref().filter(|samples| samples.are_due(step, steps))
    }

    fn put_aside(
        &self,
        checkpoints: &Checkpoints,
        options: &RunOptions,
        records: &Records,
        watch: &mut Watcher<'_>,
    ) -> Result<ControlFlow<()>> {
        let path = checkpoints.save(self.state())?;
        checkpoints.prune(options.keep.max(1), self.state().step)?;
        if let Some(folder) = &records.curve {
            write_curve(folder, &self.state().losses)?;
        }
        Ok(watch(TrainEvent::Checkpoint { step: self.state().step, path: &path }))
    }

    /// Draws the sample pictures that are due now and not there yet.
    ///
    /// Interrupted, it leaves those that are done; the state was put aside before.
    fn draw(
        &self,
        records: &Records,
        mut journal: Option<&mut Journal>,
        watch: &mut Watcher<'_>,
    ) -> Result<()> {
        let Some(samples) = self.samples_due(records) else { return Ok(()) };
        let step = self.state().step;
        let write_lora = |path: &Path| self.write(path, Dialect::Kohya, &BTreeMap::new(), true);
        let done =
            samples.draw(self.pipeline(), step, write_lora, &mut |happening| match happening {
                Happening::Drawing(event) => Ok(watch(TrainEvent::Drawing(event))),
                Happening::Picture(Picture { place, size, bytes, is_new }) => {
                    if let Some(journal) = journal.as_deref_mut()
                        && (is_new || !journal.is_told(step))
                    {
                        journal.picture(step, &format!("samples/{place}"), size, bytes)?;
                    }
                    let path = samples.path(step, place);
                    Ok(watch(TrainEvent::Sample { step, path: &path }))
                }
            })?;
        if done.is_break() { Err(Error::Interrupted { step }) } else { Ok(()) }
    }

    /// Writes the matrices as they are, or their running means.
    pub fn write(
        &self,
        path: &Path,
        dialect: Dialect,
        metadata: &BTreeMap<String, String>,
        force: bool,
    ) -> Result<()> {
        let bytes = write_lora(&self.lora(), dialect, metadata)?;
        Ok(write_atomically(path, &bytes, force)?)
    }
}

fn tell(watch: &mut Watcher<'_>, event: TrainEvent<'_>) -> Result<()> {
    match watch(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Interrupted { step: 0 }),
    }
}
