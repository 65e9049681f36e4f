"""One-line errors for values that do not make sense, each naming the value and what is allowed."""

import math
from numbers import Real

import torch


def one_of(value, allowed, what):
    if value not in allowed:
        raise ValueError(f"unknown {what} {value!r}: choose one of {', '.join(map(str, allowed))}")
    return value


def probability(p):
    if not isinstance(p, Real) or not 0 <= p <= 1:
        raise ValueError(f"p must be a number in [0, 1], got {p!r}")
    return float(p)


def radius(eps, what="eps"):
    if not isinstance(eps, Real) or not 0 <= eps < math.inf:
        raise ValueError(f"{what} must be a finite number >= 0, got {eps!r}")
    return float(eps)


def spread(value, what):
    """Of a factor drawn from 1 - value to 1 + value, which must stay positive."""
    if not isinstance(value, Real) or not 0 <= value < 1:
        raise ValueError(f"{what} must be a number in [0, 1), got {value!r}")
    return value


def count(value, what):
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{what} must be an integer >= 1, got {value!r}")
    return value


def images(x):
    """`x` must be floating point `[s, c, h, w]` with every value in [0, 1] (NaN is not)."""
    if not (torch.is_tensor(x) and x.is_floating_point() and x.ndim == 4):
        got = f"{x.dtype} {list(x.shape)}" if torch.is_tensor(x) else type(x).__name__
        raise ValueError(f"images must be a floating-point tensor [s, c, h, w], got {got}")
    if x.numel() and not ((x >= 0) & (x <= 1)).all():
        raise ValueError(
            f"images must lie in [0, 1], got values from {x.min().item():g} to {x.max().item():g}"
        )
    return x


def labels(y, s, classes=None):
    """`y` must be int64 `[s]`; with `classes`, every label in 0 .. classes - 1."""
    if not (torch.is_tensor(y) and y.dtype == torch.int64 and y.shape == (s,)):
        got = f"{y.dtype} {list(y.shape)}" if torch.is_tensor(y) else type(y).__name__
        raise ValueError(f"labels must be int64 [{s}], one for each image, got {got}")
    if classes is not None and s and (int(y.min()) < 0 or int(y.max()) >= classes):
        raise ValueError(
            f"labels must lie in 0 .. {classes - 1}, got {int(y.min())} .. {int(y.max())}"
        )
    return y
