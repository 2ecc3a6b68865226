//! One measurement: a process that prints one line of JSON.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::shown;

/// A row that takes longer is given up.
const LIMIT: Duration = Duration::from_mins(20);

/// What a process says of itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Numbers {
    pub(super) seconds: f64,
    pub(super) peak_anonymous_bytes: Option<f64>,
    pub(super) peak_resident_bytes: Option<f64>,
    /// All it said.
    pub(super) line: Value,
}

/// Runs a process to its end and reads its line; the reason where there is none.
pub(super) fn measure(command: &mut Command) -> Result<Numbers, String> {
    run(command).map_err(|error| format!("{error:#}"))
}

fn run(command: &mut Command) -> Result<Numbers> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{}` did not start", shown(command)))?;
    // Whoever warns a lot must not wait for us to read it.
    let stderr = child.stderr.take().context("no standard error")?;
    let said = thread::spawn(move || text_of(stderr));
    let stdout = child.stdout.take().context("no standard output")?;
    let answer = thread::spawn(move || text_of(stdout));

    let status = wait(&mut child)?;
    let (said, answer) = (said.join().unwrap_or_default(), answer.join().unwrap_or_default());
    let Some(status) = status else { bail!("gave up after {} minutes", LIMIT.as_secs() / 60) };
    if !status.success() {
        bail!("{}", reason(status, &said));
    }
    let line = answer.lines().last().unwrap_or_default();
    read(line).with_context(|| format!("`{line}` is no result"))
}

/// The exit status; `None` where the process took too long and was ended.
fn wait(child: &mut Child) -> Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn text_of(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Our own errors come first in what is said, Python's last.
fn reason(status: ExitStatus, said: &str) -> String {
    let mut lines = said.lines().filter(|line| !line.trim().is_empty());
    let ours = lines.clone().find(|line| line.starts_with("error: "));
    match ours.or_else(|| lines.next_back()) {
        Some(line) => line.trim_start_matches("error: ").to_owned(),
        None => format!("ended with {status}"),
    }
}

fn read(line: &str) -> Result<Numbers> {
    let line: Value = serde_json::from_str(line)?;
    Ok(Numbers {
        seconds: line["seconds"].as_f64().context("it has no `seconds`")?,
        peak_anonymous_bytes: line["peak_anonymous_bytes"].as_f64(),
        peak_resident_bytes: line["peak_resident_bytes"].as_f64(),
        line,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_may_lack_the_memory_but_not_the_seconds() -> Result<()> {
        let numbers = read(r#"{"seconds": 1.5, "peak_anonymous_bytes": null}"#)?;
        assert_eq!((numbers.seconds, numbers.peak_anonymous_bytes), (1.5, None));
        assert!(read("{}").is_err());
        assert!(read("Killed").is_err());
        Ok(())
    }
}
