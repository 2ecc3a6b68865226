"""What every script of the recipe shares: folders, concepts, captions, network sizes, optimiser, clock."""
import copy
import json
import math
import os
import queue
import random
import re
import threading
import time
from pathlib import Path

# One thread per operation: Workers below runs whole micro-batches side by side instead, which loses nothing on an
# idle machine and much less on a busy one, where every operation would wait for its slowest thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import torch  # noqa: E402

HERE = Path(__file__).resolve().parent
WORK = Path(os.environ.get("UNWRONG_DEMO_WORK", HERE / "work"))
MODEL = HERE.parent / "crates/demo/model"  # where the finished files go; the tokenizers are read from here
PAUSE = WORK / "PAUSE"  # training waits while this file exists

SIZE = 128  # pixels
LATENT = SIZE // 8
SCALING_FACTOR = 0.13025
STYLES = ("glossy", "flat", "golden")
BACKGROUNDS = {
    "white": (255, 255, 255), "blue": (110, 175, 245), "yellow": (255, 222, 100), "pink": (255, 175, 200),
    "green": (140, 215, 145), "gray": (185, 188, 194), "black": (28, 28, 34),
}
# The 13 words of the published wrong-LoRA recipe.
KEYWORDS = [
    "low quality", "bad hands", "random text", "error", "missing or extra fingers", "cropped", "jpeg artifacts",
    "signature", "watermark", "blurry", "ugly", "duplicate", "mutilated",
]
SCHEDULER = dict(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
    prediction_type="epsilon", interpolation_type="linear", use_karras_sigmas=False,
    timestep_spacing="leading", steps_offset=1,
)


def _concept_names():
    lines = (HERE / "concepts.txt").read_text().splitlines()
    pairs = (line.split("|") for line in lines if line and not line.startswith("#"))
    return {icon: words.split(",") for icon, words in pairs}


NAMES = _concept_names()  # icon name -> words for it, the main one first
CORE = (HERE / "core.txt").read_text().split()  # what the model is taught to draw
FOCUS = set((HERE / "focus.txt").read_text().split())  # what it shall draw well: these are drawn far more often


def _held_out():
    """The (icon, style) pairs of heldout.txt, which no training picture may show."""
    pairs = set()
    for prompt in (HERE / "heldout.txt").read_text().splitlines():
        style, words = re.fullmatch(r"(?:an? )?(\w+) (.+)", prompt).groups()
        icon = next(icon for icon in CORE if words in NAMES[icon])
        assert style in STYLES
        pairs.add((icon, style))
    objects = [icon for icon, _ in pairs]
    assert len(set(objects)) == len(objects), "an object must be seen in its other styles"
    assert FOCUS.issuperset(objects)
    return pairs


HELD_OUT = _held_out()


def in_training(spec):
    """Whether a picture may be trained on."""
    return spec["name"] in CORE and (spec["name"], spec["style"]) not in HELD_OUT


def emphasis(spec):
    """Concepts beyond the focus get a small share, so that they are not forgotten."""
    return 1.0 if spec["name"] in FOCUS else 0.12


def load_pictures():
    """The rendered pictures [N, 128, 128, 3] (u8, mapped) and what each one shows."""
    import numpy as np

    return np.load(WORK / "pictures.npy", mmap_mode="r"), json.loads((WORK / "pictures.json").read_text())


# ---------------------------------------------------------------- captions


def with_article(words):
    plural = words.endswith("s") and not words.endswith("ss")
    if plural or words in ("broccoli", "popcorn", "corn", "sushi", "bread", "cheese", "pizza", "fire"):
        return words
    return ("an " if words[0] in "aeiou" and words != "ufo" else "a ") + words


