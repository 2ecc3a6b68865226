"""Trains the VAE's decoder alone on the cached latents: train_decoder.py MINUTES [--from FOLDER]. Resumes.

The encoder, and so the latent space that a UNet knows, stays as it is. The latents get noise of the size of a UNet's
errors, so that the decoder learns to draw the sharp picture from a slightly wrong latent. Result: work/vae_final.
"""
import argparse
import math

import numpy as np
import torch
from diffusers import AutoencoderKL

from common import (
    SCALING_FACTOR, WORK, Clock, Muon, Workers, cosine, emphasis, in_training, load_pictures, picture_grid, random_state,
    restore_random, save_checkpoint, set_rate, set_up_torch, split_for_muon,
)
from train_vae import as_input, picture_loss

BATCH, RATE = 4, 8e-4
OUT = WORK / "vae_final"
CHECKPOINT = WORK / "checkpoints/decoder.pt"
NOISE = 0.25  # up to this much is added, in units of the latents' spread

pictures, specs = load_pictures()
mean, spread = torch.load(WORK / "latents.pt")
CLEAN_WHITE = [i for i, s in enumerate(specs) if in_training(s) and s["kind"] == "clean" and s["background"] == "white"]


def weight(spec):
    if not in_training(spec):
        return 0.0
    if spec["kind"] != "clean":
        return 0.04 * emphasis(spec)
    return emphasis(spec) * (1.0 if spec["background"] == "white" else 1 / 12)


class Decoder(torch.nn.Module):
    def __init__(self, vae):
        super().__init__()
        self.decoder, self.post_quant_conv = vae.decoder, vae.post_quant_conv

    def forward(self, latents):
        latents = (latents / SCALING_FACTOR).contiguous(memory_format=torch.channels_last)
        return self.decoder(self.post_quant_conv(latents))


def loss_of(decoder, latents, wanted, squared):
    loss, square = picture_loss(decoder(latents), wanted, squared)
    return loss, (loss.item(), square.item())


@torch.no_grad()
def psnr_of(decoder):
    error = 0.0
    for k in range(0, len(CLEAN_WHITE), 16):
        some = CLEAN_WHITE[k : k + 16]
        made = decoder(mean[some].float()).clamp(-1, 1)
        error += ((made - as_input(pictures[some])) ** 2).mean((1, 2, 3)).sum().item()
    return 10 * math.log10(4 / (error / len(CLEAN_WHITE)))


@torch.no_grad()
def show(decoder, path):
    some = CLEAN_WHITE[:: len(CLEAN_WHITE) // 28][:28]
    made = ((decoder(mean[some].float()).clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    cells = [cell for k in (0, 14) for half in (pictures[some], made) for cell in half[k : k + 14]]
    picture_grid(cells, 14, path)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("minutes", type=float)
    arguments.add_argument("--from", dest="start", default=str(WORK / "vae_encoded_with"))
    arguments = arguments.parse_args()
    rng = set_up_torch(3)
    vae = AutoencoderKL.from_pretrained(arguments.start).to(memory_format=torch.channels_last)
    decoder = Decoder(vae)
    matrices, others = split_for_muon(decoder.named_parameters(), ("conv_in", "conv_out", "quant_conv"))
    optimisers = [Muon(matrices, RATE), torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.99), weight_decay=0)]
    average = {name: value.clone() for name, value in decoder.state_dict().items()}
    clock, step = Clock(arguments.minutes), 0
    if CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT, weights_only=False)
        decoder.load_state_dict(saved["decoder"])
        average, step, clock.spent = saved["average"], saved["step"], saved["spent"]
        for optimiser, state in zip(optimisers, saved["optimisers"]):
            optimiser.load_state_dict(state)
        restore_random(rng, saved["random"])
        print(f"goes on from step {step}", flush=True)
    else:
        print(f"PSNR of clean pictures before: {psnr_of(decoder):.2f}", flush=True)
    averaged_vae = AutoencoderKL.from_pretrained(arguments.start)
    averaged = Decoder(averaged_vae)

    def save():
        save_checkpoint(
            CHECKPOINT, decoder=decoder.state_dict(), average=average, step=step, spent=clock.spent,
            optimisers=[o.state_dict() for o in optimisers], random=random_state(rng),
        )
        averaged.load_state_dict(average)
        averaged_vae.save_pretrained(OUT)
        show(averaged, WORK / "grids/decoder.png")

    workers = Workers(decoder, loss_of)
    weights = torch.tensor([weight(s) for s in specs])
    numbers, last_save, last_print = [], clock.spent, clock.spent
    clock.out()
    while (share := clock.tick()) < 1:
        set_rate(optimisers, RATE * cosine(share, warm=(step + 1) / 40))
        chosen = torch.multinomial(weights, BATCH, replacement=True)
        noise = torch.randn(BATCH, 4, 16, 16)
        latents = mean[chosen].float() + (spread[chosen].float() + NOISE * torch.rand(BATCH, 1, 1, 1) ** 2) * noise
        wanted = as_input(pictures[chosen.numpy()])
        squared = 2 - 1.5 * share
        numbers.append(workers.gradients([(latents[k : k + 1], wanted[k : k + 1], squared) for k in range(BATCH)]))
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        with torch.no_grad():
            for name, value in decoder.state_dict().items():
                average[name].lerp_(value, 1 - min(0.99, step / (step + 20)))
        if clock.spent - last_print > 30:
            loss, square = np.mean(numbers, 0)
            print(f"{step} {clock.spent:.0f} s loss {loss:.4f} PSNR {10 * math.log10(4 / square):.2f}", flush=True)
            numbers, last_print = [], clock.spent
        if clock.spent - last_save > 150:
            last_save = clock.spent
            save()
            clock.out()
    save()
    print(f"PSNR of clean pictures after {step} steps: {psnr_of(averaged):.2f}")


if __name__ == "__main__":
    main()
