#!/usr/bin/env python
"""Writes a small LoRA file with every method by the program that trains it, and what it must do.

    python parity/make_lora_methods.py --kohya networks/lora.py [--model crates/demo/model] [--out parity/goldens]

Files `method-*.safetensors`, and `lora_methods.{json,safetensors}` with the UNet's output and both encoders'
states at several scales. Needs, beside the pinned oracles, `lycoris_lora` 4.1.3 and kohya-ss/sd-scripts'
`networks/lora.py`. The effect of a difference D with lengths m at the scale s is computed here:

    W' = W + s * D                          without lengths
    W' = W + s * (m * (W + D) / |W + D| - W)    with them

D and, at the scale 1, W' come from the writing program's own code; the way to other scales is ComfyUI's
(`comfy/weight_adapter/base.py`, `weight_decompose`) and A1111's (`network.py`, `apply_weight_decompose`).
"""

import argparse
import json
import logging
import sys
import types
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging
from make_goldens import ROOT, load
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from stages.golden import Goldens
from stages.networks import BLOCKS_AT, base_inputs
from transformers.utils import logging as transformers_logging

SCALES = [1.0, 0.5, -1.0]
BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
LINEAR = [f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn2.to_k", f"{BLOCK}.attn1.to_out.0", "time_embedding.linear_1"]
WIDE = [f"{BLOCK}.ff.net.0.proj", "add_embedding.linear_1"]
CONV = ["conv_in", "down_blocks.0.resnets.0.conv1", "down_blocks.1.resnets.0.conv_shortcut", "down_blocks.0.downsamplers.0.conv"]
NORM = ["down_blocks.0.resnets.0.norm1", "down_blocks.1.attentions.0.norm", f"{BLOCK}.norm1", "conv_norm_out"]
TEXT = ["encoder.layers.0.self_attn.q_proj", "encoder.layers.0.mlp.fc1"]
TEXT_NORM = ["encoder.layers.0.layer_norm1"]

# name: UNet modules, text modules, arguments of LyCORIS
LYCORIS = {
    "locon": (LINEAR + WIDE + CONV, TEXT, dict(network_module="locon", lora_dim=2, conv_lora_dim=3, alpha=1.0, conv_alpha=1.5)),
    "locon-tucker": (CONV, [], dict(network_module="locon", lora_dim=2, conv_lora_dim=3, alpha=1.0, conv_alpha=1.5, use_tucker=True)),
    "loha": (LINEAR + WIDE + CONV, TEXT, dict(network_module="loha", lora_dim=2, conv_lora_dim=4, alpha=1.0, conv_alpha=2.0)),
    "loha-tucker": (CONV, [], dict(network_module="loha", lora_dim=2, conv_lora_dim=2, alpha=1.0, conv_alpha=1.0, use_tucker=True)),
    "lokr": (LINEAR + WIDE + CONV, TEXT, dict(network_module="lokr", lora_dim=2, conv_lora_dim=2, alpha=1.0, conv_alpha=1.0, factor=4)),
    "lokr-both": (LINEAR + CONV, TEXT, dict(network_module="lokr", lora_dim=1, conv_lora_dim=1, alpha=0.5, conv_alpha=0.5, factor=-1, decompose_both=True)),
    "lokr-whole": (LINEAR + CONV, TEXT, dict(network_module="lokr", lora_dim=1000, conv_lora_dim=1000, alpha=3.0, conv_alpha=3.0, factor=8)),
    "lokr-tucker": (CONV, [], dict(network_module="lokr", lora_dim=2, conv_lora_dim=2, alpha=1.0, conv_alpha=1.0, factor=4, use_tucker=True)),
    "dora": (LINEAR + CONV, TEXT, dict(network_module="locon", lora_dim=2, conv_lora_dim=2, alpha=1.0, conv_alpha=1.0, weight_decompose=True)),
    "dora-columns": (LINEAR + CONV, TEXT, dict(network_module="locon", lora_dim=2, conv_lora_dim=2, alpha=1.0, conv_alpha=1.0, weight_decompose=True, wd_on_out=False)),
    "loha-dora": (LINEAR + CONV, TEXT, dict(network_module="loha", lora_dim=2, conv_lora_dim=2, alpha=1.0, conv_alpha=1.0, weight_decompose=True)),
    "lokr-dora": (LINEAR + CONV, TEXT, dict(network_module="lokr", lora_dim=2, conv_lora_dim=2, alpha=1.0, conv_alpha=1.0, factor=4, weight_decompose=True)),
    "full": (LINEAR[:1] + LINEAR[2:] + CONV[:2], TEXT[:1], dict(network_module="full", lora_dim=2, conv_lora_dim=2)),
    "norm": (LINEAR[:1] + NORM, TEXT[:1] + TEXT_NORM, dict(network_module="locon", lora_dim=2, conv_lora_dim=2, alpha=1.0, train_norm=True)),
}


class Layer:
    """What is done to one module of a pipeline."""

    def __init__(self, module, delta=None, lengths=None, bias=None, merged=None):
        self.module, self.delta, self.lengths, self.bias, self.merged = module, delta, lengths, bias, merged

    def weight(self, weight, scale):
        """W' in f64, rounded once."""
        if self.delta is None:
            return weight
        wide = weight.double()
        changed = wide + self.delta.double()
        if self.lengths is not None:
            changed = changed * self.lengths.double() / norm(changed, self.lengths)
            return (wide + scale * (changed - wide)).to(weight.dtype)
        return (wide + scale * self.delta.double()).to(weight.dtype)


def norm(weight, lengths):
    """Of every row, or of every column where there is a length for each."""
    if lengths.shape[0] == weight.shape[0]:
        return weight.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.dim() - 1))
    return weight.transpose(0, 1).flatten(1).norm(dim=1).reshape(1, -1, *[1] * (weight.dim() - 2))


