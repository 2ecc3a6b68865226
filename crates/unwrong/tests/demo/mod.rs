//! The demo model, opened from its folder.

use std::path::Path;

use unwrong::{Catalog, GenerateRequest, Options, Pipeline};

pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

pub(crate) fn pipeline_with(options: &Options) -> Pipeline {
    let model = root().join("crates/demo/model").display().to_string();
    let request = GenerateRequest { model: Some(model), ..GenerateRequest::default() };
    Pipeline::open(&request, &Catalog::new(), options).unwrap()
}

pub(crate) fn pipeline() -> Pipeline {
    pipeline_with(&Options::default())
}
