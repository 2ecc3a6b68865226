"""One row of the bench in PyTorch: diffusers' and transformers' networks in f32, in this process and nothing else.

    python parity/bench_torch.py unet --model full-size --size 512x512 [--layout channels_last] [--compile]

Prints one line of JSON with the fields of `unwrong bench --json`. Weights are loaded and widened before the clock
starts, and every network runs once small (a UNet at up to 512x512, with --compile as it is) before it is timed;
`first-step` alone counts from the start of the process. A whole `picture` does not fit into one process here: each of its stages is one, and
hands its tensors on in a file; the seconds are their sum without loading, the peaks those of the largest.

`flops` prints what every row computes: additions and multiplications of matrix products, convolutions and attention,
as torch.utils.flop_counter sees them on the meta device.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from bench_process import Memory, age

TIMESTEP = 501
GUIDANCE_SCALE = 7.5
STEPS, BASE_STEPS = 3, 2
# A short prompt and the empty one, padded to 77.
IDS = [[49406, 320, 736, 3055, *[49407] * 73], [49406, *[49407] * 76]]


def unet_of(arguments, part):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(arguments.model / part, subfolder="unet", torch_dtype=torch.float32)


def vae_of(arguments):
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(arguments.model / "base", subfolder="vae", torch_dtype=torch.float32)


def text_encoders_of(arguments):
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    base = arguments.model / "base"
    return [
        CLIPTextModel.from_pretrained(base, subfolder="text_encoder", dtype=torch.float32),
        CLIPTextModelWithProjection.from_pretrained(base, subfolder="text_encoder_2", dtype=torch.float32),
    ]


def ready(network, arguments):
    """The network in the layout that was asked for, compiled if that was asked for."""
    network = network.eval().requires_grad_(False)
    if arguments.layout == "channels_last":
        network = network.to(memory_format=torch.channels_last)
    return torch.compile(network) if arguments.compile else network


def laid_out(tensor, arguments):
    return tensor.to(memory_format=torch.channels_last) if arguments.layout == "channels_last" else tensor


def encode(networks, ids):
    """States before the last layer of each encoder, joined, and the pooled vector of the last."""
    outputs = [network(ids, output_hidden_states=True) for network in networks]
    return torch.cat([output.hidden_states[-2] for output in outputs], -1), outputs[-1].text_embeds


def conditioning(config, embeds, pooled):
    ids = (config.projection_class_embeddings_input_dim - pooled.shape[-1]) // config.addition_time_embed_dim
    time_ids = torch.full((len(embeds), ids), 512.0)
    return {"encoder_hidden_states": embeds, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": time_ids}}


def invented_conditioning(config, batch, ids):
    pooled = config.projection_class_embeddings_input_dim - ids * config.addition_time_embed_dim
    return conditioning(config, torch.randn(batch, 77, config.cross_attention_dim), torch.randn(batch, pooled))


# The networks alone: each returns what makes a call of the network ready for a size.


def unet(arguments, network):
    config, batch = network.config, arguments.batch or 2
    # The base is told of six sizes, the refiner of four and a score.
    condition = invented_conditioning(config, batch, 5 if arguments.row == "refiner-unet" else 6)
    network = ready(network, arguments)
    timestep = torch.tensor(TIMESTEP)

    def prepare(width, height):
        latents = laid_out(torch.randn(batch, 4, height // 8, width // 8), arguments)
        return lambda: network(latents, timestep, **condition, return_dict=False)

    return prepare


def vae_decode(arguments, network):
    network.decoder = ready(network.decoder, arguments)

    def prepare(width, height):
        latents = laid_out(torch.randn(arguments.batch or 1, 4, height // 8, width // 8), arguments)
        return lambda: network.decode(latents, return_dict=False)

    return prepare


def vae_encode(arguments, network):
    network.encoder = ready(network.encoder, arguments)

    def prepare(width, height):
        pixels = laid_out(torch.randn(arguments.batch or 1, 3, height, width) * 0.5, arguments)
        return lambda: network.encode(pixels, return_dict=False)

    return prepare


def text_encoders(arguments, networks):
    networks = [ready(network, arguments) for network in networks]
    ids = torch.tensor([IDS[0]] * (arguments.batch or 2))
    return lambda _width, _height: lambda: encode(networks, ids)


def training(arguments, network):
    """A step of AdamW on LoRA matrices of rank 4 on every attention, each block computed twice to save memory."""
    from peft import LoraConfig

    config, batch = network.config, arguments.batch or 1
    condition = invented_conditioning(config, batch, 6)
    network = ready(network, arguments).train()
    network.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    network.enable_gradient_checkpointing()
    matrices = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(matrices, lr=1e-4)
    timestep = torch.tensor([TIMESTEP] * batch)

    def prepare(width, height):
        latents = laid_out(torch.randn(batch, 4, height // 8, width // 8), arguments)
        noise = torch.randn_like(latents)

        def once():
            predicted = network(latents, timestep, **condition, return_dict=False)[0]
            torch.nn.functional.mse_loss(predicted, noise).backward()
            torch.nn.utils.clip_grad_norm_(matrices, 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return once

    return prepare


NETWORKS = {
    "unet": (unet, lambda arguments: unet_of(arguments, "base")),
    "refiner-unet": (unet, lambda arguments: unet_of(arguments, "refiner")),
    "vae-decode": (vae_decode, vae_of),
    "vae-encode": (vae_encode, vae_of),
    "text-encoders": (text_encoders, text_encoders_of),
    "training": (training, lambda arguments: unet_of(arguments, "base")),
}


def network(arguments, width, height):
    """Every run of a network, timed."""
    prepare, load = NETWORKS[arguments.row]
    prepare = prepare(arguments, load(arguments))
    # What is compiled is compiled for its shapes; only the first of a picture's steps meets memory that is new.
    most = max(width, height) if arguments.compile else 512 if arguments.row.endswith("unet") or arguments.row == "training" else 64
    prepare(min(width, most), min(height, most))()
    once = prepare(width, height)
    return [timed(once) for _ in range(arguments.runs)]


def first_step(arguments, _width, _height):
    """Imports, loading, encoding: everything before the first call of the UNet."""
    embeds = encode([network.eval() for network in text_encoders_of(arguments)], torch.tensor(IDS))
    ready(unet_of(arguments, "base"), arguments)
    assert embeds[0].isfinite().all()
    return [(age(), time.process_time())]


# The stages of a picture.


def stage_text(arguments, _width, _height, _given):
    networks = [ready(network, arguments) for network in text_encoders_of(arguments)]
    encode(networks, torch.tensor(IDS))
    out = {}

    def stage():
        out["embeds"], out["pooled"] = encode(networks, torch.tensor(IDS))

    return stage, out


def stage_steps(arguments, width, height, given, part, mine):
    from diffusers import EulerDiscreteScheduler

    network = unet_of(arguments, part)
    # The refiner reads the second encoder alone.
    embeds = given["embeds"][..., -network.config.cross_attention_dim :].contiguous()
    condition = conditioning(network.config, embeds, given["pooled"])
    network = ready(network, arguments)
    scheduler = EulerDiscreteScheduler.from_pretrained(arguments.model / "base", subfolder="scheduler")
    scheduler.set_timesteps(STEPS)
    latents = given.get("latents")
    if latents is None:
        latents = torch.randn(1, 4, height // 8, width // 8) * scheduler.init_noise_sigma
    out = {**given, "latents": latents}

    def predict(latents, timestep):
        both = laid_out(scheduler.scale_model_input(torch.cat([latents, latents]), timestep), arguments)
        uncond, cond = network(both, timestep, **condition, return_dict=False)[0].chunk(2)
        return uncond + GUIDANCE_SCALE * (cond - uncond)

    warm_up = latents if arguments.compile else latents[..., :8, :8]
    predict(warm_up, scheduler.timesteps[mine][0])
    # The warm-up told the scheduler where it stands.
    scheduler.set_timesteps(STEPS)
    scheduler.set_begin_index(mine.start)

    def stage():
        for timestep in scheduler.timesteps[mine]:
            noise_pred = predict(out["latents"], timestep)
            out["latents"] = scheduler.step(noise_pred, timestep, out["latents"], return_dict=False)[0]

    return stage, out


def stage_decode(arguments, width, height, given):
    network = vae_of(arguments)
    factor = network.config.scaling_factor
    network.decoder = ready(network.decoder, arguments)
    latents = laid_out(given["latents"] / factor, arguments)
    network.decode(latents if arguments.compile else latents[..., :8, :8])
    out = {}

    def stage():
        pixels = network.decode(latents, return_dict=False)[0]
        out["pixels"] = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)

    return stage, out


STAGES = {
    "text": stage_text,
    "base": lambda *given: stage_steps(*given, "base", slice(0, BASE_STEPS)),
    "refiner": lambda *given: stage_steps(*given, "refiner", slice(BASE_STEPS, STEPS)),
    "decode": stage_decode,
}


def run_stage(arguments, width, height):
    """One stage of a picture, from the file that the one before it left."""
    given = torch.load(arguments.handover) if arguments.handover.exists() else {}
    stage, out = STAGES[arguments.row.removeprefix("picture-")](arguments, width, height, given)
    run = timed(stage)
    torch.save(out, arguments.handover)
    return [run]


def picture(arguments, options):
    """All stages, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        handover = ["--handover", str(Path(folder, "stage.pt"))]
        stages = []
        for stage in STAGES:
            command = [sys.executable, __file__, f"picture-{stage}", *options, *handover]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            stages.append(json.loads(run.stdout))
    seconds = [stage["seconds"] for stage in stages]
    peaks = {key: max(stage[key] for stage in stages) for key in ("peak_anonymous_bytes", "peak_resident_bytes")}
    return {"seconds": sum(seconds), "runs": [sum(seconds)], "stages": dict(zip(STAGES, seconds)), **peaks}


