#!/usr/bin/env python
"""Writes a folder of the model as a single-file checkpoint, the way published ones are laid out.

    python parity/make_single_file.py --model crates/demo/model/base --out base.safetensors
    python parity/make_single_file.py --model crates/demo/model/refiner --base crates/demo/model/base --out refiner.safetensors

With --check diffusers loads the file back, and every tensor must be the folder's.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file, save_file

from stages import single_file

FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder in diffusers layout, base or refiner")
    parser.add_argument("--base", type=Path, help="where to find the parts that a refiner folder lacks")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--check", action="store_true", help="load it with diffusers and compare")
    arguments = parser.parse_args()

    refiner = json.loads((arguments.model / "model_index.json").read_text()).get("text_encoder", [None])[0] is None
    parts, folders = {}, {}
    for part, name in FILES.items():
        if refiner and part == "text_encoder":
            continue
        folder = arguments.model if (arguments.model / part).exists() else arguments.base
        folders[part] = folder / part
        parts[part] = {key: value for key, value in load_file(folders[part] / name).items() if not key.endswith("position_ids")}
    unet = json.loads((folders["unet"] / "config.json").read_text())
    vae = json.loads((folders["vae"] / "config.json").read_text())

    rows = single_file.table(parts, refiner, unet["layers_per_block"], len(vae["block_out_channels"]))
    tensors = {
        place: single_file.assemble([parts[part][key] for key in keys], how).contiguous().clone()
        for place, (part, keys, how) in rows.items()
    }
    for place, shape in single_file.ignored(refiner).items():
        tensors[place] = torch.arange(77)[None] if place.endswith("position_ids") else torch.ones(shape)
    save_file(tensors, arguments.out, {"format": "pt"})
    print(f"{len(tensors)} tensors in {arguments.out}")
    if arguments.check:
        check(arguments, refiner)


def check(arguments, refiner):
    """Loads the file with diffusers, by the folder's configs, and compares every tensor."""
    from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

    kind = StableDiffusionXLImg2ImgPipeline if refiner else StableDiffusionXLPipeline
    with tempfile.TemporaryDirectory() as whole:
        # A folder that lacks nothing: the refiner's parts over the base's.
        for source in filter(None, (arguments.base, arguments.model)):
            shutil.copytree(source, whole, dirs_exist_ok=True)
        folder = kind.from_pretrained(whole, torch_dtype=torch.float32)
        one = kind.from_single_file(str(arguments.out), config=whole, torch_dtype=torch.float32, local_files_only=True)
    for part in FILES:
        theirs, ours = getattr(folder, part), getattr(one, part)
        if theirs is None:
            continue
        theirs, ours = theirs.state_dict(), ours.state_dict()
        assert theirs.keys() == ours.keys(), part
        for key in theirs:
            assert torch.equal(theirs[key], ours[key]), (part, key)
        print(f"{part}: {len(theirs)} tensors equal")


if __name__ == "__main__":
    main()
