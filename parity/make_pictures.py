#!/usr/bin/env python
"""Writes pictures of every kind that training reads, and what Pillow makes of them.

    python parity/make_pictures.py [--out parity/goldens/pictures]

`expected.json` holds the bytes of each, upright and on white. `large.png` is resized as diffusers'
training script does it, to `resized.png`: with Lanczos, to cover 64x64, cropped in the middle.
"""

import argparse
import json
from pathlib import Path

import numpy
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 24, 16


def pattern(width, height, seed=0.0):
    """A smooth picture: what JPEG decoders agree on."""
    y, x = numpy.mgrid[0:height, 0:width]
    waves = [numpy.sin(x / width * 3 + seed), numpy.cos(y / height * 4 + seed), numpy.sin((x + y) / width * 2 + 1)]
    return numpy.stack([(wave * 110 + 128) for wave in waves], -1).round().astype(numpy.uint8)


def flattened(path):
    """The picture as it is looked at: upright, on white, three channels of eight bits."""
    picture = ImageOps.exif_transpose(Image.open(path))
    if picture.mode == "I;16":  # Pillow cuts these off at 255 where it makes them RGB
        picture = Image.fromarray((numpy.array(picture).astype(numpy.float64) / 257).round().astype(numpy.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def write(out):
    """Every kind, some pixels each."""
    rgb = Image.fromarray(pattern(WIDTH, HEIGHT))
    alpha = Image.fromarray(pattern(WIDTH, HEIGHT)[:, :, 1])
    rgba = rgb.copy()
    rgba.putalpha(alpha)
    exif = Image.Exif()
    exif[0x0112] = 6

    rgb.save(out / "rgb.png")
    rgba.save(out / "alpha.png")
    rgb.convert("L").save(out / "grey.png")
    rgba.convert("LA").save(out / "grey-alpha.png")
    rgb.quantize(16).save(out / "palette.png")
    rgb.quantize(16).save(out / "palette-transparent.png", transparency=3)
    rgb.convert("1").save(out / "bits.png")
    grey16 = numpy.array(rgb.convert("L")).astype(numpy.uint16) * 256 + 77
    Image.fromarray(grey16).save(out / "grey16.png")
    rgb.save(out / "rotated.png", exif=exif)
    rgb.save(out / "animated.png", save_all=True, append_images=[Image.fromarray(pattern(WIDTH, HEIGHT, 1.0))])

    good = {"quality": 97, "subsampling": 0}
    rgb.save(out / "rgb.jpg", **good)
    rgb.save(out / "progressive.jpg", progressive=True, **good)
    rgb.save(out / "rotated.jpg", exif=exif, **good)
    rgb.convert("L").save(out / "grey.jpg", **good)
    rgb.convert("CMYK").save(out / "cmyk.jpg", **good)

    rgb.save(out / "rgb.webp", lossless=True)
    rgba.save(out / "alpha.webp", lossless=True, exact=True)
    rgb.save(out / "lossy.webp", quality=95)
    rgb.save(out / "rotated.webp", lossless=True, exif=exif)
    rgb.save(out / "animated.webp", lossless=True, save_all=True, append_images=[Image.fromarray(pattern(WIDTH, HEIGHT, 1.0))])

    large = Image.fromarray(pattern(150, 100) ^ ((numpy.mgrid[0:100, 0:150].sum(0) % 7 * 20).astype(numpy.uint8))[..., None])
    large.save(out / "large.png")
    resized = large.resize((96, 64), Image.LANCZOS)
    resized.crop((16, 0, 80, 64)).save(out / "resized.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "parity/goldens/pictures")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    write(out)
    expected = {}
    for path in sorted(out.glob("*.*")):
        if path.suffix == ".json" or path.stem in ("large", "resized"):
            continue
        picture = flattened(path)
        expected[path.name] = {"width": picture.width, "height": picture.height, "rgb": picture.tobytes().hex()}
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in expected.items())
    (out / "expected.json").write_text("{\n" + text + "\n}\n")


if __name__ == "__main__":
    main()
