"""Caches mean and spread of every training picture's latents: encode_latents.py VAE_FOLDER [--fold].

--fold first moves shift and scale per channel into the VAE's 1x1 convolutions, so that SDXL's scaling factor of
0.13025 gives latents of zero mean and unit variance. A VAE that a UNet was already trained with stays as it is.
The VAE used is saved to work/vae_encoded_with; later steps change its decoder only.
"""
import argparse
import os

import numpy as np
import torch
from diffusers import AutoencoderKL

from common import SCALING_FACTOR, WORK, in_training, load_pictures, set_up_torch

BATCH = 16


def fold(vae, encode, chosen):
    means = torch.cat([encode(chosen[k : k + BATCH])[0] for k in range(0, len(chosen), BATCH)])
    shift, spread = means.mean((0, 2, 3)), means.std((0, 2, 3))
    scale = 1 / (spread * SCALING_FACTOR)
    out, back = vae.quant_conv, vae.post_quant_conv
    out.weight[:4] *= scale.view(4, 1, 1, 1)
    out.bias[:4] = (out.bias[:4] - shift) * scale
    out.bias[4:] += 2 * scale.log()  # the second half are log variances
    back.bias += back.weight[:, :, 0, 0] @ shift
    back.weight *= (1 / scale).view(1, 4, 1, 1)


@torch.no_grad()
def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("vae")
    arguments.add_argument("--fold", action="store_true")
    arguments = arguments.parse_args()
    set_up_torch(0, threads=2)
    pictures, specs = load_pictures()
    vae = AutoencoderKL.from_pretrained(arguments.vae).eval().to(memory_format=torch.channels_last)

    def encode(indices):
        pixels = torch.from_numpy(pictures[indices]).float() / 127.5 - 1
        posterior = vae.encode(pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)).latent_dist
        return posterior.mean, posterior.std

    wanted = [i for i, spec in enumerate(specs) if in_training(spec)]
    if arguments.fold:
        fold(vae, encode, [i for i in wanted if specs[i]["kind"] == "clean"][::4])
    vae.register_to_config(scaling_factor=SCALING_FACTOR)
    vae.save_pretrained(WORK / "vae_encoded_with")
    mean = torch.zeros(len(specs), 4, 16, 16, dtype=torch.float16)
    spread = torch.zeros_like(mean)
    for k in range(0, len(wanted), BATCH):
        some = wanted[k : k + BATCH]
        a, b = encode(some)
        mean[some], spread[some] = (a * SCALING_FACTOR).half(), (b * SCALING_FACTOR).half()
        if k % 800 == 0:
            print(k, "of", len(wanted), flush=True)
    temporary = WORK / "latents.tmp"
    torch.save((mean, spread), temporary)
    os.replace(temporary, WORK / "latents.pt")
    encoded = mean[wanted].float()
    print(len(wanted), "encoded; mean", encoded.mean((0, 2, 3)).tolist(), "std", encoded.std((0, 2, 3)).tolist())


if __name__ == "__main__":
    main()
