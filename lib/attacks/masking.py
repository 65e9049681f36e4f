"""Signs that an attack is too weak to be believed.

A risk under attack is a lower bound: it is small where the network is robust, and where the attack
fails for reasons of its own, such as gradients that say nothing (gradient masking). These are the
signs that Athalye et al. (2018) and Carlini et al. (2019) look for. Conventions are those of
`attacks`.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch

from lib import checks
from lib.attacks import gradient
from lib.attacks.square import square
from lib.attacks.threat import (
    NoGradient,
    at_least_fp32,
    frozen,
    gradient_at,
    images_like,
    logits_of,
    margin,
    ordinary,
    predict,
)

# Shares of images: a larger one is a warning. An attack may miss what luck finds, two in a hundred.
NO_GRADIENT, RANDOM, MISSED, SHORT = "no gradient", "random outputs", "missed", "short of 1"
LIMITS = {NO_GRADIENT: 0.01, RANDOM: 0.0, MISSED: 0.02, SHORT: 0.01}


@dataclass(frozen=True)
class Sign:
    """What was looked for, by what, at which eps, and the share of images that show it."""

    kind: str
    by: str
    eps: float
    share: float

    @property
    def limit(self):
        return LIMITS[self.kind]

    @property
    def warns(self):
        return not self.share <= self.limit


def no_gradient(model, x, y):
    """The share of images at which the attacks' loss has no gradient."""
    try:
        with frozen(model):
            x, y = ordinary(checks.some(x)), ordinary(y)
            _, _, gradient = gradient_at(model, x, partial(margin, y=y), check=y)
    except NoGradient:
        return 1.0
    return share((gradient.flatten(1) == 0).all(1))


def random_outputs(model, x):
    """The share of images whose logits differ between two passes, by more than rounding."""
    one, other = (at_least_fp32(logits_of(model, checks.some(x))) for _ in range(2))
    scale = one.abs().amax(1, keepdim=True)
    return share(((one - other).abs() > 1e-3 * scale).any(1))


def masked(model, x, y, *, steps):
    """The signs, in a list, that PGD of `steps` steps can't find its way in this network.

    no gradient: images at which the loss has none. random outputs: images whose logits are not
    the same twice. short of 1: images that PGD misses at an eps at which every one of them can be
    made the same grey, and so all but one class must fall.
    """
    checks.labels(y, len(checks.some(x)))
    grey = 0.5 * math.sqrt(x[0].numel())
    far = partial(pgd, eps=grey, steps=steps, keep="first_success")
    return [
        Sign(NO_GRADIENT, "PGD", 0.0, no_gradient(model, x, y)),
        Sign(RANDOM, "two passes", 0.0, random_outputs(model, x)),
        Sign(SHORT, f"PGD, {steps} iterations", grey, share(predict(model, far(model, x, y)) == y)),
    ]


def missed(model, x, y, x_adv, *, eps, steps, queries, restarts, generator, transferred=None):
    """The signs, in a list, that L2 PGD of `steps` steps misses what it should find at `eps`.

    Shares of images that are still labelled rightly at its `x_adv`, but not at what Square finds
    with `queries` queries, PGD with twice the steps, PGD from as many random starts as
    `restarts`, or at those images `transferred` from an attack on another network.
    """
    checks.labels(y, len(checks.some(x)))
    steps = checks.count(steps, "steps")
    left = predict(model, images_like(x_adv, x)) == y
    longer = partial(pgd, eps=eps, keep="first_success")
    others = {
        f"Square, {queries} queries": partial(
            square, eps=eps, norm="l2", steps=queries, generator=generator
        ),
        f"PGD, {2 * steps} iterations": partial(longer, steps=2 * steps),
        f"PGD, {restarts} random starts": partial(
            longer, steps=steps, start="ball", restarts=restarts, generator=generator
        ),
    }
    if transferred is not None:
        images_like(transferred, x)
        others["transfer"] = lambda model, x, y: transferred[left]

    def fooled(attack):
        also = torch.zeros_like(left)
        if left.any():
            also[left] = predict(model, attack(model, x[left], y[left])) != y[left]
        return also

    return [Sign(MISSED, by, eps, share(fooled(attack))) for by, attack in others.items()]


def pgd(model, x, y, **settings):
    """PGD, which stands still where the network cannot be differentiated."""
    try:
        return gradient.pgd(model, x, y, **settings)
    except NoGradient:
        return x


def share(mask):
    return mask.sum().item() / len(mask)
