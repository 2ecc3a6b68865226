//! `unwrong lora hash`: what programs and sites know a file by.

use std::path::Path;

use anyhow::Result;
use unwrong::lora::{Hashes, hashes};

use crate::args::LoraHashArgs;
use crate::printer;

/// One file that cannot be read does not keep back the hashes of the others.
pub(super) fn run(arguments: &LoraHashArgs) -> Result<()> {
    let mut failed = Ok(());
    for path in &arguments.files {
        if let Err(error) = hash(path, arguments.json)
            && let Err(earlier) = std::mem::replace(&mut failed, Err(error))
        {
            printer::note(&format!("error: {earlier:#}"));
        }
    }
    failed
}

fn hash(path: &Path, json: bool) -> Result<()> {
    let hashes = hashes(path)?;
    if hashes.is_altered() {
        printer::note(&format!(
            "warning: {} notes another `sshs_model_hash`: its tensors were changed since",
            hashes.path
        ));
    }
    if json {
        return printer::data(&serde_json::to_string(&hashes)?);
    }
    printer::data(&text(&hashes))
}

fn text(hashes: &Hashes) -> String {
    let mut lines = vec![printer::visible(&hashes.path)];
    for (name, hash) in [
        ("sha256", Some(&hashes.sha256)),
        ("AutoV1", Some(&hashes.autov1)),
        ("AutoV2", Some(&hashes.autov2)),
        ("AutoV3", hashes.autov3.as_ref()),
        ("sshs_model_hash", hashes.sshs_model_hash.as_ref()),
        ("  as noted in it", hashes.noted_model_hash.as_ref()),
        ("sshs_legacy_hash, as noted in it", hashes.noted_legacy_hash.as_ref()),
    ] {
        lines.extend(hash.map(|hash| format!("  {name}  {}", printer::visible(hash))));
    }
    lines.join("\n")
}
