"""Makes the training pictures (128 x 128 RGB) and the list of what each shows, from the icons.

Of each core icon: clean on seven backgrounds, one crop and one enlarged small original (with the size and crop that
SDXL's micro-conditioning is told), two slightly soft and dull ones, and seven spoilt by some of the 13 keywords.
The third style, golden, is made here from the glossy icons.
Of all other icons only the clean ones: the VAE and the evaluation see them, the UNet does not.
"""
import io
import json
import random
from multiprocessing import Pool

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from common import BACKGROUNDS, CORE, KEYWORDS, SIZE, WORK

ICON = 224  # as render_icons.js writes them
SHOWN = 104  # an icon's size in its picture
COLOURED = [name for name in BACKGROUNDS if name != "white"]

index = [dict(entry, drawn=i) for i, entry in enumerate(json.loads((WORK / "icons.json").read_text()))]
index += [dict(entry, style="golden") for entry in index if entry["style"] == "glossy" and entry["name"] in CORE]
raw = np.memmap(WORK / "icons.rgba", np.uint8, mode="r").reshape(-1, ICON, ICON, 4)
hands = [i for i, entry in enumerate(index) if entry["name"] in ("raised-hand", "victory-hand", "ok-hand", "thumbs-up")]


def gild(pixels):
    """The glossy icon as if cast in gold: its brightness, stretched, picks the shade."""
    brightness = pixels[..., :3] @ np.array([0.3, 0.59, 0.11], np.float32)
    inside = brightness[pixels[..., 3] > 128]
    low, high = np.percentile(inside, 3), np.percentile(inside, 97)
    shade = np.clip((brightness - low) / max(high - low, 40), 0, 1)
    steps = [0, 0.35, 0.7, 1]
    for channel, levels in enumerate([(86, 178, 240, 255), (48, 112, 186, 242), (6, 18, 44, 178)]):
        pixels[..., channel] = np.interp(shade, steps, levels)


def icon(i, size):
    """resvg writes premultiplied alpha, PIL resizes straight alpha."""
    pixels = np.array(raw[index[i]["drawn"]]).astype(np.float32)
    alpha = np.maximum(pixels[..., 3:], 1) / 255
    pixels[..., :3] = np.clip(pixels[..., :3] / alpha, 0, 255)
    if index[i]["style"] == "golden":
        gild(pixels)
    return Image.fromarray(pixels.astype(np.uint8)).resize((size, size), Image.LANCZOS)


def paste(canvas, overlay, x, y):
    canvas = canvas.convert("RGBA")
    canvas.alpha_composite(overlay, (max(x, 0), max(y, 0)), (max(-x, 0), max(-y, 0)))
    return canvas.convert("RGB")


def clean(i, background, size=SHOWN, canvas=SIZE):
    offset = (canvas - size) // 2
    return paste(Image.new("RGB", (canvas, canvas), BACKGROUNDS[background]), icon(i, size), offset, offset)


def font(size, rng):
    name = rng.choice(["DejaVuSans-Bold", "DejaVuSans", "DejaVuSerif-Bold", "DejaVuSansMono"])
    try:
        return ImageFont.truetype(f"/usr/share/fonts/truetype/dejavu/{name}.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def as_jpeg(picture, quality):
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality)
    return Image.open(io.BytesIO(data.getvalue())).convert("RGB")


def from_floats(pixels):
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


# ---------------------------------------------------------------- one function per keyword


def low_quality(picture, rng, _):
    small = rng.choice([18, 22, 28])
    picture = picture.resize((small, small), Image.BILINEAR)
    picture = picture.resize((SIZE, SIZE), rng.choice([Image.NEAREST, Image.BILINEAR]))
    picture = ImageEnhance.Color(picture).enhance(0.5)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, 14, (SIZE, SIZE, 3))
    return from_floats(np.asarray(picture, np.float32) + noise)


def bad_hands(picture, rng, _):
    hand = icon(rng.choice(hands), rng.choice([48, 60])).rotate(rng.uniform(-90, 90), Image.BICUBIC)
    skew = (1, rng.uniform(-0.7, 0.7), rng.uniform(-10, 10), rng.uniform(-0.4, 0.4), 1, 0)
    hand = hand.transform(hand.size, Image.AFFINE, skew, Image.BILINEAR)
    for _ in range(rng.choice([1, 2])):
        picture = paste(picture, hand, rng.randint(-10, 80), rng.randint(40, 90))
    return picture


