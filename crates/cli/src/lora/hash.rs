//! `unwrong lora hash`: what programs and sites know a file by.

use anyhow::Result;
use unwrong::lora::{Hashes, hashes};

use crate::args::LoraHashArgs;
use crate::printer;

pub(super) fn run(arguments: &LoraHashArgs) -> Result<()> {
    for path in &arguments.files {
        let hashes = hashes(path)?;
        if hashes.is_altered() {
            printer::note(&format!(
                "warning: {} notes another `sshs_model_hash`: its tensors were changed since",
                hashes.path
            ));
        }
        if arguments.json {
            printer::data(&serde_json::to_string(&hashes)?)?;
        } else {
            printer::data(&text(&hashes))?;
        }
    }
    Ok(())
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