def timed(once):
    """Seconds by the clock, and of all processors."""
    start, busy = time.perf_counter(), time.process_time()
    once()
    return time.perf_counter() - start, time.process_time() - busy


def flops():
    """Prints the work of every row as JSON."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from stages import configs

    arguments = argparse.Namespace(batch=None, layout="default", compile=False)
    counts = {}
    with torch.device("meta"), torch.no_grad():
        networks = {
            "unet": UNet2DConditionModel.from_config(configs.UNET_BASE),
            "refiner-unet": UNet2DConditionModel.from_config(configs.UNET_REFINER),
            "vae-decode": AutoencoderKL.from_config(configs.VAE),
            "vae-encode": AutoencoderKL.from_config(configs.VAE),
            "text-encoders": [
                CLIPTextModel(CLIPTextConfig(**configs.TEXT_ENCODER)),
                CLIPTextModelWithProjection(CLIPTextConfig(**configs.TEXT_ENCODER_2)),
            ],
        }
        for row, network in networks.items():
            arguments.row = row
            prepare = NETWORKS[row][0](arguments, network)
            for size in (512, 1024):
                with FlopCounterMode(display=False) as counter:
                    prepare(size, size)()
                counts[f"{row} {size}x{size}"] = counter.get_total_flops()
    print(json.dumps(counts, indent=1))


def main():
    memory = Memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = [f"picture-{stage}" for stage in STAGES]
    parser.add_argument("row", choices=[*NETWORKS, "first-step", "picture", *stages, "flops"])
    parser.add_argument("--model", type=Path, default=Path("full-size"), help="a folder with base/ and refiner/")
    parser.add_argument("--size", default="1024x1024", metavar="WxH")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--layout", choices=["default", "channels_last"], default="default")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--handover", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row == "flops":
        return flops()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    variant = arguments.layout + ("+compile" if arguments.compile else "")
    facts = {"row": arguments.row, "size": arguments.size, "variant": variant, "threads": arguments.threads}
    if arguments.row == "picture":
        print(json.dumps(facts | picture(arguments, sys.argv[2:])), flush=True)
        return
    row = {"first-step": first_step, **dict.fromkeys(stages, run_stage)}.get(arguments.row, network)
    with nullcontext() if arguments.row == "training" else torch.inference_mode():
        runs, busy = zip(*row(arguments, *map(int, arguments.size.split("x"))))
    times = {"seconds": statistics.median_low(runs), "runs": runs, "processor_seconds": statistics.median_low(busy)}
    print(json.dumps({**facts, **times, **memory.peaks()}), flush=True)


if __name__ == "__main__":
    main()
