//! LoRA files merged into a model: `weight + scale · up · down`, written tensor by tensor.
//!
//! As `fuse_lora` of diffusers and `networks/sdxl_merge_lora.py` of sd-scripts 48d368f do it, in
//! f32; then each number is rounded to the dtype that it had. One tensor is in memory at a time.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use unwrong_models::files::{Dtype, TensorSlot, safetensors_header};
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
/// What says that a folder is a model in diffusers layout.
const INDEX: &str = "model_index.json";

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
/// `progress` is told how many tensors of how many are written.
pub fn merge_into(
    model: &Path,
    loras: &[LoraRequest],
    into: IntoModel<'_>,
    progress: &mut dyn FnMut(usize, usize),
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
    progress: &'a mut dyn FnMut(usize, usize),
    total: usize,
    done: usize,
}

impl Job<'_> {
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
                (self.progress)(self.done, self.total);
            }
            Ok(())
        })
    }

    /// The folder appears under its name when all of it is there.
    fn write_folder(&mut self, model: &Path, loras: &[LoraRequest]) -> Result<()> {
        let output = self.into.output;
        check_folder(output, self.into.force)?;
        let cannot = |source| Error::Io { action: "write", path: output.to_owned(), source };
        let parent = match output.components().as_path().parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(cannot)?;
        let place = tempfile::Builder::new()
            .prefix(".unwrong-")
            .suffix(".part")
            .tempdir_in(parent)
            .map_err(cannot)?;
        let (folder, old) = (place.path().join("new"), place.path().join("old"));

        let mut files = Vec::new();
        list(model, MOST_DEPTH, &mut files)?;
        let vae = self.checkpoint.parts.vae.iter().flat_map(|(_, weights)| weights.files());
        let vae: Vec<PathBuf> = vae.map(|(path, _)| PathBuf::from(path)).collect();
        for path in files {
            let inside = path.strip_prefix(model).unwrap_or(&path);
            let target = folder.join(inside);
            if let Some(file) = self.checkpoint.files.iter().find(|f| Path::new(f.path()) == path) {
                self.write(file, &target, false, loras)?;
            } else if !is_weights(&path) || vae.contains(&path) {
                fs::create_dir_all(target.parent().unwrap_or(&folder)).map_err(cannot)?;
                fs::copy(&path, &target).map_err(cannot)?;
            }
        }
        let replaces = output.exists();
        if replaces {
            fs::rename(output, &old).map_err(cannot)?;
        }
        fs::rename(&folder, output).map_err(|error| {
            // What was there goes with the temporary folder otherwise.
            if replaces {
                fs::rename(&old, output).ok();
            }
            cannot(error)
        })
    }
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

/// A folder that is there is replaced only by `force`, and only if it is a model.
fn check_folder(output: &Path, force: bool) -> Result<()> {
    let Ok(about) = output.symlink_metadata() else { return Ok(()) };
    if !about.is_dir() {
        return Err(Error::Request {
            problem: format!("`{}` is no folder, and the model is one", output.display()),
            hint: Some("give the name of a new folder".to_owned()),
        });
    }
    let is_empty = fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_none());
    match force {
        _ if is_empty => Ok(()),
        false => Err(Error::FileExists { path: output.to_owned() }),
        true if output.join(INDEX).is_file() => Ok(()),
        true => Err(Error::Request {
            problem: format!("`{}` holds other things than a model", output.display()),
            hint: Some("give the name of a new folder".to_owned()),
        }),
    }
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
