"""Compares features with those of A1111's own code on the demo model's encoders.

    cargo build --release -p unwrong-prompt --example script
    python parity/check_a1111.py CHECKOUT [--model crates/demo/model/base] [--program target/release/examples/script]

CHECKOUT and what it needs are as in `make_a1111.py`. A1111 reads a prompt, encodes the texts of its
schedule, weights them and hands out features and weights of its parts for a step
(`get_multicond_learned_conditioning` and `reconstruct_multicond_batch`); ours are the ids and
weights of that step's plans, executed with `features` below, which is the formula in the
documentation of `Weighting`. Compared at steps 1 to 10 of 10, with "No norm" and with "Original".

A1111 encodes the texts of a schedule as one batch, which has two effects that ours do not have and
that are made here: the shorter texts are filled up with empty chunks, and the mean that "Original"
keeps is that of the whole batch. It also repeats the last vector of the shorter of two parts.
Prompts in which these change anything are counted.
"""

import argparse
import copy
import importlib
import sys
import types
from pathlib import Path

import torch
from make_a1111 import CHOSEN, Oracle, all_schedules, describe, words
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

STEPS = 10
LIMIT = 1e-5
LONG = ", ".join(words(7, n) for n in range(14))
PROMPTS = CHOSEN + [
    f"a [cat:{LONG}:0.5]",
    f"[{LONG}:(a cat:1.3):3] on a mat",
    f"{LONG} AND (a cat:1.2)",
    f"a cat :0.5 AND {LONG}, ({words(40)}:0.7) AND [a|b] garden",
    f"({LONG}:1.4), [{LONG}]",
    f"(one:1.5) BREAK ({LONG}:0.5) BREAK [three]",
    "a [(red:1.5)|(blue:0.5)] apple AND a [house::4] [:tree:7] :0.7",
    "[[(a:1.2)|b]:[c:((d)):7]:3] e",
    "(a:-1) (b:0) (c:1.0)",
    "(everything is weighted here:1.3)",
]


