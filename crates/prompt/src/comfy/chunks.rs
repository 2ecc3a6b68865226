//! Fragments to chunks of 75 tokens, short ones kept whole.

use super::embeddings;
use crate::added::AddedWords;
use crate::encoder::Encoder;
use crate::plan::{Chunk, TEXT_TOKENS, Weighting};
use crate::prompt::Fragment;
use crate::tokenizer::Tokenizer;

/// Fragments of this many tokens and more are cut where a chunk is full, also an added word;
/// shorter ones start the next chunk instead.
const LONG_FRAGMENT: usize = 8;

/// The chunks of a prompt, one at least.
///
/// Both encoders get the same ids and differ in what fills a chunk: ComfyUI has one tokenizer,
/// to which `!` is no padding.
///
/// ComfyUI at a125cd8, `comfy/sd1_clip.py`, `SDTokenizer.tokenize_with_weights`.
pub(crate) fn chunks(fragments: &[Fragment], added: &AddedWords, encoder: Encoder) -> Vec<Chunk> {
    let tokenizer = Tokenizer::new(Encoder::ClipL);
    let mut chunks = Vec::new();
    let mut chunk: Vec<(u32, f32)> = Vec::with_capacity(TEXT_TOKENS);
    for fragment in fragments {
        let ids = match embeddings::find(&fragment.text, added) {
            Some(word) => word.ids.clone().collect(),
            None => tokenizer.encode(&fragment.text),
        };
        let mut ids = ids.as_slice();
        let long = ids.len() >= LONG_FRAGMENT;
        let weighted = |&id: &u32| (id, fragment.weight as f32);
        loop {
            let room = TEXT_TOKENS - chunk.len();
            if ids.len() <= room {
                chunk.extend(ids.iter().map(weighted));
                break;
            }
            if long {
                chunk.extend(ids[..room].iter().map(weighted));
                ids = &ids[room..];
            }
            chunks.push(Chunk::framed(encoder, &chunk, Weighting::Interpolate));
            chunk.clear();
        }
    }
    chunks.push(Chunk::framed(encoder, &chunk, Weighting::Interpolate));
    chunks
}
