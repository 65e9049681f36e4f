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
    at_least_fp32,
    check_outputs,
    dual_length,
    forward,
    frozen,
    gap,
    gradient_at,
    length,
    margin,
    ordinary,
    predict,
    shrink,
    steepest,
    tiny,
)

CLASSES = 10  # of so many highest-scoring classes the nearest boundary is where the search starts
BISECTIONS = 12
RESTARTS = 2
SHARE = 0.25  # of the steps that a restart takes
BEYOND = (1.001, 1.01)  # times the way to a linearised boundary, for what rounding leaves short


def boundary_distance(
    model, x, y, *, norm="l2", steps=100, known=(), images=False, restarts=RESTARTS
):
    """The norm `[s]` of the smallest perturbation found that changes the label `y` of each image.

    An upper bound of the distance to the boundary, exact for a linear model up to bisection: 0
    where the prediction differs from `y` already, inf where no adversarial image is found. The
    search is the fast minimum-norm attack (FMN, Pintor et al. 2021) of `steps` iterations; it
    starts at the nearest boundary of the network linearised at `x` (a step of DeepFool,
    Moosavi-Dezfooli et al. 2016, within [0, 1]) or at the nearest of the `known` images, a
    sequence of tensors like `x` that other attacks gave. FMN finds a local minimum: each of
    `restarts` goes on, for a quarter of the steps, from the next nearest such boundary, and from
    a random direction where the classes are used up. At the end the nearest adversarial image is
    moved onto the boundary linearised there. The result is never above what `known` proves. With
    `images`, returns `(distance, x_adv)`; `x_adv` is `x` where the distance is 0 or inf, and else
    is misclassified and at that distance.
    """
    checks.images(x)
    checks.labels(y, len(x))
    checks.one_of(norm, NORMS, "norm")
    steps = checks.count(steps, "steps")
    restarts = checks.count(restarts, "restarts", least=0)
    for offer in known:
        if checks.images(offer).shape != x.shape:
            raise ValueError(f"known images must be {list(x.shape)}, got {list(offer.shape)}")
    with frozen(model):
        x, y = ordinary(x), ordinary(y)
        distance, nearest = x.new_zeros(len(x)), x.clone()
        with torch.no_grad():
            outputs = forward(model, x)
        check_outputs(outputs, y)
        todo = (outputs.argmax(1) == y).nonzero()[:, 0]
        if len(todo):
            found = _Nearest(model, x[todo], y[todo], norm)
            for offer in known:
                found.offer(offer[todo].to(x))
            starts = _linearised(found, outputs[todo])
            found.offer(starts[0])
            _fast_minimum_norm(found, found.image, steps)
            _reach(found, steps)
            for r in range(restarts):
                start = starts[r + 1] if r + 1 < len(starts) else _random(found, r)
                _fast_minimum_norm(found, start, math.ceil(steps * SHARE))
            _polish(found)
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


def _linearised(found, logits):
    """Images 2 % beyond the boundaries of the model's first-order expansion at `x`, nearest first.

    One for each of the highest-scoring other classes; a boundary out of reach within [0, 1] is
    approached as far as it goes, and comes last.
    """
    x, y, norm = found.x, found.y, found.norm
    others = logits.scatter(1, y[:, None], -torch.inf)
    rivals = others.argsort(1, descending=True)[:, : min(CLASSES, others.shape[1] - 1)]
    planes = []
    for rival in rivals.unbind(1):
        pair = torch.stack([y, rival], 1)
        _, ahead, gradient = gradient_at(
            found.model, x, lambda z, i=pair: z.gather(1, i).diff(dim=1)[:, 0]
        )
        planes.append(_onto(x, gradient, -1.02 * ahead, norm))
    deltas, reached = map(torch.stack, zip(*planes, strict=True))
    away = torch.where(reached, length(deltas.flatten(0, 1), norm).view(reached.shape), torch.inf)
    order = away.argsort(dim=0, stable=True)[..., None, None, None]
    return (x + deltas.take_along_dim(order, 0)).clamp(0, 1)


