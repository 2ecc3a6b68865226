"""Runs kohya's LoRA scripts and `unwrong lora` on the same small files and compares what they make.

    cargo build --release
    git clone https://github.com/kohya-ss/sd-scripts && git -C sd-scripts checkout 48d368f
    python parity/check_lora_tools.py --kohya sd-scripts [--program target/release/unwrong] [--write]

The scripts run as they are, on the CPU; of their package only what they call is there: the functions that
make hashes and metadata are taken out of `train_util.py`, and models are the demo model as diffusers opens it.
Their clamp at a quantile of 0.99 depends on which of two opposite singular vectors LAPACK happens to find, so
it is off here, as it is in ours.

Compared layer by layer: rank, `alpha / rank`, singular values (1e-4 of the greatest) and the product (1e-4).
`--write` makes the goldens of `crates/unwrong/tests/lora_tools.rs` anew.
"""

import argparse
import ast
import hashlib
import json
import subprocess
import sys
import tempfile
import types
from io import BytesIO
from pathlib import Path
from typing import Optional

import safetensors
import safetensors.torch
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 1e-4
GOLDENS = ROOT / "parity/goldens/lora_tools"
TORCH_QUANTILE = torch.quantile
# Weights of the twelve blocks, for the first file and the second.
BLOCKS = [[0.5, 1, 1, 0.25, 1, 2, 1, 1, -1, 1, 1, 0.75], [1] * 12]

SHAPES = {
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": (24, 24),
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (16, 28),
    "lora_unet_input_blocks_7_1_transformer_blocks_1_ff_net_0_proj": (40, 12),
    "lora_unet_middle_block_1_proj_in": (16, 16),
    "lora_unet_output_blocks_2_1_transformer_blocks_0_attn1_to_out_0": (14, 18),
    "lora_unet_output_blocks_5_1_proj_out": (12, 10, 1, 1),
    "lora_unet_input_blocks_2_0_in_layers_2": (12, 8, 3, 3),
    "lora_unet_output_blocks_8_0_skip_connection": (10, 14, 1, 1),
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (16, 16),
    "lora_te2_text_model_encoder_layers_1_mlp_fc1": (32, 12),
}

# What diffusers calls the blocks above.
BLOCK_NAMES = [
    ("down_blocks_1_attentions_0", "input_blocks_4_1"),
    ("down_blocks_2_attentions_0", "input_blocks_7_1"),
    ("mid_block_attentions_0", "middle_block_1"),
    ("up_blocks_0_attentions_2", "output_blocks_2_1"),
    ("up_blocks_1_attentions_2", "output_blocks_5_1"),
    ("down_blocks_0_resnets_1_conv1", "input_blocks_2_0_in_layers_2"),
    ("up_blocks_2_resnets_2_conv_shortcut", "output_blocks_8_0_skip_connection"),
]
DIFFUSERS = {
    name.replace(ldm, diffusers): name for name in SHAPES for diffusers, ldm in BLOCK_NAMES if f"_{ldm}" in name
}


def functions(path, names):
    """Some functions of a module, without what the rest of it imports."""
    tree = ast.parse(path.read_text())
    wanted = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    constants = [
        node for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").startswith("SS_METADATA_KEY")
    ]
    space = {"hashlib": hashlib, "json": json, "safetensors": safetensors, "BytesIO": BytesIO, "Optional": Optional}
    exec(compile(ast.Module(constants + wanted, []), str(path), "exec"), space)
    return space


def module(name, **content):
    made = types.ModuleType(name)
    made.__dict__.update(content)
    sys.modules[name] = made
    return made


