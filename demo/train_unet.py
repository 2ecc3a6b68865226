"""Trains UNet and text encoders: train_unet.py MINUTES [--from FOLDER]. Resumes; MINUTES may differ then.

The result, with averaged weights, is work/base, a folder that StableDiffusionXLPipeline.from_pretrained loads.

With the usual loss on the noise, latents this small are told apart up to timestep 850 without reading the text, and
above that the text's share of the loss vanishes: the first attempt learned to ignore its prompts. So the loss is
weighted with 1 / SNR where noise rules (there it is a loss on the picture), most timesteps are late ones, and at the
very top the input is often pure noise, as it is when sampling starts.
"""
import argparse
import copy

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from common import (
    LATENT, MODEL, SCHEDULER, SIZE, WORK, Clock, Muon, Workers, alphas_cumprod, base_unet_config, caption, cosine,
    emphasis, in_training, load_pictures, neutralise, picture_grid, random_state, restore_random, save_checkpoint, set_rate,
    set_up_torch, split_for_muon, text_configs,
)

BATCH, PART = 32, 8  # samples per step and per micro-batch
OUT = WORK / "base"
CHECKPOINT = WORK / "checkpoints/unet.pt"
STYLE_WEIGHT = {"glossy": 1.4, "flat": 1.0, "golden": 0.7}
PROMPTS = [
    "a red heart", "pizza", "a cat", "a glossy rocket on a blue background", "a flat tree", "a penguin", "banana",
    "a house", "thumbs up", "grinning face", "a flat car on a yellow background", "purple heart", "rainbow",
    "a lion on a pink background", "snowman", "coffee cup", "a flat panda", "strawberry", "robot", "a sunflower",
    "a golden star", "a golden rocket", "a golden panda", "a golden cat",
]


def weight(spec):
    """How often a picture is drawn: the clean one on white is most of what the model sees."""
    if not in_training(spec):
        return 0.0
    if spec["kind"] == "clean":
        share = 0.6 if spec["background"] == "white" else 0.18 / 6
    else:
        share = {"spoilt": 0.10 / 7, "dull": 0.06 / 2, "crop": 0.03, "small": 0.03}[spec["kind"]]
    return share * STYLE_WEIGHT[spec["style"]] * emphasis(spec)


class Vocabulary:
    """The few hundred tokens that captions use have rows of their own; all others share one trained row."""

    def __init__(self, specs, rng):
        self.tokenizer = CLIPTokenizer.from_pretrained(MODEL / "base/tokenizer")
        self._cache = {}
        used = {0} | set(self.ids("wrong , . ( ) + - and of with the in at one two by not & a an"))  # 0 pads the second encoder
        for _ in range(3):
            for spec in specs:
                if in_training(spec):
                    used.update(self.ids(caption(spec, rng)))
        self.used = sorted(used)
        self.row = {token: k for k, token in enumerate(self.used)}
        self.unknown, self.begin, self.end = (len(self.used) + k for k in range(3))
        self.size = len(self.used) + 3

    def ids(self, text):
        if text not in self._cache:
            self._cache[text] = self.tokenizer(text, truncation=True, max_length=77).input_ids[1:-1]
        return self._cache[text]

    def batch(self, captions, rng):
        """Rows for both encoders: the first pads with the end token, the second with `!`, which is token 0."""
        first = torch.full((len(captions), 77), self.end)
        second = torch.full((len(captions), 77), self.row[0])
        for k, text in enumerate(captions):
            rows = [self.row.get(t, self.unknown) if rng.random() > 0.01 else self.unknown for t in self.ids(text)]
            rows = torch.tensor([self.begin] + rows[:75] + [self.end])
            first[k, : len(rows)] = rows
            second[k, : len(rows)] = rows
        return first, second

    def expand(self, rows):
        """The full table of 49,408 rows for the finished files."""
        table = rows[self.unknown].repeat(49408, 1)
        table[self.used] = rows[: len(self.used)]
        table[49406], table[49407] = rows[self.begin], rows[self.end]
        return table

    def pick(self, table):
        """The rows of a finished file. Words it did not know start near its row for unknown words."""
        unknown = table[49000:49400].median(0).values
        rows = torch.cat([table[self.used], unknown[None], table[49406:49408]]).clone()
        new = (rows[: len(self.used)] == unknown).all(1).nonzero().flatten()
        print("words new to the model:", [self.tokenizer.decode([self.used[k]]) for k in new.tolist()])
        rows[new] += 0.1 * torch.randn(len(new), rows.shape[1])
        return rows


