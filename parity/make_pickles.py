"""Writes goldens/pickles/: files as torch writes them, small, and what they hold.

NAME.bin is written by torch.save. `pickles.safetensors` holds every tensor of every file in
order, as `NAME/KEY`. Run it again only to change the cases: the files differ each time in the
ids that torch invents.
"""

import argparse
import collections
from pathlib import Path

import torch
from safetensors.torch import save_file

LEGACY = {"_use_new_zipfile_serialization": False}
LAYER = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora"


def values(*shape, dtype=torch.float32):
    count = torch.Size(shape).numel()
    return torch.sin(torch.arange(count, dtype=torch.float64) * 0.7).reshape(shape).to(dtype)


class Marked(torch.Tensor):
    """A tensor of a class of its own, which no reader but its own program knows."""


def cases():
    a = values(2, 3)
    ordered = collections.OrderedDict(a=a, b=values(4))
    yield "ordered", ordered, {}
    yield "legacy", ordered, LEGACY
    for protocol in (2, 3, 4, 5):
        yield f"protocol{protocol}", {"a": a, "b": values(4)}, {"pickle_protocol": protocol}
    yield "legacy5", {"a": a, "b": values(4)}, {"pickle_protocol": 5, **LEGACY}

    floats = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    floats = {name: values(3, 2, dtype=dtype) for name, dtype in floats.items()}
    numbers = {
        "f64": torch.tensor(0.1, dtype=torch.float64),
        "i64": torch.tensor(-3),
        "i32": torch.tensor([7], dtype=torch.int32),
        "u8": torch.tensor([1, 2], dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "f8": values(3).to(torch.float8_e4m3fn),
        "u16": torch.tensor([1, 2]).to(torch.uint16),
    }
    yield "dtypes", floats | numbers, {}
    yield "dtypes-legacy", floats | {key: numbers[key] for key in ("f64", "i64", "i32")}, LEGACY

    base = values(4, 6)
    views = {
        "whole": base,
        "transposed": base.T,
        "row": base[2],
        "column": base[:, 1],
        "block": base[1:3, 2:5],
        "every.second": base[::2, ::3],
        "permuted": values(2, 3, 4).permute(2, 0, 1),
        "channels.last": values(2, 3, 2, 2).to(memory_format=torch.channels_last),
        "ones": base[:1, None, :1],
        "scalar": base[3, 5],
        "empty": base[:0],
        "none": torch.zeros(0, 3),
    }
    yield "views", views, {}
    yield "views-legacy", views, LEGACY

    parameter = torch.nn.Parameter(values(2, 2))
    marked = torch.nn.Parameter(values(3), requires_grad=False)
    marked.note = "training"
    yield "parameters", {"plain": parameter, "marked": marked}, {}
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(values(*weight.shape))
    yield "module", module.state_dict(), {}
    checkpoint = {
        "epoch": 3, "global_step": 1000, "lr": 0.1, "note": "text", "flag": True, "nothing": None,
        "big": 2**70, "bytes": b"\x00\xff", "shape": torch.Size([1, 2]), "device": torch.device("cpu"),
        "dtype": torch.float16, "list": [1, (2, [3.0])], "state_dict": module.state_dict(),
        "optimizer": {"state": {0: {"exp_avg": values(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    }
    yield "checkpoint", checkpoint, {}
    yield "checkpoint5", checkpoint, {"pickle_protocol": 5}
    yield "nested", {"unet": {"a": values(2)}, "alpha": 4.0, "rank": 4, "name": "text"}, {}

    lora = {f"{LAYER}.down.weight": values(2, 64), f"{LAYER}.up.weight": values(64, 2)}
    yield "lora", lora, {}
    yield "lora-legacy", lora, LEGACY
    half = torch.float16
    yield "inversion", {"clip_l": values(1, 768, dtype=half), "clip_g": values(1, 1280, dtype=half)}, {}
    yield "unknown-class", {"a": values(2).as_subclass(Marked)}, {}


def expected(name, held):
    """The tensors a reader finds, in order."""
    if name.startswith("checkpoint"):
        held = held["state_dict"]
    if name == "nested":
        return {"nested/unet.a": held["unet"]["a"]}
    if name == "unknown-class":
        return {}
    tensors = {f"{name}/{key}": value.detach() for key, value in held.items()}
    return {key: value.clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "goldens/pickles")
    out = arguments.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, held, options in cases():
        torch.save(held, out / f"{name}.bin", **options)
        tensors |= expected(name, held)
    save_file(tensors, out / "pickles.safetensors")


if __name__ == "__main__":
    main()
