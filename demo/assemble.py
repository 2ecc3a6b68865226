"""Puts the finished parts into crates/demo/model: assemble.py. Prints every file's size."""
import argparse
import shutil

import torch
from diffusers import AutoencoderKL

from common import MODEL, WORK

LIMIT = 45e6


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--to", default=str(MODEL), help="another folder, to look before it counts")
    arguments = arguments.parse_args()
    target = type(MODEL)(arguments.to)
    for part in ("unet", "text_encoder", "text_encoder_2", "scheduler"):
        shutil.copytree(WORK / "base" / part, target / "base" / part, dirs_exist_ok=True)
    AutoencoderKL.from_pretrained(WORK / "vae_final").to(torch.float16).save_pretrained(target / "base/vae")
    for part in ("unet", "scheduler"):
        shutil.copytree(WORK / "refiner" / part, target / "refiner" / part, dirs_exist_ok=True)
    for config in target.rglob("config.json"):  # folder names of the machine that trained say nothing to anyone
        lines = config.read_text().splitlines(keepends=True)
        config.write_text("".join(line for line in lines if '"_name_or_path"' not in line))
    total = 0
    for path in sorted(p for p in target.rglob("*") if p.is_file()):
        total += path.stat().st_size
        print(f"{path.stat().st_size / 1e6:8.3f} MB  {path.relative_to(target)}")
    print(f"{total / 1e6:8.3f} MB  together")
    assert total <= LIMIT


if __name__ == "__main__":
    main()
