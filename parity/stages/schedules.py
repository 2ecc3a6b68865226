"""Sigmas and timesteps of the Euler scheduler, and where base and refiner split them."""

import types

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

from .golden import Goldens, write_json

EVERY = list(range(1, 101))
SOME = [1, 2, 3, 7, 10, 25, 30, 50, 99, 100]
# name: (changes to the model's config, step counts)
VARIANTS = {
    "leading": ({}, EVERY),
    "trailing": ({"timestep_spacing": "trailing"}, EVERY),
    "linspace": ({"timestep_spacing": "linspace"}, EVERY),
    "leading_offset_0": ({"steps_offset": 0}, SOME),
    "linear_betas": ({"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}, SOME),
    "karras": ({"use_karras_sigmas": True}, SOME),
    "last_sigma_min": ({"final_sigmas_type": "sigma_min"}, SOME),
}
FRACTIONS = [0.8, 0.5, 0.75, 0.9, 0.6, 0.2, 0.001, 0.999, 0.8125, 1 / 3, 0.0, 1.0]
# name: scheduler variants of base and refiner
PAIRS = {
    "leading-trailing": ("leading", "trailing"),
    "trailing-leading": ("trailing", "leading"),
    "trailing-trailing": ("trailing", "trailing"),
    "linspace-linspace": ("linspace", "linspace"),
    "leading-leading_offset_0": ("leading", "leading_offset_0"),
}


def scheduler(pipe, variant):
    """The model's scheduler with a variant's changes."""
    return EulerDiscreteScheduler.from_config({**pipe.scheduler.config, **VARIANTS[variant][0]})


def write(base, refiner, folder):
    """schedules.{json,safetensors} and split.json"""
    goldens = Goldens(folder, "schedules")
    facts = {}
    for name, (changes, counts) in VARIANTS.items():
        one = scheduler(base, name)
        sigmas, timesteps, initial = [], [], []
        for steps in counts:
            one.set_timesteps(steps)
            sigmas.append(one.sigmas)
            timesteps.append(one.timesteps.to(torch.float32))
            initial.append(float(one.init_noise_sigma))
        facts[name] = {"changes": changes, "steps": counts}
        goldens.add(f"{name}.sigmas", torch.cat(sigmas), whole=True)
        goldens.add(f"{name}.timesteps", torch.cat(timesteps), whole=True)
        goldens.add(f"{name}.init_noise_sigma", torch.tensor(initial))
    goldens.facts["variants"] = facts
    goldens.write()
    write_split(base, refiner, folder)


class RecordingUnet(torch.nn.Module):
    """Stands in for a UNet: keeps the timesteps it is asked for and predicts no noise."""

    def __init__(self, real):
        super().__init__()
        self.config = real.config
        self.dtype = torch.float32
        self.device = torch.device("cpu")
        self.add_embedding = types.SimpleNamespace(linear_1=real.add_embedding.linear_1)
        self.asked = []

    def forward(self, sample, timestep, **_):
        self.asked.append(float(timestep))
        return (torch.zeros_like(sample),)


def write_split(base, refiner, folder):
    """The timesteps that both pipelines really run, for every step count and fraction."""
    first = StableDiffusionXLPipeline(**{**base.components, "unet": RecordingUnet(base.unet)})
    second = StableDiffusionXLImg2ImgPipeline(
        **{**refiner.components, "unet": RecordingUnet(refiner.unet)}, requires_aesthetics_score=True, force_zeros_for_empty_prompt=False
    )
    for pipe in (first, second):
        pipe.set_progress_bar_config(disable=True)
    features = base.unet.config.cross_attention_dim
    pooled = torch.zeros(1, base.text_encoder_2.config.projection_dim)
    latents = torch.zeros(1, 4, 2, 2)

    def asked(pipe, features, **arguments):
        pipe.unet.asked = []
        pipe(
            prompt_embeds=torch.zeros(1, 77, features),
            pooled_prompt_embeds=pooled,
            guidance_scale=1.0,
            output_type="latent",
            **arguments,
        )
        return pipe.unet.asked

    def both(steps, fraction):
        try:
            high = asked(first, features, height=16, width=16, latents=latents, num_inference_steps=steps, denoising_end=fraction)
        except Exception as error:
            high = f"{type(error).__name__}: {error}"
        try:
            low = asked(second, refiner.unet.config.cross_attention_dim, image=latents, num_inference_steps=steps, denoising_start=fraction)
        except Exception as error:
            low = f"{type(error).__name__}: {error}"
        return high, low

    fractions = []
    for fraction in FRACTIONS:
        counts = []
        for steps in EVERY:
            high, low = both(steps, fraction)
            assert isinstance(high, list) and isinstance(low, list), (fraction, steps, high, low)
            first.scheduler.set_timesteps(steps)
            every = first.scheduler.timesteps.tolist()
            assert high == every[: len(high)] and low == every[len(every) - len(low) :], (fraction, steps)
            counts.append([len(high), len(low)])
        fractions.append({"fraction": fraction, "counts": counts})

    pairs = []
    for name, (one, two) in PAIRS.items():
        first.scheduler, second.scheduler = scheduler(base, one), scheduler(refiner, two)
        for steps in SOME:
            high, low = both(steps, 0.8)
            pairs.append({"pair": name, "base": one, "refiner": two, "steps": steps, "base_timesteps": high, "refiner_timesteps": low})
    write_json(folder / "split.json", {"fractions": fractions, "pairs": pairs})
