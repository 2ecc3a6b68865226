//! Ctrl-C: the first one asks the work to stop, the second one stops it.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};

use crate::{failure, printer};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Listens for Ctrl-C from now on.
pub(crate) fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            process::exit(i32::from(failure::INTERRUPTED));
        }
        printer::note("stopping after this step; Ctrl-C again stops at once");
    })
    .context("cannot listen for Ctrl-C")
}

/// Ends the program at the first Ctrl-C: for work that leaves nothing behind.
pub(crate) fn end_at_once() -> Result<()> {
    ctrlc::set_handler(|| process::exit(i32::from(failure::INTERRUPTED)))
        .context("cannot listen for Ctrl-C")
}

/// Whether someone pressed Ctrl-C.
pub(crate) fn pending() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
