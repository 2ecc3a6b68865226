//! `cargo xtask goldens` and `full-size`: the oracles, in a Python of their own.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{Options, cargo, root, run, say};

/// Writes the goldens of the demo model anew and shows which files changed.
pub(crate) fn goldens(options: &Options) -> Result<()> {
    let python = match &options.python {
        Some(python) => python.clone(),
        None => pinned_python()?,
    };
    run(Command::new(python).arg("parity/make_goldens.py").current_dir(root()))?;
    say("what changed:");
    run(Command::new("git").args(["status", "--short", "--", "parity/goldens"]).current_dir(root()))
}

/// Compares networks of SDXL's real size, with random weights, block by block.
///
/// The weights (several gigabytes) and the oracle's outputs are made where they are
/// missing and a Python is given; our side then runs as an ignored test of the models.
pub(crate) fn full_size(options: &Options) -> Result<()> {
    let dir = root().join(options.dir.clone().unwrap_or_else(|| "full-size".into()));
    if let Some(python) = &options.python {
        for script in [
            &["parity/full_size.py", "make"][..],
            &["parity/full_size.py", "oracle"],
            &["parity/wrong_lora.py"],
        ] {
            run(Command::new(python).args(script).arg(&dir).current_dir(root()))?;
        }
    }
    run(cargo()
        .args(["test", "--release", "--package", "unwrong-models", "--test", "full_size"])
        .args(["--", "--ignored", "--nocapture", "--test-threads=1"])
        .env("UNWRONG_FULL_SIZE", &dir))
}

/// A Python with the pinned oracles, in `.venv`; made where it is missing.
pub(crate) fn pinned_python() -> Result<PathBuf> {
    let python = new_python(&root().join(".venv"))?;
    let requirements: &Path = &root().join("parity/requirements.txt");
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements);
    // Torch's ordinary wheels bring gigabytes of CUDA; whoever wants a smaller one installs
    // it first and says so here.
    if let Some(extra) = env::var_os("UNWRONG_PIP_ARGS") {
        pip.args(extra.to_string_lossy().split_whitespace());
    }
    run(&mut pip)?;
    Ok(python)
}

/// The Python of a virtual environment, which is made where it is missing.
pub(crate) fn new_python(venv: &Path) -> Result<PathBuf> {
    let (system, inside) =
        if cfg!(windows) { ("python", "Scripts/python.exe") } else { ("python3", "bin/python") };
    let python = venv.join(inside);
    if !python.exists() {
        run(Command::new(system).args(["-m", "venv"]).arg(venv))?;
    }
    Ok(python)
}
