//! LoRA files merged into a model: `weight + scale · up · down`, written tensor by tensor.
//!
//! As `fuse_lora` of diffusers and `networks/sdxl_merge_lora.py` of sd-scripts 48d368f do it, in
//! f32; then each number is rounded to the dtype that it had. One tensor is in memory at a time.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use unwrong_models::files::{Dtype, ModelDefaults, TensorSlot, safetensors_header};
use unwrong_models::lora::{
    Adapters, Applied, Checkpoint, CheckpointFile, LoraFile, Scales, Targets, attach,
};

use super::source::Metadata;
use crate::error::{Error, Result};
use crate::identity::file_name;
use crate::picture::write_piece_by_piece;
use crate::request::LoraRequest;

/// Files that hold weights: those that the program reads are written anew, others are left out.
const WEIGHTS: [&str; 8] = ["safetensors", "bin", "pt", "pth", "ckpt", "msgpack", "onnx", "h5"];
/// Folders within a model's folder.
const MOST_DEPTH: usize = 4;
/// What the maker of a model recommends.
const DEFAULTS: &str = "unwrong.toml";
/// How many names a message lists.
const MOST_NAMES: usize = 3;

/// How a model with LoRA files in it is written.
#[derive(Debug, Clone, Copy)]
pub struct IntoModel<'a> {
    /// How numbers of UNet and text encoders are stored; absent means as they are.
    pub dtype: Option<Dtype>,
    /// Replace what is there.
    pub force: bool,
    /// The file, or the folder for a model that is one.
    pub output: &'a Path,
}

/// Merges LoRA files, each at its scales, into a model; says how much of each was used.
///
/// `progress` is told how many tensors of how many are written, and may end it: nothing is left.
pub fn merge_into(
    model: &Path,
    loras: &[LoraRequest],
    into: IntoModel<'_>,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<Applied>> {
    if !model.exists() {
        return Err(Error::NotThere { path: model.to_owned(), expected: "a model" });
    }
    loras.iter().try_for_each(LoraRequest::check)?;
    let files: Vec<(LoraFile, Scales)> = loras
        .iter()
        .map(|lora| Ok((LoraFile::open(Path::new(&lora.path))?, lora.scales())))
        .collect::<Result<_>>()?;
    let checkpoint = Checkpoint::open(model)?;
    let (adapters, applied) = attach(&files, &Targets::of(&checkpoint.parts))?;
    let total = checkpoint.files.iter().map(|file| checkpoint.tensors(file).len()).sum();
    let mut job =
        Job { checkpoint: &checkpoint, adapters: &adapters, into, progress, total, done: 0 };
    match checkpoint.files.first() {
        Some(file) if !model.is_dir() => job.write(file, into.output, into.force, loras)?,
        _ => job.write_folder(model, loras)?,
    }
    Ok(applied)
}

struct Job<'a> {
    checkpoint: &'a Checkpoint,
    adapters: &'a Adapters,
    into: IntoModel<'a>,
    progress: &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    total: usize,
    done: usize,
}

impl<'a> Job<'a> {
    fn write(
        &mut self,
        file: &CheckpointFile,
        output: &Path,
        force: bool,
        loras: &[LoraRequest],
    ) -> Result<()> {
        let tensors = self.checkpoint.tensors(file);
        let dtype = self.into.dtype;
        let slots: Vec<TensorSlot> = tensors.iter().map(|tensor| tensor.slot(dtype)).collect();
        let header = safetensors_header(&slots, &metadata(file, loras));
        write_piece_by_piece(output, force, &mut |out: &mut File| {
            let failed = |source| Error::Io { action: "write", path: output.to_owned(), source };
            out.write_all(&header).map_err(failed)?;
            for tensor in &tensors {
                out.write_all(&tensor.fused(self.adapters, dtype)?).map_err(failed)?;
                self.done += 1;
                if (self.progress)(self.done, self.total).is_break() {
                    return Err(Error::Cancelled);
                }
            }
            Ok(())
        })
    }

