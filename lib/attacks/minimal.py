"""The smallest perturbation that changes a label, and the risk at every eps that follows from it.

A risk at one eps saturates at 0 or 1; the distance of each example to the decision boundary, as
near as an attack comes to it from above, does not. Conventions are those of `attacks`.
"""

import math

import torch

from lib import checks
from lib.attacks.threat import (
    NORMS,
    TINY,
    check_outputs,
    dual_length,
    forward,
    frozen,
    gap,
    gradient_at,
    length,
    margin,
    predict,
    shrink,
    steepest,
)

CLASSES = 10  # of so many highest-scoring classes the nearest boundary is where the search starts
BISECTIONS = 12


def boundary_distance(model, x, y, *, norm="l2", steps=100, known=(), images=False):
    """The norm `[s]` of the smallest perturbation found that changes the label `y` of each image.

    An upper bound of the distance to the boundary, exact for a linear model up to bisection (as
    long as [0, 1] does not cut the shortest way): 0 where the prediction differs from `y` already,
    inf where no adversarial image is found. The search is the fast minimum-norm attack (FMN,
    Pintor et al. 2021) of `steps` iterations; it starts at the nearest boundary of the network
    linearised at `x` (a step of DeepFool, Moosavi-Dezfooli et al. 2016) or at the nearest of the
    `known` images, a sequence of tensors like `x` that other attacks gave, and ends with a
    bisection between the image and its nearest adversarial one. The result is never above what
    `known` proves. With `images`, returns `(distance, x_adv)`; `x_adv` is `x` where the distance
    is 0 or inf, and else is misclassified and at that distance.
    """
    checks.images(x)
    checks.labels(y, len(x))
    checks.one_of(norm, NORMS, "norm")
    checks.count(steps, "steps")
    for offer in known:
        if checks.images(offer).shape != x.shape:
            raise ValueError(f"known images must be {list(x.shape)}, got {list(offer.shape)}")
    x = x.detach()
    distance, nearest = x.new_zeros(len(x)), x.clone()
    with frozen(model):
        with torch.no_grad():
            outputs = forward(model, x)
        check_outputs(outputs, y)
        todo = (outputs.argmax(1) == y).nonzero()[:, 0]
        if len(todo):
            found = _Nearest(model, x[todo], y[todo], norm)
            for offer in known:
                found.offer(offer[todo].to(x))
            found.offer(_linearised(model, x[todo], y[todo], norm))
            _fast_minimum_norm(found, steps)
            found.bisect()
            distance[todo], nearest[todo] = found.distance.view(-1), found.image
    return (distance, nearest) if images else distance


class _Nearest:
    """The nearest adversarial image so far of each `x`, and its distance `[s, 1, 1, 1]`."""

    def __init__(self, model, x, y, norm):
        self.model, self.x, self.y, self.norm = model, x, y, norm
        self.image, self.distance = x.clone(), torch.full_like(x[:, :1, :1, :1], torch.inf)

    def offer(self, images, predicted=None):
        """Keep what is misclassified and nearer, and return the mask of what is misclassified."""
        predicted = predict(self.model, images) if predicted is None else predicted
        fooled = (predicted != self.y)[:, None, None, None]
        distance = length(images - self.x, self.norm)
        nearer = fooled & (distance < self.distance)
        self.image = torch.where(nearer, images, self.image)
        self.distance = torch.where(nearer, distance, self.distance)
        return fooled

    def bisect(self):
        """Move each image towards `x` while it stays adversarial."""
        far = self.image
        low, high = torch.zeros_like(self.distance), torch.ones_like(self.distance)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            fooled = self.offer(self.x + middle * (far - self.x))
            low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)


def _linearised(model, x, y, norm):
    """`x` moved 2 % beyond the nearest boundary of the model's first-order expansion at `x`."""
    nearest, step = torch.full_like(x[:, :1, :1, :1], torch.inf), torch.zeros_like(x)
    with torch.no_grad():
        others = forward(model, x).scatter(1, y[:, None], -torch.inf)
    rivals = others.argsort(1, descending=True)[:, : min(CLASSES, others.shape[1] - 1)]
    for rival in rivals.unbind(1):
        pair = torch.stack([y, rival], 1)
        _, ahead, gradient = gradient_at(
            model, x, lambda z, i=pair: z.gather(1, i).diff(dim=1)[:, 0]
        )
        gradient = _inward(gradient, x)
        away = -ahead[:, None, None, None] / dual_length(gradient, norm).clamp_min(TINY)
        nearer = away < nearest
        nearest = torch.where(nearer, away, nearest)
        step = torch.where(nearer, away * steepest(gradient, norm), step)
    return (x + 1.02 * step).clamp(0, 1)


def _fast_minimum_norm(found, steps):
    """FMN: ascend the margin in a ball that shrinks where the image is fooled and else grows.

    Two things differ from the paper. The stride is a share of the ball's radius, for there is no
    other scale; and directions that [0, 1] blocks count for nothing, without which many images
    with black or white pixels are never fooled.
    """
    x, y, norm = found.x, found.y, found.norm
    delta = found.image - x
    eps = found.distance
    for k in range(steps):
        decay = (1 + math.cos(math.pi * k / steps)) / 2
        change, stride = 0.001 + 0.049 * decay, 0.01 + 0.99 * decay
        outputs, _, gradient = gradient_at(found.model, x + delta, lambda z: margin(z, y))
        gradient = _inward(gradient, x + delta)
        fooled = found.offer(x + delta, outputs.argmax(1))
        away = -gap(outputs.float(), y)[:, None, None, None]
        reach = length(delta, norm) + away / dual_length(gradient, norm).clamp_min(TINY)
        outwards = torch.where(found.distance.isinf(), reach, eps * (1 + change))
        eps = torch.where(fooled, torch.minimum(eps * (1 - change), found.distance), outwards)
        delta = shrink(delta + stride * eps * steepest(gradient, norm), eps, norm)
        delta = (x + delta).clamp(0, 1) - x


def _inward(gradient, x):
    """The gradient without the entries that lead out of [0, 1]."""
    blocked = ((x <= 0) & (gradient < 0)) | ((x >= 1) & (gradient > 0))
    return gradient.masked_fill(blocked, 0)


# ------------------------------------------------------------------ the robustness curve


def risk_curve(distances, eps):
    """The risk `[m]` at each of `eps` `[m]`: the share of `distances` `[s]` that are <= eps.

    Every point of the robustness curve (Goepfert et al. 2019) at once, and monotone; at eps 0 it
    is the clean risk, as `boundary_distance` of an example that is wrong already is 0.
    """
    ordered = _checked(distances).sort().values
    eps = torch.as_tensor(eps, dtype=torch.float64, device=ordered.device)
    if not (eps >= 0).all():
        raise ValueError(f"eps must be numbers >= 0, got {eps.min().item():g}")
    return torch.searchsorted(ordered, eps, right=True).double() / len(ordered)


def mean_distance(distances, eps_max):
    """The mean of min(distance, eps_max): the area between the risk curve and 1, up to eps_max."""
    return _checked(distances).clamp_max(checks.radius(eps_max, "eps_max")).mean().item()


def median_distance(distances):
    """The smallest eps at which the risk is one half or more; inf if it nowhere is."""
    distances = _checked(distances)
    return distances.kthvalue((len(distances) + 1) // 2).values.item()


def _checked(distances):
    if not (torch.is_tensor(distances) and distances.ndim == 1 and (distances >= 0).all()):
        raise ValueError("distances must be a tensor [s] of numbers >= 0, inf allowed")
    if not len(distances):
        raise ValueError("there are no distances")
    return distances.double()
