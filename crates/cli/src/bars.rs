//! Progress for the person in front of the terminal; silence for everything else.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Error, Result};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use unwrong::generate::Generation;
use unwrong::progress::{Event, Progress};

use crate::{interrupt, printer};

/// Cells of a bar.
const CELLS: u64 = 24;

/// Takes a finished picture: its place from 0, of how many, and the picture.
pub(crate) type OnPicture<'a> = dyn FnMut((usize, usize), &Generation) -> Result<()> + 'a;

/// Draws one bar and hands every finished picture on.
///
/// When standard error is no terminal there is no bar, but notices and warnings are still
/// said. A picture that cannot be handed on ends the run.
pub(crate) struct Bars<'a> {
    bar: ProgressBar,
    on_picture: &'a mut OnPicture<'a>,
    failure: Option<Error>,
    /// Places in a series whose pictures are asked for few at a time.
    places: Vec<usize>,
    /// Its length.
    pictures: usize,
    /// An earlier picture of the series has said all there is to say.
    said: bool,
    /// What this run has said.
    heard: HashSet<String>,
    /// The bar counts the steps of the whole series.
    is_total: bool,
}

/// The bar of a series: all steps of all pictures.
pub(crate) struct Total {
    bar: ProgressBar,
    pictures: usize,
    /// Steps of pictures that were there before.
    start: u64,
}

impl Total {
    /// Of `pictures`, of which some are there, with `steps` each.
    pub(crate) fn new(there: usize, pictures: usize, steps: u64) -> Self {
        let (bar, start) = (new_bar(), there as u64 * steps);
        bar.set_length(pictures as u64 * steps);
        bar.set_position(start);
        bar.reset_eta();
        Self { bar, pictures, start }
    }
}

impl Drop for Total {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

pub(crate) fn new_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {counted}")
        .expect("the template is a constant")
        .with_key("counted", |state: &ProgressState, text: &mut dyn std::fmt::Write| {
            let (length, rate) = (state.len().unwrap_or_default(), state.per_sec());
            text.write_str(&counted(state.pos(), length, rate, state.eta())).ok();
        });
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    bar.set_style(style);
    bar
}

/// Bar, position, speed and time that is left; nothing of what has no length.
fn counted(position: u64, length: u64, rate: f64, left: Duration) -> String {
    if length == 0 {
        return "…".to_owned();
    }
    let full = (position.min(length) * CELLS / length) as usize;
    let bar = "█".repeat(full) + &"░".repeat(CELLS as usize - full);
    format!("{bar} {position}/{length} {rate:.2} it/s ETA {:#}", HumanDuration(left))
}

impl<'a> Bars<'a> {
    pub(crate) fn new(on_picture: &'a mut OnPicture<'a>) -> Self {
        Self {
            bar: new_bar(),
            on_picture,
            failure: None,
            places: Vec::new(),
            pictures: 1,
            said: false,
            heard: HashSet::new(),
            is_total: false,
        }
    }

    /// Counts as these pictures, from 0, of `pictures`.
    pub(crate) fn of_series(self, places: Vec<usize>, pictures: usize) -> Self {
        let said = places.first().is_some_and(|place| *place > 0);
        Self { places, pictures, said, ..self }
    }

    /// Counts as these pictures, from 0, of the series whose bar this is.
    pub(crate) fn of_total(self, total: &Total, places: Vec<usize>) -> Self {
        let said = total.bar.position() > total.start;
        let pictures = total.pictures;
        Self { bar: total.bar.clone(), places, pictures, said, is_total: true, ..self }
    }

    /// Place in the series, and its length, of a picture of the run.
    fn place(&self, picture: usize, pictures: usize) -> (usize, usize) {
        let place = self.places.get(picture).copied().unwrap_or(picture);
        (place, self.pictures.max(pictures))
    }

    /// The error of a picture that could not be handed on, in place of "cancelled".
    pub(crate) fn explain<T>(self, result: unwrong::Result<T>) -> Result<T> {
        if !self.is_total {
            self.bar.finish_and_clear();
        }
        match (result, self.failure) {
            (_, Some(failure)) => Err(failure),
            (result, None) => Ok(result?),
        }
    }

    fn note(&self, text: &str) {
        self.bar.suspend(|| printer::note(text));
    }

    /// Begins to count something new.
    fn begin(&self, what: &str, picture: usize, pictures: usize) {
        let mut prefix = what.to_owned();
        if pictures > 1 {
            write!(prefix, " [{}/{pictures}]", picture + 1).expect("a String takes every write");
        }
        if !self.is_total {
            self.bar.set_length(0);
            self.bar.reset();
        }
        self.bar.set_prefix(prefix);
    }
}

impl Progress for Bars<'_> {
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        match event {
            Event::Notice { .. } | Event::Warning { .. } if self.said => {}
            Event::Notice { message } | Event::Warning { message }
                if !self.heard.insert(message.to_owned()) => {}
            Event::Notice { message } => self.note(message),
            Event::Warning { message } => self.note(&format!("warning: {message}")),
            Event::Phase { phase, picture, pictures } => {
                let (place, pictures) = self.place(picture, pictures);
                self.begin(phase.name(), place, pictures);
            }
            Event::Step { .. } if self.is_total => self.bar.inc(1),
            Event::Step { step, steps, .. } => {
                self.bar.set_length(steps as u64);
                self.bar.set_position(step as u64);
            }
            Event::Picture { index, pictures, generation } => {
                let place = self.place(index, pictures);
                let on_picture = &mut self.on_picture;
                if let Err(failure) = self.bar.suspend(|| on_picture(place, generation)) {
                    self.failure = Some(failure);
                    return ControlFlow::Break(());
                }
                // It is there: what was the last one is done, and of others the next begins.
                return ControlFlow::Continue(());
            }
            _ => {}
        }
        if interrupt::pending() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_length_is_not_counted() {
        assert_eq!(counted(0, 0, 0.0, Duration::ZERO), "…");
        let text = counted(12, 50, 1.5, Duration::from_secs(25));
        assert_eq!(text, "█████░░░░░░░░░░░░░░░░░░░ 12/50 1.50 it/s ETA 25s");
        assert!(counted(50, 50, 1.5, Duration::ZERO).starts_with(&"█".repeat(24)));
    }
}
