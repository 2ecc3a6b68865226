"""Textual inversion: random vectors for words of one and of three tokens, in weighted prompts.

diffusers loads them, compel expands words of several tokens. transformers reads the pooled vector
at the largest id where the config has the old `eos_token_id` 2: with added tokens that is one of
them, not the end of the text. The pooled vector here is read at the end; `largest_id` says how
far the other one is from it.
"""

import contextlib
import io

import torch
from compel import CompelForSDXL
from compel.diffusers_textual_inversion_manager import DiffusersTextualInversionManager
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import save_file

from .conditioning import refiner_compel
from .golden import Goldens, sequence

WORDS = {"<ink>": ("embedding-one", 1), "<smear>": ("embedding-three", 3)}
END_OF_TEXT = 49407

# name: (prompt, negative prompt)
PROMPTS = {
    "one": ("a red apple, <ink>", "wrong"),
    "three": ("a <smear> apple on a table", "<ink>, flat"),
    "weights": ("a (<smear>)1.4 apple, <ink>++ and a star", "(<smear>)0.6, (wrong)1.2"),
    "any_case": ("A<INK>apple <Smear><smear>", "flat <ink>"),
    "lowered": ("a (red <ink>)0.5 apple", "<smear>-"),
    "long": (", ".join(["a red apple"] * 18) + " and a <smear> star, <ink>", "<smear>, wrong"),
}


def load(pipe, folder):
    """Random vectors as strong as the encoders' own, as files and in the pipeline."""
    for seed, (word, (name, vectors)) in enumerate(WORDS.items()):
        state = {}
        for part, key, tokenizer, encoder in (
            (0, "clip_l", pipe.tokenizer, pipe.text_encoder),
            (1, "clip_g", pipe.tokenizer_2, pipe.text_encoder_2),
        ):
            own = encoder.get_input_embeddings().weight[:END_OF_TEXT]
            state[key] = (sequence(40 + 2 * seed + part, (vectors, own.shape[1])) * own.std()).contiguous()
            pipe.load_textual_inversion({word: state[key]}, token=word, text_encoder=encoder, tokenizer=tokenizer)
        path = folder / f"{name}.safetensors"
        save_file(state, path)
        path.chmod(0o644)


def pooled(compel, text):
    """At the end of the text, and at the largest id."""
    provider = compel.conditioning_provider
    (ids,) = provider.get_token_ids([text], padding="max_length", truncation_override=True)
    out = provider.text_encoder(torch.tensor([ids]))
    state = out.last_hidden_state[:, ids.index(END_OF_TEXT)]
    return provider.text_encoder.text_projection(state), out.text_embeds


@torch.no_grad()
def write(model, folder):
    """embeddings.{json,safetensors} and embedding-*.safetensors"""
    pipe = StableDiffusionXLPipeline.from_pretrained(model / "base", torch_dtype=torch.float32, local_files_only=True)
    load(pipe, folder)
    manager = DiffusersTextualInversionManager(pipe)
    compel = CompelForSDXL(pipe, textual_inversion_manager=manager)
    refiner = refiner_compel(pipe, manager)
    goldens = Goldens(folder, "embeddings", words={word: name for word, (name, _) in WORDS.items()}, prompts={})
    for name, (prompt, negative) in PROMPTS.items():
        with contextlib.redirect_stdout(io.StringIO()):
            out = compel(prompt, negative_prompt=negative)
        row = {"prompt": prompt, "negative_prompt": negative, "tokens": out.embeds.shape[1], "largest_id": []}
        goldens.facts["prompts"][name] = row
        goldens.add(f"{name}.prompt_embeds", out.embeds)
        goldens.add(f"{name}.negative_prompt_embeds", out.negative_embeds)
        for field, text, theirs in (("", prompt, out.pooled_embeds), ("negative_", negative, out.negative_pooled_embeds)):
            ours, largest = pooled(compel.compel_2, text)
            assert torch.equal(largest, theirs), name
            row["largest_id"].append((largest - ours).norm().item() / ours.norm().item())
            goldens.add(f"{name}.{field}pooled_embeds", ours)
        embeds = [refiner(text)[0] for text in (prompt, negative)]
        embeds = refiner.pad_conditioning_tensors_to_same_length(embeds)
        goldens.add(f"{name}.refiner.prompt_embeds", embeds[0])
        goldens.add(f"{name}.refiner.negative_prompt_embeds", embeds[1])
    goldens.write()