def kohya(folder):
    """The scripts, as modules."""
    train_util = functions(
        folder / "library/train_util.py",
        ["precalculate_safetensors_hashes", "addnet_hash_legacy", "addnet_hash_safetensors", "build_minimum_network_metadata"],
    )
    read_metadata = lambda path: safetensors.safe_open(path, "pt").metadata() or {}
    module("library")
    module("library.utils", setup_logging=lambda *_: None)
    module("library.sdxl_original_unet", SdxlUNet2DConditionModel=type("SdxlUNet2DConditionModel", (), {}))
    module("library.train_util", **train_util, load_metadata_from_safetensors=read_metadata)
    module("library.model_util", is_safetensors=lambda path: str(path).endswith(".safetensors"))
    module("library.sai_model_spec", build_metadata=lambda *_, **__: {}, build_merged_from=lambda *_: "")
    module("library.sdxl_model_util", MODEL_VERSION_SDXL_BASE_V1_0="sdxl_base_v1-0")
    for name in ["train_util", "model_util", "sai_model_spec", "sdxl_model_util", "utils"]:
        setattr(sys.modules["library"], name, sys.modules[f"library.{name}"])
    module("oft")
    sys.path.insert(0, str(folder / "networks"))
    names = ["lora", "resize_lora", "svd_merge_lora", "sdxl_merge_lora", "extract_lora_from_models"]
    return {name: __import__(name) for name in names}


def invent(seed, rank, alpha, names):
    """A LoRA whose singular values fall, so that every rule has something to cut."""
    generator = torch.Generator("cpu").manual_seed(seed)
    tensors = {}
    for number, name in enumerate(names):
        out, *inputs = SHAPES[name]
        ones = [1] * (len(inputs) - 1)
        down = torch.randn((rank, *inputs), generator=generator)
        up = torch.randn((out, rank, *ones), generator=generator) * 0.6 ** torch.arange(rank).reshape(1, rank, *ones)
        tensors[f"{name}.lora_down.weight"] = (down / down[0].numel() ** 0.5).to(torch.float16)
        tensors[f"{name}.lora_up.weight"] = up.to(torch.float16)
        tensors[f"{name}.alpha"] = torch.tensor(alpha + number % 3)
    return tensors


def layers(path):
    """Name → up, down (flat, f64), rank and alpha."""
    tensors = load_file(path)
    found = {}
    for key in tensors:
        if key.endswith(".lora_down.weight"):
            name = key.removesuffix(".lora_down.weight")
            down, up = tensors[key].double(), tensors[f"{name}.lora_up.weight"].double()
            rank = down.shape[0]
            alpha = float(tensors.get(f"{name}.alpha", torch.tensor(rank)))
            found[name] = (up.flatten(1), down.flatten(1), rank, alpha)
    return found


def compare(what, theirs, ours, same_rank=True):
    theirs, ours = layers(theirs), layers(ours)
    assert theirs.keys() == ours.keys(), (what, theirs.keys() ^ ours.keys())
    worst = [0.0, 0.0]
    for name in theirs:
        products = []
        for up, down, rank, alpha in (theirs[name], ours[name]):
            products.append(alpha / rank * (up @ down))
        if same_rank:
            assert theirs[name][2] == ours[name][2], (what, name, theirs[name][2], ours[name][2])
        values = [torch.linalg.svdvals(product) for product in products]
        greatest = values[0][0].clamp(min=1e-12)
        worst[0] = max(worst[0], float(((values[0] - values[1]).abs() / greatest).max()))
        norm = products[0].norm().clamp(min=1e-12)
        worst[1] = max(worst[1], float((products[0] - products[1]).norm() / norm))
    print(f"{what}: {len(ours)} layers, singular values within {worst[0]:.1e}, products within {worst[1]:.1e}")
    assert max(worst) <= LIMIT, what


def run(program, *line):
    line = [str(program), "lora", *map(str, line)]
    result = subprocess.run(line, capture_output=True, text=True)
    assert result.returncode == 0, (line, result.stderr)
    return result.stdout


def save(tensors, path):
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)


