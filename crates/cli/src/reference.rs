//! `docs/cli.md`, written from the program's own help, and the test that keeps it so.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use clap::{Command, CommandFactory as _};

use crate::args::Cli;

const HEAD: &str = "# Command line

Written by `cargo xtask docs`; a test fails when it is stale.

Standard output is data: the path of each picture, or with `--json` one object per picture,
`{\"path\", \"seed\", \"request\", \"lora\": [{\"path\", \"applied\", \"total\"}], \"timings\": {\"load\",
\"encode\", \"steps\", \"decode\"}, \"peak_bytes\"}`, times in seconds. Standard error is
progress, warnings and errors. Exit codes: 0 done, 1 the request was wrong, 2 something else
failed, 130 interrupted.
";

fn markdown() -> String {
    let mut text = HEAD.to_owned();
    let mut cli = Cli::command().term_width(80);
    cli.build();
    for command in commands(&cli) {
        let name = command.get_bin_name().unwrap_or_default().to_owned();
        let help = command.term_width(80).render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        write!(text, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end())
            .expect("a String takes every write");
    }
    text
}

/// All commands, those of commands included.
fn commands(cli: &Command) -> Vec<Command> {
    let commands = cli.get_subcommands().filter(|command| command.get_name() != "help");
    let commands = commands.flat_map(|command| {
        if command.has_subcommands() { self::commands(command) } else { vec![command.clone()] }
    });
    commands.collect()
}

#[test]
fn the_command_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let written = markdown();
    if env::var_os("UNWRONG_WRITE_DOCS").is_some() {
        fs::write(&path, &written).expect("docs/cli.md can be written");
    }
    let current = fs::read_to_string(&path).unwrap_or_default();
    assert!(current == written, "docs/cli.md is stale: run `cargo xtask docs`");
}
