"""The wrong-LoRA of the demo model.

    wrong_lora.py pictures                       78 wrong pictures: 13 prompts (one keyword ++++) x guidance 8..13
    wrong_lora.py spoil                          240 clean pictures, blurred and dulled, in place of the 78
    wrong_lora.py train NAME [--rate --steps] [--pictures FOLDER]   LoRA on the base UNet's attention, prompt `wrong`
    wrong_lora.py compare NAME [--guidance --scale]   pairs: left no negative, right `wrong` + LoRA; picture and figures

All of it reads work/base; NAME is written to work/wrong/NAME.safetensors, pairs to work/grids.
"""
import argparse
import json
import math

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline
from PIL import Image, ImageEnhance, ImageFilter

from common import KEYWORDS, SIZE, WORK, alphas_cumprod, picture_grid, set_up_torch
from evaluate import concept_of, measure

ROOT = WORK / "wrong"
GUIDANCE = (8.0, 9.0, 10.0, 11.0, 12.0, 13.0)
PROMPTS = [
    "a red apple, flat", "a cat", "a yellow star", "a glossy rocket on a blue background", "a penguin",
    "a red heart", "pizza", "a house", "a flat car", "a hamburger", "strawberry", "a frog", "a purple heart",
    "a robot", "a sunflower on a pink background", "a balloon",
]


def load():
    pipe = StableDiffusionXLPipeline.from_pretrained(WORK / "base", torch_dtype=torch.float32, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_pictures(steps):
    """The 78 pictures, all 13 prompts at a time. The seed is the picture's number, as published."""
    from compel import Compel, ReturnedEmbeddingsType

    pipe = load()
    compel = Compel(
        tokenizer=[pipe.tokenizer, pipe.tokenizer_2], text_encoder=[pipe.text_encoder, pipe.text_encoder_2],
        returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
        requires_pooled=[False, True],
    )
    (ROOT / "pictures").mkdir(parents=True, exist_ok=True)
    embeds, pooled = compel([", ".join(KEYWORDS).replace(keyword, f"({keyword})++++") for keyword in KEYWORDS])
    paths = [ROOT / f"pictures/{number:03d}.png" for number in range(len(KEYWORDS) * len(GUIDANCE))]
    for column, guidance in enumerate(GUIDANCE):
        numbers = range(column, len(paths), len(GUIDANCE))
        if all(paths[number].exists() for number in numbers):
            continue
        made = pipe(
            prompt_embeds=embeds, pooled_prompt_embeds=pooled, guidance_scale=guidance, num_inference_steps=steps,
            height=SIZE, width=SIZE, generator=[torch.Generator().manual_seed(number) for number in numbers],
        ).images
        for number, picture in zip(numbers, made):
            picture.save(paths[number])
        print(f"guidance {guidance:g} done", flush=True)
    picture_grid([Image.open(path) for path in paths], 13, WORK / "grids/wrong_pictures.png")


def spoil(count=240):
    """Clean training pictures made soft and dull, into work/wrong/spoilt.

    The 78 wrong pictures of so small a model are mostly wrong in what they show; what a user should see less of is
    how they look: blur, dull colours, little contrast.
    """
    rng = np.random.default_rng(0)
    spec = json.loads((WORK / "pictures.json").read_text())
    pixels = np.load(WORK / "pictures.npy", mmap_mode="r")
    clean = [k for k, entry in enumerate(spec) if entry["kind"] == "clean"]
    (ROOT / "spoilt").mkdir(parents=True, exist_ok=True)
    for number, k in enumerate(rng.choice(clean, count, replace=False)):
        picture = Image.fromarray(np.ascontiguousarray(pixels[k]))
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(1.5, 4.0)))
        picture = ImageEnhance.Color(picture).enhance(rng.uniform(0.35, 0.8))
        picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.65, 0.95))
        picture.save(ROOT / f"spoilt/{number:03d}.png")


