"""The Square attack: random search in the eps-ball, for networks whose gradients say nothing."""

import math

import torch

from lib import checks
from lib.attacks.threat import (
    NORMS,
    TINY,
    at_least_fp32,
    check_outputs,
    forward,
    frozen,
    gap,
    length,
    ordinary,
    project,
    where,
)


def square(model, x, y, *, eps, norm, steps=5000, targeted=False, generator):
    """The Square attack (Andriushchenko et al. 2020): random search without gradients -> `x_adv`.

    Each of `steps` queries changes the perturbation in a random square, smaller and smaller, and
    is kept where it raises the gap between the largest other logit and the label's. Linf: the
    square takes the sign of a random corner in each channel. L2: the square takes a pyramid,
    half of it negative, and the share of eps that a second square gives up. What is random
    draws from `generator`. With `targeted`, `y` are the labels to reach.
    """
    eps = checks.radius(eps)
    checks.images(x)
    checks.labels(y, len(x))
    checks.one_of(norm, NORMS, "norm")
    steps = checks.count(steps, "steps")
    if generator is None:
        raise ValueError("square draws at random: pass a generator")
    change, first = (_tile, _stripes) if norm == "linf" else (_shift, _pyramids)

    with frozen(model), torch.no_grad():
        x, y = ordinary(x), ordinary(y)
        origin, kept = x, x.clone()
        active = torch.arange(len(x), device=x.device)
        best = torch.full((len(x),), -torch.inf, device=x.device)
        x_adv = tried = origin
        outputs = forward(model, origin)
        check_outputs(outputs, y)
        for query in range(steps + 1):
            going = (outputs.argmax(1) == y) != targeted
            if not going.all():
                kept[active[~going]] = tried[~going]
                active, origin, x_adv, y, best = (
                    part[going] for part in (active, origin, x_adv, y, best)
                )
            if query == steps or not len(active):
                break
            if query == 0:
                delta = first(origin, eps, generator)
            else:
                side = _side(query / steps, origin.shape[2:])
                delta = change(x_adv - origin, side, eps, generator)
            tried = project(origin + delta, origin, eps, norm)
            outputs = forward(model, tried)
            value = gap(at_least_fp32(outputs), y) * (-1 if targeted else 1)
            x_adv = where(value > best, tried, x_adv)
            best = torch.maximum(best, value)
        kept[active] = x_adv
    return kept


def _side(progress, size):
    """The side of the square: a share of the image's area that is halved as the queries go."""
    done = sum(
        10_000 * progress > mark for mark in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    )
    return min(max(round(math.sqrt(0.8 / 2**done * math.prod(size))), 1), *size)


def _signs(shape, like, generator):
    return 2.0 * torch.randint(2, shape, generator=generator, device=like.device).to(like) - 1


def _places(like, side, generator):
    """A random square in each example: each pixel's row and column in it, and whether it is in."""
    s, _, *size = like.shape
    offsets = []
    for axis, total in enumerate(size):
        shape = [1, 1, 1, 1]
        shape[2 + axis] = total
        corner = torch.randint(
            total - side + 1, (s, 1, 1, 1), generator=generator, device=like.device
        )
        offsets.append(torch.arange(total, device=like.device).view(shape) - corner)
    row, column = offsets
    return row, column, (row >= 0) & (row < side) & (column >= 0) & (column < side)


def _stripes(x, eps, generator):
    return eps * _signs((*x.shape[:2], 1, x.shape[3]), x, generator).expand_as(x)


def _tile(delta, side, eps, generator):
    _, _, inside = _places(delta, side, generator)
    return torch.where(inside, eps * _signs((*delta.shape[:2], 1, 1), delta, generator), delta)


def _pyramid(height, width, like):
    """Concentric frames `[height, width]`: the k-th from the outside adds to all within it."""
    row, column = (
        (torch.arange(n, device=like.device) - (n - 1) / 2).abs() for n in (height, width)
    )
    frame = torch.maximum(row[:, None], column).long()
    k = torch.arange(int(frame.max()) + 1, 0, -1, device=like.device)
    return (1 / k**2).cumsum(0).flip(0)[frame].to(like)


def _pyramids(x, eps, generator):
    """The whole image tiled with pyramids of random sign, five to a side, of length eps."""
    height, width = x.shape[2:]
    side = max(min(height, width) // 5, 1)
    rows, columns = -(-height // side), -(-width // side)
    signs = _signs((*x.shape[:2], rows, columns), x, generator)
    tiled = torch.kron(signs, _pyramid(side, side, x))[:, :, :height, :width]
    return eps * tiled / length(tiled, "l2")


def _shift(delta, side, eps, generator):
    """Length moved from a second square, and what eps leaves, into a first one (algorithm 3)."""
    row, column, first = _places(delta, side, generator)
    _, _, second = _places(delta, side, generator)
    half = side // 2
    block = _pyramid(side - half, side, delta)
    if half:
        block = torch.cat([block, -_pyramid(half, side, delta)])
    row, column = row.clamp(0, side - 1), column.clamp(0, side - 1)
    upright = _signs((len(delta), 1, 1, 1), delta, generator) > 0
    bump = torch.where(upright, block[row, column], block[column, row]) * first
    bump = bump / length(bump, "l2")

    def norm(part):
        return part.flatten(2).norm(dim=2)[:, :, None, None]

    spare = (eps**2 - length(delta, "l2") ** 2).clamp_min(0) / delta.shape[1]
    available = (norm(delta * (first | second)) ** 2 + spare).sqrt()
    old = delta * first
    new = _signs((*delta.shape[:2], 1, 1), delta, generator) * bump + old / norm(old).clamp_min(
        TINY
    )
    new = new * available / norm(new).clamp_min(TINY)
    return torch.where(first, new, delta * ~second)
