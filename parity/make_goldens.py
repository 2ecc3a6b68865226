#!/usr/bin/env python
"""Writes every golden of the demo model, from the pinned oracles, on the CPU in f32.

    python parity/make_goldens.py [--model crates/demo/model] [--out parity/goldens]
"""

import argparse
import importlib.metadata
import logging
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from stages import conditioning, embeddings, keys, lora, networks, noise, picture, schedules, tokens, training
from stages.golden import write_json

ROOT = Path(__file__).resolve().parent.parent
ORACLES = ["torch", "diffusers", "transformers", "peft", "compel", "tokenizers", "safetensors", "pyparsing", "numpy"]


def load(model):
    """The two pipelines, in f32 from the f16 files; the refiner takes what it lacks from the base."""
    base = StableDiffusionXLPipeline.from_pretrained(model / "base", torch_dtype=torch.float32, local_files_only=True)
    refiner = StableDiffusionXLImg2ImgPipeline.from_pretrained(
        model / "refiner",
        torch_dtype=torch.float32,
        local_files_only=True,
        text_encoder_2=base.text_encoder_2,
        tokenizer_2=base.tokenizer_2,
        vae=base.vae,
    )
    for pipe in (base, refiner):
        pipe.set_progress_bar_config(disable=True)
    return base, refiner


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "crates/demo/model", help="folder with base/, refiner/ and wrong-lora.safetensors")
    parser.add_argument("--out", type=Path, default=ROOT / "parity/goldens", help="folder to write to")
    parser.add_argument("--only", nargs="*", help="stages to write, all by default")
    arguments = parser.parse_args()

    # One thread, so that a remake gives the same bytes.
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)

    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    base, refiner = load(arguments.model)
    wrong = arguments.model / "wrong-lora.safetensors"
    drawn = {}

    def pictures():
        drawn.update(picture.write(base, refiner, wrong, out))

    def vae():
        if not drawn:
            pictures()
        networks.write_vae(base.vae, drawn["pixels"], drawn["latents"], out)

    stages = {
        "tokens": lambda: tokens.write(base, out),
        "conditioning": lambda: conditioning.write(base, out),
        "embeddings": lambda: embeddings.write(arguments.model, out),
        "noise": lambda: noise.write(out),
        "schedules": lambda: schedules.write(base, refiner, out),
        "unet": lambda: (
            networks.write_unet(base.unet, networks.base_inputs(base), out, "unet_base"),
            networks.write_unet(refiner.unet, networks.refiner_inputs(base), out, "unet_refiner"),
        ),
        "lora": lambda: lora.write(base, wrong, out),
        "training": lambda: (training.write(base, out), training.write_networks(base, out)),
        "picture": pictures,
        "vae": vae,
        "keys": lambda: keys.write(out),
    }
    for name, stage in stages.items():
        if arguments.only and name not in arguments.only:
            continue
        start = time.time()
        stage()
        print(f"{name}: {time.time() - start:.1f} s", flush=True)
    write_json(out / "versions.json", {name: importlib.metadata.version(name) for name in ORACLES})
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{size / 1e6:.2f} MB in {out}")


if __name__ == "__main__":
    main()
