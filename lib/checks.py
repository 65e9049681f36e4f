"""One-line errors for values that do not make sense, each naming the value and what is allowed."""

import math
from numbers import Integral, Real

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


def count(value, what, least=1):
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{what} must be an integer >= {least}, got {value!r}")
    return int(value)


def network(model):
    """Only a module can be put into eval mode, and its parameters be left alone."""
    if not isinstance(model, torch.nn.Module):
        got = getattr(model, "__name__", None) or type(model).__name__
        raise ValueError(f"the network must be a torch.nn.Module, got {got}")
    return model


def batch(x):
    """`x` must be float32 or float64 `[s, c, h, w]`: half precision rounds an attack away."""
    if not (torch.is_tensor(x) and x.dtype in (torch.float32, torch.float64) and x.ndim == 4):
        got = f"{x.dtype} {list(x.shape)}" if torch.is_tensor(x) else type(x).__name__
        raise ValueError(
            f"images must be a floating-point tensor, float32 or float64 [s, c, h, w], got {got}"
        )
    return x


def images(x):
    """`x` must be a `batch` with every value in [0, 1] (NaN is not)."""
    if batch(x).numel() and not ((x >= 0) & (x <= 1)).all():
        raise ValueError(
            f"images must lie in [0, 1], got values from {x.min().item():g} to {x.max().item():g}"
        )
    return x


def some(x):
    """`images`, at least one: of none there is no share."""
    if not len(images(x)):
        raise ValueError("there are no images")
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
