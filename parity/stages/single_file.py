"""The layout of single-file checkpoints: which of its keys holds which tensors of the folders.

Our own table, proven in `keys.py` by diffusers' conversion of a checkpoint made with it.
"""

import torch

from .lora import sgm_path

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
RESNET = {"conv_shortcut": "nin_shortcut"}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}


def split(key):
    """Module and parameter."""
    return key.rsplit(".", 1)


def unet(keys, layers_per_block):
    """Rows (single-file key, diffusers keys, how) of a UNet."""
    for key in keys:
        module, parameter = split(key)
        yield f"{UNET_PREFIX}{sgm_path(module, layers_per_block)}.{parameter}", [key], "same"


def vae(keys, levels):
    """Rows of a VAE; its attention was made of 1x1 convolutions."""
    for key in keys:
        module, parameter = split(key)
        words = module.split(".")
        if words[0] in ("quant_conv", "post_quant_conv"):
            yield f"{VAE_PREFIX}{key}", [key], "same"
            continue
        side, rest = words[0], words[1:]
        how = "same"
        if rest[0] in ("conv_in", "conv_out"):
            place = rest[0]
        elif rest[0] == "conv_norm_out":
            place = "norm_out"
        elif rest[0] == "mid_block" and rest[1] == "resnets":
            place = f"mid.block_{int(rest[2]) + 1}.{RESNET.get(rest[3], rest[3])}"
        elif rest[0] == "mid_block":
            inner = ATTENTION[".".join(rest[3:])]
            place = f"mid.attn_1.{inner}"
            how = "same" if inner == "norm" or parameter == "bias" else "convolution"
        else:
            level = int(rest[1]) if rest[0] == "down_blocks" else levels - 1 - int(rest[1])
            direction = "down" if rest[0] == "down_blocks" else "up"
            if rest[2] == "resnets":
                place = f"{direction}.{level}.block.{rest[3]}.{RESNET.get(rest[4], rest[4])}"
            else:
                place = f"{direction}.{level}.{direction}sample.conv"
        yield f"{VAE_PREFIX}{side}.{place}.{parameter}", [key], how


def clip(keys, prefix):
    """Rows of the first encoder, which keeps transformers' names, under `text_model.`."""
    for key in keys:
        yield f"{prefix}transformer.{published(key)}", [key], "same"


def published(key):
    """The first encoder's published key: transformers 5 dropped `text_model.`."""
    return key if key.startswith("text_model.") else f"text_model.{key}"


def open_clip(keys, prefix):
    """Rows of the second encoder: OpenCLIP's names, one matrix for q, k and v, the projection transposed."""
    prefix += "model."
    simple = {
        "text_model.embeddings.token_embedding.weight": ("token_embedding.weight", "same"),
        "text_model.embeddings.position_embedding.weight": ("positional_embedding", "same"),
        "text_model.final_layer_norm.weight": ("ln_final.weight", "same"),
        "text_model.final_layer_norm.bias": ("ln_final.bias", "same"),
        "text_projection.weight": ("text_projection", "transposed"),
    }
    for key in keys:
        if key in simple:
            place, how = simple[key]
            yield prefix + place, [key], how
            continue
        layer, rest = key.removeprefix("text_model.encoder.layers.").split(".", 1)
        module, parameter = split(rest)
        if module in ("self_attn.k_proj", "self_attn.v_proj"):
            continue
        stem = f"{prefix}transformer.resblocks.{layer}."
        if module == "self_attn.q_proj":
            yield f"{stem}attn.in_proj_{parameter}", [key.replace("q_proj", f"{x}_proj") for x in "qkv"], "stacked"
        else:
            yield f"{stem}{OPEN_CLIP[module]}.{parameter}", [key], "same"


def table(parts, refiner, layers_per_block, levels):
    """Every row of a checkpoint: {single-file key: (part, diffusers keys, how)}."""
    second = "conditioner.embedders.0." if refiner else "conditioner.embedders.1."
    rows = {"unet": unet(parts["unet"], layers_per_block), "vae": vae(parts["vae"], levels), "text_encoder_2": open_clip(parts["text_encoder_2"], second)}
    if not refiner:
        rows["text_encoder"] = clip(parts["text_encoder"], "conditioner.embedders.0.")
    found = {}
    for part, some in rows.items():
        for place, keys, how in some:
            assert place not in found, place
            found[place] = (part, keys, how)
    return found


def ignored(refiner):
    """Keys that published files also hold, and that nobody reads: {key: shape}."""
    second = "conditioner.embedders.0." if refiner else "conditioner.embedders.1."
    keys = {f"{second}model.logit_scale": []}
    if refiner:
        return keys
    return {**keys, "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": [1, 77], "denoiser.sigmas": [1000]}


def assemble(tensors, how):
    """The single-file tensor of some folder tensors."""
    if how == "stacked":
        return torch.cat(tensors)
    (tensor,) = tensors
    if how == "transposed":
        return tensor.T
    return tensor[:, :, None, None] if how == "convolution" else tensor
