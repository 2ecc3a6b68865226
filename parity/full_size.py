#!/usr/bin/env python
"""SDXL at its real size with random weights: makes it, proves that every block counts, runs the oracle.

    python parity/full_size.py make full-size
    python parity/full_size.py oracle full-size             # writes full-size/oracle.{safetensors,json}
    python parity/full_size.py knockout full-size --out parity/full-size.json

What is there already is not made again. Nothing here holds a whole network: a layer's weights exist while
that layer runs, so 3 GB are enough.
"""

import argparse
import json
import logging
import os
import re
import shutil
import time
import zlib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from stages import configs
from stages.golden import Goldens, sequence, write_json
from stages.networks import watch
from stages.single_file import published

TIMESTEP = 501
# What every layer's output is scaled to, by the end of its path; the first match holds. A branch that is added to
# a stream gets a part of that stream's size, so that none drowns.
TARGETS = [
    (r"attn[12]\.to_[qk]$", 1.7),  # attention picks rather than averages
    (r"attn[12]\.to_out\.0$", 0.5),
    (r"ff\.net\.2$", 0.5),
    (r"time_emb_proj$", 0.5),
    (r"", 1.0),
]
# Part of the stream's size that a resnet's or an attention's branch has.
BRANCH = 0.7
# The skips of the way up weigh less than what comes from below, or the deepest blocks would drown.
SKIP = 0.35


def unet_of(name):
    """The UNet on the meta device, and its config."""
    config = {"base": configs.UNET_BASE, "refiner": configs.UNET_REFINER}[name]
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config).eval()


def unet_inputs(name, batch, size):
    """Seeded inputs of the scale that real ones have."""
    config = {"base": configs.UNET_BASE, "refiner": configs.UNET_REFINER}[name]
    time_ids = [[512.0, 512, 0, 0, 512, 512], [768, 512, 16, 32, 512, 512]] if name == "base" else [[512.0, 512, 0, 0, 2.5], [768, 512, 16, 32, 6.0]]
    return {
        "latents": sequence(21, (batch, 4, size, size)),
        "encoder_hidden_states": sequence(22, (batch, 77, config["cross_attention_dim"])),
        "text_embeds": sequence(23, (batch, 1280)),
        "time_ids": torch.tensor(time_ids)[torch.arange(batch) % 2],
    }


def run(unet, inputs):
    """One step of the UNet."""
    return unet(
        inputs["latents"],
        TIMESTEP,
        encoder_hidden_states=inputs["encoder_hidden_states"],
        added_cond_kwargs={"text_embeds": inputs["text_embeds"], "time_ids": inputs["time_ids"]},
        return_dict=False,
    )[0]


def stream(model, fetch, after=None, only=None):
    """Gives every layer its weights just before it runs and takes them away just after.

    `fetch(key)` makes a tensor; `after(path, module, output)` may change the output; `only` are the keys of those that
    are fetched, if not all are.
    """
    for path, module in model.named_modules():
        own = {name: value for name, value in module.named_parameters(recurse=False) if only is None or f"{path}.{name}" in only}
        if not own:
            continue

        def before_hook(module, _args, path=path, own=own):
            for name in own:
                module._parameters[name] = torch.nn.Parameter(fetch(f"{path}.{name}"), requires_grad=False)

        def after_hook(module, _args, output, path=path, own=own):
            if after is not None:
                output = after(path, module, output)
            for name, empty in own.items():
                module._parameters[name] = empty
            return output

        module.register_forward_pre_hook(before_hook)
        module.register_forward_hook(after_hook)


def invent(key, shape, seed):
    """A tensor of unit gain, from the seed and its key."""
    generator = torch.Generator("cpu").manual_seed(zlib.crc32(key.encode()) ^ seed)
    values = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return values / shape[1:].numel() ** 0.5
    is_norm = "norm" in key.rsplit(".", 2)[-2]
    if key.endswith(".bias"):
        return values * (0.1 if is_norm else 0.05)
    return values * 0.1 + 1.0


class File:
    """A safetensors file that is filled tensor by tensor."""

    def __init__(self, path, shapes):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.partial = path, path.with_suffix(".partial")
        self.places, at = {}, 0
        for key, shape in shapes.items():
            size = shape.numel() * 2
            self.places[key] = (at, at + size)
            at += size
        header = {"__metadata__": {"format": "pt"}}
        header |= {key: {"dtype": "F16", "shape": list(shape), "data_offsets": self.places[key]} for key, shape in shapes.items()}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.start = 8 + len(text)
        self.file = open(self.partial, "wb")
        self.file.write(len(text).to_bytes(8, "little") + text)
        self.file.truncate(self.start + at)
        self.left = set(shapes)

    def put(self, key, tensor):
        self.left.remove(key)
        self.file.seek(self.start + self.places[key][0])
        self.file.write(tensor.to(torch.float16).contiguous().numpy().tobytes())

    def close(self):
        self.file.close()
        assert not self.left, f"never written: {sorted(self.left)[:5]}"
        self.partial.rename(self.path)