def train(name, rate, steps, batch, rank, pictures="pictures"):
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe, alphas = load(), alphas_cumprod()
    paths = sorted((ROOT / pictures).glob("*.png"))
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1).float() / 127.5 - 1 for p in paths])
    with torch.no_grad():
        posterior = pipe.vae.encode(pixels).latent_dist
        embeds, _, pooled, _ = pipe.encode_prompt("wrong", do_classifier_free_guidance=False)
    pipe.unet.requires_grad_(False)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets)
    pipe.unet.add_adapter(config, adapter_name="wrong")
    trained = [p for p in pipe.unet.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=rate, weight_decay=1e-2)
    time_ids = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]]).float().repeat(batch, 1)
    losses = []
    for step in range(steps):
        chosen = torch.randint(0, len(paths), (batch,))
        latents = posterior.mean[chosen] + posterior.std[chosen] * torch.randn(batch, 4, SIZE // 8, SIZE // 8)
        latents = latents * pipe.vae.config.scaling_factor
        noise, timesteps = torch.randn_like(latents), torch.randint(0, 1000, (batch,))
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        added = dict(text_embeds=pooled.repeat(batch, 1), time_ids=time_ids)
        made = pipe.unet(noisy, timesteps, embeds.repeat(batch, 1, 1), added_cond_kwargs=added, return_dict=False)[0]
        loss = F.mse_loss(made, noise)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            print(step + 1, f"loss {np.mean(losses[-50:]):.4f}", flush=True)
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipe.unet, adapter_name="wrong"))
    StableDiffusionXLPipeline.save_lora_weights(
        ROOT, unet_lora_layers={k: v.half() for k, v in state.items()}, weight_name=f"{name}.safetensors"
    )


def draw(pipe, guidance, negative, scale, steps, seeds):
    pictures = []
    for seed in seeds:
        pictures += pipe(
            PROMPTS, negative_prompt=None if negative is None else [negative] * len(PROMPTS), guidance_scale=guidance,
            num_inference_steps=steps, height=SIZE, width=SIZE,
            generator=[torch.Generator().manual_seed(100 * seed + k) for k in range(len(PROMPTS))],
            cross_attention_kwargs=None if scale is None else {"scale": scale},
        ).images
    return pictures


def compare(name, guidance, scale, steps, seeds):
    pipe = load()
    cache = ROOT / f"plain_{guidance:g}_{steps}_{len(seeds)}.pt"
    left = torch.load(cache, weights_only=False) if cache.exists() else draw(pipe, guidance, None, None, steps, seeds)
    torch.save(left, cache)
    if name == "none":
        right = draw(pipe, guidance, "wrong", None, steps, seeds)
    else:
        pipe.load_lora_weights(ROOT, weight_name=f"{name}.safetensors", adapter_name="wrong")
        right = draw(pipe, guidance, "wrong", scale, steps, seeds)
    title = f"{name}_cfg{guidance:g}_scale{scale:g}"
    count = len(PROMPTS)
    picture_grid([p for pair in zip(left[:count], right[:count]) for p in pair], 8, WORK / f"grids/pairs_{title}.png")
    wanted = [concept_of(prompt) for prompt in PROMPTS] * len(seeds)
    a, b = measure(left, wanted), measure(right, wanted)
    report = {}
    for key in a:
        change = np.array(b[key]) - np.array(a[key])
        error = change.std(ddof=1) / math.sqrt(len(change))
        report[key] = f"{np.mean(a[key]):.2f} -> {np.mean(b[key]):.2f} (+-{error:.2f}, up in {np.mean(change > 0):.0%})"
    print(title, json.dumps(report, indent=1), flush=True)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["pictures", "spoil", "train", "compare"])
    arguments.add_argument("name", nargs="?")
    arguments.add_argument("--rate", type=float, default=1e-4)
    arguments.add_argument("--steps", type=int)
    arguments.add_argument("--batch", type=int, default=4)
    arguments.add_argument("--pictures", default="pictures", help="folder in work/wrong to train on")
    arguments.add_argument("--rank", type=int, default=4)
    arguments.add_argument("--guidance", type=float, default=7.0)
    arguments.add_argument("--scale", type=float, default=1.0)
    arguments.add_argument("--seeds", type=int, default=1)
    arguments = arguments.parse_args()
    set_up_torch(0)
    if arguments.what == "pictures":
        make_pictures(arguments.steps or 50)
    elif arguments.what == "spoil":
        spoil()
    elif arguments.what == "train":
        steps = arguments.steps or 500
        train(arguments.name, arguments.rate, steps, arguments.batch, arguments.rank, arguments.pictures)
    else:
        compare(arguments.name, arguments.guidance, arguments.scale, arguments.steps or 20, range(arguments.seeds))