def _onto(x, gradient, gain, norm):
    """The shortest `delta` within [0, 1] with gradient . delta >= gain, and `[s]` if there is one.

    If not, the one that gains most. delta goes t along the gradient (l2) or its sign (linf), each
    pixel up to its end; so the gain is concave in t, in pieces between the pixels' ends, and the
    t that is looked for is the largest of those of the pieces' lines.
    """
    least, gradient = tiny(gradient), gradient.flatten(1)
    unit = gradient.abs().amax(1, keepdim=True).clamp_min(least)
    gradient, gain = gradient / unit, gain[:, None].to(gradient) / unit
    room = torch.where(gradient > 0, 1 - x.flatten(1), x.flatten(1))
    speed = gradient.abs() if norm == "l2" else gradient.sign().abs()
    ends, order = (room / speed.clamp_min(least)).sort(1)
    most = (gradient.abs() * room).gather(1, order)
    rate = (gradient.abs() * speed).gather(1, order)
    ended, going = most.cumsum(1) - most, rate.flip(1).cumsum(1).flip(1)
    t = ((gain - ended) / going.clamp_min(least)).amax(1, keepdim=True)
    size = torch.minimum(t.clamp(0, 1 / TINY) * speed, room)
    return (size * gradient.sign()).view_as(x), most.sum(1) >= gain[:, 0]


def _reach(found, steps):
    """Ascend the margin in ever larger balls, up to all of [0, 1], where nothing is found yet."""
    for share in (0.25, 0.5, 1):
        left = found.distance.isinf().view(-1)
        if not left.any():
            return
        x, y = found.x[left], found.y[left]
        eps = share * length(torch.maximum(x, 1 - x), found.norm)
        start = x.clone()
        for _ in range(steps):
            outputs, _, gradient = gradient_at(found.model, start, lambda z, y=y: margin(z, y))
            on = (outputs.argmax(1) == y)[:, None, None, None]
            step = 2.5 / steps * eps * steepest(gradient, found.norm)
            moved = (x + shrink(start + step - x, eps, found.norm)).clamp(0, 1)
            start = torch.where(on, moved, start)
        image = found.x.clone()
        image[left] = start
        found.offer(image)


def _random(found, seed):
    """In a direction that is the same for all: as far as the nearest image, or anywhere in [0, 1].

    Drawn from a seed, so that what is found of an image is its own, and the same every time.
    """
    x, generator = found.x, torch.Generator().manual_seed(seed)
    direction = torch.randn(x.shape[1:], generator=generator).to(x)[None]
    anywhere = torch.rand(x.shape[1:], generator=generator).to(x).expand_as(x)
    there = x + found.distance * direction / length(direction, found.norm)
    return torch.where(found.distance.isinf(), anywhere, there.clamp(0, 1))


def _polish(found):
    """Where the boundary, linearised at the nearest adversarial image, is nearest to `x`."""
    x, y = found.x, found.y
    _, ahead, gradient = gradient_at(found.model, found.image, lambda z: gap(z, y))
    gain = (gradient * (found.image - x)).flatten(1).sum(1) - ahead
    delta, _ = _onto(x, gradient, gain, found.norm)
    for beyond in BEYOND:
        found.offer((x + beyond * delta).clamp(0, 1))


def _fast_minimum_norm(found, start, steps):
    """FMN: ascend the margin in a ball that shrinks where the image is fooled and else grows.

    Two things differ from the paper. The stride is a share of the ball's radius, for there is no
    other scale; and directions that [0, 1] blocks count for nothing, without which many images
    with black or white pixels are never fooled.
    """
    x, y, norm = found.x, found.y, found.norm
    delta = start - x
    eps = torch.where(found.distance.isinf(), length(delta, norm), found.distance)
    for k in range(steps):
        decay = (1 + math.cos(math.pi * k / steps)) / 2
        change, stride = 0.001 + 0.049 * decay, 0.01 + 0.99 * decay
        outputs, _, gradient = gradient_at(found.model, x + delta, lambda z: margin(z, y))
        gradient = _inward(gradient, x + delta)
        fooled = found.offer(x + delta, outputs.argmax(1))
        away = -gap(at_least_fp32(outputs), y)[:, None, None, None]
        ahead = (away / dual_length(gradient, norm).clamp_min(tiny(x))).clamp_max(1 / TINY)
        reach = length(delta, norm) + ahead
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
