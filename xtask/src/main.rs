//! The project's own commands: `cargo xtask COMMAND`.
//!
//! They need nothing but cargo, and depend on no crate of the project: a build that is
//! broken can still be asked what is wrong with it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

mod bench;
mod check;
mod experiment;
mod parity;
mod tests;

const USAGE: &str = "usage: cargo xtask COMMAND

  check      formatting, lints, crate boundaries, documentation: cheapest first
  test       every test, doctests included, in the release profile; the counts come last
  docs       writes docs/cli.md anew from the program's own help, and docs/compare.webp
  goldens    writes parity/goldens anew with the pinned oracles
             [--python PYTHON]  one that has parity/requirements.txt; else a new .venv is made
  full-size  checks networks of SDXL's real size against the oracle
             [--python PYTHON]  one with torch; without it the oracle's numbers must be there
             [--dir DIR]        where the weights go (default: full-size)
";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let Some((command, rest)) = arguments.split_first() else { bail!("no command\n\n{}", usage()) };
    if command == "bench" {
        return bench::bench(rest);
    }
    if command == "experiment" {
        return experiment::experiment(rest);
    }
    let options = Options::parse(rest)?;
    match command.as_str() {
        "check" => check::check(),
        "test" => tests::test(),
        "docs" => docs(),
        "goldens" => parity::goldens(&options),
        "full-size" => parity::full_size(&options),
        "help" | "-h" | "--help" => {
            say(&usage());
            Ok(())
        }
        other => bail!("there is no command `{other}`\n\n{}", usage()),
    }
}

/// Every command.
fn usage() -> String {
    format!("{USAGE}{}{}", bench::USAGE, experiment::usage())
}

/// What may follow a command.
#[derive(Debug, Default)]
struct Options {
    /// A Python that has the oracles.
    python: Option<PathBuf>,
    /// Where large files go.
    dir: Option<PathBuf>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(flag) = arguments.next() {
            let slot = match flag.as_str() {
                "--python" => &mut options.python,
                "--dir" => &mut options.dir,
                other => bail!("`{other}` is not an option\n\n{USAGE}"),
            };
            let value = arguments.next().with_context(|| format!("`{flag}` needs a value"))?;
            *slot = Some(PathBuf::from(value));
        }
        Ok(options)
    }
}

/// Writes `docs/cli.md`, by the test that compares it, and the picture of the README.
fn docs() -> Result<()> {
    run(cargo()
        .args(["test", "--release", "--package", "unwrong-cli", "--bin", "unwrong"])
        .arg("the_command_reference_is_current")
        .env("UNWRONG_WRITE_DOCS", "1"))?;
    run(cargo().args(["run", "--release", "--package", "unwrong-cli", "--", "compare"]).args([
        "a rocket",
        "--seed",
        "7",
        "-o",
        "docs/compare.webp",
        "--force",
    ]))
}

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// The cargo that runs us, in the root of the repository.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command to its end, and fails when it fails.
fn run(command: &mut Command) -> Result<()> {
    say(&format!("$ {}", shown(command)));
    let status = command.status().with_context(|| format!("`{}` did not start", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let mut words = vec![program.to_string_lossy()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy()));
    words.join(" ")
}

/// Says something to the person who runs this.
#[expect(clippy::print_stderr, reason = "a command for developers talks to them")]
fn say(text: &str) {
    eprintln!("{text}");
}
