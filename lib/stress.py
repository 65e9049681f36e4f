"""Prediction-change stress: how often a random neighbour on the eps-sphere gets another label."""

import torch

from lib import checks
from lib.attacks import frozen


def sphere(x, eps, neighbours, generator):
    """Points uniform on the L2 sphere of radius `eps` around each `x` `[s, c, h, w]`, not clipped.

    Returns `[s, neighbours, c, h, w]`. The directions depend on the generator's state alone, so
    the same state gives the same directions for every eps.
    """
    eps = checks.radius(eps)
    shape = (len(x), checks.count(neighbours, "neighbours"), *x.shape[1:])
    direction = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
    length = direction.flatten(2).norm(dim=2)[:, :, None, None, None]
    return x[:, None] + eps * direction / length


def prediction_change_stress(model, x, *, eps, neighbours, generator, batch_size=2000):
    """The share `[s]` of random neighbours of each centre `x` that f labels otherwise than `x`.

    Its mean over the centres is the estimator stress_pc(f, S, eps) of Eghbal-zadeh et al.
    (2020), with neighbours uniform on the L2 sphere of radius `eps` around each centre.
    """
    checks.images(x)
    per_round = max(1, batch_size // checks.count(neighbours, "neighbours"))
    shares = []
    with frozen(model), torch.no_grad():
        for centres in x.split(per_round):
            around = sphere(centres, eps, neighbours, generator).flatten(0, 1)
            labels = model(around).argmax(1).view(len(centres), neighbours)
            differs = labels != model(centres).argmax(1, keepdim=True)
            shares.append(differs.float().mean(1))
    return torch.cat(shares)
