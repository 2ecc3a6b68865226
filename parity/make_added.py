"""Writes goldens/added.json: prompts with textual inversions, and the ids that A1111's and ComfyUI's
own code makes of them.

    python parity/make_added.py A1111 COMFYUI [--out parity/goldens]

The two are checkouts as `make_a1111.py` and `make_comfy.py` take them, A1111's with
`modules/textual_inversion/`. The vectors of a word are all its ids, so that they can be told apart.
"""

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import make_a1111
import make_comfy
from make_a1111 import words

FIRST = 49408
WORDS = {"ink-x": 1, "badhands": 3, "bad": 2, "smear": 10, "Styl\u00e9": 5}

A1111 = [
    "a ink-x cat",
    "a INK-X, (badhands:1.3) cat, badhand bad hands badly",
    "bad bad, (bad) [bad] ((bad:0.5)",
    "ink - x ink-y ink-xy",
    "styl\u00e9 Styl\u00c9 style",
    "smear BREAK smear, smear",
    words(70) + " smear " + words(5),
    words(65) + " smear " + words(5),
    words(66) + " smear",
    words(74) + " ink-x ink-x " + words(5),
    words(74) + " badhands bad",
    words(75) + " badhands",
    words(60) + ", " + words(14) + " badhands " + words(5),
    words(54) + ", " + words(20) + " bad, " + words(5),
    "smear " * 20,
    "badhands, " * 40,
    words(75) + ", bad",
]
COMFY = [
    "a embedding:ink-x cat",
    "embedding:badhands, (embedding:bad:1.2), b",
    "embedding:,bad,, b embedding:bad. c embedding:none d",
    "embedding:smear.safetensors embedding:smear",
    "(a embedding:bad b embedding:ink-x:0.7) c",
    "a\nembedding:bad\nembedding:bad b",
    "embedding:bad\tembedding:bad aembedding:bad bad",
    "(a)embedding:bad (embedding:Styl\u00e9)",
    words(70) + " embedding:smear " + words(5),
    words(73) + " (embedding:badhands) " + words(5),
    words(75) + " embedding:ink-x",
    words(74) + " embedding:ink-x",
    " embedding:smear" * 20,
]


def ids_of():
    """The ids of each word."""
    ids, first = {}, FIRST
    for word, vectors in WORDS.items():
        ids[word] = list(range(first, first + vectors))
        first += vectors
    return ids


def a1111(checkout):
    oracle = make_a1111.Oracle(checkout)
    for name in ["tqdm", "numpy", "PIL", "safetensors", "safetensors.torch", "torch"]:
        sys.modules.setdefault(name, make_a1111.Nothing(name))
    names = ["sd_models", "images", "sd_samplers", "sd_hijack_checkpoint", "hashes", "textual_inversion.dataset"]
    for name in names + [f"textual_inversion.{own}" for own in ("learn_schedule", "image_embedding", "saving_settings")]:
        make_a1111.stub(f"modules.{name}")
    from modules.textual_inversion.textual_inversion import EmbeddingDatabase

    oracle.load_clips()
    database = EmbeddingDatabase()
    model = SimpleNamespace(cond_stage_model=oracle.clips[0])
    for word, ids in ids_of().items():
        embedding = SimpleNamespace(name=word, vectors=len(ids), ids=ids)
        database.register_embedding(embedding, model)

    def tokenize_line(clip):
        inner = clip.tokenize_line

        def read(text):
            chunks, count = inner(text)
            for chunk in chunks:
                for offset, embedding in chunk.fixes:
                    chunk.tokens[1 + offset : 1 + offset + embedding.vectors] = embedding.ids
            return chunks, count

        return read

    for clip in oracle.clips:
        clip.hijack = SimpleNamespace(embedding_db=database)
        clip.tokenize_line = tokenize_line(clip)
    return [{"text": text, "chunks": oracle.chunks(text)} for text in A1111]


def comfyui(checkout):
    import torch
    from safetensors.torch import save_file

    oracle = make_comfy.Oracle(checkout)
    for word, ids in ids_of().items():
        vectors = torch.tensor(ids, dtype=torch.float32)[:, None]
        state = {"clip_l": vectors.repeat(1, 768), "clip_g": vectors.repeat(1, 1280)}
        save_file(state, Path(oracle.folder.name) / f"{word}.safetensors")
    rows = []
    for text in COMFY:
        tokens = oracle.tokenizer.tokenize_with_weights(text)
        id_of = lambda token: token if isinstance(token, int) else int(token[0])
        ids = [[[id_of(token) for token, _ in chunk] for chunk in tokens[key]] for key in "lg"]
        rows.append({"text": text, "chunks": [*ids, [[weight for _, weight in chunk] for chunk in tokens["l"]]]})
    return rows


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("a1111", type=Path)
    arguments.add_argument("comfyui", type=Path)
    arguments.add_argument("--out", type=Path, default=Path("parity/goldens"))
    options = arguments.parse_args()
    found = {"comfyui": comfyui(options.comfyui), "a1111": a1111(options.a1111)}
    line = lambda row: json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    lists = ['"%s":[\n%s\n]' % (name, ",\n".join(map(line, rows))) for name, rows in found.items()]
    path = options.out / "added.json"
    path.write_text('{"words":%s,\n%s}\n' % (line(list(WORDS.items())), ",\n".join(lists)), encoding="utf-8")
    print(f"{len(A1111)} and {len(COMFY)} prompts in {path}")


if __name__ == "__main__":
    main()
