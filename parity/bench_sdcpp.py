"""One row of the bench in stable-diffusion.cpp, in this process and nothing else.

    python parity/bench_sdcpp.py unet --model base.safetensors --size 512x512

Prints one line of JSON with the fields of `unwrong bench --json`. The library only makes whole pictures, so the row
is timed by what it says on its way, and the process ends as soon as the row is done; the peaks of `vae-decode` are
those of a step before it, too. A step with guidance is two calls of the UNet. It has no refiner for SDXL, and the
weights stay f16 as in the files; all other options are the library's own.
"""

import argparse
import ctypes
import json
import os
import re
import time
from pathlib import Path

import stable_diffusion_cpp as sd
from PIL import Image

from bench_process import Memory, age

# The library says `… completed, taking 1.23s` at the end of these; the others are timed by its callback.
ROWS = {
    "unet": None,
    "first-step": None,
    "vae-decode": "decode_first_stage completed",
    "vae-encode": "encode_first_stage completed",
    "text-encoders": "get_learned_condition completed",
}


class Clock:
    """Listens to the library, and ends the process with the row's line."""

    def __init__(self, arguments, memory):
        self.arguments, self.memory = arguments, memory
        self.started = None

    def done(self, seconds):
        facts = {key: getattr(self.arguments, key) for key in ("row", "size", "threads")}
        print(json.dumps({**facts, "seconds": seconds, "runs": [seconds], **self.memory.peaks()}), flush=True)
        os._exit(0)

    def hears(self, text):
        end = ROWS[self.arguments.row]
        if end and end in text:
            self.done(float(re.search(r"taking ([\d.]+)s", text)[1]))

    def steps(self, step):
        if step == 0 and self.arguments.row == "first-step":
            self.done(age())
        if step == 1 and self.arguments.row == "unet":
            self.done(time.perf_counter() - self.started)
        self.started = time.perf_counter()


def main():
    memory = Memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=[*ROWS])
    parser.add_argument("--model", type=Path, required=True, help="a base in one file: it takes a folder for SD 1.5")
    parser.add_argument("--size", default="1024x1024", metavar="WxH")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--verbose", action="store_true", help="what the library says, on standard error")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    clock = Clock(arguments, memory)

    @sd.sd_log_callback
    def log(_level, text, _data):
        text = text.decode(errors="replace")
        if arguments.verbose:
            os.write(2, text.encode())
        clock.hears(text)

    sd.sd_set_log_callback(log, ctypes.c_void_p(0))
    decodes = arguments.row != "vae-encode"
    network = sd.StableDiffusion(
        model_path=str(arguments.model),
        n_threads=arguments.threads,
        vae_decode_only=decodes,
        # Else it takes our own output away, too.
        verbose=True,
    )
    network.generate_image(
        prompt="a red apple on a wooden table",
        negative_prompt="blurry, flat",
        init_image=None if decodes else Image.effect_noise((width, height), 64).convert("RGB"),
        width=width,
        height=height,
        sample_steps=1,
        # One call of the UNet is enough on the way to the decoder.
        cfg_scale=1.0 if arguments.row == "vae-decode" else 7.5,
        seed=0,
        progress_callback=lambda step, _steps, _seconds: clock.steps(step),
    )
    raise SystemExit(f"the library never said that `{arguments.row}` was done")


if __name__ == "__main__":
    main()
