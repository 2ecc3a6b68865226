"""Trains the VAE: train_vae.py MINUTES [--from FOLDER]. Resumes where it was stopped.

The VAE caps everything that comes later, and its hardest part is colour: an L1 loss alone turned purple into grey
(the median of an unsure guess has no colour). So the squared error, also of the picture's coarse versions, weighs
much at first and little at the end, and one picture in five has its colour channels exchanged.
"""
import argparse
import math

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from common import (
    HELD_OUT, SCALING_FACTOR, SIZE, VAE, WORK, Clock, Muon, Workers, cosine, in_training, load_pictures, picture_grid, random_state,
    restore_random, save_checkpoint, set_rate, set_up_torch, split_for_muon,
)

BATCH, RATE = 4, 1.5e-3
OUT = WORK / "vae"
CHECKPOINT = WORK / "checkpoints/vae.pt"

pictures, specs = load_pictures()
CLEAN_WHITE = [i for i, s in enumerate(specs) if in_training(s) and s["kind"] == "clean" and s["background"] == "white"]


def weight(spec):
    """How often a picture is drawn: mostly the clean ones of what the model is to draw."""
    if (spec["name"], spec["style"]) in HELD_OUT:
        return 0.0
    if not in_training(spec):
        return 0.06
    share = {"clean": 0.35, "dull": 0.1, "spoilt": 0.1, "crop": 0.1, "small": 0.1}[spec["kind"]]
    return 1.5 if spec["kind"] == "clean" and spec["background"] == "white" else share


def as_input(batch):
    pixels = torch.from_numpy(np.array(batch)).float() / 127.5 - 1
    return pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def edges(x):
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def picture_loss(made, wanted, squared):
    """L1 of pixels, of edges and of coarse versions, plus `squared` times the squared errors."""
    absolute = (made - wanted).abs().mean()
    edge = sum((a - b).abs().mean() for a, b in zip(edges(made), edges(wanted)))
    coarse = [F.avg_pool2d(made, k) - F.avg_pool2d(wanted, k) for k in (2, 4, 8)]
    square = ((made - wanted) ** 2).mean()
    loss = absolute + 0.6 * edge + 0.3 * sum(c.abs().mean() for c in coarse)
    return loss + squared * (square + sum((c**2).mean() for c in coarse)), square


def loss_of(vae, x, noise, squared):
    posterior = vae.encode(x).latent_dist
    made = vae.decode(posterior.mean + posterior.std * noise).sample
    loss, square = picture_loss(made, x, squared)
    mean, variance = posterior.mean * SCALING_FACTOR, posterior.var * SCALING_FACTOR**2
    divergence = 0.5 * (mean**2 + variance - 1 - variance.log()).mean()
    return loss + 5e-4 * divergence, (loss.item(), square.item(), divergence.item())


def psnr_of(vae, chosen):
    """PSNR in dB over all chosen pictures, decoded from the latents' means."""
    error = 0.0
    with torch.no_grad():
        for k in range(0, len(chosen), 16):
            x = as_input(pictures[chosen[k : k + 16]])
            made = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
            error += ((made - x) ** 2).mean((1, 2, 3)).sum().item()
    return 10 * math.log10(4 / (error / len(chosen)))


def show(vae, path):
    chosen = CLEAN_WHITE[:: max(1, len(CLEAN_WHITE) // 24)][:24]
    with torch.no_grad():
        x = as_input(pictures[chosen])
        made = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
    as_u8 = lambda t: ((t + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows = [p for k in range(0, 24, 12) for half in (x, made) for p in as_u8(half[k : k + 12])]
    picture_grid(rows, 12, path)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("minutes", type=float)
    arguments.add_argument("--from", dest="start", help="a folder with a VAE to go on from")
    arguments = arguments.parse_args()
    rng = set_up_torch(0)
    vae = AutoencoderKL.from_pretrained(arguments.start) if arguments.start else AutoencoderKL(**VAE)
    vae = vae.to(memory_format=torch.channels_last)
    matrices, others = split_for_muon(vae.named_parameters(), ("conv_in", "conv_out", "quant_conv"))
    optimisers = [Muon(matrices, RATE), torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.99), weight_decay=0)]
    average = {name: value.clone() for name, value in vae.state_dict().items()}
    clock, step = Clock(arguments.minutes), 0
    if CHECKPOINT.exists():
        saved = torch.load(CHECKPOINT, weights_only=False)
        vae.load_state_dict(saved["vae"])
        average, step, clock.spent = saved["average"], saved["step"], saved["spent"]
        for optimiser, state in zip(optimisers, saved["optimisers"]):
            optimiser.load_state_dict(state)
        restore_random(rng, saved["random"])
        print(f"goes on from step {step}", flush=True)

    def save():
        save_checkpoint(
            CHECKPOINT, vae=vae.state_dict(), average=average, step=step, spent=clock.spent,
            optimisers=[o.state_dict() for o in optimisers], random=random_state(rng),
        )
        averaged = AutoencoderKL.from_config(vae.config).eval()
        averaged.load_state_dict(average)
        averaged.save_pretrained(OUT)
        show(averaged, WORK / "grids/vae.png")
        return averaged

    if step == 0:
        print(f"PSNR of clean pictures before: {psnr_of(vae.eval(), CLEAN_WHITE):.2f}", flush=True)
    vae.train()
    workers = Workers(vae, loss_of)
    weights = torch.tensor([weight(s) for s in specs])
    numbers, last_save, last_print = [], clock.spent, clock.spent
    clock.out()
    while (share := clock.tick()) < 1:
        set_rate(optimisers, RATE * cosine(share, warm=(step + 1) / 60))
        chosen = torch.multinomial(weights, BATCH, replacement=True).numpy()
        batch = pictures[chosen]
        for k in range(BATCH):
            if rng.random() < 0.2:
                batch[k] = batch[k][..., rng.sample([0, 1, 2], 3)]
        noise = torch.randn(BATCH, 4, SIZE // 8, SIZE // 8)
        squared = 3 - 2.5 * min(1.0, share / 0.7)
        jobs = [(as_input(batch[k : k + 1]), noise[k : k + 1], squared) for k in range(BATCH)]
        numbers.append(workers.gradients(jobs))
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        with torch.no_grad():
            for name, value in vae.state_dict().items():
                average[name].lerp_(value, 1 - min(0.995, step / (step + 20)))
        if clock.spent - last_print > 20:
            mean_loss, mean_square, mean_divergence = np.mean(numbers, 0)
            print(
                f"{step} {clock.spent:.0f} s loss {mean_loss:.4f} PSNR {10 * math.log10(4 / mean_square):.2f} "
                f"KL {mean_divergence:.2f}", flush=True,
            )
            numbers, last_print = [], clock.spent
        if clock.spent - last_save > 150:
            last_save = clock.spent
            save()
            clock.out()
    print(f"PSNR of clean pictures after {step} steps: {psnr_of(save(), CLEAN_WHITE):.2f}")


if __name__ == "__main__":
    main()