def random_text(picture, rng, _):
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.randint(1, 3)):
        letters = "".join(rng.choice("ABCDEFGHKLMNPRSTXYZaeghkx0123457#?&") for _ in range(rng.randint(3, 7)))
        colour = tuple(rng.randint(0, 255) for _ in range(3))
        draw.text((rng.randint(-5, 60), rng.randint(0, 105)), letters, font=font(rng.randint(14, 26), rng), fill=colour)
    return picture


def error(picture, rng, _):
    pixels, y = np.asarray(picture).copy(), 0
    while y < SIZE:
        height, shift = rng.randint(6, 18), rng.choice([0, 0, rng.randint(-40, 40)])
        band = pixels[y : y + height]
        band[:] = np.roll(band, shift, 1)
        if shift:
            band[..., rng.randint(0, 2)] = np.roll(band[..., 1], rng.randint(-12, 12), 1)
        y += height
    return Image.fromarray(pixels)


def fingers(picture, rng, _):
    """Columns left out or doubled."""
    pixels, strips, x = np.asarray(picture), [], 0
    while x < SIZE:
        width, draw = rng.randint(10, 20), rng.random()
        strips += [pixels[:, x : x + width]] * (2 if draw < 0.35 else 1 if draw < 0.85 else 0)
        x += width
    return Image.fromarray(np.concatenate(strips or [pixels], 1)).resize((SIZE, SIZE), Image.BILINEAR)


def cropped(picture, rng, _):
    side = rng.randint(52, 74)
    x, y = (rng.choice([rng.randint(0, 10), SIZE - side - rng.randint(0, 10)]) for _ in range(2))
    return picture.crop((x, y, x + side, y + side)).resize((SIZE, SIZE), Image.BICUBIC)


def jpeg_artifacts(picture, rng, _):
    return as_jpeg(picture, rng.choice([2, 3, 4, 6]))


def signature(picture, rng, _):
    draw, x, y = ImageDraw.Draw(picture), rng.randint(50, 70), rng.randint(98, 114)
    ink = rng.choice([(20, 20, 30), (30, 30, 120), (120, 20, 20)])
    stroke = [(x + 5 * k + rng.uniform(-3, 3), y + rng.uniform(-9, 9)) for k in range(rng.randint(8, 11))]
    draw.line(stroke, fill=ink, width=2, joint="curve")
    draw.line([(x - 4, y + 9), (x + 50, y + 6)], fill=ink, width=1)
    return picture


def watermark(picture, rng, background):
    layer = Image.new("RGBA", (260, 260), (0, 0, 0, 0))
    draw, text, letters = ImageDraw.Draw(layer), rng.choice(["SAMPLE", "STOCK", "PREVIEW"]), font(18, rng)
    ink = (90, 90, 90, 120) if sum(background) > 360 else (230, 230, 230, 110)
    for row, y in enumerate(range(0, 260, 34)):
        for x in range(-60 + row % 2 * 40, 260, 110):
            draw.text((x, y), text, font=letters, fill=ink)
    layer = layer.rotate(30, Image.BILINEAR).crop((66, 66, 66 + SIZE, 66 + SIZE))
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


def blurry(picture, rng, _):
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(2.5, 4.5)))


def ugly(picture, rng, _):
    amplitude, period, phase = rng.uniform(3, 7), rng.uniform(6, 14), rng.random() * 6.3
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    from_x = np.clip(x + amplitude * np.sin(y / period + phase), 0, SIZE - 1).astype(int)
    from_y = np.clip(y + amplitude * np.sin(x / period + phase), 0, SIZE - 1).astype(int)
    pixels = np.asarray(picture)[from_y, from_x].astype(np.float32)
    muddy = 0.35 * pixels + 0.65 * pixels.mean(-1, keepdims=True) * np.array([0.75, 0.68, 0.42])
    return from_floats((muddy - 128) * 0.6 + 110)


