"""LoRA: the wrong-LoRA at several scales, and small files in every dialect with their effect.

The effect is computed twice: by adding `scale * alpha / rank * up @ down` to the weights here,
and by diffusers' own loader. They must agree, but for files whose alphas differ between modules:
there diffusers 0.42.1 gives attention modules the alpha that occurs most (its alpha table keeps
`.processor` in the names, so nothing matches), and the golden is the sum.
"""

import copy
import logging

import torch
from compel import CompelForSDXL
from safetensors.torch import load_file, save_file

from .golden import Goldens
from .networks import BLOCKS_AT, NEGATIVE, PROMPT, base_inputs

WRONG_SCALES = [1.0, 0.5, -0.7]
SCALES = [1.0, 0.6]


class Adapter:
    """One module's matrices."""

    def __init__(self, part, path, down, up, alpha):
        self.part, self.path, self.down, self.up, self.alpha = part, path, down, up, alpha


def invent(pipe, wanted, uniform=False):
    """Seeded matrices for some modules, with ranks and alphas that differ between them, or rank 2 and alpha 1."""
    adapters = []
    for number, (part, path) in enumerate(wanted):
        weight = getattr(pipe, part).get_submodule(path).weight
        rank = 2 if uniform else 1 + number % 3
        alpha = 1.0 if uniform else [0.5, 1.0, 2.0, 3.0, 4.5][number % 5]
        generator = torch.Generator("cpu").manual_seed(1000 + number)
        inputs = weight[0].numel()
        down = torch.randn((rank, *weight.shape[1:]), generator=generator) / inputs**0.5
        up = torch.randn((weight.shape[0], rank, *[1] * (weight.dim() - 2)), generator=generator) * 0.3
        adapters.append(Adapter(part, path, down.to(torch.float16), up.to(torch.float16), alpha))
    return adapters


def add(pipe, adapters, scale):
    """Adds every adapter to the weights; returns what undoes it."""
    before = []
    for adapter in adapters:
        weight = getattr(pipe, adapter.part).get_submodule(adapter.path).weight
        before.append((weight, weight.data.clone()))
        down, up = adapter.down.to(torch.float64), adapter.up.to(torch.float64)
        rank = down.shape[0]
        delta = up.flatten(1) @ down.flatten(1)
        weight.data += (scale * adapter.alpha / rank * delta).reshape(weight.shape).to(weight.dtype)
    return before


def undo(before):
    for weight, data in before:
        weight.data.copy_(data)


def text_key(adapter):
    """The published name of a text module: under `text_model.`, which transformers 5 dropped in one encoder."""
    return adapter.path if adapter.path.startswith("text_model.") else f"text_model.{adapter.path}"


def diffusers_2023(adapter):
    """Names as the 2023 training script wrote them; there is no alpha in them."""
    if adapter.part == "unet":
        module, projection = adapter.path.removesuffix(".0").rsplit(".", 1)
        stem = f"unet.{module}.processor.{projection}_lora"
        return f"{stem}.down.weight", f"{stem}.up.weight", None
    stem = f"{adapter.part}.{text_key(adapter)}.lora_linear_layer"
    return f"{stem}.down.weight", f"{stem}.up.weight", None


def diffusers_lora(adapter):
    """Names between the two: `to_q.lora.down.weight`."""
    stem = f"unet.{adapter.path}.lora" if adapter.part == "unet" else f"{adapter.part}.{text_key(adapter)}.lora_linear_layer"
    return f"{stem}.down.weight", f"{stem}.up.weight", None


def peft(adapter):
    stem = f"unet.{adapter.path}" if adapter.part == "unet" else f"{adapter.part}.{text_key(adapter)}"
    return f"{stem}.lora_A.weight", f"{stem}.lora_B.weight", None


def kohya_stem(adapter, path):
    head = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}[adapter.part]
    stem = f"{head}_{path.replace('.', '_')}"
    return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"


def kohya(adapter):
    """kohya with diffusers' block names."""
    return kohya_stem(adapter, adapter.path if adapter.part == "unet" else text_key(adapter))


def kohya_sgm(adapter):
    """kohya with the block names of the original code."""
    return kohya_stem(adapter, sgm_path(adapter.path) if adapter.part == "unet" else text_key(adapter))


