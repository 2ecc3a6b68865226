"""Normal noise as torch draws it on a CUDA device, on its own, in numpy.

Written from the published algorithms: Salmon et al. 2011, "Parallel random numbers: as
easy as 1, 2, 3" (Philox4x32-10), the Box-Muller form of the cuRAND manual, and the way
torch spreads elements over threads. Nothing of torch or CUDA runs here.
"""

import numpy as np

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
BLOCK = 256  # threads in a block
LANES = 4  # values that a thread makes at once
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(counter, key):
    """Ten rounds over four columns of 32-bit words, kept in 64-bit integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        p0 = MULTIPLIERS[0] * c0
        p1 = MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (p1 >> HALF) ^ c1 ^ np.uint64(k0),
            p1 & LOW,
            (p0 >> HALF) ^ c3 ^ np.uint64(k1),
            p0 & LOW,
        )
        k0 = (k0 + WEYL[0]) & 0xFFFFFFFF
        k1 = (k1 + WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def box_muller(x, y):
    """Two normal values of two words; the angle is rounded once, as a fused multiply-add does."""
    scale = np.float64(2.0**-32)
    turn = np.float64(np.float32(2.0**-32 * 2.0 * np.pi))
    half_turn = np.float64(np.float32(turn / 2))
    u = (x.astype(np.float32) * np.float32(scale) + np.float32(scale / 2)).astype(np.float32)
    v = (y.astype(np.float32).astype(np.float64) * turn + half_turn).astype(np.float32).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log(u.astype(np.float64)))
    return (radius * np.sin(v)).astype(np.float32), (radius * np.cos(v)).astype(np.float32)


class CudaNoise:
    """A generator with a seed and an offset, on a device with so many resident blocks."""

    def __init__(self, seed, multiprocessors, threads_each):
        self.key = (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF)
        self.offset = 0
        self.most_blocks = multiprocessors * (threads_each // BLOCK)

    def draw(self, count):
        """The next `count` values, flat."""
        grid = min(self.most_blocks, (count + BLOCK - 1) // BLOCK)
        threads = BLOCK * grid
        rounds = (count - 1) // (threads * LANES) + 1
        thread = np.arange(threads, dtype=np.uint64)
        out = np.empty(threads * LANES * rounds, dtype=np.float32)
        for turn in range(rounds):
            at = self.offset // 4 + turn
            counter = (
                np.full(threads, at & 0xFFFFFFFF, dtype=np.uint64),
                np.full(threads, (at >> 32) & 0xFFFFFFFF, dtype=np.uint64),
                thread & LOW,
                thread >> HALF,
            )
            words = philox(counter, self.key)
            lanes = (*box_muller(words[0], words[1]), *box_muller(words[2], words[3]))
            for lane, values in enumerate(lanes):
                start = (turn * LANES + lane) * threads
                out[start : start + threads] = values
        self.offset += rounds * 4
        return out[:count]