    /// The folder appears under its name when all of it is there.
    fn write_folder(&mut self, model: &Path, loras: &[LoraRequest]) -> Result<()> {
        // Without a slash at its end, which would hide that it is a link.
        let output = self.into.output.components().as_path();
        let files = self.files(model)?;
        let names: HashSet<&Path> = files.iter().map(|file| file.inside.as_path()).collect();
        check_names(model, output)?;
        check_folder(output, self.into.force, &names)?;
        let cannot = |source| Error::Io { action: "write", path: output.to_owned(), source };
        let parent = match output.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(cannot)?;
        let place = tempfile::Builder::new()
            .prefix(".unwrong-")
            .suffix(".part")
            .tempdir_in(parent)
            .map_err(cannot)?;
        let folder = place.path().join("new");
        fs::create_dir(&folder).map_err(cannot)?;
        for ModelFile { path, inside, weights } in &files {
            let target = folder.join(inside);
            if let Some(file) = weights {
                self.write(file, &target, false, loras)?;
                continue;
            }
            fs::create_dir_all(target.parent().unwrap_or(&folder)).map_err(cannot)?;
            if inside == Path::new(DEFAULTS) {
                let text = fs::read_to_string(path).map_err(Error::reading(path, "a text"))?;
                fs::write(&target, recommended(&text, [&folder, parent])).map_err(cannot)?;
            } else {
                fs::copy(path, &target).map_err(cannot)?;
            }
        }
        // Others may have written to it in the meantime.
        check_folder(output, self.into.force, &names)?;
        put(place, output, self.into.force)
    }

    /// The files that the new model has.
    fn files(&self, model: &Path) -> Result<Vec<ModelFile<'a>>> {
        let mut paths = Vec::new();
        list(model, MOST_DEPTH, &mut paths)?;
        let vae = self.checkpoint.parts.vae.iter().flat_map(|(_, weights)| weights.files());
        let vae: Vec<PathBuf> = vae.map(|(path, _)| PathBuf::from(path)).collect();
        let files = paths.into_iter().filter_map(|path| {
            let weights = self.checkpoint.files.iter().find(|f| Path::new(f.path()) == path);
            let is_kept = weights.is_some() || !is_weights(&path) || vae.contains(&path);
            let inside = path.strip_prefix(model).unwrap_or(&path).to_owned();
            is_kept.then_some(ModelFile { path, inside, weights })
        });
        Ok(files.collect())
    }
}

/// A file of a model's folder that the new one has, too.
struct ModelFile<'a> {
    path: PathBuf,
    /// Its path within the folder.
    inside: PathBuf,
    /// What is written anew; absent for what is copied.
    weights: Option<&'a CheckpointFile>,
}

/// Gives the folder `new` in `place` its name; by `force` what was there goes with `place`.
fn put(place: TempDir, output: &Path, force: bool) -> Result<()> {
    let (new, old) = (place.path().join("new"), place.path().join("old"));
    let failed = |source: io::Error| match source.kind() {
        // Another run was faster.
        ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => {
            Error::FileExists { path: output.to_owned() }
        }
        _ => Error::Io { action: "write", path: output.to_owned(), source },
    };
    let replaces = force && output.exists();
    if replaces {
        fs::rename(output, &old).map_err(failed)?;
    } else {
        // One that is empty; any other is not removed.
        fs::remove_dir(output).ok();
    }
    fs::rename(&new, output).map_err(|error| {
        if replaces && fs::rename(&old, output).is_err() {
            // Rather a strange name than a lost folder.
            let _ = place.keep();
        }
        failed(error)
    })
}

/// What the maker recommends, but for a wrong-LoRA that is in none of the folders.
fn recommended(text: &str, beside: [&Path; 2]) -> String {
    let read = |text: &str| ModelDefaults::parse(text, DEFAULTS).ok();
    let Some(name) = read(text).and_then(|defaults| defaults.wrong_lora) else {
        return text.to_owned();
    };
    let name = name.strip_prefix("../").unwrap_or(&name);
    if beside.iter().any(|folder| folder.join(name).exists()) {
        return text.to_owned();
    }
    let is_kept = |line: &&str| line.split('=').next().is_none_or(|key| key.trim() != "wrong_lora");
    let rest: String = text.split_inclusive('\n').filter(is_kept).collect();
    // Written in another way than on a line of its own, it stays.
    if read(&rest).is_some_and(|rest| rest.wrong_lora.is_none()) { rest } else { text.to_owned() }
}

