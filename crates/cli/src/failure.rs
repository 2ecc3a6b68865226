//! From an error to what the user reads and the exit code that scripts read.

use std::process::ExitCode;

use anyhow::Error;

use crate::printer;

/// The request was wrong: asking differently helps.
const WRONG_REQUEST: u8 = 1;
/// Something else failed.
pub(crate) const FAILED: u8 = 2;
/// Interrupted, as shells count it: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Says what went wrong and the way out, and tells the exit code.
pub(crate) fn report(error: &Error) -> ExitCode {
    let cause = Cause::of(error);
    if cause.is_interrupt {
        printer::note("interrupted");
        return ExitCode::from(INTERRUPTED);
    }
    let mut text = format!("error: {error:#}");
    if let Some(hint) = cause.hint {
        text.push_str("\n\nhint: ");
        text.push_str(&hint);
    }
    printer::note(&text);
    ExitCode::from(if cause.is_request_error { WRONG_REQUEST } else { FAILED })
}

/// What the crates below say about an error of theirs.
#[derive(Default)]
struct Cause {
    is_interrupt: bool,
    is_request_error: bool,
    hint: Option<String>,
}

impl Cause {
    fn of(error: &Error) -> Self {
        if let Some(error) = error.downcast_ref::<unwrong::Error>() {
            return Self {
                is_interrupt: matches!(error, unwrong::Error::Cancelled),
                is_request_error: error.is_request_error(),
                hint: error.hint(),
            };
        }
        if let Some(error) = error.downcast_ref::<unwrong_train::Error>() {
            return Self {
                is_interrupt: matches!(error, unwrong_train::Error::Interrupted { .. }),
                is_request_error: error.is_request_error(),
                hint: error.hint(),
            };
        }
        Self::default()
    }
}

/// Answers for clap: help and version are data, all else is a wrong request.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    // clap knows which stream, and whether colours are wanted; a reader that went away
    // needs no answer.
    error.print().ok();
    if error.use_stderr() { ExitCode::from(WRONG_REQUEST) } else { ExitCode::SUCCESS }
}

/// A request that this program cannot follow, with the way out.
pub(crate) fn wrong_request(problem: impl Into<String>, hint: impl Into<String>) -> Error {
    unwrong::Error::Request { problem: problem.into(), hint: Some(hint.into()) }.into()
}
