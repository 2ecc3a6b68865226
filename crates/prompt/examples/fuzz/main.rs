//! Searches for prompts that a reader cannot stand: it panics, is slow, or breaks a law.
//!
//! ```text
//! cargo run --release -p unwrong-prompt --example fuzz -- READER SECONDS [SEED]
//! ```
//!
//! READER is `compel`, `script`, `attention`, `comfy` or `dynamic`. Prompts grow from pieces of
//! syntax; those that show something new are kept and changed further. A seed tries the same
//! prompts in the same order. What fails is made as short as it stays failing, and printed.

mod laws;
mod prompts;

use std::collections::HashSet;
use std::io::{self, Write};
use std::panic;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use laws::{Reader, Verdict};
use prompts::Prompts;

/// Failures after which a search is over.
const MOST_FAILURES: usize = 20;
/// Runs of which the fastest counts.
const REPEATS: usize = 3;
/// Time that any prompt may take, and more for every byte that is read.
const START: Duration = Duration::from_millis(20);
const PER_BYTE: Duration = Duration::from_micros(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let reader = arguments.first().and_then(|name| Reader::named(name));
    let seconds = arguments.get(1).and_then(|seconds| seconds.parse().ok());
    let seed = arguments.get(2).map_or(Some(1), |seed| seed.parse().ok());
    let (Some(reader), Some(seconds), Some(seed)) = (reader, seconds, seed) else {
        let _ = writeln!(io::stderr(), "fuzz READER SECONDS [SEED]");
        return ExitCode::FAILURE;
    };
    // A failure is told once, with its prompt.
    panic::set_hook(Box::new(|_| {}));
    match search(reader, Duration::from_secs(seconds), seed) {
        Ok(0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Returns how many unlike failures there were.
fn search(reader: Reader, time: Duration, seed: u64) -> io::Result<usize> {
    let mut output = io::stdout().lock();
    let mut prompts = Prompts::new(seed);
    let (mut seen, mut failures) = (HashSet::new(), HashSet::new());
    let (mut count, mut bytes, mut slowest) = (0_u64, 0_u64, Duration::ZERO);
    let started = Instant::now();
    let mut told = started;
    while started.elapsed() < time && failures.len() < MOST_FAILURES {
        let text = prompts.next();
        count += 1;
        bytes += text.len() as u64;
        match check(reader, &text) {
            Ok((shape, took)) => {
                slowest = slowest.max(took / (1 + text.len() as u32 / 1024));
                if seen.insert(shape) {
                    prompts.keep(text);
                }
            }
            Err(reason) => {
                if failures.insert(kind(&reason)) {
                    writeln!(output, "FAILED at prompt {count}: {reason}")?;
                    let text = shorten(reader, text, &kind(&reason));
                    writeln!(output, "  {text:?}")?;
                }
            }
        }
        if told.elapsed() > Duration::from_mins(1) {
            told = Instant::now();
            let (kept, seconds) = (seen.len(), started.elapsed().as_secs());
            writeln!(output, "{seconds} s: {count} prompts, {kept} shapes")?;
            output.flush()?;
        }
    }
    writeln!(
        output,
        "{count} prompts of {} MB in {} s, {} of a processor; {} shapes, {} failures; slowest {:.2} \
         ms per KB begun",
        bytes / 1_000_000,
        started.elapsed().as_secs(),
        processor_time().as_secs(),
        seen.len(),
        failures.len(),
        slowest.as_secs_f64() * 1e3,
    )?;
    Ok(failures.len())
}

/// Numbers in a reason do not make it another one.
fn kind(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
}

/// A number that is the same for prompts that show the same, and the time it took.
fn check(reader: Reader, text: &str) -> Result<(u64, Duration), String> {
    let mut fastest = Duration::MAX;
    for _ in 0..REPEATS {
        let started = processor_time();
        let verdict = panic::catch_unwind(|| reader.check(text));
        fastest = fastest.min(processor_time().saturating_sub(started));
        let Verdict { shape, bytes } = verdict.map_err(|panic| message(&*panic))??;
        if fastest <= START + PER_BYTE * bytes as u32 {
            return Ok((shape, fastest));
        }
    }
    Err(format!("slow: {} ms for {} bytes", fastest.as_millis(), text.len()))
}

/// What this thread has used of a processor: time of other programs is not the prompt's.
///
/// Where the system does not tell (`/proc` is Linux's), no prompt is slow.
fn processor_time() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = told.split(' ').next().and_then(|number| number.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    format!("panic: {}", text.or_else(|| panic.downcast_ref().copied()).unwrap_or("unknown"))
}

/// Leaves out what is not needed for a failure of this kind.
fn shorten(reader: Reader, mut text: String, wanted: &str) -> String {
    let fails = |text: &str| check(reader, text).is_err_and(|reason| kind(&reason) == wanted);
    let mut size = text.chars().count() / 2;
    while size > 0 {
        let mut from = 0;
        while from < text.chars().count() {
            let shorter: String =
                text.chars().take(from).chain(text.chars().skip(from + size)).collect();
            if fails(&shorter) {
                text = shorter;
            } else {
                from += size;
            }
        }
        size /= 2;
    }
    text
}
