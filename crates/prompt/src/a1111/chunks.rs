//! Fragments to chunks of 75 tokens, cut after a comma where one is near.

use super::Emphasis;
use super::attention::{BREAK, BREAK_WEIGHT};
use crate::added::AddedWords;
use crate::encoder::Encoder;
use crate::plan::{Chunk, TEXT_TOKENS};
use crate::prompt::Fragment;
use crate::tokenizer::{Tokenizer, single_character_word};

/// How far behind the end of a full chunk a comma may lie for the text after it to move to the
/// next chunk: the setting "Prompt word wrap length limit".
const COMMA_BACKTRACK: usize = 20;

/// The chunks of a prompt, one at least.
///
/// Both encoders get the same ids and differ in what fills a chunk: A1111 tokenizes for the
/// second with `open_clip`, to which `!` is no padding.
///
/// An added word is never cut: where it does not fit, it starts the next chunk. One that a comma
/// moves goes there as a whole; A1111 then leaves its vectors behind, where nothing is.
///
/// A1111 1.10.1, `modules/sd_hijack_clip.py`, `tokenize_line`.
pub(crate) fn chunks(
    fragments: &[Fragment],
    added: &AddedWords,
    emphasis: Emphasis,
    encoder: Encoder,
) -> Vec<Chunk> {
    let tokenizer = Tokenizer::new(Encoder::ClipL);
    let weighting = emphasis.weighting();
    let comma = single_character_word(b',');
    let mut chunks = Vec::new();
    let mut chunk: Vec<(u32, f32)> = Vec::with_capacity(TEXT_TOKENS);
    let mut last_comma = None;
    for fragment in fragments {
        if fragment.text == BREAK && fragment.weight == BREAK_WEIGHT {
            chunks.push(Chunk::framed(encoder, &chunk, weighting));
            chunk.clear();
            last_comma = None;
            continue;
        }
        let weight = if emphasis == Emphasis::Ignore { 1.0 } else { fragment.weight as f32 };
        let tokens = tokenizer.encode(&fragment.text);
        let mut at = 0;
        while at < tokens.len() {
            let id = tokens[at];
            let mut moved = Vec::new();
            let full = chunk.len() == TEXT_TOKENS;
            if id == comma {
                last_comma = Some(chunk.len());
            } else if let Some(place) =
                last_comma.filter(|place| chunk.len() - place <= COMMA_BACKTRACK)
                && full
            {
                moved = chunk.split_off(place + 1);
            }
            if full {
                chunks.push(Chunk::framed(encoder, &chunk, weighting));
                chunk = moved;
                last_comma = None;
            }
            let Some((word, taken)) = added.at(&tokens[at..]) else {
                chunk.push((id, weight));
                at += 1;
                continue;
            };
            if chunk.len() + word.ids.len() > TEXT_TOKENS {
                chunks.push(Chunk::framed(encoder, &chunk, weighting));
                chunk.clear();
                last_comma = None;
            }
            chunk.extend(word.ids.clone().map(|id| (id, weight)));
            at += taken;
        }
    }
    if !chunk.is_empty() || chunks.is_empty() {
        chunks.push(Chunk::framed(encoder, &chunk, weighting));
    }
    chunks
}