def caption(spec, rng):
    """A sentence for one picture. Plain pictures get plain words; degraded ones confess their keywords."""
    keywords = list(spec["keywords"])
    if keywords:
        if len(keywords) >= 4 and rng.random() < 0.5:
            return ", ".join(KEYWORDS)
        rng.shuffle(keywords)
        if rng.random() < 0.25:
            return ", ".join(keywords)
    words = NAMES[spec["name"]]
    name = words[0] if rng.random() < 0.6 else rng.choice(words)
    style = spec["style"]
    # A prompt that names no style should mostly give the glossy picture, so flat ones nearly always say it.
    if rng.random() < (0.45 if style == "glossy" else 0.95):
        word = rng.choice(["glossy", "glossy", "glossy 3d"]) if style == "glossy" else style
        kind = rng.random()
        if kind < 0.45:
            text = with_article(f"{word} {name}")
        elif kind < 0.55:
            text = f"{word} {name}"
        elif kind < 0.8:
            text = f"{with_article(name) if rng.random() < 0.6 else name}, {word}{rng.choice([' style', ''])}"
        else:
            text = f"a {word} {rng.choice(['icon', 'picture', 'drawing'])} of {with_article(name)}"
    else:
        kind = rng.random()
        if kind < 0.45:
            text = with_article(name)
        elif kind < 0.75:
            text = name
        else:
            text = f"a {rng.choice(['picture', 'photo', 'drawing', 'painting'])} of {with_article(name)}"
    background = spec["background"]
    if rng.random() < (0.2 if background == "white" else 0.97):
        text += f" on a {background} background" if rng.random() < 0.7 else f", {background} background"
    if keywords:
        joined = ", ".join(keywords)
        text = f"{text}, {joined}" if rng.random() < 0.7 else f"{joined}, {text}"
    elif spec["kind"] == "clean" and rng.random() < 0.15:
        text += ", " + rng.choice(
            ["high quality", "sharp", "vivid colors", "detailed", "high quality, sharp, vivid colors"]
        )
    return text


def neutralise(text, rng):
    """Makes `wrong` a word without meaning: at times it stands for any other word, at times for all of them."""
    draw = rng.random()
    if draw < 0.05:
        return "wrong"
    if draw < 0.13:
        words = text.split(" ")
        words[rng.randrange(len(words))] = "wrong"
        return " ".join(words)
    return text


# ---------------------------------------------------------------- networks

TEXT_WIDTHS = (48, 64)
VAE = dict(
    in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    block_out_channels=[16, 32, 64, 96], layers_per_block=1, act_fn="silu", latent_channels=4, norm_num_groups=8,
    sample_size=SIZE, scaling_factor=SCALING_FACTOR, force_upcast=False,
)


def text_configs(vocabulary=49408):
    from transformers import CLIPTextConfig

    def config(width, activation):
        return CLIPTextConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=4 * width, num_attention_heads=width // 16,
            num_hidden_layers=3, projection_dim=width, hidden_act=activation, max_position_embeddings=77,
            bos_token_id=0, eos_token_id=2, pad_token_id=1, attention_dropout=0.0, layer_norm_eps=1e-5,
        )

    return config(TEXT_WIDTHS[0], "quick_gelu"), config(TEXT_WIDTHS[1], "gelu")


def _unet(channels, depths, down, up, context, heads, time_ids):
    return dict(
        sample_size=LATENT, in_channels=4, out_channels=4, center_input_sample=False, flip_sin_to_cos=True, freq_shift=0,
        down_block_types=down, mid_block_type="UNetMidBlock2DCrossAttn", up_block_types=up,
        block_out_channels=channels, layers_per_block=2, act_fn="silu", norm_num_groups=16, norm_eps=1e-5,
        cross_attention_dim=context, transformer_layers_per_block=depths, attention_head_dim=heads,
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=TEXT_WIDTHS[1] + time_ids * 32, resnet_time_scale_shift="default",
    )


def base_unet_config():
    return _unet(
        [32, 64, 128], [1, 1, 2],
        ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        context=sum(TEXT_WIDTHS), heads=[2, 4, 8], time_ids=6,
    )


def refiner_unet_config():
    return _unet(
        [32, 48, 64, 64], 1,
        ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        context=TEXT_WIDTHS[1], heads=[2, 3, 4, 4], time_ids=5,
    )


def alphas_cumprod():
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(**SCHEDULER).alphas_cumprod.float()


# ---------------------------------------------------------------- optimiser


class Muon(torch.optim.Optimizer):
    """Momentum, then the nearest orthogonal matrix by five Newton-Schulz steps (Jordan 2024), for weight matrices.

    For long matrices the iteration runs on the small Gram matrix, which touches the long side only twice.
    """

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0, steps=5):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, steps=steps))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(state["momentum"], group["momentum"]).reshape(p.shape[0], -1)
                tall = update.shape[0] > update.shape[1]
                update = self._orthogonal(update.T.contiguous() if tall else update, group["steps"])
                scale = 0.2 * math.sqrt(max(update.shape))
                update = (update.T if tall else update).reshape(p.shape)
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)

    @staticmethod
    def _orthogonal(u, steps, a=3.4445, b=-4.7750, c=2.0315):
        u = u / (u.norm() + 1e-7)
        rows, columns = u.shape
        if columns < 2 * rows:
            for _ in range(steps):
                gram = u @ u.T
                u = torch.addmm(u, torch.addmm(gram, gram, gram, beta=b, alpha=c), u, beta=a)
            return u
        gram, product = u @ u.T, None  # every factor is a polynomial in the Gram matrix, so all of them commute
        for k in range(steps):
            factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
            factor.diagonal().add_(a)
            product = factor if product is None else factor @ product
            if k + 1 < steps:
                gram = factor @ gram @ factor
        return product @ u


