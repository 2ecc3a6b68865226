"""Reads what `unwrong train` leaves to look at with the programs it is made for.

Event files with TensorBoard's own reader, the model card with PyYAML and huggingface_hub:

    python parity/check_training.py LORA.safetensors [--steps N] [--samples N]

Needs tensorboard and huggingface_hub.
"""

import argparse
import io
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SCALARS = ["loss", "lr", "grad_norm"]


def check_events(folder: Path, steps: int | None, samples: int | None) -> None:
    # 0: keep everything.
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    for tag in SCALARS:
        found = [event.step for event in events.Scalars(tag)]
        assert found == list(range(1, (steps or len(found)) + 1)), f"steps of {tag}: {found}"
    print(f"{folder}: {len(found)} steps of {', '.join(tags['scalars'])}")
    for tag in tags["images"]:
        images = events.Images(tag)
        shown = [image.step for image in images]
        assert shown == sorted(set(shown)), f"steps of {tag}: {shown}"
        assert samples in (None, len(shown)), f"{len(shown)} pictures of {tag}"
        for image in images:
            size = Image.open(io.BytesIO(image.encoded_image_string)).size
            assert size == (image.width, image.height), f"{tag}: {size}"
        print(f"{folder}: {tag} at steps {shown}")


def check_card(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    card = ModelCard(text)
    data = card.data.to_dict()
    assert data == yaml.safe_load(text.split("---\n")[1]), "two readers, two cards"
    assert data["library_name"] == "diffusers" and "lora" in data["tags"]
    for widget in data.get("widget", []):
        picture = path.parent / widget["output"]["url"]
        Image.open(picture).verify()
    print(f"{path}: {', '.join(data)}; {len(data.get('widget', []))} pictures")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lora", type=Path)
    parser.add_argument("--log-dir", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--samples", type=int, help="pictures of each prompt")
    arguments = parser.parse_args()
    work = arguments.lora.with_suffix(".training")
    check_events(arguments.log_dir or work / "logs", arguments.steps, arguments.samples)
    check_card(arguments.lora.with_suffix(".md"))


if __name__ == "__main__":
    main()
