"""The sheet of the held-out prompts, drawn by the program: contact_sheet.py UNWRONG OUT [--labels FILE].

Two seeds of every line of heldout.txt, base and refiner at the recommended settings. The sheet carries numbers, not
prompts, so that a reader can name what it shows; `--labels` writes which number is which prompt.
"""

import argparse
import random
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).parent
SEEDS = (1, 2)
SIDE, TITLE, COLUMNS = 128, 14, 5


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("program", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--labels", type=Path)
    arguments = arguments.parse_args()

    prompts = [line.strip() for line in (HERE / "heldout.txt").read_text().splitlines() if line.strip()]
    random.Random(0).shuffle(prompts)
    rows = -(-len(prompts) // COLUMNS)
    width, height = len(SEEDS) * SIDE + 6, SIDE + TITLE
    sheet = Image.new("RGB", (COLUMNS * width - 6, rows * height), "white")
    with tempfile.TemporaryDirectory() as folder:
        for number, prompt in enumerate(prompts):
            x, y = number % COLUMNS * width, number // COLUMNS * height
            ImageDraw.Draw(sheet).text((x + 2, y + 1), str(number + 1), fill="black")
            for column, seed in enumerate(SEEDS):
                picture = Path(folder) / f"{number}-{seed}.png"
                subprocess.run([arguments.program, "generate", prompt, "--seed", str(seed), "-o", picture], check=True, capture_output=True)
                sheet.paste(Image.open(picture), (x + column * SIDE, y + TITLE))
    sheet.save(arguments.out)
    if arguments.labels:
        arguments.labels.write_text("".join(f"{n}. {prompt}\n" for n, prompt in enumerate(prompts, 1)))


if __name__ == "__main__":
    main()
