//! `cargo xtask experiment`: the whole method on the demo model, from nothing to a page.
//!
//! | stage | command | leaves in the folder |
//! |---|---|---|
//! | draw the wrong pictures | `unwrong wrongs` | `wrongs/` |
//! | train | `unwrong train` | `wrong.safetensors` |
//! | convert | `unwrong lora convert` | `wrong-lora.safetensors` |
//! | draw, measure, compare | `unwrong eval`, once for each baseline | `eval/` |
//! | the page | – | `run.json`, and `docs/experiment.md` |
//!
//! Every number of the page comes from `run.json` and `eval/results.jsonl`; every verdict
//! follows from them by the rules in [`verdict`].

mod data;
mod options;
mod page;
mod stages;
mod tune;
mod verdict;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use self::data::Run;
use self::options::Options;
use crate::{root, say};

pub(crate) use self::options::usage;

/// What the numbers of a run are kept in.
const RUN: &str = "run.json";
/// The LoRA as other programs read it.
const LORA: &str = "wrong-lora.safetensors";
/// What [`tune`] writes beside the page.
const TUNING: &str = "experiment-tuning.md";
/// The demo model's own.
const SHIPPED: &str = "crates/demo/model/wrong-lora.safetensors";

/// Runs the method and writes the page.
pub(crate) fn experiment(arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    if options.tune {
        return tune::tune(&options);
    }
    if options.retime {
        let path = options.dir.join(RUN);
        let run = fs::read_to_string(&path).with_context(|| format!("no `{}`", path.display()))?;
        write(&path, stages::retime(&options, &run)?.as_bytes())?;
    } else if !options.page_only {
        begin(&options.dir)?;
        let run = stages::run(&options)?;
        write(&options.dir.join(RUN), run.as_bytes())?;
    }
    let run = Run::read(&options.dir)?;
    let tuned = options.page.with_file_name(TUNING).is_file();
    let page = page::page(&run, tuned)?;
    write(&options.page, page.as_bytes())?;
    let sheet = options.page.with_extension("webp");
    copy(&options.dir.join("eval/sheet.webp"), &sheet)?;
    say(&format!("{} and {}", options.page.display(), sheet.display()));
    if options.ship {
        copy(&options.dir.join(LORA), &root().join(SHIPPED))?;
        say(&format!("{SHIPPED} is new: `cargo xtask goldens` makes the goldens of it"));
    }
    Ok(())
}

/// An empty folder: what an earlier run left there is removed, other contents are not.
fn begin(dir: &Path) -> Result<()> {
    if dir.join(RUN).is_file() || dir.join(stages::MARK).is_file() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove `{}`", dir.display()))?;
    }
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("`{}` holds something else; name another folder with `--dir`", dir.display());
    }
    write(&dir.join(stages::MARK), b"")
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    write(to, &fs::read(from).with_context(|| format!("cannot read `{}`", from.display()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The program that `cargo test --workspace` builds beside this test.
    fn program() -> Option<std::path::PathBuf> {
        let test = std::env::current_exe().ok()?;
        let name = format!("unwrong{}", std::env::consts::EXE_SUFFIX);
        let program = test.parent()?.parent()?.join(name);
        program.is_file().then_some(program)
    }

    #[test]
    fn the_whole_method_runs_in_small() -> Result<()> {
        let Some(program) = program() else {
            say("left out: `unwrong` is not built; `cargo test --workspace` builds it");
            return Ok(());
        };
        let dir = std::env::temp_dir().join(format!("xtask-experiment-{}", std::process::id()));
        let line = ["--quick", "--program", &program.display().to_string(), "--dir"];
        let mut line: Vec<String> = line.map(str::to_owned).to_vec();
        line.push(dir.display().to_string());
        experiment(&line)?;
        let page = fs::read_to_string(dir.join("experiment.md"))?;
        for word in ["## Verdicts", "| `both` |", "follows", "unwrong train", "no measurement"] {
            assert!(page.contains(word), "{word}: {page}");
        }
        // The same numbers give the same page.
        line.push("--page-only".to_owned());
        experiment(&line)?;
        assert!(fs::read_to_string(dir.join("experiment.md"))? == page);
        // A second run begins anew; a folder of something else is left alone.
        line.pop();
        fs::remove_file(dir.join(RUN))?;
        fs::remove_file(dir.join(stages::MARK))?;
        assert!(experiment(&line).is_err_and(|error| error.to_string().contains("something else")));
        Ok(fs::remove_dir_all(&dir)?)
    }
}