@torch.no_grad()
def fill(parameters, seed):
    """Seeded values that f16 holds; lengths stay near what they were."""
    generator = torch.Generator("cpu").manual_seed(seed)
    for name, parameter in sorted(parameters):
        noise = torch.randn(parameter.shape, generator=generator)
        if "dora_scale" in name or "magnitude" in name:
            values = parameter * (1 + 0.2 * noise)
        elif name.endswith(("w_norm", "b_norm", "bias")) or parameter.dim() == 1:
            values = 0.1 * noise
        elif name.endswith("weight") and parameter.dim() > 1 and "lora" not in name and "hada" not in name:
            values = 0.05 * noise
        else:
            values = 0.4 * noise
        parameter.data.copy_(values.half().float())


def by_lycoris(pipe, name, path):
    """Writes a file with LyCORIS' own network; returns what it does."""
    from lycoris.kohya import LycorisNetworkKohya
    from lycoris.modules import get_module  # noqa: F401
    from lycoris.wrapper import network_module_dict  # noqa: F401

    unet, text, arguments = LYCORIS[name]
    text = [*text, *(f"text_model.{one}" for one in text)]
    LycorisNetworkKohya.apply_preset(
        {"enable_conv": True, "unet_target_module": [], "unet_target_name": unet, "text_encoder_target_module": [], "text_encoder_target_name": text}
    )
    encoders = [pipe.text_encoder, pipe.text_encoder_2]
    network = LycorisNetworkKohya(encoders, pipe.unet, warn_on_unmatched=False, **arguments)
    modules = network.unet_loras + network.text_encoder_loras
    assert len(modules) == len(unet) + len(text), [one.lora_name for one in modules]
    layers = []
    for number, one in enumerate(modules):
        fill(one.named_parameters(), 100 * number + len(name))
        network.add_module(one.lora_name, one)
        layers.append(lycoris_layer(one))
        if one.name == "full":
            # As `apply_to` does: what is saved is the difference to the module's own weight.
            one.weight.data += one.org_weight
            if one.bias is not None:
                one.bias.data += one.org_bias[0]
    network.save_weights(str(path), torch.float16, {"ss_network_module": "lycoris.kohya"})
    return layers


