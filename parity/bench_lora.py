"""Writes random LoRA files for the bench: f16 factors on every attention projection of a UNet, 560 in SDXL's base.

    python parity/bench_lora.py full-size/base target/bench 4 64
"""

import argparse
import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file

PROJECTION = re.compile(r"(.*\.attn[12]\.(?:to_q|to_k|to_v|to_out\.0))\.weight")


def projections(path):
    """Name and shape of every attention projection, from the header of the UNet's file."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {match[1]: entry["shape"] for key, entry in header.items() if (match := PROJECTION.fullmatch(key))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a base model in diffusers layout")
    parser.add_argument("out", type=Path, help="a folder")
    parser.add_argument("ranks", type=int, nargs="+")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    shapes = projections(arguments.model / "unet" / "diffusion_pytorch_model.safetensors")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for rank in arguments.ranks:
        tensors = {}
        for name, (outputs, inputs) in shapes.items():
            tensors[f"unet.{name}.lora_A.weight"] = torch.randn(rank, inputs).div(inputs**0.5).half()
            tensors[f"unet.{name}.lora_B.weight"] = torch.randn(outputs, rank).mul(0.01).half()
        save_file(tensors, arguments.out / f"lora-rank-{rank}.safetensors", {"format": "pt"})
        print(f"rank {rank}: {len(shapes)} modules", flush=True)


if __name__ == "__main__":
    main()
