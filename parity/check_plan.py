"""Runs our plans with the oracle's encoders and compares with `CompelForSDXL`.

    cargo build --release -p unwrong-prompt --example plan
    python parity/check_plan.py [--model crates/demo/model/base] [--program target/release/examples/plan]

`execute` below is the formulas in the documentation of `EncodePlan` and `ConjunctionPlan`, so this
proves the plans and those texts. Also compared: the second encoder alone with the compel that a
refiner has, token ids of random strings with transformers, and plans that truncate with
`Compel(truncate_long_prompts=True)`.

A weighted `.and()` makes compel fail where it has to pool: for those texts the features come from
`Compel(requires_pooled=False)` and the pooled vector from its provider's `get_pooled_embeddings`.
"""

import argparse
import functools
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import compel.compel
import pyparsing
import torch
from compel import Compel, CompelForSDXL, ReturnedEmbeddingsType
from make_prompts import CHOSEN, JOINED, describe, random_joined, random_prompts
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

LIMIT = 1e-5
KIND = ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
LONG = ", ".join(f"a {c} {o}" for c in ["red", "blue", "old"] for o in ["apple", "star", "house"])
SENTENCES = ". ".join(f"There is a {o} on the table" for o in ["cup", "book", "lamp"] * 8)
PROMPTS = CHOSEN + JOINED + [
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
    f'("{LONG}, {LONG}", "a cat").and(0.5, 1.2)',
    f'("a cat", "{LONG}, {LONG}", "(a dog)0.4").blend(1, 2, 0.5)',
    f'("{LONG}, {LONG}", "(a cat)0.5").blend(0.5, 0.25, no_normalize)',
    f'("{SENTENCES}", "{LONG}, (the end-)++").and()',
    f'("(a cat)0.4 {LONG}, ({LONG})0.7", "!!!" , "!a! (!b!)0.5").and(1, 0.3, -1)',
    f'a cat.swap("{LONG}, {LONG}")',
    f'("a (cat)0.5.swap({LONG.replace(",", "")} {LONG.replace(",", "")})", "b").and()',
    "a (old (cat)0.5).swap(dog) (on a mat)0.8",
    "(a cat.swap(dog) on a mat)0.6",
]
PROMPTS += [random_joined(random.Random(seed)) for seed in range(40)]


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


def features(encoder, empty, chunks):
    """`EncodePlan`: `[77 n, D]`."""
    result = []
    for chunk in chunks:
        assert abs(sum(variant["share"] for variant in chunk["variants"]) - 1) < 1e-6
        z = sum(
            variant["share"] * encode(encoder, chunk["ids"], variant["masked"])
            for variant in chunk["variants"]
        )
        weights = torch.tensor(chunk["weights"])[:, None]
        result.append(torch.where(weights == 1, z, empty + weights * (z - empty)))
    return torch.cat(result)


