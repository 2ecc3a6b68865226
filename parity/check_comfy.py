"""Compares features with those of ComfyUI's own weighting on the demo model's encoders.

    cargo build --release -p unwrong-prompt --example script
    python parity/check_comfy.py CHECKOUT [--model crates/demo/model/base] [--program target/release/examples/script]

CHECKOUT and what it needs are as in `make_comfy.py`. ComfyUI tokenizes, and weights with
`encode_token_weights`; ours are ids and weights of the plans, executed as the documentation of
`Weighting` says.
"""

import argparse
import sys
from pathlib import Path

import torch
from check_a1111 import LIMIT, LONG, Demo
from make_a1111 import describe, words
from make_comfy import CHOSEN, Oracle

PROMPTS = CHOSEN + [
    f"({LONG}:1.4), ({LONG}:0.3)",
    f"{LONG}, {LONG}, (a cat:1.2)",
    f"(a cat:1.2), {LONG}, {words(30)}",
    "(a:-1) (b:0) ((c))",
]


def theirs(oracle, demo, text):
    """Features of both encoders, `[1, 77 n, D]`, and the pooled vector."""

    class Weighted(oracle.module.ClipTokenWeightEncoder):
        def __init__(self, index, padding):
            self.index = index
            self.special_tokens = {"start": 49406, "end": 49407, "pad": padding}

        def encode(self, ids):
            z, pooled = demo.encode(self.index, ids)
            return z.clone(), pooled

    tokens = oracle.tokenizer.tokenize_with_weights(text)
    first, _ = Weighted(0, 49407).encode_token_weights(tokens["l"])
    second, pooled = Weighted(1, 0).encode_token_weights(tokens["g"])
    return torch.cat([first, second], dim=-1), pooled


def ours(demo, own):
    *sides, weights = own["chunks"]
    made = []
    for index, side in enumerate(sides):
        empty = demo.encode(index, [[49406, 49407] + [[49407, 0][index]] * 75])[0][0]
        rows = []
        for ids, row in zip(side, weights):
            z = demo.encode(index, [ids])[0][0]
            row = torch.tensor(row)[:, None]
            rows.append(torch.where(row == 1, z, empty + row * (z - empty)))
        made.append(torch.cat(rows))
    return torch.cat(made, dim=-1)[None], demo.encode(1, [own["pooled_ids"]])[1]


@torch.no_grad()
def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("checkout", type=Path)
    arguments.add_argument("--model", type=Path, default=Path("crates/demo/model/base"))
    arguments.add_argument("--program", default="target/release/examples/script")
    options = arguments.parse_args()
    torch.set_num_threads(1)

    demo, oracle = Demo(options.model), Oracle(options.checkout)
    to_cpu = oracle.module.model_management
    to_cpu.intermediate_device = lambda: "cpu"
    prompts = list(dict.fromkeys(PROMPTS))
    worst, unlike, refused = 0.0, 0, 0
    for prompt, own in zip(prompts, describe(options.program, prompts)):
        try:
            expected = theirs(oracle, demo, prompt)
        except IndexError:
            refused += 1
            continue
        found = ours(demo, own["comfy"])
        value = float("inf")
        if found[0].shape == expected[0].shape:
            gaps = [(a - b).abs().max() / b.abs().max() for a, b in zip(found, expected)]
            value = max(gaps).item()
        worst = max(worst, value)
        if value >= LIMIT:
            unlike += 1
            print(f"{prompt!r}: {value:.1e}")
    print(f"{len(prompts)} prompts ({refused} refused), {unlike} differ, largest difference {worst:.1e}")
    sys.exit(unlike > 0)


if __name__ == "__main__":
    main()
