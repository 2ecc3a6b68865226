"""Training: gradients of every LoRA matrix, and ten optimiser steps, from PyTorch and peft."""

import copy

import numpy
import torch
from diffusers import DDPMScheduler
from peft import LoraConfig

from .golden import Goldens, sequence
from .networks import base_inputs

RANK = 4
ALPHA = 6.0
TIMESTEPS = [801, 141]
STEPS = 10
# Large enough to move the loss, and all the options that matter in ten steps.
OPTIMIZER = {"lr": 6e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 1e-2, "max_grad_norm": 1.0}


def invented(seed, count):
    """Numbers in −1 … 1: those of splitmix64, so that a test can make them, too."""
    with numpy.errstate(over="ignore"):
        z = numpy.uint64(seed) + (numpy.arange(count, dtype=numpy.uint64) + numpy.uint64(1)) * numpy.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = z ^ (z >> numpy.uint64(31))
    return torch.from_numpy(((z >> numpy.uint64(40)).astype(numpy.float32) / numpy.float32(1 << 23)) - numpy.float32(1))


def adapted(unet):
    """The UNet with peft's LoRA on its attentions, and the matrices by layer, both far from zero."""
    unet = copy.deepcopy(unet).requires_grad_(False)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    matrices = {}
    for name, parameter in unet.named_parameters():
        if ".lora_" in name:
            layer, which = name.split(".lora_")
            matrices.setdefault(layer, {})[{"A": "down", "B": "up"}[which[0]]] = parameter
    with torch.no_grad():
        for number, layer in enumerate(sorted(matrices)):
            for which, scale in (("down", 0.1), ("up", 0.05)):
                parameter = matrices[layer][which]
                values = invented(2 * number + (which == "up"), parameter.numel())
                parameter.copy_(scale * values.reshape(parameter.shape))
    return unet, matrices


def write(base, folder):
    """training.{json,safetensors}"""
    goldens = Goldens(folder, "training", rank=RANK, alpha=ALPHA, timesteps=TIMESTEPS, steps=STEPS, optimizer=OPTIMIZER)
    inputs = base_inputs(base)
    unet, matrices = adapted(base.unet)
    latents, noise = sequence(21, (2, 4, 16, 16)), sequence(22, (2, 4, 16, 16))
    goldens.add("input.latents", latents, whole=True)
    goldens.add("input.noise", noise, whole=True)
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    timesteps = torch.tensor(TIMESTEPS)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    goldens.add("noisy", noisy, whole=True)

    def loss():
        predicted = unet(
            noisy,
            timesteps,
            encoder_hidden_states=inputs.embeds,
            added_cond_kwargs={"text_embeds": inputs.pooled, "time_ids": inputs.time_ids},
            return_dict=False,
        )[0]
        return torch.nn.functional.mse_loss(predicted, noise)

    every = [parameter for layer in sorted(matrices) for parameter in matrices[layer].values()]
    options = {key: value for key, value in OPTIMIZER.items() if key != "max_grad_norm"}
    optimizer = torch.optim.AdamW(every, **options)
    losses, norms = [], []
    for step in range(STEPS):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        if step == 0:
            for layer, pair in matrices.items():
                for which, parameter in pair.items():
                    goldens.add(f"gradient.{layer}.{which}", parameter.grad, whole=True)
        losses.append(value.item())
        norms.append(torch.nn.utils.clip_grad_norm_(every, OPTIMIZER["max_grad_norm"]).item())
        optimizer.step()
    with torch.no_grad():
        losses.append(loss().item())
    for layer, pair in matrices.items():
        for which, parameter in pair.items():
            goldens.add(f"end.{layer}.{which}", parameter, whole=True)
    assert losses[-1] < 0.9 * losses[0], losses
    goldens.facts.update(losses=losses, gradient_norms=norms)
    goldens.write()