def is_table(name):
    return "token_embedding" in name


def build(vocabulary, start):
    """Text encoders with the short table, and the UNet; fresh or from a diffusers folder."""
    short1, short2 = text_configs(vocabulary.size)
    parts = {
        "text_encoder": CLIPTextModel(short1),
        "text_encoder_2": CLIPTextModelWithProjection(short2),
        "unet": UNet2DConditionModel(**base_unet_config()),
    }
    classes = {name: type(part) for name, part in parts.items()}
    with torch.no_grad():
        if start:
            for name, part in parts.items():
                weights = classes[name].from_pretrained(f"{start}/{name}", torch_dtype=torch.float32).state_dict()
                part.load_state_dict({k: vocabulary.pick(v) if is_table(k) else v for k, v in weights.items()})
        else:
            for name, p in parts["unet"].named_parameters():
                if name.startswith("conv_out"):
                    p.zero_()
                elif name.endswith(("conv2.weight", ".proj_out.weight")):
                    p.mul_(0.2)
            for encoder in ("text_encoder", "text_encoder_2"):
                for name, p in parts[encoder].named_parameters():
                    if is_table(name):
                        p.normal_(0, 0.3)
                    elif "position_embedding" in name:
                        p.normal_(0, 0.05)
    parts["unet"].to(memory_format=torch.channels_last)
    return torch.nn.ModuleDict(parts)


def loss_of(model, noisy, target, timesteps, weights, first, second, keep, time_ids):
    hidden1 = model["text_encoder"](first, output_hidden_states=True).hidden_states[-2]
    out2 = model["text_encoder_2"](second, output_hidden_states=True)
    context = torch.cat([hidden1, out2.hidden_states[-2]], -1) * keep.view(-1, 1, 1)
    added = dict(text_embeds=out2.text_embeds * keep.view(-1, 1), time_ids=time_ids)
    noise = model["unet"](noisy, timesteps, context, added_cond_kwargs=added, return_dict=False)[0]
    error = ((noise - target) ** 2).mean((1, 2, 3))
    loss = (error * weights).mean()
    return loss, (loss.item(), error.mean().item())


def draw_batch(data, rng):
    """One step's samples, cut into micro-batches."""
    mean, spread, time_ids, specs, vocabulary, alphas, weights = data
    chosen = torch.multinomial(weights, BATCH, replacement=True)
    latents = mean[chosen].float() + spread[chosen].float() * torch.randn(BATCH, 4, LATENT, LATENT)
    noise = torch.randn_like(latents)
    late = torch.rand(BATCH) < 0.6
    timesteps = torch.where(late, torch.randint(500, 1000, (BATCH,)), torch.randint(0, 1000, (BATCH,)))
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    pure = ((timesteps > 930) & (torch.rand(BATCH) < 0.4)).view(-1, 1, 1, 1)
    noisy = torch.where(pure, noise, noisy)
    target = torch.where(pure, (noisy - alpha.sqrt() * latents) / (1 - alpha).sqrt(), noise)
    snr = (alpha / (1 - alpha)).flatten()
    loss_weights = torch.where(snr < 1, torch.clamp(1 / snr, max=100.0), snr**-0.5)
    captions = [neutralise(caption(specs[k], rng), rng) for k in chosen.tolist()]
    first, second = vocabulary.batch(captions, rng)
    keep = (torch.rand(BATCH) > 0.1).float()  # the rest learns the unconditional picture: zeros, as SDXL does
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    whole = (noisy, target, timesteps, loss_weights, first, second, keep, time_ids[chosen])
    return [tuple(t[k : k + PART] for t in whole) for k in range(0, BATCH, PART)]


def export(average, vocabulary, vae_folder, root=OUT):
    full1, full2 = text_configs()
    parts = {
        "text_encoder": CLIPTextModel(full1),
        "text_encoder_2": CLIPTextModelWithProjection(full2),
        "unet": UNet2DConditionModel(**base_unet_config()),
    }
    for name, part in parts.items():
        own = {k[len(name) + 1 :]: v for k, v in average.items() if k.startswith(name + ".")}
        part.load_state_dict({k: vocabulary.expand(v) if is_table(k) else v for k, v in own.items()})
    pipe = StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(vae_folder), scheduler=EulerDiscreteScheduler(**SCHEDULER),
        tokenizer=CLIPTokenizer.from_pretrained(MODEL / "base/tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(MODEL / "base/tokenizer_2"),
        force_zeros_for_empty_prompt=True, add_watermarker=False, **parts,
    )
    pipe.to(torch.float16).save_pretrained(root, safe_serialization=True)
    return pipe.to(torch.float32)


