//! The `unwrong` binary: arguments to requests, pictures to files, errors to exit codes.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

mod args;
mod bars;
mod bench;
mod compare;
mod destination;
mod eval;
mod failure;
mod from;
mod generate;
mod interrupt;
mod lora;
mod memory;
mod metadata;
mod no_memory;
mod printer;
mod prompts;
#[cfg(test)]
mod reference;
mod report;
mod session;
mod tokens;
mod train;
mod wrongs;

use args::{Cli, Command};
use mimalloc::MiMalloc;
use unwrong::{Alarm, Recycling};

/// The large buffers of a layer are reused by the next one instead of going back to the system
/// and being faulted in anew.
#[global_allocator]
static ALLOCATOR: Alarm<Recycling<MiMalloc>> = Alarm::new(Recycling::new(MiMalloc), no_memory::end);

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => return failure::report_usage(&error),
    };
    match run(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Generate(arguments) => generate::run(arguments),
        Command::Compare(arguments) => compare::run(arguments),
        Command::Wrongs(arguments) => wrongs::run(arguments),
        Command::Train(arguments) => train::run(arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Tokens(arguments) => tokens::run(arguments),
        Command::Lora(command) => lora::run(command),
        Command::Metadata(arguments) => metadata::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
    }
}
