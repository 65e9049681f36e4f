"""Independent streams of random numbers, each named by what it is for."""

import hashlib

import torch


def generator(*key, device="cpu"):
    """A `torch.Generator` for a key such as `(seed, "order", epoch)`.

    Streams of different keys are independent, so drawing more from one changes no other; the
    same key gives the same stream in every process.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
