"""How a golden is written: a safetensors file and its index in json.

The rule for large tensors, and every field, is in `parity/README.md`.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

# A tensor up to this many values is kept whole.
WHOLE = 2048
# Of a larger one this many values are kept, evenly spread.
KEEP = 384


class Goldens:
    """Collects named tensors, then writes `NAME.safetensors` and `NAME.json`."""

    def __init__(self, folder, name, **facts):
        self.path = Path(folder) / name
        self.facts = facts
        self.index = {}
        self.tensors = {}

    def add(self, name, tensor, whole=False, keep=KEEP, small=WHOLE):
        """Keeps a tensor, whole where asked or up to `small` values, else a spread of its values."""
        assert name not in self.index, name
        tensor = tensor.detach().to("cpu")
        if tensor.dtype != torch.uint8:
            tensor = tensor.to(torch.float32)
        tensor = tensor.contiguous()
        flat = tensor.flatten()
        count = flat.numel()
        whole = whole or count <= small
        offset, stride, kept = (0, 1, count) if whole else spread(count, keep)
        wide = flat.to(torch.float64).abs()
        assert torch.isfinite(wide).all(), name
        self.index[name] = {
            "shape": list(tensor.shape),
            "offset": offset,
            "stride": stride,
            "count": kept,
            "max_abs": wide.max().item(),
            "max_index": int(wide.argmax()),
            "l2": wide.pow(2).sum().sqrt().item(),
        }
        self.tensors[name] = tensor.clone() if whole else flat[offset::stride][:kept].clone()

    def write(self):
        """Writes both files."""
        path = Path(str(self.path) + ".safetensors")
        save_file(self.tensors, path)
        path.chmod(0o644)
        write_json(str(self.path) + ".json", {**self.facts, "tensors": self.index})


def spread(count, keep):
    """Offset, stride and number of the values kept of `count`.

    The stride shares no factor with `count`, so it walks through every axis.
    """
    stride = count // keep
    while stride > 1 and math.gcd(stride, count) != 1:
        stride -= 1
    offset = stride // 2
    return offset, stride, min(keep, (count - offset + stride - 1) // stride)


def write_json(path, value):
    """Writes json with one line per entry of the outer two levels, so that diffs can be read."""

    def dump(value):
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"))

    def outer(value, depth):
        if depth and isinstance(value, dict) and value:
            rows = [f"{dump(key)}:{outer(inner, depth - 1)}" for key, inner in value.items()]
            return "{\n" + ",\n".join(rows) + "\n}"
        if depth and isinstance(value, list) and value and isinstance(value[0], (dict, list)):
            return "[\n" + ",\n".join(dump(row) for row in value) + "\n]"
        return dump(value)

    Path(path).write_text(outer(value, 2) + "\n")


def sequence(seed, shape):
    """Standard normal values that depend on the seed and the shape only."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32)