@torch.no_grad()
def lycoris_layer(one):
    module = one.org_module[0]
    if one.name == "norm":
        return Layer(module, one.w_norm.clone(), bias=one.b_norm.clone())
    if one.name == "full":
        bias = None if one.bias is None else one.bias.clone()
        return Layer(module, one.weight.clone(), bias=bias)
    if hasattr(one, "get_weight"):
        # Of LoHa and LoKr: their `get_diff_weight` multiplies with the factor a second time, which neither their
        # own `forward` does nor anybody else.
        delta = one.get_weight(module.weight.shape)
    else:
        delta = one.get_diff_weight(1.0, module.weight.shape)[0]
    lengths = one.dora_scale.clone() if one.wd else None
    merged = one.apply_weight_decompose(module.weight + delta) if one.wd else None
    return Layer(module, delta.clone(), lengths, merged=merged)


def by_peft(pipe, path, **config):
    """Writes a file with diffusers and PEFT; returns what it does and PEFT's own outputs."""
    targets = LINEAR if config.get("lora_bias") else LINEAR + CONV
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=3, target_modules=targets, init_lora_weights=True, **config))
    fill([(name, value) for name, value in pipe.unet.named_parameters() if "lora_" in name], 7)
    layers = []
    for name, module in pipe.unet.named_modules():
        if not hasattr(module, "lora_A") or not module.lora_A:
            continue
        delta, lengths, bias = module.get_delta_weight("default").detach(), None, None
        if config.get("use_dora"):
            lengths = module.lora_magnitude_vector["default"].weight.detach().clone()
            lengths = lengths.reshape(-1, *[1] * (delta.dim() - 1))
        if config.get("lora_bias"):
            bias = module.lora_B["default"].bias.detach() * module.scaling["default"]
        layers.append((name, delta.clone(), lengths, bias))
    theirs = base_inputs(pipe).run(pipe.unet, BLOCKS_AT)
    state = {key: value.half().contiguous() for key, value in get_peft_model_state_dict(pipe.unet).items()}
    config = pipe.unet.peft_config["default"].to_dict()
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    pipe.save_lora_weights(path.parent, unet_lora_layers=state, weight_name=path.name, unet_lora_adapter_metadata=config)
    pipe.unet.delete_adapters("default")
    pipe.unload_lora_weights()
    layers = [Layer(pipe.unet.get_submodule(name), *rest) for name, *rest in layers]
    return layers, theirs


def by_kohya(pipe, source, path):
    """Writes a file with kohya's network module; returns what it does."""
    library = {name: types.ModuleType(name) for name in ("library", "library.utils", "library.sdxl_original_unet", "library.train_util")}
    library["library.utils"].setup_logging = lambda *_, **__: None
    library["library.sdxl_original_unet"].SdxlUNet2DConditionModel = type(pipe.unet)
    library["library.train_util"].precalculate_safetensors_hashes = lambda *_: ("0x0", "0x0")
    library["library"].train_util = library["library.train_util"]
    sys.modules.update(library)
    kohya = types.ModuleType("kohya_lora")
    exec(compile(source.read_text(), "networks/lora.py", "exec"), kohya.__dict__)
    text = [f"lora_te{index}_{prefix}{one}" for index in (1, 2) for prefix in ("", "text_model.") for one in TEXT]
    # Its targets are blocks; the time embedding is in none.
    unet = [f"lora_unet_{one}" for one in [*LINEAR[:3], WIDE[0], *CONV[1:]]]
    dims = {name.replace(".", "_"): 1 + number % 3 for number, name in enumerate([*unet, *text])}
    alphas = {name: 0.5 + 0.75 * number for number, name in enumerate(dims)}
    encoders = [pipe.text_encoder, pipe.text_encoder_2]
    network = kohya.LoRANetwork(encoders, pipe.unet, modules_dim=dims, modules_alpha=alphas, is_sdxl=True)
    layers = []
    places = {f"lora_unet_{name}".replace(".", "_"): module for name, module in pipe.unet.named_modules()}
    for index, encoder in enumerate(encoders):
        places |= {f"lora_te{index + 1}_{name}".replace(".", "_"): module for name, module in encoder.named_modules()}
    for number, one in enumerate(network.unet_loras + network.text_encoder_loras):
        del one.org_module  # as `apply_to` does: else its weights are filled and saved, too
        fill(one.named_parameters(), 900 + number)
        network.add_module(one.lora_name, one)
        module = places[one.lora_name]
        up, down = one.lora_up.weight.detach(), one.lora_down.weight.detach()
        layers.append(Layer(module, (one.scale * up.flatten(1) @ down.flatten(1)).reshape(module.weight.shape)))
    assert len(layers) == len(unet) + len(TEXT) * 2, len(layers)
    network.save_weights(str(path), torch.float16, None)
    return layers


