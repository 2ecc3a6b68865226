//! The LoRA files that a prompt names: `<lora:name:0.8>`.

use std::fs;
use std::path::{Path, PathBuf};

use unwrong_models::lora::{BlockWeights, Scales};
use unwrong_prompt::{LoraTag, Script};

use crate::error::{Error, Result};
use crate::request::{Blocks, GenerateRequest};

/// Folders within folders that are looked into.
pub(crate) const MOST_DEPTH: usize = 8;
/// Endings of files of tensors; of files with the same name the first of these is meant.
const ENDINGS: [&str; 5] = ["safetensors", "bin", "ckpt", "pt", "pth"];
/// Names that an error shows at most.
const MOST_NAMES: usize = 8;

/// A LoRA file and how strongly a prompt asks for it.
#[derive(Clone, PartialEq)]
pub(crate) struct PromptLora {
    pub(crate) path: PathBuf,
    pub(crate) scales: Scales,
}

/// The files that the prompts of a request name, in their order.
///
/// As in A1111, a name is that of a file without its ending, in the folder or below it.
pub(crate) fn prompt_loras(request: &GenerateRequest) -> Result<Vec<PromptLora>> {
    let syntax = request.syntax.unwrap_or_default();
    if !syntax.is_a1111() {
        return Ok(Vec::new());
    }
    let texts = [Some(&request.prompt), request.prompt_2.as_ref()];
    let tags: Vec<LoraTag> = texts
        .into_iter()
        .flatten()
        .flat_map(|text| Script::parse(text, syntax, 1).0.loras)
        .collect();
    let Some(first) = tags.first() else { return Ok(Vec::new()) };
    let Some(folder) = &request.lora_dir else {
        return Err(Error::Request {
            problem: format!(
                "the prompt names the LoRA `{}`, but no folder of LoRA files",
                first.name
            ),
            hint: Some("give the folder: `--lora-dir`".to_owned()),
        });
    };
    let mut files = Vec::new();
    list(Path::new(folder), MOST_DEPTH, &mut files)?;
    files.sort_by_cached_key(|path| (path.components().count(), ending(path), path.clone()));
    tags.iter().map(|tag| find(tag, folder, &files)).collect()
}

/// The place of a file's ending among those that are known.
fn ending(path: &Path) -> Option<usize> {
    let end = path.extension()?;
    ENDINGS.iter().position(|known| end.eq_ignore_ascii_case(known))
}

fn find(tag: &LoraTag, folder: &str, files: &[PathBuf]) -> Result<PromptLora> {
    let is_named = |path: &&PathBuf| path.file_stem().is_some_and(|stem| *stem == *tag.name);
    let Some(path) = files.iter().find(is_named) else {
        let names: Vec<String> = files
            .iter()
            .take(MOST_NAMES)
            .filter_map(|path| Some(format!("`{}`", path.file_stem()?.to_string_lossy())))
            .collect();
        let more = if files.len() > MOST_NAMES { ", …" } else { "" };
        return Err(Error::Request {
            problem: format!(
                "the prompt names the LoRA `{}`, which is not in `{folder}`",
                tag.name
            ),
            hint: Some(if names.is_empty() {
                "there is no LoRA file in it".to_owned()
            } else {
                format!("there are: {}{more}", names.join(", "))
            }),
        });
    };
    let blocks = match &tag.blocks {
        Some(blocks) => blocks.parse::<Blocks>()?.0,
        None => BlockWeights::default(),
    };
    let mut numbers = blocks.numbers().chain([tag.unet_scale, tag.text_encoder_scale]);
    if let Some(scale) = numbers.find(|scale| !(-100.0..=100.0).contains(scale)) {
        return Err(Error::Request {
            problem: format!(
                "the prompt's `<lora:{}:…>` has a scale of {scale}, expected -100 to 100",
                tag.name
            ),
            hint: None,
        });
    }
    let scales = Scales {
        unet: tag.unet_scale,
        text_encoder: tag.text_encoder_scale,
        text_encoder_2: tag.text_encoder_scale,
        blocks,
    };
    Ok(PromptLora { path: path.clone(), scales })
}

/// All files of tensors, the folders within included.
pub(crate) fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |source| Error::Io { path: folder.to_owned(), action: "list", source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() && depth > 0 {
            list(&path, depth - 1, files)?;
        } else if ending(&path).is_some() {
            files.push(path);
        }
    }
    Ok(())
}
