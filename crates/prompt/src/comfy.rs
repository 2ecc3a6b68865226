//! ComfyUI's syntax: `(x)` is 1.1, `(x:1.3)` is 1.3 wherever it stands.
//!
//! Stage 2 of the flow. A plain bracket multiplies the weight around it by 1.1, a number
//! replaces it; `\(` and `\)` are text. Square brackets mean nothing. Text of one weight is
//! one fragment even where neighbours have the same weight: chunks are cut between fragments.
//!
//! Reference: ComfyUI at a125cd8, `comfy/sd1_clip.py` and `sdxl_clip.py`, compared in
//! `tests/comfy.rs`.

mod chunks;
mod embeddings;
mod reader;

pub(crate) use chunks::chunks;

use crate::added::AddedWords;
use crate::prompt::{Fragment, WEIGHT_LIMIT};
use crate::warning::{MOST_WARNINGS, Warning, excerpt};

/// What stands for an escaped bracket while brackets are read, as in ComfyUI.
const ESCAPES: [(&str, &str, &str); 2] = [("\\)", "\0\u{1}", ")"), ("\\(", "\0\u{2}", "(")];

/// The fragments of `text`, one at least.
pub(crate) fn parse(text: &str, added: &AddedWords) -> (Vec<Fragment>, Vec<Warning>) {
    let escaped = ESCAPES
        .iter()
        .fold(text.to_owned(), |text, (written, stands, _)| text.replace(written, stands));
    let mut warnings = Vec::new();
    let mut fragments = Vec::new();
    for (segment, weight) in reader::read(&escaped) {
        let segment = ESCAPES
            .iter()
            .fold(segment.to_owned(), |text, (_, stands, meant)| text.replace(stands, meant));
        let usual = if weight.is_nan() { 1.0 } else { weight.clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT) };
        #[expect(clippy::float_cmp, reason = "whether it was changed")]
        if usual != weight && warnings.len() < MOST_WARNINGS {
            let text = excerpt(&segment);
            warnings.push(if weight.is_nan() {
                Warning::WeightNoNumber { text }
            } else {
                Warning::WeightLimited { text }
            });
        }
        for text in embeddings::cut(&segment, added, &mut warnings) {
            fragments.push(Fragment { text, weight: usual });
        }
    }
    warnings.extend(unbalanced(&escaped, text));
    if fragments.is_empty() {
        fragments.push(Fragment { text: String::new(), weight: 1.0 });
    }
    (fragments, warnings)
}

/// One warning is enough: after the first bracket without a partner, all others shift.
fn unbalanced(escaped: &str, text: &str) -> Option<Warning> {
    let mut open = 0_usize;
    for byte in escaped.bytes() {
        match byte {
            b'(' => open += 1,
            b')' if open == 0 => {
                let effect = "has a `)` without a `(`, which stays text, as does the next `(`";
                return Some(Warning::Unbalanced { found: excerpt(text), effect });
            }
            b')' => open -= 1,
            _ => {}
        }
    }
    let effect = "has a `(` without a `)`, so the brackets from there on stay text";
    (open > 0).then(|| Warning::Unbalanced { found: excerpt(text), effect })
}