def sgm_path(path, layers=2):
    """Where the original code keeps a module of the UNet; `layers` is layers_per_block."""
    simple = {
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
    }
    if path in simple:
        return simple[path]
    words = path.split(".")
    if words[0] == "mid_block":
        place = ["middle_block", {"resnets0": "0", "attentions0": "1", "resnets1": "2"}[words[1] + words[2]]]
        rest = words[3:]
        kind = words[1]
    else:
        level, kind, index = int(words[1]), words[2], int(words[3])
        rest = words[4:]
        if words[0] == "down_blocks":
            if kind == "downsamplers":
                return f"input_blocks.{level * (layers + 1) + layers + 1}.0.op"
            place = ["input_blocks", str(level * (layers + 1) + index + 1), "0" if kind == "resnets" else "1"]
        else:
            block = level * (layers + 1) + (layers if kind == "upsamplers" else index)
            inner = {"resnets": "0", "attentions": "1", "upsamplers": "2"}[kind]
            place = ["output_blocks", str(block), inner]
    if kind == "resnets":
        rest = [{"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}[rest[0]]]
    return ".".join([*place, *rest])


def attention(block):
    return [f"{block}.{attn}.{name}" for attn in ("attn1", "attn2") for name in ("to_q", "to_k", "to_v", "to_out.0")]


ATTENTION = [
    ("unet", path)
    for block in (
        "down_blocks.1.attentions.0.transformer_blocks.0",
        "mid_block.attentions.0.transformer_blocks.1",
        "up_blocks.1.attentions.2.transformer_blocks.0",
    )
    for path in attention(block)
]
OTHER_LINEAR = [
    ("unet", path)
    for path in (
        "down_blocks.1.attentions.1.proj_in",
        "down_blocks.1.attentions.1.transformer_blocks.0.ff.net.0.proj",
        "down_blocks.1.attentions.1.transformer_blocks.0.ff.net.2",
        "up_blocks.0.attentions.0.proj_out",
        "mid_block.attentions.0.proj_in",
        "mid_block.resnets.1.time_emb_proj",
        "up_blocks.1.resnets.2.time_emb_proj",
        "time_embedding.linear_1",
        "time_embedding.linear_2",
        "add_embedding.linear_1",
        "add_embedding.linear_2",
    )
]
CONVOLUTIONS = [
    ("unet", path)
    for path in (
        "conv_in",
        "conv_out",
        "down_blocks.0.resnets.0.conv1",
        "down_blocks.1.resnets.0.conv_shortcut",
        "down_blocks.0.downsamplers.0.conv",
        "mid_block.resnets.0.conv2",
        "up_blocks.0.upsamplers.0.conv",
        "up_blocks.1.resnets.0.conv_shortcut",
        "up_blocks.2.resnets.2.conv1",
    )
]


def text(pipe):
    """Some modules of both encoders, by their names in this transformers."""
    wanted = []
    for part in ("text_encoder", "text_encoder_2"):
        names = {name for name, _ in getattr(pipe, part).named_modules()}
        stem = "text_model.encoder.layers" if any(name.startswith("text_model.") for name in names) else "encoder.layers"
        for layer in (0, 1):
            for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"):
                wanted.append((part, f"{stem}.{layer}.{name}"))
    return wanted


def save(adapters, names, path, metadata=None):
    """Writes a file in one dialect; returns which module every stem means."""
    tensors, meaning = {}, {}
    for adapter in adapters:
        down, up, alpha = names(adapter)
        tensors[down], tensors[up] = adapter.down, adapter.up
        if alpha:
            tensors[alpha] = torch.tensor(adapter.alpha, dtype=torch.float32)
        meaning[down] = f"{adapter.part}.{adapter.path}"
    save_file(tensors, path, metadata or {"format": "pt"})
    path.chmod(0o644)
    return meaning


def without_alpha(adapters):
    """The same with alpha equal to rank, for dialects that carry none."""
    plain = [copy.copy(adapter) for adapter in adapters]
    for adapter in plain:
        adapter.alpha = float(adapter.down.shape[0])
    return plain


def difference(ours, theirs):
    return ((ours - theirs).abs().max() / ours.abs().max()).item()


# file: modules, names, which alphas: equal to rank and not in the file, all 1, or of each module
FILES = {
    "lora-2023-attention": ("attention", diffusers_2023, "rank"),
    "lora-diffusers-attention": ("attention", diffusers_lora, "rank"),
    "lora-peft-attention": ("attention", peft, "rank"),
    "lora-kohya-attention": ("attention", kohya, "one"),
    "lora-sgm-attention": ("attention", kohya_sgm, "one"),
    "lora-kohya-attention-alphas": ("attention", kohya, "each"),
    "lora-sgm-attention-alphas": ("attention", kohya_sgm, "each"),
    "lora-peft-everything": ("everything", peft, "rank"),
    "lora-kohya-most": ("most", kohya, "one"),
    "lora-sgm-everything": ("everything", kohya_sgm, "one"),
    "lora-sgm-everything-alphas": ("everything", kohya_sgm, "each"),
    "lora-2023-text": ("text", diffusers_2023, "rank"),
    "lora-peft-text": ("text", peft, "rank"),
    "lora-kohya-text": ("text", kohya, "one"),
    "lora-kohya-text-alphas": ("text", kohya, "each"),
}


def modules(base):
    """Which modules a kind of file changes."""
    return {
        "attention": ATTENTION,
        "everything": ATTENTION[:8] + OTHER_LINEAR + CONVOLUTIONS,
        # diffusers 0.42.1 does not know `lora_unet_add_embedding_linear_N` (it does `label_emb_0_N`).
        "most": [one for one in ATTENTION[:8] + OTHER_LINEAR + CONVOLUTIONS if "add_embedding" not in one[1]],
        "text": ATTENTION[:4] + text(base),
    }


def adapters_of(base, wanted, alpha):
    """The matrices of a file of `FILES`."""
    adapters = invent(base, wanted, uniform=alpha == "one")
    return without_alpha(adapters) if alpha == "rank" else adapters


@torch.no_grad()
def write(base, wrong, folder):
    """lora.{json,safetensors} and the files lora-*.safetensors"""
    goldens = Goldens(folder, "lora", timestep=BLOCKS_AT, prompt=PROMPT, negative_prompt=NEGATIVE, scales=SCALES)
    inputs = base_inputs(base)
    plain = inputs.run(base.unet, BLOCKS_AT)
    goldens.add("none.output", plain)

    base.load_lora_weights(wrong.parent, weight_name=wrong.name, adapter_name="wrong")
    for scale in WRONG_SCALES:
        base.set_adapters(["wrong"], [scale])
        goldens.add(f"wrong.{scale}.output", inputs.run(base.unet, BLOCKS_AT))
    base.unload_lora_weights()

    wanted = modules(base)
    told = {}
    for name, (kind, names, alpha) in FILES.items():
        adapters = adapters_of(base, wanted[kind], alpha)
        path = folder / f"{name}.safetensors"
        meaning = save(adapters, names, path)
        told[name] = {"modules": len(adapters), "keys": meaning}
        key = f"{kind}.{alpha}"
        told[name]["golden"] = key
        for scale in SCALES:
            before = add(base, adapters, scale)
            results = effect(base, inputs, kind)
            undo(before)
            for part, value in results.items():
                if f"{key}.{scale}.{part}" not in goldens.index:
                    goldens.add(f"{key}.{scale}.{part}", value)
            if scale == 1.0:
                told[name]["changes_output"] = difference(plain, results["output"])
            theirs = by_diffusers(base, path, scale, inputs, kind, results)
            told[name].setdefault("diffusers_differs", {})[str(scale)] = theirs
            if alpha != "each":
                assert isinstance(theirs, dict) and max(theirs.values()) < 1e-5, (name, scale, theirs)
    goldens.facts["files"] = told
    goldens.write()


def effect(base, inputs, kind):
    """What a LoRA changes: the UNet's output, and for text the embeddings of the prompt too."""
    results = {"output": inputs.run(base.unet, BLOCKS_AT)}
    if kind == "text":
        out = CompelForSDXL(base)(PROMPT)
        results["prompt_embeds"], results["pooled_embeds"] = out.embeds, out.pooled_embeds
    return results


def by_diffusers(base, path, scale, inputs, kind, ours):
    """The largest relative difference when diffusers loads the file, or its error."""
    try:
        base.load_lora_weights(path.parent, weight_name=path.name, adapter_name="one")
        base.set_adapters(["one"], [scale])
        theirs = effect(base, inputs, kind)
        return {part: difference(ours[part], value) for part, value in theirs.items()}
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:300]
    finally:
        base.unload_lora_weights()
