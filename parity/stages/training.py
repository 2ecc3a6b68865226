"""Training: gradients of every LoRA matrix, and ten optimiser steps, from PyTorch and peft.

The UNet's attention alone in `training`; both text encoders and every kind of layer that can be trained in
`training_networks`.
"""

import copy

import numpy
import torch
from diffusers import DDPMScheduler
from peft import LoraConfig, inject_adapter_in_model

from .golden import Goldens, sequence
from .networks import base_inputs

RANK = 4
ALPHA = 6.0
TIMESTEPS = [801, 141]
STEPS = 10
# Large enough to move the loss, and all the options that matter in ten steps.
OPTIMIZER = {"lr": 6e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 1e-2, "max_grad_norm": 1.0}


# Texts that end in different places; the second is longer than an encoder reads.
CAPTIONS = ["a red apple", "a wrong picture of a blue house on a hill, " * 12]
ENCODER_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
UNET_LAYERS = [
    "to_q", "to_k", "to_v", "to_out.0",
    "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
    "conv1", "conv2", "conv_shortcut", "conv",
    "time_emb_proj", "linear_1", "linear_2",
]
# Values kept of each gradient.
KEEP = 64


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
    matrices = matrices_of(unet)
    invent([matrices[layer] for layer in sorted(matrices)])
    return unet, matrices


def matrices_of(network):
    """The LoRA matrices of a network, by layer."""
    matrices = {}
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            layer, which = name.split(".lora_")
            matrices.setdefault(layer, {})[{"A": "down", "B": "up"}[which[0]]] = parameter
    return matrices


def invent(pairs):
    """Fills matrices with numbers far from zero."""
    with torch.no_grad():
        for number, pair in enumerate(pairs):
            for which, scale in (("down", 0.1), ("up", 0.05)):
                parameter = pair[which]
                values = invented(2 * number + (which == "up"), parameter.numel())
                parameter.copy_(scale * values.reshape(parameter.shape))


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


def write_networks(base, folder):
    """training_networks.{json,safetensors}: all that can be trained, together."""
    networks, matrices = {}, {}
    for name, layers in (("unet", UNET_LAYERS), ("text_encoder", ENCODER_LAYERS), ("text_encoder_2", ENCODER_LAYERS)):
        network = copy.deepcopy(getattr(base, name)).requires_grad_(False).eval()
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=layers), network)
        networks[name] = network
        of_network = matrices_of(network)
        # SDXL reads the states before the last layer of the first encoder.
        last = f"encoder.layers.{base.text_encoder.config.num_hidden_layers - 1}."
        for layer in sorted(of_network):
            if name != "text_encoder" or last not in layer:
                # Some versions write `text_model.` in front, some do not.
                matrices[f"{name}/{layer.removeprefix('text_model.')}"] = of_network[layer]
    invent(matrices.values())

    tokenizers = {"text_encoder": base.tokenizer, "text_encoder_2": base.tokenizer_2}
    ids = {
        name: tokenizer(CAPTIONS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        for name, tokenizer in tokenizers.items()
    }
    latents, noise = sequence(21, (2, 4, 16, 16)), sequence(22, (2, 4, 16, 16))
    scheduler = DDPMScheduler.from_config(base.scheduler.config)
    timesteps = torch.tensor(TIMESTEPS)
    noisy = scheduler.add_noise(latents, noise, timesteps)

    read = {name: networks[name](ids[name], output_hidden_states=True) for name in ids}
    predicted = networks["unet"](
        noisy,
        timesteps,
        encoder_hidden_states=torch.cat([out.hidden_states[-2] for out in read.values()], dim=-1),
        added_cond_kwargs={"text_embeds": read["text_encoder_2"][0], "time_ids": base_inputs(base).time_ids},
        return_dict=False,
    )[0]
    loss = torch.nn.functional.mse_loss(predicted, noise)
    loss.backward()

    facts = {"captions": CAPTIONS, "ids": {name: rows.tolist() for name, rows in ids.items()}, "loss": loss.item()}
    goldens = Goldens(folder, "training_networks", rank=RANK, alpha=ALPHA, timesteps=TIMESTEPS, **facts)
    for layer, pair in matrices.items():
        for which, parameter in pair.items():
            goldens.add(f"gradient.{layer}.{which}", parameter.grad, keep=KEEP, small=KEEP)
    goldens.write()
