"""Trains a LoRA with our program and compares its pictures with those diffusers draws from the same file.

    cargo build --release
    python parity/check_trained.py [--model crates/demo/model] [--program target/release/unwrong]

The trained file has kohya's keys; it is converted to PEFT's and to those of 2023, and back to kohya's. All four are
loaded by diffusers, which draws with base and refiner; the same prompt, seed and settings are drawn by our program.
"""

import argparse
import logging
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from diffusers.utils import logging as diffusers_logging
from make_goldens import ROOT, load
from PIL import Image
from stages.picture import DEFAULTS, draw
from transformers.utils import logging as transformers_logging

# Mean difference of two pictures, of 255.
LIMIT = 1.0
# Below this the LoRA would do nothing that a comparison could miss.
LEAST_EFFECT = 2 * LIMIT


def ours(program, folder, name, lora):
    """The picture that our program draws, with the file as the wrong-LoRA."""
    line = [program, "generate", DEFAULTS["prompt"], "-n", DEFAULTS["negative"], "--seed", str(DEFAULTS["seed"])]
    line += ["--steps", str(DEFAULTS["steps"]), "--guidance-scale", str(DEFAULTS["guidance"]), "-o", f"{name}.png"]
    if lora is not None:
        line += ["--lora", lora]
    subprocess.run(line, cwd=folder, check=True, capture_output=True)
    return np.asarray(Image.open(folder / f"{name}.png").convert("RGB")).astype(float)


def theirs(base, refiner, lora):
    """The picture that diffusers draws."""
    base.load_lora_weights(lora.parent, weight_name=lora.name, adapter_name="trained")
    tensors, _ = draw(base, refiner, **{**DEFAULTS, "lora_scale": 1.0})
    base.unload_lora_weights()
    return np.asarray(tensors["pixels"]).astype(float)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "crates/demo/model")
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/unwrong")
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    base, refiner = load(arguments.model)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run = lambda *line: subprocess.run([program, *line], cwd=folder, check=True, capture_output=True)
        run("wrongs", "-o", "wrongs", "--seed", "0", "--steps", "5", "--keywords", "blurry,ugly", "--guidance-scales", "1,8")
        run("train", "wrongs", "--preset", "wrong", "--steps", "40", "--rate", "1e-3", "--alpha", "2", "-o", "kohya.safetensors")
        for source, dialect in [("kohya", "peft"), ("peft", "diffusers"), ("diffusers", "kohya-again")]:
            run("lora", "convert", f"{source}.safetensors", "--to", dialect.split("-")[0], "-o", f"{dialect}.safetensors")
        without = ours(program, folder, "without", None)
        worst = 0.0
        for dialect in ["kohya", "peft", "diffusers", "kohya-again"]:
            mine = ours(program, folder, dialect, f"{dialect}.safetensors")
            other = theirs(base, refiner, folder / f"{dialect}.safetensors")
            difference, effect = abs(mine - other).mean(), abs(mine - without).mean()
            print(f"{dialect:12} mean difference {difference:.3f} of 255, largest {abs(mine - other).max():.0f}; the LoRA changes {effect:.1f}")
            assert effect > LEAST_EFFECT, dialect
            worst = max(worst, difference)
    print(f"the worst mean difference is {worst:.3f} of 255, expected below {LIMIT}")
    assert worst < LIMIT


if __name__ == "__main__":
    main()