def check_files(scripts, program, folder):
    """Files made of files."""
    first, second = folder / "a.safetensors", folder / "b.safetensors"
    names = list(SHAPES)
    save(invent(1, 6, 2.0, names), first)
    save(invent(2, 4, 4.0, names[::-1][:7]), second)

    loaded, _ = scripts["resize_lora"].load_state_dict(str(first), torch.float)
    for name, method, value, line in [
        ("rank", None, None, ["--rank", 3, "--conv-rank", 2]),
        ("fro", "sv_fro", 0.95, ["--energy", 0.95, "--rank", 5]),
        ("cumulative", "sv_cumulative", 0.8, ["--cumulative", 0.8, "--rank", 5]),
        ("ratio", "sv_ratio", 4.0, ["--ratio", 4, "--rank", 5]),
    ]:
        conv = 2 if method is None else 5
        rank = 3 if method is None else 5
        made, _, _ = scripts["resize_lora"].resize_lora_model(loaded, rank, conv, torch.float, "cpu", method, value, False)
        theirs, ours = folder / f"resize-{name}.safetensors", folder / f"ours-resize-{name}.safetensors"
        save(made, theirs)
        run(program, "resize", first, *line, "--dtype", "f32", "-o", ours)
        compare(f"resize {name}", theirs, to_ldm(ours), same_rank=True)

    torch.quantile = lambda *_: torch.tensor(float("inf"))
    for name, blocks in [("svd", []), ("svd-blocks", [json.dumps(list(weights)) for weights in BLOCKS])]:
        made, *_ = scripts["svd_merge_lora"].merge_lora_models(
            [str(first), str(second)], [0.7, -0.3], blocks, 4, 3, None, torch.float
        )
        theirs, ours = folder / f"merge-{name}.safetensors", folder / f"ours-merge-{name}.safetensors"
        save(made, theirs)
        weights = [f":blocks={','.join(map(str, some))}" if blocks else "" for some in BLOCKS]
        files = [f"{first}:0.7{weights[0]}", f"{second}:-0.3{weights[1]}"]
        run(program, "merge", *files, "--rank", 4, "--conv-rank", 3, "--dtype", "f32", "-o", ours)
        compare(f"merge {name}", theirs, to_ldm(ours))
    torch.quantile = TORCH_QUANTILE

    made, _ = scripts["sdxl_merge_lora"].merge_lora_models([str(first), str(second)], [0.7, 0.3], [], torch.float, concat=True)
    theirs, ours = folder / "merge-exact.safetensors", folder / "ours-merge-exact.safetensors"
    # The script keeps the first file's alpha though ranks add up, and weighs both matrices: only the sum of the
    # products is compared, with the factors as they should be.
    a, b = layers(first), layers(second)
    exact = {}
    for name in a:
        parts = [(ratio, *some[name]) for ratio, some in ((0.7, a), (0.3, b)) if name in some]
        shape = SHAPES[name]
        ups = torch.cat([ratio * alpha / rank * up for ratio, up, _, rank, alpha in parts], 1)
        downs = torch.cat([down for _, _, down, _, _ in parts])
        rank = downs.shape[0]
        exact[f"{name}.lora_up.weight"] = ups.reshape(shape[0], rank, *[1] * (len(shape) - 2)).float()
        exact[f"{name}.lora_down.weight"] = downs.reshape(rank, *shape[1:]).float()
        exact[f"{name}.alpha"] = torch.tensor(float(rank))
    save(exact, theirs)
    run(program, "merge", f"{first}:0.7", f"{second}:0.3", "-o", ours)
    compare("merge exact", theirs, to_ldm(ours))

    blocks = folder / "ours-blocks.safetensors"
    run(program, "blocks", first, "--weights", ",".join(map(str, BLOCKS[0])), "-o", blocks)
    places = scripts["svd_merge_lora"]
    _, is_sdxl, targets = places.format_lbws([json.dumps(BLOCKS[0])])
    weighed = dict(load_file(first))
    for name in a:
        place = places.get_lbw_block_index(f"{name}.lora_down.weight", is_sdxl)
        if place in targets:
            weighed[f"{name}.alpha"] = weighed[f"{name}.alpha"] * BLOCKS[0][targets.index(place)]
    save(weighed, folder / "blocks.safetensors")
    compare("blocks", folder / "blocks.safetensors", to_ldm(blocks))

    made = load_file(blocks)
    metadata = safetensors.safe_open(blocks, "pt").metadata()
    expected = sys.modules["library.train_util"].precalculate_safetensors_hashes(made, metadata)
    hashes = json.loads(run(program, "hash", blocks, "--json"))
    assert (hashes["noted_model_hash"], hashes["noted_legacy_hash"]) == expected, (hashes, expected)
    assert hashes["sshs_model_hash"] == expected[0]
    assert hashes["sha256"] == hashlib.sha256(blocks.read_bytes()).hexdigest()
    print("hashes: equal")


class Root(torch.nn.Module):
    """The first text encoder under the name that its layers have in files."""

    def __init__(self, encoder):
        super().__init__()
        self.text_model = encoder