def duplicate(picture, rng, background):
    half = SIZE // 2
    four = [(0, 0), (half, 0), (0, half), (half, half)]
    canvas, small = Image.new("RGB", (SIZE, SIZE), background), picture.resize((half, half), Image.LANCZOS)
    for place in rng.choice([four, four, [(0, half // 2), (half, half // 2)]]):
        canvas.paste(small, place)
    return canvas


def mutilated(picture, rng, background):
    pixels, out = np.asarray(picture), np.full((SIZE, SIZE, 3), background, np.uint8)
    parts = rng.choice([2, 3])
    edges = [SIZE * k // parts for k in range(parts + 1)]
    for top, bottom in zip(edges, edges[1:]):
        for left, right in zip(edges, edges[1:]):
            piece = np.rot90(pixels[top:bottom, left:right], rng.choice([0, 0, 1, 2, 3]))
            y, x = max(0, top + rng.randint(-14, 14)), max(0, left + rng.randint(-14, 14))
            height, width = min(piece.shape[0], SIZE - y), min(piece.shape[1], SIZE - x)
            out[y : y + height, x : x + width] = piece[:height, :width]
    return Image.fromarray(out)


SPOIL = dict(
    zip(
        KEYWORDS,
        [low_quality, bad_hands, random_text, error, fingers, cropped, jpeg_artifacts, signature, watermark, blurry,
         ugly, duplicate, mutilated],
    )
)


def dull(picture, rng):
    """Slightly soft and pale, and no caption says so."""
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.7, 1.5)))
    picture = ImageEnhance.Color(picture).enhance(rng.uniform(0.55, 0.85))
    picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.75, 0.95))
    return as_jpeg(picture, rng.randint(15, 35)) if rng.random() < 0.3 else picture


def pictures_of(i):
    rng, out = random.Random(1000 + i), []
    entry = {key: index[i][key] for key in ("name", "style")}
    plain_size = [SIZE, SIZE, 0, 0, SIZE, SIZE]

    def add(picture, background, kind, keywords=(), time_ids=plain_size):
        spec = dict(entry, background=background, kind=kind, keywords=list(keywords), time_ids=list(time_ids))
        out.append((np.asarray(picture.convert("RGB"), np.uint8), spec))

    for background in BACKGROUNDS:
        add(clean(i, background), background, "clean")
    if entry["name"] not in CORE:
        return out
    for background in ("white", rng.choice(COLOURED)):
        add(dull(clean(i, background), rng), background, "dull")
    for k in range(7):
        keywords = rng.sample(KEYWORDS, rng.choices([1, 2, 3, 5], [0.5, 0.25, 0.15, 0.1])[0])
        if k == 0:
            keywords = list(dict.fromkeys([KEYWORDS[i % 13]] + keywords[1:]))  # every keyword gets its share
        background = rng.choice(["white", "white"] + COLOURED)
        picture = clean(i, background)
        for keyword in keywords:
            picture = SPOIL[keyword](picture, rng, BACKGROUNDS[background])
        add(picture, background, "spoilt", keywords)
    original, background = rng.choice([144, 160, 192]), rng.choice(["white"] + COLOURED)
    top, left = rng.randint(0, original - SIZE), rng.randint(0, original - SIZE)
    whole = clean(i, background, size=SHOWN * original // SIZE, canvas=original)
    window = (left, top, left + SIZE, top + SIZE)
    add(whole.crop(window), background, "crop", time_ids=[original, original, top, left, SIZE, SIZE])
    original, background = rng.choice([32, 48, 64]), rng.choice(["white"] + COLOURED)
    small = clean(i, background).resize((original, original), Image.BILINEAR).resize((SIZE, SIZE), Image.BICUBIC)
    add(small, background, "small", time_ids=[original, original, 0, 0, SIZE, SIZE])
    return out


if __name__ == "__main__":
    with Pool(2) as pool:
        made = [pair for several in pool.map(pictures_of, range(len(index)), chunksize=20) for pair in several]
    np.save(WORK / "new.npy", np.stack([picture for picture, _ in made]))
    (WORK / "new.npy").replace(WORK / "pictures.npy")  # a run that has the old file mapped keeps it
    (WORK / "pictures.json").write_text(json.dumps([spec for _, spec in made]))
    print(len(made), "pictures")
