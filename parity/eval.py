#!/usr/bin/env python
"""Writes the goldens of `unwrong eval`: metrics of small pictures, and statistics of small samples.

    python -m venv .venv-eval && .venv-eval/bin/pip install -r parity/requirements-eval.txt
    .venv-eval/bin/python parity/eval.py [--out parity/goldens]

The oracles are scikit-image, scipy, numpy and statsmodels. Writes `eval/*.png` and `eval.json`.
"""

import argparse
import importlib.metadata
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage, signal, stats
from skimage.color import rgb2hsv
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from statsmodels.stats.multitest import multipletests

ROOT = Path(__file__).resolve().parent.parent
ORACLES = ["numpy", "scipy", "scikit-image", "statsmodels", "pillow"]


def pictures():
    """Small pictures: two that were drawn, and those that are hard for one metric each."""
    random = np.random.default_rng(0)
    drawn = Image.open(ROOT / "docs/compare.webp").convert("RGB")
    half = drawn.width // 2
    square = (half // 2 - 48, half // 2 - 40, half // 2 + 48, half // 2 + 40)
    left = np.asarray(drawn.crop(square).resize((48, 40), Image.Resampling.BOX))
    right = np.asarray(drawn.crop((square[0] + half, square[1], square[2] + half, square[3])).resize((48, 40), Image.Resampling.BOX))

    def jpeg(picture, quality):
        memory = io.BytesIO()
        Image.fromarray(picture).save(memory, "JPEG", quality=quality)
        return np.asarray(Image.open(memory).convert("RGB"))

    rows, columns = np.mgrid[0:37, 0:53]
    slope = np.stack([rows * 3, columns * 4, (rows + columns) * 2], axis=-1).astype(np.uint8)
    noise = np.clip(120 + random.normal(0, 12, (40, 48, 3)), 0, 255).round().astype(np.uint8)
    return {
        "left": left,
        "right": right,
        "jpeg": jpeg(left, 10),
        "noise": noise,
        "slope": slope,
        "flat": np.full((16, 24, 3), (90, 91, 92), np.uint8),
        "black": np.zeros((11, 11, 3), np.uint8),
    }


def luma(picture):
    return picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def metrics(picture):
    """The metrics of one picture, from their papers' formulas on the oracles' filters."""
    gray = luma(picture)
    inside = (slice(1, -1), slice(1, -1))
    gradients = [ndimage.sobel(gray, axis)[inside] for axis in (0, 1)]
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    masked = np.abs(signal.convolve2d(gray, mask, mode="valid"))
    red, green, blue = np.moveaxis(picture.astype(np.float64), -1, 0)
    opponents = [red - green, (red + green) / 2 - blue]
    return {
        "sharpness": ndimage.laplace(gray)[inside].var(),
        "tenengrad": (gradients[0] ** 2 + gradients[1] ** 2).mean(),
        "high_frequency": high_frequency(gray),
        "noise": np.sqrt(np.pi / 2) / 6 * masked.sum() / masked.size,
        "colourfulness": np.hypot(*[o.std() for o in opponents]) + 0.3 * np.hypot(*[o.mean() for o in opponents]),
        "saturation": rgb2hsv(picture)[..., 1].mean(),
        "contrast": gray.std() / 255,
        "blockiness": np.mean([blockiness(gray), blockiness(gray.T)]),
    }


def high_frequency(gray):
    if np.ptp(gray) == 0:
        return 0.0
    window = np.outer(*[signal.windows.hann(side, sym=False) for side in gray.shape])
    energy = np.abs(np.fft.fft2((gray - gray.mean()) * window)) ** 2
    down, across = np.meshgrid(*[np.fft.fftfreq(side) for side in gray.shape], indexing="ij")
    return energy[np.hypot(down, across) > 0.25].sum() / energy.sum()


def blockiness(gray):
    """Of the lines between columns."""
    jumps = np.abs(np.diff(gray, axis=1))
    on_grid = np.arange(1, gray.shape[1]) % 8 == 0
    grid, elsewhere = jumps[:, on_grid].mean(), jumps[:, ~on_grid].mean()
    return (grid - elsewhere) / (grid + elsewhere) if grid + elsewhere > 0 else 0.0


def similarity(one, other):
    ssim = structural_similarity(luma(one), luma(other), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
    return {"psnr": peak_signal_noise_ratio(one, other, data_range=255), "ssim": ssim}


def samples():
    """Differences: few, many, with ties, with zeros, one-sided."""
    random = np.random.default_rng(1)
    return {
        "five": np.array([1.5, 0.25, 2.0, 3.0, 0.75]),
        "twelve": random.normal(0.4, 1, 12),
        "fifty": random.normal(0.2, 1, 50),
        "many": random.normal(0.1, 1, 80),
        "skewed": random.exponential(1, 60) - 0.8,
        "ties": random.integers(-3, 5, 14).astype(float),
        "many_ties": random.integers(-4, 6, 120).astype(float),
        "one": np.array([0.3]),
    }


def tested(sample):
    """Wilcoxon's test, exact up to 50 differences that are not 0, and the mean's interval."""
    ranked = sample[sample != 0]
    sizes = np.abs(ranked)
    if len(ranked) > 50:
        method, p = "normal", stats.wilcoxon(sample, zero_method="wilcox", method="asymptotic", correction=False).pvalue
    elif len(np.unique(sizes)) == len(sizes):
        method, p = "exact", stats.wilcoxon(sample, zero_method="wilcox", method="exact").pvalue
    else:
        method, p = "exact", stats.wilcoxon(ranked, method=stats.PermutationMethod(n_resamples=np.inf)).pvalue
    facts = {
        "differences": sample.tolist(),
        "mean": sample.mean(),
        "p": p,
        "method": method,
        "positive": stats.rankdata(sizes)[ranked > 0].sum(),
    }
    if len(sample) > 1:
        facts["deviation"] = sample.std(ddof=1)
        many = stats.bootstrap((sample,), np.mean, n_resamples=400_000, batch=10_000, method="percentile", rng=np.random.default_rng(2))
        facts["interval"] = list(many.confidence_interval)
    return facts


def corrected():
    random = np.random.default_rng(3)
    lists = [random.uniform(0, 0.2, 8), np.array([0.01, 0.04, 0.03, 0.005]), np.array([0.9, 0.8, 0.7]), np.array([0.02, 0.02, 0.02])]
    return [{"p": p.tolist(), "holm": multipletests(p, method="holm")[1].tolist()} for p in lists]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "parity/goldens", help="folder to write to")
    out = parser.parse_args().out
    (out / "eval").mkdir(parents=True, exist_ok=True)
    drawn = pictures()
    for name, picture in drawn.items():
        Image.fromarray(picture).save(out / f"eval/{name}.png", optimize=True)
    golden = {
        "versions": {name: importlib.metadata.version(name) for name in ORACLES},
        "pictures": {name: {key: float(value) for key, value in metrics(picture).items()} for name, picture in drawn.items()},
        "pairs": {f"{one} {other}": similarity(drawn[one], drawn[other]) for one, other in [("left", "right"), ("left", "jpeg"), ("right", "noise")]},
        "samples": {name: tested(sample) for name, sample in samples().items()},
        "corrections": corrected(),
    }
    text = json.dumps(golden, indent=1, default=float)
    (out / "eval.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
