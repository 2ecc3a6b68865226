//! What a run tells whoever waits for it, and how they stop it.
//!
//! The library prints nothing. The command line draws a bar from these events, the server
//! sends them on, a test collects them; each of them may answer [`ControlFlow::Break`], and
//! the run ends with [`Error::Cancelled`] at the next chance.

use std::ops::ControlFlow;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::generate::Generation;

/// Something that happened.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Good to know: which model is used, how many LoRA tensors applied.
    Notice {
        /// One sentence without a full stop.
        message: &'a str,
    },
    /// The picture may not be what the user meant.
    Warning {
        /// One sentence without a full stop.
        message: &'a str,
    },
    /// A phase begins.
    Phase {
        /// Which one.
        phase: Phase,
        /// Of which picture, counted from 0.
        picture: usize,
        /// Of how many.
        pictures: usize,
    },
    /// A denoising step is done.
    Step {
        /// Whose step.
        part: Part,
        /// Of which picture, counted from 0.
        picture: usize,
        /// Of how many.
        pictures: usize,
        /// Steps of this part that are done, from 1 to `steps`.
        step: usize,
        /// Steps of this part.
        steps: usize,
        /// Noise level the step started from.
        sigma: f32,
        /// What the step ended with, `[1, 4, H/8, W/8]`: enough for a preview.
        latents: &'a Tensor,
    },
    /// A picture is done.
    Picture {
        /// Which one, counted from 0.
        index: usize,
        /// Of how many.
        pictures: usize,
        /// The picture and what made it.
        generation: &'a Generation,
    },
}

/// The parts of a run that take time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Opening files.
    Load,
    /// Prompt to embeddings.
    Encode,
    /// The base's steps.
    Base,
    /// The refiner's steps.
    Refine,
    /// Latents to pixels.
    Decode,
    /// Numbers of finished pictures.
    Measure,
}

impl Phase {
    /// One lower-case word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Encode => "encode",
            Self::Base => "base",
            Self::Refine => "refine",
            Self::Decode => "decode",
            Self::Measure => "measure",
        }
    }
}

/// The two UNets of the ensemble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The one that takes the high noise.
    Base,
    /// The one that finishes.
    Refiner,
}

impl Part {
    /// One lower-case word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Refiner => "refiner",
        }
    }

    /// The phase of its steps.
    #[must_use]
    pub const fn phase(self) -> Phase {
        match self {
            Self::Base => Phase::Base,
            Self::Refiner => Phase::Refine,
        }
    }
}

/// Someone who is told what happens, and may say stop.
pub trait Progress {
    /// Takes note of `event`; `Break` ends the run.
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()>;
}

/// Any closure listens.
impl<F: FnMut(Event<'_>) -> ControlFlow<()>> Progress for F {
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        self(event)
    }
}

/// Nobody listens, nobody stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&mut self, _: Event<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Tells `progress`; `Break` becomes [`Error::Cancelled`], so that `?` ends the run.
pub fn announce(progress: &mut dyn Progress, event: Event<'_>) -> Result<()> {
    match progress.event(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}
