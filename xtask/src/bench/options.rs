//! What may follow `cargo xtask bench`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::rows::{ROWS, Row, VARIANTS, Variant, Who};

/// For the usage of all commands.
pub(crate) const USAGE: &str = "  \
  bench      us and the peers at SDXL's real size, by turns; prints one Markdown table
             [--rows A,B]       some rows (default: all; a wrong name lists them)
             [--rounds N]       how often; medians count (default: 3)
             [--peers A,B]      torch, sdcpp, or none (default: torch,sdcpp)
             [--variant NAME]   PyTorch's default, channels_last or compile, without choosing
             [--model DIR]      the random full-size model, made if missing (default: full-size)
             [--json FILE]      where every single number goes (default: target/bench/bench.jsonl)
             [--python PYTHON]  one that has parity/requirements.txt; else a new .venv is made
             [--sdcpp-python PYTHON]  one that has parity/requirements-sdcpp.txt
";

#[derive(Debug)]
pub(super) struct Options {
    pub(super) rows: Vec<&'static Row>,
    pub(super) rounds: u32,
    pub(super) peers: Vec<Who>,
    /// The only one of PyTorch's variants; else the best is chosen.
    pub(super) variant: Option<&'static Variant>,
    pub(super) model: Option<PathBuf>,
    pub(super) json: Option<PathBuf>,
    pub(super) python: Option<PathBuf>,
    pub(super) sdcpp_python: Option<PathBuf>,
}

impl Options {
    pub(super) fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            rows: ROWS.iter().collect(),
            rounds: 3,
            peers: vec![Who::Torch, Who::Sdcpp],
            variant: None,
            model: None,
            json: None,
            python: None,
            sdcpp_python: None,
        };
        let mut arguments = arguments.iter();
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().with_context(|| format!("`{flag}` needs a value"));
            match flag.as_str() {
                "--rows" => options.rows = list(value()?, row)?,
                "--rounds" => options.rounds = rounds(value()?)?,
                "--peers" => options.peers = peers(value()?)?,
                "--variant" => options.variant = Some(variant(value()?)?),
                "--model" => options.model = Some(value()?.into()),
                "--json" => options.json = Some(value()?.into()),
                "--python" => options.python = Some(value()?.into()),
                "--sdcpp-python" => options.sdcpp_python = Some(value()?.into()),
                other => bail!("`{other}` is not an option\n\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

fn list<T>(text: &str, one: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    text.split(',').map(one).collect()
}

fn row(name: &str) -> Result<&'static Row> {
    Row::named(name).with_context(|| {
        let names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        format!("`{name}` is no row, expected some of: {}", names.join(", "))
    })
}

fn variant(name: &str) -> Result<&'static Variant> {
    VARIANTS.into_iter().find(|variant| variant.name == name).with_context(|| {
        format!("`{name}` is no variant, expected default, channels_last or compile")
    })
}

fn peers(text: &str) -> Result<Vec<Who>> {
    if text == "none" { Ok(Vec::new()) } else { list(text, peer) }
}

fn peer(name: &str) -> Result<Who> {
    [Who::Torch, Who::Sdcpp]
        .into_iter()
        .find(|who| who.name() == name)
        .with_context(|| format!("`{name}` is no peer, expected torch, sdcpp or none"))
}

fn rounds(text: &str) -> Result<u32> {
    match text.parse() {
        Ok(rounds) if rounds > 0 => Ok(rounds),
        _ => bail!("`--rounds` is `{text}`, expected a number from 1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn all_rows_and_both_peers_are_measured_unless_some_are_named() -> Result<()> {
        let options = parse("")?;
        assert_eq!((options.rows.len(), options.rounds, options.peers.len()), (ROWS.len(), 3, 2));
        let options = parse("--rows unet-512,picture --rounds 1 --peers torch --json a.jsonl")?;
        let names: Vec<_> = options.rows.iter().map(|row| row.name).collect();
        assert_eq!((names, options.rounds), (vec!["unet-512", "picture"], 1));
        assert_eq!((options.peers, options.json), (vec![Who::Torch], Some("a.jsonl".into())));
        assert!(parse("--peers none")?.peers.is_empty());
        Ok(())
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_right_ones() {
        let message = |line| parse(line).expect_err(line).to_string();
        assert!(message("--rows speed").contains("`speed` is no row, expected some of: unet-512"));
        assert!(message("--peers jax").contains("expected torch, sdcpp or none"));
        assert!(message("--rounds 0").contains("from 1"));
        assert!(message("--rounds").contains("needs a value"));
    }
}