class Demo:
    """The two encoders of a model, each a function of ids `[B][77]`."""

    def __init__(self, model):
        own = dict(dtype=torch.float32)
        self.first = CLIPTextModel.from_pretrained(model / "text_encoder", **own).eval()
        second = CLIPTextModelWithProjection.from_pretrained(model / "text_encoder_2", **own)
        self.second = second.eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")

    def encode(self, index, ids):
        output = [self.first, self.second][index](torch.as_tensor(ids), output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds if index else None


class Theirs:
    """A1111, from a text to the features of a step."""

    def __init__(self, checkout, demo):
        self.oracle = Oracle(checkout)
        self.oracle.load_clips()
        from modules import devices, sd_hijack, shared

        devices.device, devices.torch_npu_set_device = "cpu", lambda: None
        self.options = shared.opts
        self.options.textual_inversion_add_hashes_to_infotext = False
        sd_hijack.model_hijack.extra_generation_params = {}
        for index, clip in enumerate(self.oracle.clips):
            clip.return_pooled = index == 1
            clip.encode_with_transformers = lambda ids, index=index: self.encode(demo, index, ids)

    def encode(self, demo, index, ids):
        z, pooled = demo.encode(index, ids)
        if pooled is not None:
            z.pooled = pooled
        return z

    def get_learned_conditioning(self, texts):
        """What `sd_models_xl.py` makes of the conditioner's first two embedders."""
        first, (second, pooled) = [clip(list(texts)) for clip in self.oracle.clips]
        return {"crossattn": torch.cat([first, second], dim=-1), "vector": pooled}

    @torch.no_grad()
    def steps(self, text):
        """For each step, the weights of parts, their features and their pooled vectors."""
        read = self.oracle.parser.get_multicond_learned_conditioning(self, [text], STEPS)
        result = []
        for step in range(1, STEPS + 1):
            weights, made = self.oracle.parser.reconstruct_multicond_batch(copy.deepcopy(read), step)
            weights = [weight for _, weight in weights[0]]
            result.append((weights, made["crossattn"], made["vector"]))
        return result


def features(demo, parts, original):
    """Of one encoder; `parts` are batches of texts, each a list of `[ids, weights]`."""
    made = []
    for index in range(2):
        batch = []
        length = max(len(text["encoders"][side]) for text in parts for side in range(2))
        empty = [49406, 49407] + [[49407, 0][index]] * 75
        for n in range(length):
            chunks = [
                text["encoders"][index][n] if n < len(text["encoders"][index]) else [empty, [1.0] * 77]
                for text in parts
            ]
            z = torch.cat([demo.encode(index, [ids])[0] for ids, _ in chunks])
            weighted = z * torch.tensor([weights for _, weights in chunks])[:, :, None]
            batch.append(weighted * (z.mean() / weighted.mean()) if original else weighted)
        made.append(torch.cat(batch, dim=1))
    return torch.cat(made, dim=-1)


@torch.no_grad()
def ours(demo, parts, original, batch):
    """As `Theirs.steps`. With `batch` all texts of a schedule are encoded together."""
    made = []
    for part in parts:
        by_text = {text["text"]: text for text in part["encoded"]}
        texts = [by_text[text] for _, text in part["schedules"][0][0]]
        if batch:
            rows = features(demo, texts, original)
        else:
            rows = [features(demo, [text], original)[0] for text in texts]
        pooled = [demo.encode(1, [text["pooled_ids"]])[1][0] for text in texts]
        made.append({text["text"]: row for text, row in zip(texts, zip(rows, pooled))})
    result = []
    for step in range(STEPS):
        rows = [own[part["encoded"][step]["text"]] for part, own in zip(parts, made)]
        length = max(len(row) for row, _ in rows)
        filled = [torch.cat([row, row[-1:].repeat(length - len(row), 1)]) for row, _ in rows]
        weights = [part["weight"] for part in parts]
        result.append((weights, torch.stack(filled), torch.stack([own for _, own in rows])))
    return result


def difference(found, expected):
    """The largest one of all steps, as a share of the largest number."""
    worst = 0.0
    for (weights, rows, pooled), (their_weights, their_rows, their_pooled) in zip(found, expected):
        if rows.shape != their_rows.shape or len(weights) != len(their_weights):
            return float("inf")
        same = torch.tensor(weights).sub(torch.tensor(their_weights)).abs().max().item()
        # What is no number on both sides is the same: a mean may be zero.
        gaps = [torch.nan_to_num(rows - their_rows), pooled - their_pooled]
        sizes = [torch.nan_to_num(their_rows), their_pooled]
        worst = max([worst, same, *(a.abs().max() / b.abs().max() for a, b in zip(gaps, sizes))])
    return float(worst)


def settled(checkout, texts):
    """The texts whose schedule does not depend on a hash seed."""
    runs = dict(zip(texts, all_schedules(checkout, texts)))
    return {text for text, run in runs.items() if run[0] and all(own == run[0] for own in run)}


def exact(theirs, parts):
    """Texts of the schedules, and those whose ids and weights are A1111's."""
    texts = {text["text"]: text for part in parts for text in part["encoded"]}
    same = 0
    for text, own in texts.items():
        *ids, weights = theirs.oracle.chunks(text)
        found = [[ids for ids, _ in side] for side in own["encoders"]]
        same += found == ids and all(
            torch.tensor(found).sub(torch.tensor(expected)).abs().max() <= 1e-6
            for (_, found), expected in zip(own["encoders"][0], weights)
        )
    return len(texts), same


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("checkout", type=Path)
    arguments.add_argument("--model", type=Path, default=Path("crates/demo/model/base"))
    arguments.add_argument("--program", default="target/release/examples/script")
    options = arguments.parse_args()
    torch.set_num_threads(1)

    demo = Demo(options.model)
    theirs = Theirs(options.checkout, demo)
    splits = {prompt: theirs.oracle.split(prompt) for prompt in dict.fromkeys(PROMPTS)}
    clear = settled(options.checkout, list({text for own in splits.values() for text, _ in own[2]}))
    wanted = [prompt for prompt, own in splits.items() if all(text in clear for text, _ in own[2])]
    described = describe(options.program, wanted)
    counts = [exact(theirs, own["parts"]) for own in described]
    print(f"{len(wanted)} prompts ({len(splits) - len(wanted)} are read by chance), 10 steps each")
    print(f"texts: {sum(n for n, _ in counts)}, exact ids and weights: {sum(n for _, n in counts)}")
    bad = sum(n - same for n, same in counts)
    for emphasis in ["No norm", "Original"]:
        theirs.options.emphasis = emphasis
        worst, unlike, alone = 0.0, 0, {}
        for prompt, own in zip(wanted, described):
            expected = theirs.steps(splits[prompt][1])
            original = emphasis == "Original"
            value = difference(ours(demo, own["parts"], original, True), expected)
            by_itself = difference(ours(demo, own["parts"], original, False), expected)
            if by_itself >= LIMIT:
                alone[prompt] = by_itself
            worst = max(worst, value)
            if value >= LIMIT:
                unlike += 1
                print(f"{emphasis}: {prompt!r}: {value:.1e}")
        bad += unlike
        print(f"{emphasis}: largest difference {worst:.1e}, {unlike} differ")
        lengths = sum(value == float("inf") for value in alone.values())
        print(f"  where a schedule is no batch: {len(alone)} would, {lengths} of them in length")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
