"""Runs our plans with the oracle's encoders and compares with `CompelForSDXL`.

    cargo build --release -p unwrong-prompt --example plan
    python parity/check_plan.py [--model crates/demo/model/base] [--program target/release/examples/plan]

`execute` below is the formula in the documentation of `EncodePlan`, so this proves the plans and
that text. Also compared: token ids of random strings with transformers, and plans that truncate
with `Compel(truncate_long_prompts=True)`.
"""

import argparse
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from compel import Compel, CompelForSDXL, ReturnedEmbeddingsType
from make_prompts import CHOSEN, describe, random_prompts
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

LIMIT = 1e-5
LONG = ", ".join(f"a {c} {o}" for c in ["red", "blue", "old"] for o in ["apple", "star", "house"])
SENTENCES = ". ".join(f"There is a {o} on the table" for o in ["cup", "book", "lamp"] * 8)
PROMPTS = CHOSEN + [
    "a red apple-, a (yellow star)0.3 and a (house)0, wrong",
    "a (red apple)0.5, a (red apple)0.5",
    "(everything is lower here)0.7",
    "one- two-- three--- four+ five++",
    "!wow!, (!stop!)0.5 !!!",
    LONG,
    f"({LONG})0.6",
    f"({LONG})1.3",
    f"{LONG}, {LONG}",
    f"{LONG}, ({LONG})0.8, {LONG}",
    f"{SENTENCES}",
    f"({SENTENCES})0.5",
    f"{SENTENCES} (the end-)++ of it-",
    "supercalifragilistic" * 30,
    "x" * 400 + " (y)-",
    "a!" * 60 + " b",
    f"{SENTENCES}, (!wow, what a day)0.5 (!)0.9",
    "word " * 74 + "(cut here and there)-",
    "word " * 73 + "(a, b, c)0.4 c d",
    "<|endoftext|> in (the <|startoftext|> middle)+ <|ENDOFTEXT|>",
]


