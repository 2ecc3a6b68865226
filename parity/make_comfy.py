"""Writes goldens/comfy.json: prompts, and what ComfyUI's own tokenizer makes of them.

    python parity/make_comfy.py CHECKOUT [--out parity/goldens] [--check PROGRAM --count N --seed S]

CHECKOUT is a folder with ComfyUI (`comfy/sd1_clip.py`, `sdxl_clip.py` and `sd1_tokenizer/`). It
runs without its models: what those files import is replaced by stubs. Needs transformers.

With `--check` it compares N random prompts with `target/release/examples/script` instead (built by
`cargo build --release -p unwrong-prompt --example script`) and writes nothing.
"""

import argparse
import json
import logging
import random
import sys
import tempfile
from pathlib import Path

from make_a1111 import CHOSEN as OF_A1111
from make_a1111 import PIECES as OF_A1111_PIECES
from make_a1111 import describe, limited, near, stub, words

CHOSEN = OF_A1111 + [
    "a (cat) (dog:1.3)",
    "((cat:1.3) dog:0.5)",
    "(((cat)))",
    "((a:1.2) b:2)",
    "(a:1e1) (b:1_0) (c: +.5 ) (d:nothing)",
    "(a:) (:1.5) (a:b:2) (a:(b:2))",
    "a) (b) (c:2)",
    "a)) ((b (c))",
    "(a (b)",
    "(a (b:2)",
    "((a (b) (c:3)",
    "(a) (b",
    "((((a) b) c",
    "\\(a\\) (b\\):2) \\\\(c:2)",
    "(a b c d e f g:1.2) " * 12,
    "(a b c d e f:1.2) " * 14,
    words(70) + " (" + words(7) + ":1.2) " + words(5),
    words(70) + " (" + words(8) + ":1.2) " + words(5),
    words(74) + "(a)(b)(c)",
    words(75) + "(a b c)",
    "a embedding:name b",
    "embedding:name, b (embedding:other:1.2) c",
    "a\nembedding:,name,, b",
    "an embedding:a embedding:b:1.2 aembedding:c",
]
PIECES = OF_A1111_PIECES + ["(", ")", "(a", "b)", ":2)", "((", "))", " embedding:a ", "nan)", "_", "e"]


def random_prompts(seed, count):
    draw = random.Random(seed)
    lengths = [3, 6, 10, 16, 24, 90]
    return ["".join(draw.choices(PIECES, k=draw.randint(1, draw.choice(lengths)))) for _ in range(count)]


class Oracle:
    def __init__(self, checkout):
        sys.path.insert(0, str(checkout))
        import comfy

        for name in ["ops", "model_management", "clip_model", "utils"]:
            setattr(comfy, name, stub(f"comfy.{name}"))
        from comfy import sd1_clip, sdxl_clip

        logging.disable(logging.WARNING)
        self.module = sd1_clip
        # A folder without embeddings: their names are left out.
        self.folder = tempfile.TemporaryDirectory()
        self.tokenizer = sdxl_clip.SDXLTokenizer(embedding_directory=self.folder.name)

    def segments(self, text):
        """The weighted segments, before embeddings are taken out of them."""
        pairs = self.module.token_weights(self.module.escape_important(text), 1.0)
        return [[self.module.unescape_important(segment), weight] for segment, weight in pairs]

    def chunks(self, text):
        """For both encoders, the ids, and the weights; `None` where it stops with an error."""
        try:
            tokens = self.tokenizer.tokenize_with_weights(text)
        except IndexError:
            return None
        first, second = ([[[id for id, _ in chunk] for chunk in tokens[key]]] for key in "lg")
        return [*first, *second, [[weight for _, weight in chunk] for chunk in tokens["l"]]]


def same_chunks(found, expected):
    if found[:2] != expected[:2]:
        return False
    clamp = lambda weight: 1.0 if weight != weight else max(-1e6, min(1e6, weight))
    return all(
        abs(one - clamp(other)) <= 1e-6 * max(1, abs(clamp(other)))
        for row, expected_row in zip(found[2], expected[2])
        for one, other in zip(row, expected_row)
    )


def check(checkout, program, prompts):
    oracle = Oracle(checkout)
    compared = {"segments": 0, "chunks": 0}
    different = {"segments": 0, "chunks": 0}
    for prompt, ours in zip(prompts, describe(program, prompts)):
        segments, chunks = oracle.segments(prompt), oracle.chunks(prompt)
        results = {}
        if not any("embedding:" in text or weight != weight for text, weight in segments):
            found = ours["comfy"]["fragments"]
            results["segments"] = found, segments, near(found, limited(segments) or [["", 1.0]])
        if chunks is not None:
            results["chunks"] = ours["comfy"]["chunks"], chunks, same_chunks(ours["comfy"]["chunks"], chunks)
        for what, (found, expected, equal) in results.items():
            compared[what] += 1
            different[what] += not equal
            if not equal and different[what] <= 10:
                print(f"{what} of {prompt!r}\n  ComfyUI {expected}\n  ours    {found}")
    for what, count in compared.items():
        print(f"{what}: {count} compared, {different[what]} differ")
    return sum(different.values())


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("checkout", type=Path)
    arguments.add_argument("--out", type=Path, default=Path("parity/goldens"))
    arguments.add_argument("--check", metavar="PROGRAM")
    arguments.add_argument("--count", type=int, default=2000)
    arguments.add_argument("--seed", type=int, default=7)
    options = arguments.parse_args()

    if options.check:
        sys.exit(check(options.checkout, options.check, random_prompts(options.seed, options.count)) > 0)
    oracle = Oracle(options.checkout)
    rows = [{"text": text, "segments": oracle.segments(text), "chunks": oracle.chunks(text)} for text in CHOSEN]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    path = options.out / "comfy.json"
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{len(rows)} prompts in {path}")


if __name__ == "__main__":
    main()
