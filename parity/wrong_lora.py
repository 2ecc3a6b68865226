#!/usr/bin/env python
"""The published wrong-LoRA's 1,120 keys and shapes with random numbers, and what diffusers makes of them at full size.

    python parity/full_size.py make full-size
    python parity/wrong_lora.py full-size      # writes full-size/wrong-lora/

The published file has rank 4 on every attention projection of the base's UNet, 5,806,080 numbers in f32, and no alpha. It went
round as a pickle with the names of attention processors, and converted for A1111.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya, convert_unet_state_dict_to_peft
from safetensors.torch import save_file

from bench_lora import projections
from full_size import TIMESTEP, reader, run, stream, unet_inputs, unet_of
from stages.golden import Goldens

RANK = 4


def processors(shapes):
    """Random matrices under the names that diffusers gave them in August 2023."""
    torch.manual_seed(0)
    tensors = {}
    for name, (outputs, inputs) in shapes.items():
        attention, projection = name.removesuffix(".0").rsplit(".", 1)
        stem = f"unet.{attention}.processor.{projection}_lora"
        tensors[f"{stem}.down.weight"] = torch.randn(RANK, inputs) / inputs**0.5
        tensors[f"{stem}.up.weight"] = torch.randn(outputs, RANK) * 0.2
    return tensors


@torch.no_grad()
def oracle(model, tensors, out, latent):
    """The UNet's output with the file as diffusers loads it, its branches computed by peft."""
    unet = unet_of("base")
    unet.load_lora_adapter(dict(tensors), prefix="unet", adapter_name="wrong", low_cpu_mem_usage=True)
    # peft moves what it loaded to where the base is: to no memory at all.
    loaded = convert_unet_state_dict_to_peft(tensors)
    lora = [name for name, _ in unet.named_parameters() if ".lora_" in name]
    for name in lora:
        module, _ = name.rsplit(".", 1)
        value = loaded.pop("unet." + name.replace(".wrong.", "."))
        unet.get_submodule(module).weight = torch.nn.Parameter(value, requires_grad=False)
    assert not loaded, sorted(loaded)[:3]
    fetch = reader(model, "base")
    weights = {name for name, value in unet.named_parameters() if value.is_meta}
    stream(unet, lambda key: fetch(key.replace(".base_layer.", ".")), only=weights)
    inputs = unet_inputs("base", 2, latent)
    goldens = Goldens(out, "oracle", timestep=TIMESTEP, latent=latent, matrices=len(lora))
    for key, value in inputs.items():
        goldens.add(f"input.{key}", value, whole=True)
    start = time.time()
    output = run(unet, inputs)
    print(f"{len(lora)} matrices, {time.time() - start:.0f} s", flush=True)
    goldens.add("output", output, whole=True)
    goldens.write()


def main():
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=Path)
    parser.add_argument("--latent", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tensors = processors(projections(arguments.dir / "base" / "unet" / "diffusion_pytorch_model.safetensors"))
    assert len(tensors) == 1120 and sum(tensor.numel() for tensor in tensors.values()) == 5_806_080
    out = arguments.dir / "wrong-lora"
    out.mkdir(exist_ok=True)
    save_file(tensors, out / "processors.safetensors")
    torch.save(tensors, out / "pytorch_lora_weights.bin")
    kohya = convert_state_dict_to_kohya(convert_unet_state_dict_to_peft(dict(tensors)))
    save_file({key: tensor.contiguous() for key, tensor in kohya.items()}, out / "kohya.safetensors")
    print(json.dumps({"kohya": len(kohya), "first": sorted(kohya)[:3]}), flush=True)
    if not (out / "oracle.safetensors").exists():
        oracle(arguments.dir, tensors, out, arguments.latent)


if __name__ == "__main__":
    main()
