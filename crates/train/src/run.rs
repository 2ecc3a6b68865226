//! A whole training: resumed where it stopped, put aside now and then, finished as a file.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use serde::{Deserialize, Serialize};
use unwrong::picture::write_atomically;
use unwrong_models::lora::{Dialect, write_lora};

use crate::checkpoint::Checkpoints;
use crate::error::{Error, Result};
use crate::trainer::{StepReport, Trainer};

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
}

/// Told what happens; `Break` puts the training aside and ends it.
pub type Watcher<'a> = dyn FnMut(TrainEvent<'_>) -> ControlFlow<()> + 'a;

impl Trainer<'_> {
    /// Makes all steps that are left.
    ///
    /// Where the watcher says `Break`, the state is written first and the error is
    /// [`Error::Interrupted`]. A loss that is no number ends the training with the step and the
    /// last good checkpoint.
    pub fn run(
        &mut self,
        checkpoints: &Checkpoints,
        options: &RunOptions,
        watch: &mut Watcher<'_>,
    ) -> Result<()> {
        if let Some(state) = checkpoints.last(self.state())? {
            let step = state.step;
            self.resume(state)?;
            tell(watch, TrainEvent::Resumed { step })?;
        }
        if !self.is_finished() {
            self.prepare(&mut |done, all| tell(watch, TrainEvent::Prepared { done, all }))?;
        }
        while !self.is_finished() {
            let report = self.step()?;
            let due = options.checkpoint_every;
            let stop = watch(TrainEvent::Step(report)).is_break();
            if stop || self.is_finished() || due > 0 && report.step.is_multiple_of(due) {
                let path = checkpoints.save(self.state())?;
                checkpoints.prune(options.keep.max(1))?;
                let stop = watch(TrainEvent::Checkpoint { step: report.step, path: &path })
                    .is_break()
                    || stop;
                if stop && !self.is_finished() {
                    return Err(Error::Interrupted { step: report.step });
                }
            }
        }
        Ok(())
    }

    /// Writes the matrices as they are.
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
