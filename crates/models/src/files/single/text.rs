//! The text encoders of a checkpoint: CLIP under transformers' names, OpenCLIP under its own.

use serde_json::{Value, json};

use super::shapes::Shapes;
use crate::error::Result;
use crate::files::FrozenWeight;

/// Layers of an OpenCLIP block: OpenCLIP, transformers.
const BLOCK: [(&str, &str); 5] = [
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
];

/// What `text_encoder/config.json` would say.
pub(super) fn clip_config(shapes: &Shapes<'_>) -> Result<Value> {
    let width = shapes.need("text_model.embeddings.token_embedding.weight", 1)?;
    let layer = |i: usize| format!("text_model.encoder.layers.{i}.mlp.fc1.weight");
    Ok(json!({
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
        "hidden_size": width,
        "intermediate_size": shapes.need(&layer(0), 0)?,
        "max_position_embeddings":
            shapes.need("text_model.embeddings.position_embedding.weight", 0)?,
        "num_attention_heads": shapes.heads(width)?,
        "num_hidden_layers": shapes.count(layer),
        "projection_dim": width,
        "vocab_size": shapes.need("text_model.embeddings.token_embedding.weight", 0)?,
    }))
}

/// What `text_encoder_2/config.json` would say.
pub(super) fn openclip_config(shapes: &Shapes<'_>) -> Result<Value> {
    let width = shapes.need("token_embedding.weight", 1)?;
    let layer = |i: usize| format!("transformer.resblocks.{i}.mlp.c_fc.weight");
    Ok(json!({
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_size": width,
        "intermediate_size": shapes.need(&layer(0), 0)?,
        "max_position_embeddings": shapes.need("positional_embedding", 0)?,
        "num_attention_heads": shapes.heads(width)?,
        "num_hidden_layers": shapes.count(layer),
        // Stored transposed, so the output is the second axis.
        "projection_dim": shapes.need("text_projection", 1)?,
        "vocab_size": shapes.need("token_embedding.weight", 0)?,
    }))
}

/// A tensor under transformers' name.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) weight: Option<FrozenWeight>,
}

/// What an OpenCLIP tensor is in transformers: one tensor, three for a fused projection, or
/// none.
pub(super) fn openclip_parts(name: &str, weight: Option<&FrozenWeight>) -> Vec<Part> {
    let same = |name: String| vec![Part { name, weight: weight.cloned() }];
    match name {
        // The temperature of the training.
        "logit_scale" => return Vec::new(),
        "positional_embedding" => {
            return same("text_model.embeddings.position_embedding.weight".to_owned());
        }
        "text_projection" => {
            let weight = weight.map(|weight| match weight.shape() {
                [_, _] => weight.transposed(),
                _ => weight.clone(),
            });
            return vec![Part { name: "text_projection.weight".to_owned(), weight }];
        }
        _ => {}
    }
    if let Some(parameter) = name.strip_prefix("token_embedding.") {
        return same(format!("text_model.embeddings.token_embedding.{parameter}"));
    }
    if let Some(parameter) = name.strip_prefix("ln_final.") {
        return same(format!("text_model.final_layer_norm.{parameter}"));
    }
    let block = name.strip_prefix("transformer.resblocks.").and_then(|rest| rest.split_once('.'));
    let Some((index, layer)) = block else { return same(name.to_owned()) };
    let block = format!("text_model.encoder.layers.{index}");
    if let Some(parameter) = layer.strip_prefix("attn.in_proj_") {
        return in_proj(&block, parameter, weight);
    }
    let known = BLOCK
        .iter()
        .find_map(|(theirs, ours)| Some(format!("{block}.{ours}{}", layer.strip_prefix(theirs)?)));
    same(known.unwrap_or_else(|| name.to_owned()))
}

/// Query, key and value, which OpenCLIP keeps under one another: views, no copies.
fn in_proj(block: &str, parameter: &str, weight: Option<&FrozenWeight>) -> Vec<Part> {
    let names = ["q_proj", "k_proj", "v_proj"];
    let third = weight.and_then(|weight| weight.shape().first()).copied().unwrap_or(0) / 3;
    let parts = names.iter().enumerate().map(|(i, layer)| Part {
        name: format!("{block}.self_attn.{layer}.{parameter}"),
        // Rows that three does not divide are lost here and missed by the shape check.
        weight: weight.map(|weight| match weight.shape() {
            [] => weight.clone(),
            _ => weight.rows(i * third..(i + 1) * third),
        }),
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_parts_of_a_fused_projection_come_in_order() {
        let values: Vec<f32> = (0..18).map(|i| i as f32).collect();
        let fused = FrozenWeight::from_f32(&values, &[6, 3]);
        let name = "transformer.resblocks.7.attn.in_proj_weight";
        let parts = openclip_parts(name, Some(&fused));
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let layer = "text_model.encoder.layers.7.self_attn";
        assert_eq!(names, ["q", "k", "v"].map(|part| format!("{layer}.{part}_proj.weight")));
        let key = parts[1].weight.as_ref().expect("three weights");
        assert_eq!((key.shape(), key.values_f32()), (&[2, 3][..], values[6..12].to_vec()));
    }

    #[test]
    fn a_fused_projection_of_any_shape_is_no_panic() {
        for shape in [&[][..], &[0], &[1], &[7, 2], &[3, 0]] {
            let count = shape.iter().product();
            let weight = FrozenWeight::from_f32(&vec![0.0; count], shape);
            openclip_parts("transformer.resblocks.0.attn.in_proj_bias", Some(&weight));
            openclip_parts("text_projection", Some(&weight));
        }
    }
}