/// What was noted in the file, with what is now in it; hashes that are no longer true are left
/// out.
fn metadata(file: &CheckpointFile, loras: &[LoraRequest]) -> Metadata {
    let mut metadata = file.metadata().clone();
    metadata.retain(|key, _| !key.starts_with("sshs_") && key != "modelspec.hash_sha256");
    // Part of a folder says nothing of itself but who reads it.
    if metadata.keys().any(|key| key.starts_with("modelspec.")) {
        let loras = loras
            .iter()
            .map(|lora| LoraRequest { path: file_name(&lora.path), ..lora.clone() }.to_string());
        let title = metadata.get("modelspec.title").cloned();
        let model = title.unwrap_or_else(|| file_name(file.path()));
        let all: Vec<String> = std::iter::once(model).chain(loras).collect();
        metadata.insert("modelspec.merged_from".to_owned(), all.join(", "));
    }
    metadata
}

/// The new folder is no file by its name, and has nothing to do with the old one.
fn check_names(model: &Path, output: &Path) -> Result<()> {
    let refuse = |problem| {
        Err(Error::Request { problem, hint: Some("give the name of a new folder".to_owned()) })
    };
    let name = output.display();
    if is_weights(output) {
        return refuse(format!("`{name}` is the name of a file, and the model is a folder"));
    }
    let (from, to) = (real(model), real(output));
    if from == to {
        return refuse(format!("`{name}` is the model itself"));
    }
    if to.starts_with(&from) || from.starts_with(&to) {
        let place = if to.starts_with(&from) { "lies within" } else { "holds" };
        return refuse(format!("`{name}` {place} the model's folder `{}`", model.display()));
    }
    Ok(())
}

/// Where a path leads, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = path.ancestors().find_map(|start| Some((start, start.canonicalize().ok()?)));
    let Some((start, real)) = found else { return path };
    real.join(path.strip_prefix(start).unwrap_or(Path::new("")))
}

/// A folder that is there is replaced only by `force`, and only if the new one, which has the
/// files `names`, has all that is in it.
fn check_folder(output: &Path, force: bool, names: &HashSet<&Path>) -> Result<()> {
    let refuse = |problem| {
        Err(Error::Request { problem, hint: Some("give the name of a new folder".to_owned()) })
    };
    let Ok(about) = output.symlink_metadata() else { return Ok(()) };
    if !about.is_dir() {
        let what = if about.is_symlink() { "a link" } else { "no folder" };
        return refuse(format!("`{}` is {what}, expected a folder's name", output.display()));
    }
    let is_empty = fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty {
        return Ok(());
    }
    if !force {
        return Err(Error::FileExists { path: output.to_owned() });
    }
    let mut others = Vec::new();
    list_others(output, output, names, &mut others)?;
    let more = if others.len() > MOST_NAMES { " and others" } else { "" };
    others.truncate(MOST_NAMES);
    if others.is_empty() {
        return Ok(());
    }
    refuse(format!(
        "`{}` holds what the new model would not have: {}{more}",
        output.display(),
        others.join(", ")
    ))
}

/// Names in `folder`, seen from `root`, that are not among `names`: a few of them.
fn list_others(
    root: &Path,
    folder: &Path,
    names: &HashSet<&Path>,
    others: &mut Vec<String>,
) -> Result<()> {
    let failed = |source| Error::Io { action: "list", path: folder.to_owned(), source };
    let entries: Vec<fs::DirEntry> =
        fs::read_dir(folder).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    let mut paths: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
    paths.sort();
    for path in paths {
        if others.len() > MOST_NAMES {
            break;
        }
        let inside = path.strip_prefix(root).unwrap_or(&path);
        // A link to a folder is not followed.
        if path.symlink_metadata().is_ok_and(|about| about.is_dir()) {
            list_others(root, &path, names, others)?;
        } else if !names.contains(inside) {
            others.push(format!("`{}`", inside.display()));
        }
    }
    Ok(())
}

fn is_weights(path: &Path) -> bool {
    let end = path.extension().map(|end| end.to_string_lossy().to_ascii_lowercase());
    end.is_some_and(|end| WEIGHTS.contains(&end.as_str()))
}

/// All files of a folder, in the order of their names; hidden ones are left out.
fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |source| Error::Io { action: "list", path: folder.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    for path in paths {
        if path.is_file() {
            files.push(path);
        } else if path.is_dir() && depth > 0 {
            list(&path, depth - 1, files)?;
        }
    }
    Ok(())
}