def load(model):
    first = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
    second = CLIPTextModelWithProjection.from_pretrained(
        model / "text_encoder_2", dtype=torch.float32
    )
    return SimpleNamespace(
        tokenizer=CLIPTokenizer.from_pretrained(model / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(model / "tokenizer_2"),
        text_encoder=first.eval(),
        text_encoder_2=second.eval(),
    )


def encode(encoder, ids, masked=(0, 0)):
    mask = torch.ones(1, 77, dtype=torch.long)
    mask[:, masked[0] : masked[1]] = 0
    output = encoder(torch.tensor([ids]), mask, output_hidden_states=True)
    return output.hidden_states[-2][0]


def empty_ids(encoder_index):
    return [49406, 49407] + [[49407, 0][encoder_index]] * 75


@torch.no_grad()
def execute(pipe, plans, length):
    """The features of both encoders side by side, `[1, 77 length, D]`."""
    sides = []
    for index, encoder in enumerate([pipe.text_encoder, pipe.text_encoder_2]):
        empty = encode(encoder, empty_ids(index))
        features = []
        for chunk in plans[index]:
            assert abs(sum(variant["share"] for variant in chunk["variants"]) - 1) < 1e-6
            z = sum(
                variant["share"] * encode(encoder, chunk["ids"], variant["masked"])
                for variant in chunk["variants"]
            )
            weights = torch.tensor(chunk["weights"])[:, None]
            features.append(torch.where(weights == 1, z, empty + weights * (z - empty)))
        features += [empty] * (length - len(features))
        sides.append(torch.cat(features))
    return torch.cat(sides, dim=-1)[None]


def difference(name, found, expected):
    if found.shape != expected.shape:
        return f"{name}: shape {list(found.shape)}, expected {list(expected.shape)}", float("inf")
    largest = (found - expected).abs().max() / expected.abs().max()
    return f"{name}: {largest:.1e}", largest.item()


def check_features(pipe, program):
    """Every prompt with the one after it as its negative."""
    compel = CompelForSDXL(pipe)
    ours = describe(program, PROMPTS)
    worst, refused, bad = 0.0, [], 0
    for n, prompt in enumerate(PROMPTS):
        negative = (n + 1) % len(PROMPTS)
        try:
            expected = compel(prompt, negative_prompt=PROMPTS[negative])
        except Exception as error:
            refused.append(f"{prompt!r} / {PROMPTS[negative]!r}: {type(error).__name__}")
            continue
        pair = [ours[n], ours[negative]]
        length = max(len(plan) for side in pair for plan in side["pad"])
        checks = []
        for side, embeds, pooled in [
            (pair[0], expected.embeds, expected.pooled_embeds),
            (pair[1], expected.negative_embeds, expected.negative_pooled_embeds),
        ]:
            checks.append(difference("embeds", execute(pipe, side["pad"], length), embeds))
            with torch.no_grad():
                own = pipe.text_encoder_2(torch.tensor([side["pooled_ids"]])).text_embeds
            checks.append(difference("pooled", own, pooled))
        worst = max([worst, *(value for _, value in checks)])
        if any(value >= LIMIT for _, value in checks):
            bad += 1
            print(f"{prompt!r} / {PROMPTS[negative]!r}: {', '.join(text for text, _ in checks)}")
    print(f"features: {len(PROMPTS) - len(refused)} pairs, largest difference {worst:.1e}")
    for line in refused:
        print(f"  compel refuses {line}")
    return bad


def check_truncated(pipe, program):
    kind = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
    sides = [
        Compel(pipe.tokenizer, pipe.text_encoder, returned_embeddings_type=kind),
        Compel(pipe.tokenizer_2, pipe.text_encoder_2, returned_embeddings_type=kind),
    ]
    worst, refused, bad = 0.0, 0, 0
    for prompt, ours in zip(PROMPTS, describe(program, PROMPTS)):
        try:
            expected = torch.cat([side(prompt) for side in sides], dim=-1)
        except Exception:
            refused += 1
            continue
        text, value = difference("embeds", execute(pipe, ours["truncate"], 1), expected)
        worst = max(worst, value)
        if value >= LIMIT:
            bad += 1
            print(f"truncated {prompt!r}: {text}")
    done = len(PROMPTS) - refused
    print(f"truncated: {done} prompts ({refused} refused), largest difference {worst:.1e}")
    return bad


def random_text(draw):
    spans = [(0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x52F)]
    spans += [(0x590, 0x6FF), (0x900, 0xDFF), (0x2000, 0x206F), (0x3040, 0x30FF), (0x4E00, 0x9FFF)]
    spans += [(0xAC00, 0xD7A3), (0x1F300, 0x1FAFF), (0x00, 0x1F), (0, 0xD7FF), (0xE000, 0x10FFFF)]
    parts = ["<|endoftext|>", "<|STARTOFTEXT|>", "'s", "'LL", "!", "  ", "<|", "|>", "1233", "abc"]
    text = ""
    for _ in range(draw.randint(0, 12)):
        if draw.random() < 0.3:
            text += draw.choice(parts)
        span = draw.choice(spans)
        text += "".join(chr(draw.randint(*span)) for _ in range(draw.randint(1, 6)))
    return text


def check_ids(pipe, program, count):
    draw = random.Random(1)
    texts = [random_text(draw) for _ in range(count)] + random_prompts(2, count) + PROMPTS
    bad = 0
    for text, ours in zip(texts, describe(program, texts)):
        for index, tokenizer in enumerate([pipe.tokenizer, pipe.tokenizer_2]):
            expected = tokenizer(text)["input_ids"][1:-1]
            if ours["ids"][index] != expected:
                bad += 1
                print(f"ids {text!r} [{index}]\n  {expected}\n  {ours['ids'][index]}")
    print(f"ids: {len(texts)} texts, {bad} differ")
    return bad


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--model", type=Path, default=Path("crates/demo/model/base"))
    arguments.add_argument("--program", default="target/release/examples/plan")
    arguments.add_argument("--texts", type=int, default=5000)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    pipe = load(options.model)
    bad = check_ids(pipe, options.program, options.texts)
    bad += check_features(pipe, options.program)
    bad += check_truncated(pipe, options.program)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
