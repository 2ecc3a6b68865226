//! One finished picture as one JSON object, for programs that call this one.

use std::path::Path;

use serde::Serialize;
use unwrong::GenerateRequest;
use unwrong::generate::Generation;

use crate::memory;

/// A line of `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    path: String,
    seed: u64,
    request: &'a GenerateRequest,
    lora: Vec<Lora>,
    timings: Timings<'a>,
    peak_bytes: Option<u64>,
}

/// What became of one LoRA file.
#[derive(Debug, Serialize)]
struct Lora {
    path: String,
    applied: usize,
    total: usize,
}

/// Wall-clock seconds.
#[derive(Debug, Serialize)]
struct Timings<'a> {
    load: f64,
    encode: f64,
    steps: &'a [f64],
    decode: f64,
}

impl<'a> Report<'a> {
    pub(crate) fn new(path: &Path, generation: &'a Generation, load: f64) -> Self {
        let lora = generation.loras.iter().map(|lora| Lora {
            path: lora.path.clone(),
            applied: lora.applied,
            total: lora.total,
        });
        let timings = &generation.timings;
        Self {
            path: path.display().to_string(),
            seed: generation.plan.seed,
            request: &generation.plan.alone,
            lora: lora.collect(),
            timings: Timings {
                load,
                encode: timings.encode,
                steps: &timings.steps,
                decode: timings.decode,
            },
            peak_bytes: memory::peak_bytes(),
        }
    }
}