def networks(model):
    """Text encoders and UNet of a folder, as the scripts want them."""
    pipe = StableDiffusionXLPipeline.from_pretrained(model, torch_dtype=torch.float32, local_files_only=True)
    first = pipe.text_encoder
    first = first if hasattr(first, "text_model") else Root(first)
    return first, pipe.text_encoder_2, None, pipe.unet, None, None


def check_models(scripts, program, folder, model):
    """A LoRA into a model, and out again."""
    goldens = ROOT / "parity/goldens"
    files = [goldens / "lora-kohya-most.safetensors", goldens / "lora-kohya-text-alphas.safetensors"]
    ratios, merged = [0.8, -0.6], folder / "merged"
    first, second, _, unet, *_ = networks(model)
    scripts["sdxl_merge_lora"].merge_to_sd_model(first, second, unet, list(map(str, files)), ratios, [], torch.float)
    line = [f"{path}:{ratio}" for path, ratio in zip(files, ratios)]
    run(program, "merge", *line, "--into", model, "--dtype", "f32", "-o", merged)
    worst, changed, left_alone = 0.0, 0, []
    for part, network in [("text_encoder", first), ("text_encoder_2", second), ("unet", unet)]:
        ours, source = {}, {}
        for path in sorted((merged / part).glob("*.safetensors")):
            ours.update(load_file(path))
            source.update(load_file(model / part / path.name))
        theirs = network.state_dict()
        for key, value in ours.items():
            # Newer files of the first encoder leave `text_model` out.
            expected = theirs[key if key in theirs else f"text_model.{key}"].double()
            value = value.double()
            error = float((value - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
            if bool((source[key].double() != value).any()):
                changed += 1
                if (expected == source[key].double()).all():
                    left_alone.append(f"{part}.{key}")
                    continue
            worst = max(worst, error)
    print(f"merge --into: {changed} tensors changed, all within {worst:.1e}; the script has no words for {left_alone}")
    assert worst <= 1e-6 and changed > 20

    extract = scripts["extract_lora_from_models"]
    extract.args = argparse.Namespace(device=None)
    module = sys.modules["library.sdxl_model_util"]
    module.load_models_from_sdxl_checkpoint = lambda _, path, __: networks(Path(path))
    torch.quantile = lambda *_: torch.tensor(float("inf"))
    for name, conv, more in [("linear", None, []), ("conv", 2, ["--conv-rank", 2])]:
        theirs, ours = folder / f"extract-{name}.safetensors", folder / f"ours-extract-{name}.safetensors"
        extract.svd(
            model_org=str(model), model_tuned=str(merged), save_to=str(theirs), dim=3, v2=False, sdxl=True, conv_dim=conv,
            v_parameterization=False, no_metadata=True,
        )
        run(program, "extract", "--base", model, "--tuned", merged, "--rank", 3, *more, "-o", ours)
        # Layers that do not differ: the script writes zeros, we nothing.
        tensors = load_file(theirs)
        zeros = {key.split(".")[0] for key, value in tensors.items() if "lora_up" in key and not value.any()}
        save({key: value for key, value in tensors.items() if key.split(".")[0] not in zeros}, theirs)
        compare(f"extract {name}", theirs, ours)
    torch.quantile = TORCH_QUANTILE


def to_ldm(path):
    """Our file with LDM's names for the same layers."""
    target = path.with_suffix(".ldm.safetensors")
    tensors = {}
    for key, value in load_file(path).items():
        name, _, role = key.partition(".")
        tensors[f"{DIFFUSERS.get(name, name)}.{role}"] = value
    save(tensors, target)
    return target


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kohya", type=Path, required=True)
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/unwrong")
    parser.add_argument("--model", type=Path, default=ROOT / "crates/demo/model")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    scripts = kohya(arguments.kohya)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        check_files(scripts, arguments.program, folder)
        if arguments.write:
            GOLDENS.mkdir(exist_ok=True)
            for path in folder.glob("*.safetensors"):
                if not path.name.startswith("ours-"):
                    (GOLDENS / path.name).write_bytes(path.read_bytes())
        check_models(scripts, arguments.program, folder, arguments.model / "base")


if __name__ == "__main__":
    main()
