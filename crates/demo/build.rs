//! Lists the files of `model/` for the library to embed.
//!
//! A list made here cannot go stale when the model is trained again; what is left out,
//! and why, is decided in [`is_embedded`].

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("model");
    println!("cargo::rerun-if-changed={}", root.display());

    let mut names = Vec::new();
    collect(&root, &root, &mut names)?;
    names.sort();

    let mut source = String::from("&[\n");
    for name in names.iter().filter(|name| is_embedded(name)) {
        writeln!(source, "    embed!({name:?}),").expect("a String takes every write");
    }
    source.push(']');
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("files.rs"), source)
}

/// Whether the program reads this file.
///
/// The model card is for people. The vocabularies (3 MB for two equal copies) are for
/// diffusers: our tokenizer carries CLIP's merges itself.
fn is_embedded(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    !matches!(file, "README.md" | "merges.txt" | "vocab.json") && !file.starts_with('.')
}

/// Adds the path of every file under `folder`, relative to `root`, with `/` between its parts.
fn collect(root: &Path, folder: &Path, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            println!("cargo::rerun-if-changed={}", path.display());
            collect(root, &path, names)?;
        } else {
            let relative = path.strip_prefix(root).expect("it was found under the root");
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            names.push(parts.join("/"));
        }
    }
    Ok(())
}
