"""Steps of prodigyopt's Prodigy on a small problem: parity/goldens/prodigy.json.

    python parity/make_prodigy.py [--out parity/goldens]

Gradients are `steepness * (values - target)`, so whoever repeats the steps needs nothing else.
"""

import argparse
import json
from pathlib import Path

import torch
from prodigyopt import Prodigy

ROOT = Path(__file__).resolve().parent.parent
STEPS = 300
WARMUP = 10
SHOWN = [1, 20, 100, 200, 300]
OPTIONS = {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}


def rate(step):
    """A warm-up from nothing."""
    return min(step / WARMUP, 1.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "parity/goldens", help="folder to write to")
    out = parser.parse_args().out

    # The second begins as zeros, as a LoRA's `up` does.
    start = [[0.3, -0.2, 0.05, 1.0], [0.0, 0.0, 0.0], [2.0, -1.5]]
    target = [[0.1, 0.4, -0.3, 1.2], [0.2, -0.1, 0.7], [1.0, -1.0]]
    steepness = [1.0, 3.0, 0.2]
    tensors = [torch.tensor(values) for values in start]
    optimizer = Prodigy(tensors, lr=1.0, use_bias_correction=True, safeguard_warmup=True, **OPTIONS)
    shown = []
    for step in range(STEPS):
        for tensor, goal, slope in zip(tensors, target, steepness, strict=True):
            tensor.grad = slope * (tensor - torch.tensor(goal))
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.step()
        if step + 1 in SHOWN:
            distance = optimizer.param_groups[0]["d"]
            shown.append({"step": step + 1, "distance": distance, "values": [tensor.tolist() for tensor in tensors]})
    facts = {"start": start, "target": target, "steepness": steepness, **OPTIONS, "warmup": WARMUP, "shown": shown}
    (out / "prodigy.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