@torch.no_grad()
def effect(pipe, inputs, ids, layers, scale):
    """The UNet's output and both encoders' states, with the layers changed."""
    before = [(one.module, one.module.weight.data, one.module.bias) for one in layers]
    for one in layers:
        one.module.weight.data = one.weight(one.module.weight.data, scale)
        if one.bias is not None:
            own = 0.0 if one.module.bias is None else one.module.bias.data
            one.module.bias = torch.nn.Parameter(own + scale * one.bias, requires_grad=False)
    first = pipe.text_encoder(ids[0], output_hidden_states=True)
    second = pipe.text_encoder_2(ids[1], output_hidden_states=True)
    results = {
        "output": inputs.run(pipe.unet, BLOCKS_AT),
        "text_encoder": first.hidden_states[-2],
        "text_encoder_2": second.hidden_states[-2],
        "pooled": second.text_embeds,
    }
    for module, weight, bias in before:
        module.weight.data, module.bias = weight, bias
    return results


def difference(ours, theirs):
    return ((ours - theirs).abs().max() / ours.abs().max()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kohya", type=Path, required=True, help="networks/lora.py of kohya-ss/sd-scripts")
    parser.add_argument("--model", type=Path, default=ROOT / "crates/demo/model")
    parser.add_argument("--out", type=Path, default=ROOT / "parity/goldens")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)

    pipe, _ = load(arguments.model)
    for part in (pipe.unet, pipe.text_encoder, pipe.text_encoder_2):
        part.requires_grad_(False)
    inputs = base_inputs(pipe)
    ids = [tokenizer("a red apple", padding="max_length", return_tensors="pt").input_ids for tokenizer in (pipe.tokenizer, pipe.tokenizer_2)]
    goldens = Goldens(arguments.out, "lora_methods", timestep=BLOCKS_AT, scales=SCALES, ids=[one[0].tolist() for one in ids])
    plain = effect(pipe, inputs, ids, [], 0.0)
    told = {}

    def keep(name, writer, layers, path, theirs=None):
        path.chmod(0o644)
        tensors = load_file(path)
        told[name] = {"writer": writer, "tensors": len(tensors), "layers": len(layers), "bytes": path.stat().st_size}
        assert path.stat().st_size < 100_000, (name, path.stat().st_size)
        for one in layers:
            if one.merged is not None:
                assert difference(one.merged, one.weight(one.module.weight.data, 1.0)) < 1e-5, name
        for scale in SCALES:
            results = effect(pipe, inputs, ids, layers, scale)
            if theirs is not None and scale == 1.0:
                assert difference(results["output"], theirs) < 1e-4, (name, difference(results["output"], theirs))
            for part, value in results.items():
                if torch.equal(value, plain[part]):
                    continue
                goldens.add(f"{name}.{scale}.{part}", value, keep=128, small=512)
        told[name]["changes_output"] = difference(plain["output"], effect(pipe, inputs, ids, layers, 1.0)["output"])
        print(f"{name}: {json.dumps(told[name])}", flush=True)

    for name in LYCORIS:
        path = arguments.out / f"method-{name}.safetensors"
        keep(name, "LyCORIS 4.1.3", by_lycoris(pipe, name, path), path)
    for name, config in {"peft-dora": {"use_dora": True}, "peft-bias": {"lora_bias": True}}.items():
        path = arguments.out / f"method-{name}.safetensors"
        layers, theirs = by_peft(pipe, path, **config)
        keep(name, "diffusers 0.42.1 with PEFT 0.21.2", layers, path, theirs)
    path = arguments.out / "method-kohya.safetensors"
    keep("kohya", "kohya-ss/sd-scripts", by_kohya(pipe, arguments.kohya, path), path)
    goldens.facts["files"] = told
    goldens.write()


if __name__ == "__main__":
    main()