def shapes_of(model):
    return {key: value.shape for key, value in model.state_dict().items()}


@torch.no_grad()
def make_unet(name, folder, seed, size):
    """Writes a UNet while it runs once, each layer scaled by what comes out of it."""
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if path.exists():
        return
    unet = unet_of(name)
    shapes = shapes_of(unet)
    file = File(path, shapes)
    channels = unet.config.block_out_channels[::-1]
    stream_size = {}

    def remember(path):
        def hook(_module, args):
            stream_size[path] = args[0].std().item()

        return hook

    for path, module in unet.named_modules():
        if isinstance(module, (ResnetBlock2D, Transformer2DModel)):
            module.register_forward_pre_hook(remember(path))

    def fetch(key):
        tensor = invent(key, shapes[key], seed)
        up = re.fullmatch(r"up_blocks\.(\d+)\.resnets\.(\d+)\.(conv1|conv_shortcut)\.weight", key)
        if up:
            block, index = int(up[1]), int(up[2])
            below = channels[max(block - 1, 0)] if index == 0 else channels[block]
            tensor[:, below:] *= SKIP
        return tensor

    def after(path, module, output):
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            parent, last = path.rsplit(".", 1) if "." in path else ("", path)
            if last == "conv2":
                target = BRANCH * (1.0 if f"{parent}.conv_shortcut.weight" in shapes else stream_size[parent])
            elif last == "proj_out":
                target = BRANCH * stream_size[parent]
            else:
                target = next(target for pattern, target in TARGETS if re.search(pattern, path))
            bias = 0.0 if module.bias is None else module.bias if output.dim() != 4 else module.bias[:, None, None]
            plain = output - bias
            factor = target / plain.std().item()
            module.weight.data *= factor
            output = plain * factor + bias
        for key in module._parameters:
            if module._parameters[key] is not None:
                file.put(f"{path}.{key}", module._parameters[key].data)
        return output

    stream(unet, fetch, after)
    output = run(unet, unet_inputs(name, 1, size))
    file.close()
    config = {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.42.1", **{k: v for k, v in unet.config.items() if not k.startswith("_")}}
    (folder / "unet" / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    print(f"{name} unet: output {output.mean():+.3f} ± {output.std():.3f}", flush=True)


def make_plain(model, path, seed, config, rename=lambda key: key):
    """Writes a network with unit gains, and its residual branches at a third of that."""
    if path.exists():
        return
    shapes = {rename(key): shape for key, shape in shapes_of(model).items()}
    file = File(path, shapes)
    for key, shape in shapes.items():
        tensor = invent(key, shape, seed)
        if re.search(r"(conv2|to_out\.0|out_proj|mlp\.fc2)\.weight$", key):
            tensor *= 0.3
        if "embedding.weight" in key:
            tensor *= shape[-1] ** 0.5 * (0.02 if "token" in key else 0.01)
        file.put(key, tensor)
    file.close()
    (path.parent / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    print(f"{path.parent.name}: {sum(shape.numel() for shape in shapes.values()):,} parameters", flush=True)


def make(arguments):
    """Writes base/ and refiner/ in diffusers layout."""
    base, refiner, demo = arguments.dir / "base", arguments.dir / "refiner", arguments.demo
    for part in ("tokenizer", "tokenizer_2"):
        shutil.copytree(demo / "base" / part, base / part, dirs_exist_ok=True)
    for source, folder in ((demo / "base", base), (demo / "refiner", refiner)):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "model_index.json", folder / "model_index.json")
        (folder / "scheduler").mkdir(exist_ok=True)
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(configs.SCHEDULER, indent=2) + "\n")
    with torch.device("meta"):
        vae = AutoencoderKL.from_config(configs.VAE)
        first = CLIPTextModel(CLIPTextConfig(**configs.TEXT_ENCODER))
        second = CLIPTextModelWithProjection(CLIPTextConfig(**configs.TEXT_ENCODER_2))
    vae_config = {"_class_name": "AutoencoderKL", "_diffusers_version": "0.42.1", **{k: v for k, v in vae.config.items() if not k.startswith("_")}}
    make_plain(vae, base / "vae" / "diffusion_pytorch_model.safetensors", arguments.seed, vae_config)
    for model, part, config, kind in (
        (first, "text_encoder", configs.TEXT_ENCODER, "CLIPTextModel"),
        (second, "text_encoder_2", configs.TEXT_ENCODER_2, "CLIPTextModelWithProjection"),
    ):
        full = {"architectures": [kind], "model_type": "clip_text_model", "vocab_size": 49408, "max_position_embeddings": 77, "layer_norm_eps": 1e-05, "attention_dropout": 0.0, "initializer_factor": 1.0, "initializer_range": 0.02, **config}
        rename = published if part == "text_encoder" else lambda key: key
        make_plain(model, base / part / "model.safetensors", arguments.seed, full, rename)
    for name, folder in (("base", base), ("refiner", refiner)):
        start = time.time()
        make_unet(name, folder, arguments.seed, arguments.latent)
        print(f"{name}: {time.time() - start:.0f} s", flush=True)


def reader(model, name):
    """Fetches a UNet's tensors from its file, in f32."""
    file = safe_open(model / name / "unet" / "diffusion_pytorch_model.safetensors", "pt")
    return lambda key: file.get_tensor(key).to(torch.float32)


@torch.no_grad()
def knockout(arguments):
    """Leaves out one block per row of a batch and measures how much the output changes."""
    results = {}
    for name in arguments.networks:
        unet = unet_of(name)
        blocks = [path for path, module in unet.named_modules() if isinstance(module, (ResnetBlock2D, Transformer2DModel, BasicTransformerBlock))]
        inputs = unet_inputs(name, 1, arguments.latent)
        inputs = {key: value.expand(len(blocks) + 1, *value.shape[1:]).contiguous() for key, value in inputs.items()}
        stream(unet, reader(arguments.dir, name))
        for row, path in enumerate(blocks, start=1):
            module = unet.get_submodule(path)
            if isinstance(module, ResnetBlock2D):
                # The shortcut stays: without its branch the block is what a residual block starts from.
                def branch(_module, _args, output, row=row):
                    output[row] = 0.0
                    return output

                module.conv2.register_forward_hook(branch)
            else:

                def skip(_module, args, output, row=row):
                    first = output[0] if isinstance(output, tuple) else output if isinstance(output, torch.Tensor) else output.sample
                    first[row] = args[0][row]
                    return output

                module.register_forward_hook(skip)
        out = run(unet, inputs)
        change = (out[1:] - out[:1]).flatten(1).norm(dim=1) / out[0].norm()
        results[name] = {path: round(value.item(), 4) for path, value in zip(blocks, change)}
        weakest = sorted(results[name].items(), key=lambda one: one[1])[:8]
        print(name, len(blocks), "blocks; weakest:", weakest, flush=True)
        write_json(arguments.out, {"latent": arguments.latent, "timestep": TIMESTEP, **results})


@torch.no_grad()
def oracle(arguments):
    """Runs diffusers' UNets in f32 on 512x512, and keeps what leaves every block."""
    out = arguments.out or arguments.dir / "oracle.safetensors"
    if out.exists():
        return
    goldens = Goldens(out.parent, out.stem, timestep=TIMESTEP, latent=arguments.latent)
    for name in arguments.networks:
        start = time.time()
        unet = unet_of(name)
        inputs = unet_inputs(name, 2, arguments.latent)
        for key, value in inputs.items():
            goldens.add(f"{name}.input.{key}", value, whole=True)
        # The watching hooks come first and see a layer's own output.
        watch(unet, goldens, f"{name}.block.")
        stream(unet, reader(arguments.dir, name))
        goldens.add(f"{name}.output", run(unet, inputs), whole=True)
        print(f"{name}: {time.time() - start:.0f} s", flush=True)
    goldens.write()


def main():
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("make", help="write the model")
    one.add_argument("dir", type=Path)
    one.add_argument("--demo", type=Path, default=Path("crates/demo/model"), help="where to copy the tokenizers from")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--latent", type=int, default=32, help="size of the latents that the weights are scaled on")
    one.set_defaults(run=make)
    for name, action, latent in (("knockout", knockout, 16), ("oracle", oracle, 64)):
        one = commands.add_parser(name, help=action.__doc__)
        one.add_argument("dir", type=Path)
        one.add_argument("--out", type=Path, required=name == "knockout")
        one.add_argument("--latent", type=int, default=latent)
        one.add_argument("--networks", nargs="*", default=["base", "refiner"])
        one.set_defaults(run=action)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
