#!/usr/bin/env python
"""Writes the goldens of torch's CUDA generator, from a CUDA device.

    python parity/cuda_noise.py [--out parity/goldens]

Needs torch with CUDA and nothing else of the requirements. The numbers of a draw that is
longer than the device has threads depend on the device, so its size is recorded.
"""

import argparse
import math
from pathlib import Path

import torch

from stages.golden import Goldens
from stages.philox import CudaNoise

ROOT = Path(__file__).resolve().parent.parent
SEEDS = [0, 7, 2**31, 2**32 + 5, 2**63 - 1]
# Each list is what one generator draws, call after call. The latents are those of 512², 1024²
# and 2048²; 1 081 344 values are four of each thread of an H100.
DRAWS = [
    [[4]], [[255], [257]], [[1029], [7], [1024]], [[1, 4, 64, 64]], [[1, 4, 128, 128]], [[2, 4, 128, 128]],
    [[1, 4, 128, 128], [1, 4, 128, 128]], [[1, 4, 256, 256]], [[270336], [270337], [5]], [[1081344], [16]],
    [[1081345], [16]], [[2500000], [3]],
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "parity/goldens", help="folder to write to")
    arguments = parser.parse_args()

    device = torch.cuda.get_device_properties(0)
    multiprocessors, threads = device.multi_processor_count, device.max_threads_per_multi_processor
    goldens = Goldens(arguments.out, "noise-cuda", device=device.name, torch=torch.__version__)
    cases, worst = [], 0.0
    for seed in SEEDS:
        for draws in DRAWS:
            name = f"cuda.{seed}." + "-".join("x".join(map(str, shape)) for shape in draws)
            cases.append({
                "name": name, "generator": "torch-cuda", "seed": seed, "multiprocessors": multiprocessors,
                "threads_each": threads, "shapes": draws,
            })
            generator = torch.Generator("cuda").manual_seed(seed)
            halves = torch.Generator("cuda").manual_seed(seed)
            ours = CudaNoise(seed, multiprocessors, threads)
            for number, shape in enumerate(draws):
                drawn = torch.randn(shape, generator=generator, device="cuda").cpu()
                half = torch.randn(shape, generator=halves, device="cuda", dtype=torch.float16).cpu()
                assert torch.equal(half, drawn.half()), f"{name}: f16 is not the rounded f32"
                again = torch.from_numpy(ours.draw(math.prod(shape))).reshape(shape)
                worst = max(worst, (drawn - again).abs().max().item())
                goldens.add(f"{name}.{number}", drawn, keep=768)
    goldens.facts["cases"] = cases
    goldens.write()
    print(f"{device.name}, torch {torch.__version__}: {len(cases)} cases; stages/philox.py differs by {worst:.1e}")


if __name__ == "__main__":
    main()
