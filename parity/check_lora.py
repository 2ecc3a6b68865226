"""Converts every LoRA golden into every dialect with our program and lets diffusers load the result.

    cargo build --release
    python parity/check_lora.py [--model crates/demo/model] [--program target/release/unwrong]

What a file must do is computed without any loader: `weight + scale * alpha / rank * up @ down`, from the
matrices the goldens were made of. The demo's own wrong-LoRA is compared with what diffusers makes of the
source. Kohya keys are also compared with those of diffusers' own `convert_state_dict_to_kohya`.
"""

import argparse
import logging
import subprocess
import tempfile
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from make_goldens import ROOT, load
from safetensors import safe_open
from safetensors.torch import load_file
from stages import lora
from stages.networks import base_inputs
from transformers.utils import logging as transformers_logging

LIMIT = 1e-5
SCALE = 0.6
DIALECTS = ["diffusers", "peft", "kohya"]


def convert(program, source, dialect, target, *more):
    """Whether our program could write the file."""
    line = [program, "lora", "convert", source, "--to", dialect, "-o", target, *more]
    run = subprocess.run(line, capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stderr
    assert run.returncode == 0 or "hint: write it as" in run.stderr, run.stderr
    return run.returncode == 0


def alphas(path):
    with safe_open(path, "pt") as file:
        return {float(file.get_tensor(key)) for key in file.keys() if key.endswith(".alpha")}


def check_kohya_keys(peft, kohya):
    """Ours are those of diffusers, save for the two layers whose names it writes and cannot read."""
    theirs = convert_state_dict_to_kohya(load_file(peft))
    theirs = {key.replace("add_embedding_linear_1", "label_emb_0_0").replace("add_embedding_linear_2", "label_emb_0_2") for key in theirs}
    ours = {key for key in load_file(kohya)}
    # Where no layer needs an alpha, there is none.
    assert ours in (theirs, {key for key in theirs if not key.endswith(".alpha")}), sorted(ours ^ theirs)[:4]


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "crates/demo/model")
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/unwrong")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)

    base, _ = load(arguments.model)
    inputs, wanted = base_inputs(base), lora.modules(base)
    plain = lora.effect(base, inputs, "attention")["output"]
    worst, refused, spoiled = 0.0, [], []
    sources = {name: ROOT / f"parity/goldens/{name}.safetensors" for name in lora.FILES}
    sources["wrong-lora"] = arguments.model / "wrong-lora.safetensors"
    for name, source in sources.items():
        if name in lora.FILES:
            kind, _, alpha = lora.FILES[name]
            before = lora.add(base, lora.adapters_of(base, wanted[kind], alpha), SCALE)
            expected = lora.effect(base, inputs, kind)
            lora.undo(before)
        else:
            kind = "attention"
            base.load_lora_weights(source.parent, weight_name=source.name, adapter_name="one")
            base.set_adapters(["one"], [SCALE])
            expected = lora.effect(base, inputs, kind)
            base.unload_lora_weights()
        assert lora.difference(plain, expected["output"]) > 1e-3, name
        with tempfile.TemporaryDirectory() as folder:
            paths = {dialect: Path(folder) / f"{dialect}.safetensors" for dialect in DIALECTS}
            for dialect, path in paths.items():
                if not convert(arguments.program, source, dialect, path):
                    refused.append(f"{name} as {dialect}")
                    if not convert(arguments.program, source, dialect, path, "--dtype", "f32"):
                        refused[-1] += ", also in f32"
                        continue
                theirs = lora.by_diffusers(base, path, SCALE, inputs, kind, expected)
                if len(alphas(path)) > 1:
                    spoiled.append(f"{name} as {dialect}: {theirs}")
                    continue
                assert isinstance(theirs, dict), (name, dialect, theirs)
                print(f"{name:28} {dialect:10} {max(theirs.values()):.1e}", flush=True)
                assert max(theirs.values()) < LIMIT, (name, dialect, theirs)
                worst = max(worst, *theirs.values())
            check_kohya_keys(paths["peft"], paths["kohya"])
    print(f"the worst relative difference is {worst:.1e}, expected below {LIMIT:.0e}")
    print("refused, since the dialect has no words:", *refused, sep="\n  ")
    print("alphas that differ, which this diffusers does not honour:", *spoiled, sep="\n  ")


if __name__ == "__main__":
    main()
