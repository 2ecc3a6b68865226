//! What may follow `cargo xtask experiment`: flags, and every setting of the method.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::root;

const FLAGS: &str = "  \
  experiment the whole method on the demo model, from nothing to docs/experiment.md
             [--quick]          tiny numbers, in seconds: shows that it runs, and nothing else
             [--tune]           tries settings on prompts of their own: docs/experiment-tuning.md
             [--dir DIR]        pictures, LoRA, numbers (default: target/experiment)
             [--page FILE]      where the page goes (default: docs/experiment.md)
             [--page-only]      the page anew, from the numbers in DIR
             [--retime]         the same, with the training's timings measured anew
             [--program PATH]   an `unwrong` that is built (default: builds it)
             [--ship]           the demo model gets the LoRA; its goldens must be made anew
             and any setting:
";

/// One setting of the method.
struct Setting {
    /// What is typed, with `--` in front.
    key: &'static str,
    full: &'static str,
    /// For `--quick`.
    quick: &'static str,
    what: &'static str,
}

const fn setting(
    key: &'static str,
    full: &'static str,
    quick: &'static str,
    what: &'static str,
) -> Setting {
    Setting { key, full, quick, what }
}

const SETTINGS: [Setting; 18] = [
    setting("prompts", "demo/experiment/prompts.txt", "demo/experiment/tuning.txt", "a file"),
    setting("prompt-count", "all", "3", "how many of them"),
    setting("seeds", "0..4", "0..1", "of every prompt"),
    setting("draw-steps", "30", "2", "of every picture"),
    setting("guidance-scale", "7", "7", "of every picture"),
    setting("high-guidance", "13", "none", "none and both once more at this scale"),
    setting("keywords", "all", "blurry,ugly", "of the wrong pictures"),
    setting("wrong-scales", "1", "8", "their guidance scales"),
    setting("wrong-count", "12", "1", "how many of each"),
    setting("wrong-steps", "30", "2", "their steps"),
    setting("wrong-seed", "0", "0", "of the first of them"),
    setting("train-steps", "400", "2", "of four pictures"),
    setting("rate", "1e-4", "1e-4", "learning rate"),
    setting("rank", "16", "4", "of the matrices"),
    setting("lora-scale", "1", "1", "of the wrong-LoRA"),
    setting("primary", "tenengrad", "tenengrad", "the metric that decides"),
    setting("follow", "8", "2", "prompts that a picture is shown under"),
    setting("follow-levels", "4", "1", "levels of noise"),
];

/// All of it.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that is given or not")]
pub(super) struct Options {
    pub(super) quick: bool,
    pub(super) tune: bool,
    pub(super) page_only: bool,
    pub(super) retime: bool,
    pub(super) ship: bool,
    pub(super) dir: PathBuf,
    pub(super) page: PathBuf,
    pub(super) program: Option<PathBuf>,
    pub(super) settings: Settings,
}

/// The value of every setting.
#[derive(Debug, Clone)]
pub(super) struct Settings(BTreeMap<&'static str, String>);

impl Settings {
    fn new(quick: bool) -> Self {
        let value = |setting: &Setting| if quick { setting.quick } else { setting.full };
        Self(SETTINGS.iter().map(|setting| (setting.key, value(setting).to_owned())).collect())
    }

    /// The value of a setting that is in the table.
    pub(super) fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let slot = self.0.get_mut(key).with_context(|| format!("`{key}` is no setting"))?;
        value.clone_into(slot);
        Ok(())
    }

    /// For `run.json`.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!(self.0)
    }
}

impl Options {
    pub(super) fn parse(arguments: &[String]) -> Result<Self> {
        let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
        let quick = has("--quick");
        let mut options = Self {
            quick,
            tune: has("--tune"),
            page_only: has("--page-only"),
            retime: has("--retime"),
            ship: has("--ship"),
            dir: root().join("target/experiment"),
            page: PathBuf::new(),
            program: None,
            settings: Settings::new(quick),
        };
        let mut page = None;
        let flags = ["--quick", "--tune", "--page-only", "--retime", "--ship"];
        let mut arguments = arguments.iter().filter(|argument| !flags.contains(&argument.as_str()));
        while let Some(flag) = arguments.next() {
            let key = flag.strip_prefix("--").with_context(|| unknown(flag))?;
            let value = arguments.next().with_context(|| format!("`{flag}` needs a value"))?;
            match key {
                "dir" => options.dir = value.into(),
                "page" => page = Some(value.into()),
                "program" => options.program = Some(value.into()),
                _ if options.settings.set(key, value).is_ok() => {}
                _ => bail!("{}", unknown(flag)),
            }
        }
        options.page = page.unwrap_or_else(|| {
            let name = if options.tune { super::TUNING } else { "experiment.md" };
            if quick { options.dir.join(name) } else { root().join("docs").join(name) }
        });
        if options.ship && (options.quick || options.tune) {
            bail!("`--ship` is for the whole experiment");
        }
        Ok(options)
    }
}

fn unknown(flag: &str) -> String {
    format!("`{flag}` is not an option\n\n{}", usage())
}

/// For the usage of all commands.
pub(crate) fn usage() -> String {
    let mut text = FLAGS.to_owned();
    for Setting { key, full, what, .. } in SETTINGS {
        writeln!(text, "               --{key:<16} {what} (default: {full})")
            .expect("a String takes every write");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_given_wins_over_the_quick_numbers() -> Result<()> {
        let options = parse("--seeds 0..2 --quick --dir somewhere")?;
        assert_eq!(options.settings.get("seeds"), "0..2");
        assert_eq!(options.settings.get("train-steps"), "2");
        assert_eq!(options.page, PathBuf::from("somewhere/experiment.md"));
        Ok(())
    }

    #[test]
    fn what_is_no_option_is_refused_with_all_of_them() {
        for line in ["--speed 2", "seeds", "--seeds", "--ship --quick"] {
            assert!(parse(line).is_err(), "{line}");
        }
        let error = parse("--speed 2").err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("--train-steps"), "{error}");
    }
}
