//! From an error to what the user reads and the exit code that scripts read.

use std::process::ExitCode;

use anyhow::Error;

use crate::printer;

/// The request was wrong: asking differently helps.
const WRONG_REQUEST: u8 = 1;
/// Something else failed.
const FAILED: u8 = 2;
/// Interrupted, as shells count it: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Says what went wrong and the way out, and tells the exit code.
pub(crate) fn report(error: &Error) -> ExitCode {
    let cause = error.downcast_ref::<unwrong::Error>();
    if matches!(cause, Some(unwrong::Error::Cancelled)) {
        printer::note("interrupted");
        return ExitCode::from(INTERRUPTED);
    }
    let mut text = format!("error: {error:#}");
    if let Some(hint) = cause.and_then(unwrong::Error::hint) {
        text.push_str("\n\nhint: ");
        text.push_str(&hint);
    }
    printer::note(&text);
    match cause {
        Some(cause) if cause.is_request_error() => ExitCode::from(WRONG_REQUEST),
        _ => ExitCode::from(FAILED),
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
