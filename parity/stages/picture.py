"""Whole pictures, base then refiner, as the comparison notebook of 2023 makes them."""

import numpy as np
import torch
from compel import CompelForSDXL

from .conditioning import LONG, refiner_compel, refiner_conditioning
from .golden import Goldens

# name: what differs from DEFAULTS
PICTURES = {
    "right": {"negative": "wrong", "lora_scale": 1.0},
    "left": {"negative": None, "lora_scale": 0.0},
    "sizes": {
        "steps": 5,
        "sizes": {
            "original_size": (96, 160),
            "crops_coords_top_left": (8, 24),
            "target_size": (112, 144),
            "negative_original_size": (64, 72),
            "negative_crops_coords_top_left": (4, 12),
            "negative_target_size": (80, 88),
        },
    },
    "sizes_some_negative": {"steps": 5, "sizes": {"original_size": (96, 160), "negative_original_size": (64, 72)}},
    "scores": {"steps": 5, "scores": {"aesthetic_score": 7.25, "negative_aesthetic_score": 1.0}},
    "no_guidance": {"steps": 5, "guidance": 1.0},
    "no_refiner": {"steps": 5, "refine": False},
    "empty_negative": {"steps": 5, "negative": ""},
    "long": {"steps": 5, "prompt": LONG},
    "long_negative": {"steps": 5, "negative": LONG},
    "half": {"steps": 7, "fraction": 0.5, "lora_scale": 0.5},
    "one_step": {"steps": 1},
    "wide": {"steps": 5, "height": 96, "width": 160, "lora_scale": 1.0},
}
DEFAULTS = {
    "prompt": "a red apple, (flat)++",
    "negative": "wrong",
    "seed": 7,
    "steps": 30,
    "guidance": 7.5,
    "fraction": 0.8,
    "height": 128,
    "width": 128,
    "refine": True,
    "lora_scale": None,
    "sizes": {},
    "scores": {},
}
WHOLE_PIXELS = {"right", "left"}


def generator(seed):
    """A fresh generator: base and refiner each get one with the same seed."""
    return torch.Generator("cpu").manual_seed(seed)


class Recorder:
    """Keeps the timesteps and time_ids that a UNet is asked for."""

    def __init__(self, unet):
        self.timesteps, self.time_ids = [], None
        self.hook = unet.register_forward_pre_hook(self.see, with_kwargs=True)

    def see(self, _module, args, kwargs):
        self.timesteps.append(float(args[1]))
        self.time_ids = kwargs["added_cond_kwargs"]["time_ids"]


@torch.no_grad()
def draw(base, refiner, prompt, negative, seed, steps, guidance, fraction, height, width, refine, lora_scale, sizes, scores):
    """One picture; returns its tensors and facts."""
    tensors, facts = {}, {}
    out = CompelForSDXL(base)(prompt, negative_prompt=negative)
    conditioning = {"prompt_embeds": out.embeds, "pooled_prompt_embeds": out.pooled_embeds}
    if negative is not None:
        conditioning["negative_prompt_embeds"] = out.negative_embeds
        conditioning["negative_pooled_prompt_embeds"] = out.negative_pooled_embeds

    seen = Recorder(base.unet)
    latents = base(
        **conditioning,
        height=height,
        width=width,
        **sizes,
        num_inference_steps=steps,
        guidance_scale=guidance,
        denoising_end=fraction if refine else None,
        generator=generator(seed),
        output_type="latent",
        cross_attention_kwargs=None if lora_scale is None else {"scale": lora_scale},
        callback_on_step_end=first_latents(tensors),
    ).images
    seen.hook.remove()
    facts["base_timesteps"] = seen.timesteps
    if seen.time_ids is not None:
        tensors["base.time_ids"] = seen.time_ids
    tensors["handoff"] = latents

    if refine:
        compel = refiner_compel(base)
        if negative is None:
            # The left picture: no negative text. The refiner's config does not zero it,
            # so its pipeline encodes the empty string.
            embeds, pooled = compel(prompt)
            conditioning = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
        else:
            embeds, pooled, negative_embeds, negative_pooled = refiner_conditioning(compel, prompt, negative)
            conditioning = {
                "prompt_embeds": embeds,
                "pooled_prompt_embeds": pooled,
                "negative_prompt_embeds": negative_embeds,
                "negative_pooled_prompt_embeds": negative_pooled,
            }
        seen = Recorder(refiner.unet)
        latents = refiner(
            **conditioning,
            **sizes,
            **scores,
            image=latents,
            num_inference_steps=steps,
            guidance_scale=guidance,
            denoising_start=fraction,
            generator=generator(seed),
            output_type="latent",
        ).images
        seen.hook.remove()
        facts["refiner_timesteps"] = seen.timesteps
        if seen.time_ids is not None:
            tensors["refiner.time_ids"] = seen.time_ids
    tensors["latents"] = latents
    pixels = base.vae.decode(latents / base.vae.config.scaling_factor, return_dict=False)[0]
    image = base.image_processor.postprocess(pixels, output_type="pil")[0]
    tensors["pixels"] = torch.from_numpy(np.array(image))
    return tensors, facts


def first_latents(tensors):
    """Keeps the latents after the first step, so that a wrong start is told from a wrong loop."""

    def callback(_pipe, step, _timestep, values):
        if step == 0:
            tensors["first_step"] = values["latents"].clone()
        return values

    return callback


def write(base, refiner, lora, folder):
    """picture.{json,safetensors}; returns the right picture's tensors for the VAE's goldens."""
    goldens = Goldens(folder, "picture")
    pictures, right = {}, None
    for name, changes in PICTURES.items():
        request = {**DEFAULTS, **changes}
        if request["lora_scale"] is not None:
            base.load_lora_weights(lora.parent, weight_name=lora.name, adapter_name="wrong")
        tensors, facts = draw(base, refiner, **request)
        if request["lora_scale"] is not None:
            base.unload_lora_weights()
        pictures[name] = {**request, **facts}
        right = right or tensors
        for key, tensor in tensors.items():
            goldens.add(f"{name}.{key}", tensor, whole=key != "pixels" or name in WHOLE_PIXELS, keep=1536)
    goldens.facts["pictures"] = pictures
    goldens.write()
    return right
