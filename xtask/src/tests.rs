//! `cargo xtask test`: every test, and one line of counts at the end.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::ops::AddAssign;
use std::process::{Command, Stdio};
use std::{io, thread};

use anyhow::{Context as _, Result, bail};

use crate::{cargo, say, shown};

/// Runs the tests with nextest where it is installed, else with `cargo test`; then the
/// doctests, which nextest leaves out.
pub(crate) fn test() -> Result<()> {
    let (mut counts, mut failed) = (Counts::default(), Vec::new());
    let mut suite = |arguments: &[&str]| -> Result<()> {
        let mut command = cargo();
        command.args(arguments).args(["--workspace", "--release", "--no-fail-fast"]);
        let (these, success) = counted(&mut command)?;
        counts += these;
        if !success {
            failed.push(shown(&command));
        }
        Ok(())
    };
    if has_nextest() {
        suite(&["nextest", "run"])?;
    } else {
        suite(&["test", "--all-targets"])?;
    }
    suite(&["test", "--doc"])?;

    // The exit code is the commands' own: the counts alone would call a suite that did
    // not build a success.
    if !failed.is_empty() {
        say(&format!("failed: {}", failed.join("; ")));
    }
    print_last(&counts)?;
    if !failed.is_empty() || counts.failed > 0 {
        bail!("not every test passed");
    }
    if counts.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

/// How many tests ended how.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Counts {
    /// What one line of a test runner's output adds.
    ///
    /// Closing lines of libtest (`test result: ok. 5 passed; 0 failed; 1 ignored; …`) and of
    /// nextest (`Summary [ 0.1s] 6 tests run: 5 passed, 1 failed, 1 timed out, 2 skipped`).
    fn of_line(line: &str) -> Self {
        let line = line.trim();
        let tail = if let Some(tail) = line.strip_prefix("test result: ") {
            tail
        } else if line.starts_with("Summary [") {
            line.split_once(" run: ").map_or("", |(_, tail)| tail)
        } else {
            ""
        };
        let mut counts = Self::default();
        for part in tail.split([';', ',', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            match what {
                "passed" => counts.passed += number,
                "failed" | "timed" => counts.failed += number,
                "ignored" | "skipped" => counts.skipped += number,
                _ => {}
            }
        }
        counts
    }
}

/// Runs a command, passing on what it says and counting the tests in it.
fn counted(command: &mut Command) -> Result<(Counts, bool)> {
    say(&format!("$ {}", shown(command)));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{}` did not start", shown(command)))?;
    let stdout = child.stdout.take().context("no standard output")?;
    let stderr = child.stderr.take().context("no standard error")?;
    let from_stderr = thread::spawn(move || pass_on(stderr, io::stderr()));
    let mut counts = pass_on(stdout, io::stdout())?;
    counts += from_stderr.join().expect("reading lines does not panic")?;
    Ok((counts, child.wait()?.success()))
}

/// Copies lines from a child to one of our own streams.
fn pass_on(from: impl Read, mut to: impl Write) -> io::Result<Counts> {
    let mut counts = Counts::default();
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        counts += Counts::of_line(&String::from_utf8_lossy(&line));
        to.write_all(&line)?;
        line.clear();
    }
    Ok(counts)
}

fn has_nextest() -> bool {
    cargo()
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[expect(clippy::print_stdout, reason = "the counts are this command's result")]
fn print_last(counts: &Counts) -> io::Result<()> {
    io::stderr().flush()?;
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    io::stdout().flush()
}

#[cfg(test)]
mod the_counts {
    use super::Counts;

    #[test]
    fn of_libtest_are_read() {
        let line = "test result: FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 9 filtered \
                    out; finished in 0.00s\n";
        assert_eq!(Counts::of_line(line), Counts { passed: 5, failed: 2, skipped: 1 });
    }

    #[test]
    fn of_nextest_are_read() {
        let line = "     Summary [   0.105s] 8 tests run: 5 passed (1 slow), 2 failed, 1 timed out, \
                    3 skipped\n";
        assert_eq!(Counts::of_line(line), Counts { passed: 5, failed: 3, skipped: 3 });
    }

    #[test]
    fn of_other_lines_are_nothing() {
        assert_eq!(Counts::of_line("12 passed, 1 failed"), Counts::default());
        assert_eq!(Counts::of_line("test tests::a ... ok"), Counts::default());
    }
}
