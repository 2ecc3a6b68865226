"""Figures and sheets: evaluate.py [MODEL_FOLDER] [--guidance G]. Draws every core concept once and all held-out prompts.

A picture counts as right when the nearest clean picture (of all rendered icons, in 32 x 32 pixels) shows the concept
that its prompt names.
"""
import argparse
import functools
import math
import re

import numpy as np
import torch

from common import CORE, HERE, NAMES, SIZE, STYLES, WORK, load_pictures, picture_grid, set_up_torch, with_article


def concept_of(prompt):
    """(icon, style or None) that a prompt names: the longest name in it that is one of ours."""
    words = prompt.split(" on a ")[0]
    fits = [(len(n), icon) for icon in CORE for n in NAMES[icon] if re.search(rf"\b{re.escape(n)}\b", words)]
    style = next((s for s in STYLES if s in words), None)
    return max(fits)[1], style


def small(picture):
    return np.asarray(picture).reshape(32, 4, 32, 4, 3).mean((1, 3)).reshape(-1).astype(np.float32)


@functools.cache
def references():
    pictures, specs = load_pictures()
    clean = [i for i, spec in enumerate(specs) if spec["kind"] == "clean"]
    return np.stack([small(pictures[i]) for i in clean]), [specs[i] for i in clean]


def measure(pictures, wanted):
    """Per picture: colourfulness (Hasler and Suesstrunk), saturation, sharpness (variance of the Laplacian),
    whether the nearest icon is the wanted concept, and the distance to the nearest picture of the wanted one."""
    table, specs = references()
    out = {key: [] for key in ("colourfulness", "saturation", "sharpness", "right", "distance")}
    for picture, (icon, style) in zip(pictures, wanted):
        pixels = np.asarray(picture.convert("RGB")).astype(np.float64)
        red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
        one, two = red - green, 0.5 * (red + green) - blue
        out["colourfulness"].append(math.hypot(one.std(), two.std()) + 0.3 * math.hypot(one.mean(), two.mean()))
        top = pixels.max(-1)
        out["saturation"].append(100 * ((top - pixels.min(-1)) / np.maximum(top, 1)).mean())
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
        laplacian = -4 * grey[1:-1, 1:-1] + grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
        out["sharpness"].append(laplacian.var())
        distances = np.sqrt(((table - small(picture)) ** 2).mean(1))
        out["right"].append(float(specs[distances.argmin()]["name"] == icon))
        own = [d for d, s in zip(distances, specs) if s["name"] == icon and style in (None, s["style"])]
        out["distance"].append(min(own))
    return out


def main():
    from diffusers import StableDiffusionXLPipeline

    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("model", nargs="?", default=str(WORK / "base"))
    arguments.add_argument("--guidance", type=float, default=5.0)
    arguments.add_argument("--steps", type=int, default=25)
    arguments.add_argument("--tag", default="now")
    arguments.add_argument("--only", choices=["core", "heldout"])
    arguments = arguments.parse_args()
    set_up_torch(0)
    pipe = StableDiffusionXLPipeline.from_pretrained(arguments.model, torch_dtype=torch.float32, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    lists = {
        "core": [with_article(NAMES[icon][0]) for icon in CORE],
        "heldout": (HERE / "heldout.txt").read_text().splitlines(),
    }
    for name, prompts in lists.items():
        if arguments.only not in (None, name):
            continue
        made = []
        for k in range(0, len(prompts), 25):
            some = prompts[k : k + 25]
            made += pipe(
                some, guidance_scale=arguments.guidance, num_inference_steps=arguments.steps, height=SIZE, width=SIZE,
                generator=[torch.Generator().manual_seed(k + n) for n in range(len(some))],
            ).images
        picture_grid(made, 14 if name == "core" else 10, WORK / f"grids/{name}_{arguments.tag}.png")
        figures = measure(made, [concept_of(prompt) for prompt in prompts])
        print(name, {key: round(float(np.mean(values)), 3) for key, values in figures.items()})
        print("not right:", [p for p, right in zip(prompts, figures["right"]) if not right])


if __name__ == "__main__":
    main()
