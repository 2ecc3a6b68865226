//! The end where not even a few bytes can be had.

use std::io::{self, Write as _};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::failure;

/// Another allocation has failed, and the program is ending.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Says so, with nothing but the stack, and ends the program.
pub(crate) fn end(bytes: usize) {
    if ENDING.swap(true, Ordering::Relaxed) {
        // Another thread is about to end the program; or saying it has failed, too.
        thread::sleep(Duration::from_secs(1));
        return;
    }
    let mut text = [0; 256];
    let mut rest = &mut text[..];
    write!(
        rest,
        "error: no memory left: {bytes} bytes could not be had\n\n\
         hint: close other programs, allow more, or ask for a smaller `--size`\n"
    )
    .ok();
    let unused = rest.len();
    io::stderr().write_all(&text[..256 - unused]).ok();
    process::exit(i32::from(failure::FAILED));
}
