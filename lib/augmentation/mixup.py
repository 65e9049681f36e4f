"""Mixup: convex combinations of examples and of their labels."""

import math
from numbers import Real

import torch
from scipy.special import betaincinv

from lib import checks
from lib.augmentation.algebra import UNITS, Augmentation, Sample


class Mixup(Augmentation):
    """Convex combinations of examples and of their labels (Zhang et al. 2018).

    per="batch", as its authors have it: lambda ~ Beta(alpha, alpha) and the partners, a random
    permutation, are drawn once a batch, so the outputs depend on each other. per="example": each
    has a lambda and a partner of its own, drawn with replacement; given the sample, the outputs
    are independent.
    """

    def __init__(self, alpha=1.0, per="batch"):
        if not isinstance(alpha, Real) or not 0 < alpha < math.inf:
            raise ValueError(f"alpha of mixup must be a finite number > 0, got {alpha!r}")
        self.alpha, self.unit = float(alpha), checks.one_of(per, UNITS, "unit of mixup")

    def draw(self, sample, generator):
        x, y, s = sample.x, sample.y, len(sample)
        device, each = x.device, self.unit == "example"
        # torch's own Beta takes no generator: lambda is the quantile of a uniform number.
        weight = torch.rand(s if each else 1, generator=generator, device=device)
        if self.alpha != 1:  # Beta(1, 1) is uniform: a GPU need not wait for the processor
            uniform = weight.double().cpu().numpy()
            weight = torch.from_numpy(betaincinv(self.alpha, self.alpha, uniform)).to(device)
        weight = weight.to(x.dtype)[:, None]
        if each:
            partner = torch.randint(s, (s,), generator=generator, device=device)
        else:
            partner = torch.randperm(s, generator=generator, device=device)
        # lerp, unlike a weighted sum, leaves an example that is its own partner bit for bit.
        return Sample(
            torch.lerp(x[partner], x, weight[:, :, None, None]), torch.lerp(y[partner], y, weight)
        )