def sample(pipe, path, prompts=PROMPTS, guidance=5.0, steps=20):
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(7 + k) for k in range(len(prompts))]
    pictures = pipe(
        prompts, guidance_scale=guidance, num_inference_steps=steps, height=SIZE, width=SIZE, generator=generators,
    ).images
    picture_grid(pictures, 8, path)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("minutes", type=float)
    arguments.add_argument("--from", dest="start", help="a diffusers folder to go on from")
    arguments.add_argument("--rate", type=float, default=1e-3)
    arguments.add_argument("--grid-every", type=float, default=12, help="minutes")
    arguments = arguments.parse_args()
    rng = set_up_torch(1)
    _, specs = load_pictures()
    mean, spread = torch.load(WORK / "latents.pt")
    vocabulary = Vocabulary(specs, copy.copy(rng))
    model = build(vocabulary, arguments.start)
    data = (
        mean, spread, torch.tensor([s["time_ids"] for s in specs], dtype=torch.float32), specs, vocabulary,
        alphas_cumprod(), torch.tensor([weight(s) for s in specs]),
    )
    print(f"{vocabulary.size} rows, {sum(p.numel() for p in model['unet'].parameters()) / 1e6:.2f} M in the UNet", flush=True)

    outside = ("conv_in", "conv_out", "time_embedding", "add_embedding")
    matrices, rest = split_for_muon(model["unet"].named_parameters(), outside)
    tables = [p for n, p in model.named_parameters() if is_table(n)]
    text = [p for n, p in model.named_parameters() if not n.startswith("unet") and not is_table(n)]
    adam = torch.optim.AdamW(
        [dict(params=rest + text, weight_decay=0.0), dict(params=tables, weight_decay=0.0, factor=4.0)],
        lr=arguments.rate, betas=(0.9, 0.99), fused=True,
    )
    optimisers = [Muon(matrices, arguments.rate, weight_decay=0.01), adam]
    average = {name: value.clone() for name, value in model.state_dict().items()}
    clock, step = Clock(arguments.minutes), 0
    if CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT, weights_only=False)
        model.load_state_dict(saved["model"])
        average, step, clock.spent = saved["average"], saved["step"], saved["spent"]
        for optimiser, state in zip(optimisers, saved["optimisers"]):
            optimiser.load_state_dict(state)
        restore_random(rng, saved["random"])
        print(f"goes on from step {step}", flush=True)

    def save():
        save_checkpoint(
            CHECKPOINT, model=model.state_dict(), average=average, step=step, spent=clock.spent,
            optimisers=[o.state_dict() for o in optimisers], random=random_state(rng),
        )

    def finished():
        decoder = WORK / "vae_final"
        return export(average, vocabulary, decoder if decoder.exists() else WORK / "vae_encoded_with")

    workers = Workers(model, loss_of)
    numbers, last_save, last_print, last_grid = [], clock.spent, clock.spent, clock.spent
    clock.out()
    while (share := clock.tick()) < 1:
        set_rate(optimisers, arguments.rate * cosine(share, warm=(step + 1) / 50, hold=0.15))
        numbers.append(workers.gradients(draw_batch(data, rng)))
        torch.nn.utils.clip_grad_norm_(rest + text + tables, 5.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        if step % 2 == 0:
            with torch.no_grad():
                floats = [(average[n], v) for n, v in model.state_dict().items() if v.is_floating_point()]
                a, b = zip(*floats)
                torch._foreach_lerp_(list(a), list(b), 1 - min(0.98, step / (step + 60)))
        if clock.spent - last_print > 30:
            loss, error = np.mean(numbers, 0)
            print(
                f"{step} {clock.spent:.0f} s {step * BATCH} samples, loss {loss:.4f} error {error:.4f}", flush=True
            )
            numbers, last_print = [], clock.spent
        if clock.spent - last_save > 150:
            last_save = clock.spent
            save()
        if clock.spent - last_grid > arguments.grid_every * 60:
            last_grid = clock.spent
            with torch.no_grad():
                sample(finished(), WORK / f"grids/unet_{step}.png")
    save()
    sample(finished(), WORK / "grids/unet_final.png")
    print(f"done: {step} steps, {step * BATCH} samples")


if __name__ == "__main__":
    main()
