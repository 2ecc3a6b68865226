"""UNet and VAE: inputs, outputs, and what leaves every block."""

import torch
from compel import CompelForSDXL

from .conditioning import refiner_compel, refiner_conditioning
from .golden import Goldens, sequence

TIMESTEPS = [981, 501, 21]
BLOCKS_AT = 501
PROMPT = "a red apple, (flat)++"
NEGATIVE = "wrong"


def is_block(name):
    """Whether a module is one that a golden names."""
    last = name.split(".")
    if name in UNET_ENDS:
        return True
    return len(last) >= 2 and last[-1].isdigit() and last[-2] in {"resnets", "attentions", "downsamplers", "upsamplers", "transformer_blocks"}


UNET_ENDS = {"time_proj", "time_embedding", "add_time_proj", "add_embedding", "conv_in", "conv_norm_out", "conv_out"}
VAE_ENDS = {
    "quant_conv", "post_quant_conv",
    "encoder.conv_in", "encoder.conv_norm_out", "encoder.conv_out",
    "decoder.conv_in", "decoder.conv_norm_out", "decoder.conv_out",
}


def watch(model, goldens, prefix, ends=UNET_ENDS):
    """Records what leaves every block of a model; returns the hooks."""

    def record(name):
        def hook(_module, _inputs, output):
            while not isinstance(output, torch.Tensor):
                output = output[0]
            key = f"{prefix}{name}"
            if key not in goldens.index:
                goldens.add(key, output)

        return hook

    return [
        module.register_forward_hook(record(name))
        for name, module in model.named_modules()
        if name in ends or is_block(name)
    ]


class UnetInputs:
    """Two rows, unconditional first, as the pipelines stack them."""

    def __init__(self, latents, embeds, pooled, time_ids):
        self.latents, self.embeds, self.pooled, self.time_ids = latents, embeds, pooled, time_ids

    def run(self, unet, timestep):
        """The predicted noise."""
        return unet(
            self.latents,
            timestep,
            encoder_hidden_states=self.embeds,
            added_cond_kwargs={"text_embeds": self.pooled, "time_ids": self.time_ids},
            return_dict=False,
        )[0]

    def keep(self, goldens):
        """Writes the inputs down, whole."""
        goldens.add("input.latents", self.latents, whole=True)
        goldens.add("input.encoder_hidden_states", self.embeds, whole=True)
        goldens.add("input.text_embeds", self.pooled, whole=True)
        goldens.add("input.time_ids", self.time_ids, whole=True)


def base_inputs(base):
    """Inputs of the base UNet: seeded latents, a weighted prompt and its negative."""
    out = CompelForSDXL(base)(PROMPT, negative_prompt=NEGATIVE)
    return UnetInputs(
        sequence(11, (2, 4, 16, 16)),
        torch.cat([out.negative_embeds, out.embeds]),
        torch.cat([out.negative_pooled_embeds, out.pooled_embeds]),
        torch.tensor([[128.0, 128, 0, 0, 128, 128], [128, 160, 8, 16, 136, 120]]),
    )


def refiner_inputs(base):
    """Inputs of the refiner UNet: the second encoder alone, and the aesthetic scores."""
    embeds, pooled, negative_embeds, negative_pooled = refiner_conditioning(refiner_compel(base), PROMPT, NEGATIVE)
    return UnetInputs(
        sequence(12, (2, 4, 16, 16)),
        torch.cat([negative_embeds, embeds]),
        torch.cat([negative_pooled, pooled]),
        torch.tensor([[128.0, 128, 0, 0, 2.5], [128, 160, 8, 16, 6.0]]),
    )


@torch.no_grad()
def write_unet(unet, inputs, folder, name):
    """unet_base or unet_refiner, .json and .safetensors"""
    goldens = Goldens(folder, name, timesteps=TIMESTEPS, blocks_at=BLOCKS_AT, prompt=PROMPT, negative_prompt=NEGATIVE)
    inputs.keep(goldens)
    for timestep in TIMESTEPS:
        hooks = watch(unet, goldens, "block.") if timestep == BLOCKS_AT else []
        goldens.add(f"output.{timestep}", inputs.run(unet, timestep))
        for hook in hooks:
            hook.remove()
    # A latent that is not square and odd below: every level must pad and resize alike.
    inputs.latents = sequence(13, (2, 4, 12, 20))
    goldens.add("input.latents.12x20", inputs.latents, whole=True)
    goldens.add("output.12x20", inputs.run(unet, BLOCKS_AT))
    goldens.write()


@torch.no_grad()
def write_vae(vae, picture, latents, folder):
    """vae.{json,safetensors}: `picture` is uint8 [H, W, 3], `latents` those it came from."""
    goldens = Goldens(folder, "vae", scaling_factor=vae.config.scaling_factor)

    goldens.add("decode.input", latents, whole=True)
    hooks = watch(vae, goldens, "decode.block.", VAE_ENDS)
    goldens.add("decode.output", vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0], keep=1536)
    for hook in hooks:
        hook.remove()

    oblong = sequence(14, (1, 4, 12, 20)) * 0.6
    goldens.add("decode.12x20.input", oblong, whole=True)
    goldens.add("decode.12x20.output", vae.decode(oblong / vae.config.scaling_factor, return_dict=False)[0], keep=1536)

    goldens.add("encode.input", picture, whole=True)
    pixels = picture.permute(2, 0, 1)[None].to(torch.float32) / 127.5 - 1.0
    hooks = watch(vae, goldens, "encode.block.", VAE_ENDS)
    encode(vae, pixels, goldens, "encode")
    for hook in hooks:
        hook.remove()
    encode(vae, pixels[:, :, :96, :64], goldens, "encode.96x64")
    goldens.write()


def encode(vae, pixels, goldens, name):
    """The posterior of some pixels."""
    posterior = vae.encode(pixels).latent_dist
    goldens.add(f"{name}.mean", posterior.mean, whole=True)
    goldens.add(f"{name}.logvar", posterior.logvar)
    goldens.add(f"{name}.std", posterior.std)
