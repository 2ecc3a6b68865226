//! The binary as its users meet it: exit code, standard output, standard error, files.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod bench;
mod embeddings;
mod errors;
mod eval;
mod files;
mod library;
mod lora;
mod lora_into;
mod lora_tools;
mod pictures;
mod readme;
mod tokens;
mod train;
mod watch;
mod wrongs;

use std::path::Path;
use std::process::{Command, Output};

/// What a run of the program left behind.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Run {
    /// Fails, with what the program said, unless it ended well.
    #[track_caller]
    fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }
}

/// The program in a folder of its own.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unwrong"));
    command.current_dir(folder).args(arguments);
    command
}

fn unwrong(folder: &Path, arguments: &[&str]) -> Run {
    command(folder, arguments).output().unwrap().into()
}

/// The smallest and fastest picture, for tests that look at something else.
const SMALL: [&str; 4] = ["--size", "64x64", "--steps", "2"];

/// `generate` with a small picture.
fn generate(folder: &Path, arguments: &[&str]) -> Run {
    unwrong(folder, &[&["generate"], arguments, &SMALL[..]].concat())
}
