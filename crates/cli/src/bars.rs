//! Progress for the person in front of the terminal; silence for everything else.

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
    /// Place in a series whose pictures are asked for one by one, and its length.
    series: (usize, usize),
    /// An earlier picture of the series has said all there is to say.
    said: bool,
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
            series: (0, 1),
            said: false,
            is_total: false,
        }
    }

    /// Counts as picture `picture`, from 0, of `pictures`.
    pub(crate) fn of_series(self, picture: usize, pictures: usize) -> Self {
        Self { series: (picture, pictures), said: picture > 0, ..self }
    }

    /// Counts as picture `picture`, from 0, of the series whose bar this is.
    pub(crate) fn of_total(self, total: &Total, picture: usize) -> Self {
        let said = total.bar.position() > total.start;
        let series = (picture, total.pictures);
        Self { bar: total.bar.clone(), series, said, is_total: true, ..self }
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
            Event::Notice { message } => self.note(message),
            Event::Warning { message } => self.note(&format!("warning: {message}")),
            Event::Phase { phase, picture, pictures } => {
                let (before, series) = self.series;
                self.begin(phase.name(), before + picture, series.max(pictures));
            }
            Event::Step { .. } if self.is_total => self.bar.inc(1),
            Event::Step { step, steps, .. } => {
                self.bar.set_length(steps as u64);
                self.bar.set_position(step as u64);
            }
            Event::Picture { index, pictures, generation } => {
                let (before, series) = self.series;
                let place = (before + index, series.max(pictures));
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
