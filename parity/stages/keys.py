"""Keys and shapes of real SDXL, in folders and in single files, from diffusers' own code."""

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint, convert_open_clip_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from . import configs, single_file
from .golden import write_json


def shapes(model):
    """Keys and shapes of a model on the meta device."""
    return {key: list(value.shape) for key, value in model.state_dict().items()}


def real():
    """Every part at its real size, without memory."""
    with init_empty_weights():
        return {
            "unet_base": UNet2DConditionModel.from_config(configs.UNET_BASE),
            "unet_refiner": UNet2DConditionModel.from_config(configs.UNET_REFINER),
            "vae": AutoencoderKL.from_config(configs.VAE),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**configs.TEXT_ENCODER)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**configs.TEXT_ENCODER_2)),
        }


def checkpoint(parts, models, refiner):
    """A single-file checkpoint whose tensors say which row they are, and the table it was made by."""
    rows = single_file.table(parts, refiner, 2, len(configs.VAE["block_out_channels"]))
    tensors, tags = {}, {}
    for place, (part, keys, how) in rows.items():
        pieces = []
        for key in keys:
            tags[part, key] = float(len(tags) + 1)
            pieces.append(torch.full((1,), tags[part, key]).expand(parts[part][key]))
        tensors[place] = single_file.assemble(pieces, how)
    for place, shape in single_file.ignored(refiner).items():
        tensors[place] = torch.zeros(shape)
    return rows, tensors, tags


def prove(parts, models, refiner):
    """diffusers must find every tensor of the folders in the checkpoint, where the table put it."""
    rows, tensors, tags = checkpoint(parts, models, refiner)
    config = configs.UNET_REFINER if refiner else configs.UNET_BASE
    second = "conditioner.embedders.0.model." if refiner else "conditioner.embedders.1.model."
    found = {
        "unet": convert_ldm_unet_checkpoint(dict(tensors), {**config, "layers_per_block": 2}),
        "vae": convert_ldm_vae_checkpoint(dict(tensors), configs.VAE),
        "text_encoder_2": convert_open_clip_checkpoint(models["text_encoder_2"], dict(tensors), second),
    }
    if not refiner:
        found["text_encoder"] = convert_ldm_clip_checkpoint(dict(tensors))
    for part, converted in found.items():
        names = {key: single_file.published(key) if part == "text_encoder" else key for key in parts[part]}
        converted = {key: value for key, value in converted.items() if not key.endswith(("position_ids", "logit_scale"))}
        assert set(converted) == set(names.values()), (part, set(converted) ^ set(names.values()))
        for key, name in names.items():
            tensor = converted[name]
            assert list(tensor.shape) == parts[part][key], (part, key, tensor.shape)
            assert tensor.flatten()[0] == tags[part, key] == tensor.flatten()[-1], (part, key)
    return rows, {place: list(tensor.shape) for place, tensor in tensors.items()}


def write(folder):
    """keys.json"""
    models = real()
    every = {name: shapes(model) for name, model in models.items()}
    facts = {"diffusers": {}, "single_file": {}}
    for name, keys in every.items():
        rows = {single_file.published(key) if name == "text_encoder" else key: shape for key, shape in keys.items()}
        facts["diffusers"][name] = rows
    for name, refiner in (("base", False), ("refiner", True)):
        parts = {part: every[part] for part in ("vae", "text_encoder", "text_encoder_2")}
        parts["unet"] = every["unet_refiner" if refiner else "unet_base"]
        rows, found = prove(parts, models, refiner)
        listed = {}
        for place, shape in found.items():
            part, keys, how = rows.get(place, (None, [], "ignored"))
            keys = [single_file.published(key) if part == "text_encoder" else key for key in keys]
            # The VAE and the second encoder are the base's own; the refiner's rows differ by their prefix alone.
            if refiner and part == "vae":
                continue
            listed[place] = [shape, part, how, *keys]
        facts["single_file"][name] = listed
    facts["parameters"] = {name: sum(torch.Size(shape).numel() for shape in keys.values()) for name, keys in every.items()}
    write_json(folder / "keys.json", facts)
