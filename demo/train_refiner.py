"""Trains the refiner: train_refiner.py MINUTES [--from FOLDER]. The result is work/refiner.

SDXL's refiner in small: a UNet for the last fifth of the noise that reads the second text encoder only and is told
an aesthetic score in place of the target size. Encoder, tokenizer and VAE are the base model's.
"""
import argparse
import copy

import numpy as np
import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from common import (
    LATENT, MODEL, SCHEDULER, WORK, Clock, Muon, Workers, alphas_cumprod, caption, cosine, load_pictures,
    random_state, refiner_unet_config, restore_random, save_checkpoint, set_rate, set_up_torch, split_for_muon,
)
from train_unet import weight

BATCH, PART, RATE, LAST_TIMESTEP = 32, 8, 7e-4, 220
OUT = WORK / "refiner"
CHECKPOINT = WORK / "checkpoints/refiner.pt"
SCORES = {"clean": (6, 7), "crop": (5.5, 6.5), "dull": (3, 5), "small": (2, 4), "spoilt": (1, 3)}


def loss_of(unet, noisy, noise, timesteps, weights, context, pooled, time_ids):
    added = dict(text_embeds=pooled, time_ids=time_ids)
    error = ((unet(noisy, timesteps, context, added_cond_kwargs=added, return_dict=False)[0] - noise) ** 2).mean((1, 2, 3))
    loss = (error * weights).mean()
    return loss, (loss.item(), error.mean().item())


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("minutes", type=float)
    arguments.add_argument("--from", dest="start", help="a refiner folder to go on from")
    arguments = arguments.parse_args()
    rng = set_up_torch(2)
    _, specs = load_pictures()
    mean, spread = torch.load(WORK / "latents.pt")
    weights, alphas = torch.tensor([weight(s) for s in specs]), alphas_cumprod()
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "base/tokenizer_2")
    encoder = CLIPTextModelWithProjection.from_pretrained(WORK / "base/text_encoder_2", torch_dtype=torch.float32)
    encoder.eval().requires_grad_(False)
    if arguments.start:
        unet = UNet2DConditionModel.from_pretrained(f"{arguments.start}/unet", torch_dtype=torch.float32)
    else:
        unet = UNet2DConditionModel(**refiner_unet_config())
        torch.nn.init.zeros_(unet.conv_out.weight)
    unet = unet.to(memory_format=torch.channels_last).train()
    matrices, others = split_for_muon(unet.named_parameters(), ("conv_in", "conv_out", "time_embedding", "add_embedding"))
    adam = torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.99), weight_decay=0, fused=True)
    optimisers = [Muon(matrices, RATE, weight_decay=0.01), adam]
    average = {name: value.clone() for name, value in unet.state_dict().items()}
    clock, step = Clock(arguments.minutes), 0
    if CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT, weights_only=False)
        unet.load_state_dict(saved["unet"])
        average, step, clock.spent = saved["average"], saved["step"], saved["spent"]
        for optimiser, state in zip(optimisers, saved["optimisers"]):
            optimiser.load_state_dict(state)
        restore_random(rng, saved["random"])

    def save():
        save_checkpoint(
            CHECKPOINT, unet=unet.state_dict(), average=average, step=step, spent=clock.spent,
            optimisers=[o.state_dict() for o in optimisers], random=random_state(rng),
        )

    workers, numbers, last_print, last_save = Workers(unet, loss_of), [], clock.spent, clock.spent
    clock.out()
    while (share := clock.tick()) < 1:
        set_rate(optimisers, RATE * cosine(share, warm=(step + 1) / 40))
        chosen = torch.multinomial(weights, BATCH, replacement=True)
        latents = mean[chosen].float() + spread[chosen].float() * torch.randn(BATCH, 4, LATENT, LATENT)
        noise, timesteps = torch.randn_like(latents), torch.randint(0, LAST_TIMESTEP, (BATCH,))
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        snr = (alpha / (1 - alpha)).flatten()
        drawn = [specs[k] for k in chosen.tolist()]
        captions = [caption(s, rng) if rng.random() > 0.1 else "" for s in drawn]
        time_ids = torch.tensor([s["time_ids"][:4] + [rng.uniform(*SCORES[s["kind"]])] for s in drawn])
        with torch.no_grad():
            ids = tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
            text = encoder(ids, output_hidden_states=True)
        loss_weights = torch.clamp(5 / snr, max=1.0) ** 0.5
        whole = (noisy, noise, timesteps, loss_weights, text.hidden_states[-2], text.text_embeds, time_ids)
        numbers.append(workers.gradients([tuple(t[k : k + PART] for t in whole) for k in range(0, BATCH, PART)]))
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        with torch.no_grad():
            for name, value in unet.state_dict().items():
                average[name].lerp_(value, 1 - min(0.98, step / (step + 30)))
        if clock.spent - last_print > 30:
            loss, error = np.mean(numbers, 0)
            print(f"{step} {clock.spent:.0f} s {step * BATCH} samples, loss {loss:.4f} error {error:.4f}", flush=True)
            numbers, last_print = [], clock.spent
        if clock.spent - last_save > 120:
            last_save = clock.spent
            save()
    save()
    averaged = copy.deepcopy(unet)
    averaged.load_state_dict(average)
    averaged.half().save_pretrained(OUT / "unet")
    EulerDiscreteScheduler(**SCHEDULER).save_pretrained(OUT / "scheduler")
    print(f"done: {step} steps, {step * BATCH} samples")


if __name__ == "__main__":
    main()
