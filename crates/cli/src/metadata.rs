//! `unwrong metadata`: what a picture carries.

use anyhow::Result;
use unwrong::Error;
use unwrong::picture::read_metadata;

use crate::args::MetadataArgs;
use crate::printer;

/// Prints the request of a picture, and the texts of other programs.
pub(crate) fn run(arguments: &MetadataArgs) -> Result<()> {
    let path = &arguments.picture;
    let metadata = read_metadata(path)?;
    if arguments.json {
        return printer::data(&serde_json::to_string(&metadata)?);
    }
    let mut parts = Vec::new();
    if let Some(request) = &metadata.request {
        parts.push(serde_json::to_string_pretty(request)?);
    } else if let Some(parameters) = &metadata.parameters {
        parts.push(parameters.clone());
    }
    parts.extend(metadata.texts.iter().map(|(keyword, text)| format!("{keyword}: {text}")));
    if let Some(problem) = &metadata.problem {
        printer::note(&format!("warning: {problem}"));
    }
    if parts.is_empty() {
        return Err(Error::NoRequestInPicture { path: path.clone(), has_texts: false }.into());
    }
    printer::data(&parts.join("\n\n"))
}
