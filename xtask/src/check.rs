//! `cargo xtask check`: what can be known without running a test, cheapest first.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::{cargo, root, run};

/// Which of our crates each of our crates may depend on; `docs/architecture.md` says why.
const BOUNDARIES: &[(&str, &[&str])] = &[
    ("cli", &["unwrong", "unwrong-demo", "unwrong-eval", "unwrong-prompt", "unwrong-train"]),
    ("demo", &[]),
    ("eval", &["unwrong", "unwrong-models"]),
    ("kernels", &[]),
    ("models", &["unwrong-kernels"]),
    ("prompt", &[]),
    ("train", &["unwrong", "unwrong-models", "unwrong-kernels"]),
    ("unwrong", &["unwrong-models", "unwrong-prompt"]),
];

/// Formatting, crate boundaries, lints, documentation.
pub(crate) fn check() -> Result<()> {
    run_cargo(&["fmt", "--all", "--check"])?;
    boundaries()?;
    run_cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--release",
        "--",
        "--deny",
        "warnings",
    ])?;
    run(cargo()
        .args(["doc", "--workspace", "--no-deps", "--release"])
        .env("RUSTDOCFLAGS", "--deny warnings"))
}

fn run_cargo(arguments: &[&str]) -> Result<()> {
    run(cargo().args(arguments))
}

/// Refuses an arrow between crates that the architecture does not have.
fn boundaries() -> Result<()> {
    for folder in fs::read_dir(root().join("crates"))? {
        let folder = folder?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let allowed = BOUNDARIES
            .iter()
            .find_map(|(known, allowed)| (*known == name).then_some(*allowed))
            .with_context(|| format!("crates/{name} is not in xtask's table of boundaries"))?;
        let manifest = fs::read_to_string(folder.join("Cargo.toml"))
            .with_context(|| format!("crates/{name}/Cargo.toml"))?;
        for dependency in our_dependencies(&manifest) {
            if !allowed.contains(&dependency) {
                bail!(
                    "crates/{name} depends on {dependency}, which docs/architecture.md rules out"
                );
            }
        }
    }
    Ok(())
}

/// Our own crates among a manifest's dependencies; what only its tests use is free.
fn our_dependencies(manifest: &str) -> Vec<&str> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]") && section != "[dev-dependencies]" {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if name == "unwrong" || name.starts_with("unwrong-") {
                found.push(name);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::our_dependencies;

    #[test]
    fn only_our_own_crates_outside_the_tests_count() {
        let manifest = "[package]\nname = \"unwrong-cli\"\n\n[dependencies]\nclap = \"4\"\n\
                        unwrong.workspace = true\nunwrong-demo = { path = \"x\" }\n\n\
                        [dev-dependencies]\nunwrong-models.workspace = true\n";
        assert_eq!(our_dependencies(manifest), ["unwrong", "unwrong-demo"]);
    }
}
