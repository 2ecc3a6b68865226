"""Noise: torch's CPU generator, and the CUDA one by an independent implementation."""

import numpy as np
import torch

from .golden import Goldens
from .philox import CudaNoise

SEEDS = [0, 1, 5, 7, 42, 2**31, 2**32 - 1, 2**32 + 5, 2**63 - 1]
# Each inner list is what one generator draws, call after call.
DRAWS = [
    [[1]], [[7]], [[15]], [[16]], [[17]], [[31]], [[1024]], [[1029]], [[1, 4, 16, 16]], [[2, 4, 12, 20]],
    [[7], [7]], [[7], [16], [7]], [[15], [17], [3], [1]], [[16], [16]], [[17], [17]], [[64], [64]], [[1, 4, 16, 16], [1, 4, 16, 16]],
]
FEW_SEEDS = [0, 7, 2**63 - 1]
# name: multiprocessors, resident threads each
DEVICES = {"h100": (132, 2048), "t4": (40, 1024), "small": (2, 512), "one": (1, 256)}
CUDA_DRAWS = {
    "h100": [[[4]], [[1, 4, 16, 16]], [[1029], [7]], [[1, 4, 128, 128]]],
    "t4": [[[1, 4, 128, 128]], [[40959], [40961], [3]]],
    "small": [[[1023]], [[1024]], [[1025]], [[4097], [4096], [5]]],
    "one": [[[255]], [[257]], [[1024], [1025]], [[2500]]],
}
PUBLISHED = {"seed": 0, "values": [-0.9247, -0.4253, -2.6438, 0.1452], "tolerance": 5e-5}


def write(folder):
    """noise.{json,safetensors}"""
    goldens = Goldens(folder, "noise")
    cases = []

    def case(name, draws, draw, **facts):
        cases.append({"name": name, **facts, "shapes": draws})
        for number, shape in enumerate(draws):
            goldens.add(f"{name}.{number}", draw(shape), keep=768)

    for seed in SEEDS:
        for draws in DRAWS if seed in FEW_SEEDS else DRAWS[1:9:3]:
            generator = torch.Generator("cpu").manual_seed(seed)
            name = f"cpu.{seed}." + "-".join("x".join(map(str, shape)) for shape in draws)
            case(name, draws, lambda shape: torch.randn(shape, generator=generator), generator="torch-cpu", seed=seed)

    for device, (multiprocessors, threads) in DEVICES.items():
        for seed in FEW_SEEDS:
            for draws in CUDA_DRAWS[device]:
                noise = CudaNoise(seed, multiprocessors, threads)
                name = f"cuda.{device}.{seed}." + "-".join("x".join(map(str, shape)) for shape in draws)
                case(
                    name,
                    draws,
                    lambda shape: torch.from_numpy(noise.draw(int(np.prod(shape)))).reshape(shape),
                    generator="torch-cuda",
                    seed=seed,
                    multiprocessors=multiprocessors,
                    threads_each=threads,
                )

    first = CudaNoise(PUBLISHED["seed"], 132, 2048).draw(4)
    worst = np.abs(first - np.array(PUBLISHED["values"])).max()
    assert worst < PUBLISHED["tolerance"], f"the published values differ by {worst}: {first}"
    goldens.facts.update(published_cuda=PUBLISHED, cases=cases)
    goldens.write()