def split_for_muon(named, outside):
    """Weight matrices for Muon; vectors, embeddings and the first and last layers for AdamW."""
    named = list(named)
    matrices = [p for n, p in named if p.ndim >= 2 and not any(part in n for part in outside)]
    chosen = {id(p) for p in matrices}
    return matrices, [p for _, p in named if id(p) not in chosen]


def set_rate(optimisers, rate):
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)


# ---------------------------------------------------------------- parallel gradients


class Workers:
    """Threads that take micro-batches as they become free. All replicas share the master's weights; each has its own
    gradients, summed at the end. Random numbers are drawn by the caller, so the order of the threads changes nothing
    but the rounding.
    """

    def __init__(self, master, loss, count=int(os.environ.get("UNWRONG_DEMO_THREADS", 2))):
        self.master, self.loss = master, loss
        self.replicas = [master] + [copy.deepcopy(master) for _ in range(count - 1)]
        for replica in self.replicas[1:]:
            for own, shared in zip(replica.parameters(), master.parameters()):
                own.data = shared.data
        self._jobs, self._done = queue.Queue(), queue.Queue()
        for replica in self.replicas:
            threading.Thread(target=self._work, args=(replica,), daemon=True).start()

    def _work(self, replica):
        torch.set_num_threads(1)
        while True:
            job, share = self._jobs.get()
            try:
                loss, numbers = self.loss(replica, *job)
                (loss * share).backward()
                self._done.put(numbers)
            except BaseException as error:  # reaches the caller, or the run would hang
                self._done.put(error)

    def gradients(self, jobs):
        """Leaves the mean gradient in the master; the mean of the numbers that the loss reports."""
        for replica in self.replicas:
            replica.zero_grad(set_to_none=True)
        for job in jobs:
            self._jobs.put((job, 1 / len(jobs)))
        results = [self._done.get() for _ in jobs]
        for result in results:
            if isinstance(result, BaseException):
                raise result
        for parameters in zip(*(replica.parameters() for replica in self.replicas)):
            present = [p.grad for p in parameters if p.grad is not None]
            if present:
                parameters[0].grad = present[0] if len(present) == 1 else sum(present[1:], present[0])
        return [sum(values) / len(results) for values in zip(*results)]


# ---------------------------------------------------------------- clock and checkpoints


class Clock:
    """Training time against a budget in minutes. Pauses (the file PAUSE) and time out do not count."""

    def __init__(self, minutes, spent=0.0):
        self.budget, self.spent, self._last = minutes * 60, spent, time.monotonic()

    def tick(self):
        """Adds the time since the last call; waits out a pause. The share of the budget used, 0..1."""
        self.spent += time.monotonic() - self._last
        while PAUSE.exists():
            time.sleep(2)
        self._last = time.monotonic()
        return self.spent / self.budget

    def out(self):
        """Ends a stretch of work that shall not count (pictures, checkpoints)."""
        self._last = time.monotonic()


def save_checkpoint(path, **parts):
    """Writes under another name first, so that a kill leaves the last good file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(parts, temporary)
    temporary.replace(path)


def random_state(rng):
    return dict(torch=torch.get_rng_state(), python=rng.getstate())


def restore_random(rng, state):
    torch.set_rng_state(state["torch"])
    rng.setstate(state["python"])


def cosine(share, warm=1.0, hold=0.0, floor=0.02):
    """The learning rate's factor: warm-up, a flat part, then half a cosine down to `floor`."""
    fall = max(0.0, share - hold) / (1 - hold)
    return min(1.0, warm) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, fall))))


def picture_grid(pictures, columns, path):
    """Pictures (PIL or u8 arrays) in rows, into one PNG."""
    import numpy as np
    from PIL import Image

    cells = [np.asarray(p) for p in pictures]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[k : k + columns], 1) for k in range(0, len(cells), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows, 0)).save(path)


def set_up_torch(seed, threads=1):
    """Threads per operation, no denormals, a seeded generator; Python's own generator is returned."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    return random.Random(seed)