@torch.no_grad()
def execute(pipe, plans, length):
    """`ConjunctionPlan`: the features of both encoders side by side, `[1, 77 length, D]`."""
    sides = []
    encoders = [(0, pipe.text_encoder), (1, pipe.text_encoder_2)]
    for (index, encoder), parts in zip(encoders[-len(plans) :], plans):
        empty = encode(encoder, empty_ids(index))
        result = []
        for part in parts:
            shared = [
                own["share"] * features(encoder, empty, own["chunks"]) for own in part["prompts"]
            ]
            z = sum(shared)
            whole = empty.repeat(len(z) // 77, 1)
            weight = part["weight"]
            result.append(z if weight == 1 else whole + weight * (z - whole))
        chunks = sum(map(len, result)) // 77
        sides.append(torch.cat(result + [empty] * (length - chunks)))
    return torch.cat(sides, dim=-1)[None]


def chunks_of(plan):
    return sum(len(part["prompts"][0]["chunks"]) for part in plan)


def difference(name, found, expected):
    if found.shape != expected.shape:
        return f"{name}: shape {list(found.shape)}, expected {list(expected.shape)}", float("inf")
    largest = (found - expected).abs().max() / expected.abs().max()
    return f"{name}: {largest:.1e}", largest.item()


class Without:
    """`CompelForSDXL`, or the one compel of a refiner, without the failure at a weighted `.and()`."""

    def __init__(self, pipe, encoders):
        wanted = [
            (pipe.tokenizer, pipe.text_encoder),
            (pipe.tokenizer_2, pipe.text_encoder_2),
        ][-encoders:]
        self.sides = [
            Compel(*side, returned_embeddings_type=KIND, truncate_long_prompts=False)
            for side in wanted
        ]

    @torch.no_grad()
    def __call__(self, prompt, negative_prompt):
        both = [side([prompt, negative_prompt]) for side in self.sides]
        length = max(own.shape[1] for own in both)
        for index, side in enumerate(self.sides):
            missing = (length - both[index].shape[1]) // 77
            both[index] = torch.cat([both[index]] + [side([""]).repeat(2, 1, 1)] * missing, dim=1)
        embeds = torch.cat(both, dim=-1)
        pool = self.sides[-1].conditioning_provider.get_pooled_embeddings
        pooled = [pool([text]) for text in [prompt, negative_prompt]]
        return [(embeds[:1], pooled[0]), (embeds[1:], pooled[1])]


def oracle(whole, without, prompt, negative):
    """Features and pooled vector of both, and whether compel had to be helped."""
    try:
        made = whole(prompt, negative_prompt=negative)
        pairs = [
            (made.embeds, made.pooled_embeds),
            (made.negative_embeds, made.negative_pooled_embeds),
        ]
        return pairs, False
    except Exception:
        return without(prompt, negative), True


def check_features(pipe, program):
    """Every text with the one before it as its negative prompt; an empty one where compel refuses."""
    whole, without = CompelForSDXL(pipe), Without(pipe, 2)
    refiner = Without(pipe, 1)
    ours = describe(program, PROMPTS)
    nothing = describe(program, [""])[0]
    worst, refused, compared, helped, bad = 0.0, {}, 0, 0, 0
    for n, prompt in enumerate(PROMPTS):
        for negative, ours_negative in [(PROMPTS[n - 1], ours[n - 1]), ("", nothing)]:
            try:
                expected, was_helped = oracle(whole, without, prompt, negative)
                of_refiner = refiner(prompt, negative)
            except Exception as error:
                if not negative:
                    refused[prompt] = type(error).__name__
                continue
            compared += 1
            helped += was_helped
            checks = []
            for encoders, rows in [(2, expected), (1, of_refiner)]:
                plans = [own["pad"][-encoders:] for own in [ours[n], ours_negative]]
                length = max(chunks_of(plan) for own in plans for plan in own)
                for own, plan, (embeds, pooled) in zip([ours[n], ours_negative], plans, rows):
                    checks.append(difference("embeds", execute(pipe, plan, length), embeds))
                    with torch.no_grad():
                        ids = torch.tensor([own["pooled_ids"]])
                        checks.append(
                            difference("pooled", pipe.text_encoder_2(ids).text_embeds, pooled)
                        )
            worst = max([worst, *(value for _, value in checks)])
            if any(value >= LIMIT for _, value in checks):
                bad += 1
                print(f"{prompt!r} / {negative!r}: {', '.join(text for text, _ in checks)}")
            break
    print(f"features: {compared} texts, base and refiner ({helped} without compel's pooling),")
    print(f"  largest difference {worst:.1e}")
    for text, error in refused.items():
        print(f"  compel refuses {text!r}: {error}")
    return bad


def check_chunks(pipe, program):
    """Ids and weights of every chunk, which must be the very ones compel has."""
    from compel.prompt_parser import Blend, FlattenedPrompt

    sides = [
        Compel(pipe.tokenizer, pipe.text_encoder, truncate_long_prompts=False),
        Compel(pipe.tokenizer_2, pipe.text_encoder_2, truncate_long_prompts=False),
    ]
    chunks, bad = 0, 0
    for text, ours in zip(PROMPTS, describe(program, PROMPTS)):
        try:
            parts = sides[0].parse_prompt_string(text).prompts
        except Exception:
            continue
        for index, side in enumerate(sides):
            for part, plan in zip(parts, ours["pad"][index]):
                prompts = part.prompts if isinstance(part, Blend) else [part]
                for prompt, own in zip(prompts, plan["prompts"]):
                    flat = FlattenedPrompt()
                    for child in prompt.children:
                        flat.append(getattr(child, "original", child))
                    if any(not hasattr(child, "text") for child in flat.children):
                        continue
                    ids, weights, _ = (
                        side.conditioning_provider.get_token_ids_and_expand_weights(
                            [child.text for child in flat.children],
                            [child.weight for child in flat.children],
                            device="cpu",
                        )
                    )
                    found = [own["chunks"][n] for n in range(len(ids) // 77)]
                    chunks += len(found)
                    same = [id for chunk in found for id in chunk["ids"]] == ids.tolist()
                    own_weights = [weight for chunk in found for weight in chunk["weights"]]
                    if not same or torch.tensor(own_weights).ne(weights).any():
                        bad += 1
                        print(f"chunks of {text!r} [{index}] differ")
    print(f"chunks: {chunks}, ids and weights of {bad} differ")
    return bad


def check_truncated(pipe, program):
    sides = [
        Compel(pipe.tokenizer, pipe.text_encoder, returned_embeddings_type=KIND),
        Compel(pipe.tokenizer_2, pipe.text_encoder_2, returned_embeddings_type=KIND),
    ]
    worst, refused, bad = 0.0, 0, 0
    for prompt, ours in zip(PROMPTS, describe(program, PROMPTS)):
        try:
            expected = torch.cat([side(prompt) for side in sides], dim=-1)
        except Exception:
            refused += 1
            continue
        text, value = difference("embeds", execute(pipe, ours["truncate"], expected.shape[1] // 77), expected)
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
    # It remembers what it has tried and is built once, which changes its time and no result.
    pyparsing.ParserElement.enable_packrat(cache_size_limit=None)
    compel.compel.PromptParser = functools.cache(compel.compel.PromptParser)
    pipe = load(options.model)
    bad = check_ids(pipe, options.program, options.texts)
    bad += check_chunks(pipe, options.program)
    bad += check_features(pipe, options.program)
    bad += check_truncated(pipe, options.program)
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
