//! The config of a UNet, read off the shapes of its tensors.

use serde_json::{Value, json};

use super::shapes::Shapes;
use crate::error::Result;

/// One level on the way down.
#[derive(Default, PartialEq)]
struct Level {
    channels: usize,
    resnets: usize,
    /// Transformer blocks per attention; 0 without attention.
    depth: usize,
}

/// What `unet/config.json` would say.
pub(super) fn config(shapes: &Shapes<'_>) -> Result<Value> {
    let levels = levels(shapes)?;
    let resnets = levels[0].resnets;
    if levels.iter().any(|level| level.resnets != resnets) {
        return Err(shapes.unusual("different numbers of resnets per level"));
    }
    let last = levels.len() - 1;
    let middle = depth(shapes, "middle_block.1");
    if middle == 0 {
        return Err(shapes.unusual("no attention in its middle block"));
    }
    if levels[last].depth != 0 && levels[last].depth != middle {
        return Err(shapes.unusual("a middle block of another depth than the level before it"));
    }
    // Blocks on the way up are one resnet longer.
    let up: Vec<usize> = (0..=last)
        .map(|index| depth(shapes, &format!("output_blocks.{}.1", index * (resnets + 1))))
        .collect();
    let mut depths: Vec<usize> =
        levels.iter().zip(up.iter().rev()).map(|(down, up)| down.depth.max(*up)).collect();
    depths[last] = middle;

    let names = |attends: bool, way: &str| {
        if attends { format!("CrossAttn{way}Block2D") } else { format!("{way}Block2D") }
    };
    let down_types: Vec<String> =
        levels.iter().map(|level| names(level.depth > 0, "Down")).collect();
    let up_types: Vec<String> = up.iter().map(|depth| names(*depth > 0, "Up")).collect();
    // Heads of a level without attention are never asked for.
    let heads = levels
        .iter()
        .zip(&depths)
        .map(|(level, depth)| if *depth == 0 { Ok(1) } else { shapes.heads(level.channels) })
        .collect::<Result<Vec<_>>>()?;
    let projection = shapes.shape("middle_block.1.proj_in.weight").map_or(0, <[usize]>::len);
    Ok(json!({
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "attention_head_dim": heads,
        "block_out_channels": levels.iter().map(|level| level.channels).collect::<Vec<_>>(),
        "cross_attention_dim":
            shapes.need("middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1)?,
        "down_block_types": down_types,
        "in_channels": shapes.need("input_blocks.0.0.weight", 1)?,
        "layers_per_block": resnets,
        "out_channels": shapes.need("out.2.weight", 0)?,
        "projection_class_embeddings_input_dim": shapes.need("label_emb.0.0.weight", 1)?,
        "sample_size": 128,
        "transformer_layers_per_block": depths,
        "up_block_types": up_types,
        "use_linear_projection": projection == 2,
    }))
}

/// Walks down the list of input blocks; a downsampler ends a level.
fn levels(shapes: &Shapes<'_>) -> Result<Vec<Level>> {
    let mut levels = vec![Level::default()];
    let blocks = 1 + shapes.count(|i| match format!("input_blocks.{}.0", i + 1) {
        block if shapes.has(&format!("{block}.op.weight")) => format!("{block}.op.weight"),
        block => format!("{block}.in_layers.2.weight"),
    });
    for index in 1..blocks {
        let block = format!("input_blocks.{index}");
        let level = levels.last_mut().expect("there is one from the start");
        if shapes.has(&format!("{block}.0.op.weight")) {
            levels.push(Level::default());
            continue;
        }
        let channels = shapes.need(&format!("{block}.0.in_layers.2.weight"), 0)?;
        let depth = depth(shapes, &format!("{block}.1"));
        if level.resnets > 0 && (level.channels, level.depth) != (channels, depth) {
            return Err(shapes.unusual("blocks of one level that differ"));
        }
        *level = Level { channels, resnets: level.resnets + 1, depth };
    }
    if levels.iter().any(|level| level.resnets == 0) {
        return Err(shapes.unusual("a level without resnets"));
    }
    Ok(levels)
}

/// Transformer blocks of an attention; 0 where there is none.
fn depth(shapes: &Shapes<'_>, attention: &str) -> usize {
    shapes.count(|i| format!("{attention}.transformer_blocks.{i}.attn1.to_q.weight"))
}
