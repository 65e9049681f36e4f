"""Prediction-change stress: how often a random neighbour on the eps-sphere gets another label.

Centres are float `[s, c, h, w]`: images, or points on a sphere around them, which may leave [0, 1].
eps is a radius in pixel units, L2 over the whole image, or a list of radii: then every result has a
leading axis for them, and all are asked of the same directions.
"""

import torch
from scipy import stats

from lib import checks
from lib.attacks.threat import finite, forward, frozen

ROUND = 32  # neighbours of a centre from which it is planned how many are needed


def sphere(x, eps, neighbours, generator, *, inside=False):
    """Points uniform on the L2 sphere of radius `eps` around each centre `x`, not clipped.

    Returns `[s, neighbours, c, h, w]`. The directions depend on the generator's state alone, so
    the same state gives the same directions for every eps. With `inside`, points of the same
    sphere within [0, 1]: entries that would leave it go the other way, and where that is too far
    as well they go as far as they can and the others so much farther. Raises ValueError where
    no image is that far from `x`.
    """
    _check_centres(x, inside)
    return _at(_directions(x, neighbours, generator), x, checks.radius(eps), inside)


def prediction_change_stress(
    model, x, *, eps, neighbours, generator, inside=False, width=None, batch_size=2000
):
    """The share `[s]` of random neighbours of each centre `x` that f labels otherwise than `x`.

    Its mean over the centres is the estimator stress_pc(f, S, eps) of Eghbal-zadeh et al.
    (2020), with neighbours uniform on the L2 sphere of radius `eps` around each centre. The
    arguments are those of `label_changes`.
    """
    changed, drawn = label_changes(
        model, x, eps=eps, neighbours=neighbours, generator=generator, inside=inside, width=width,
        batch_size=batch_size,
    )  # fmt: skip
    return changed / drawn


def label_changes(
    model, x, *, eps, neighbours, generator, inside=False, width=None, batch_size=2000
):
    """How many neighbours of each centre get another label, and how many were drawn: `[s]` each.

    `neighbours` are drawn of each centre, `batch_size` at a time are in memory. With `width`, no
    more are drawn than make Wilson's interval of the mean over the centres that narrow, at every
    eps: `neighbours` is then the most. How many that takes a first round says, which is not
    counted: to count on until it looks well would favour what chance makes look so. `inside` as
    for `sphere`.
    """
    several = isinstance(eps, list | tuple)
    radii = [checks.radius(r) for r in (eps if several else [eps])]
    if not radii:
        raise ValueError("eps must be a radius or a list of them, got none")
    number, size = checks.count(neighbours, "neighbours"), checks.count(batch_size, "batch_size")
    if width is not None:
        checks.radius(width, "width")
    _check_centres(x, inside)
    with frozen(model), torch.no_grad():
        own = torch.cat([_labels(model, part) for part in x.split(batch_size)])

        def count(number):
            return _count(model, x, own, radii, number, generator, inside, size)

        if width is not None and len(x):
            number = _enough(count(min(number, ROUND)).sum(1), len(x), number, width)
        changed = count(number)
    return (changed if several else changed[0]), changed.new_full((len(x),), number)


def _count(model, x, own, radii, number, generator, inside, batch_size):
    """How many of `number` neighbours of each centre are not labelled `own`, `[radii, s]`."""
    changed = torch.zeros(len(radii), len(x), device=x.device)
    size = min(number, batch_size)
    for part in torch.arange(len(x), device=x.device).split(max(1, batch_size // size)):
        for done in range(0, number, size):
            directions = _directions(x[part], min(size, number - done), generator)
            for row, radius in zip(changed, radii, strict=True):
                around = _at(directions, x[part], radius, inside).flatten(0, 1)
                labels = _labels(model, around).view(len(part), -1)
                row[part] += (labels != own[part, None]).sum(1)
    return changed


def _enough(changed, centres, most, width):
    """Neighbours of a centre, at most `most`, so that the mean's interval is no wider than `width`.

    `changed` `[radii]` are the changes in a first round. What they leave possible is reckoned
    with: the share within their own interval that takes the most.
    """
    low, high = wilson(changed, torch.full_like(changed, centres * min(most, ROUND)))
    share = torch.full_like(low, 0.5).clamp(low, high)[:, None]
    numbers = torch.arange(1, -(-most // ROUND) + 1, device=changed.device) * ROUND
    drawn = centres * numbers.clamp_max(most)
    low, high = wilson(share * drawn, drawn)
    enough = ((high - low).amax(0) <= width).nonzero().flatten()
    return min(most, int(numbers[enough[0]])) if len(enough) else most


def wilson(changed, drawn, level=0.95):
    """Wilson's interval `(low, high)` of each share `changed / drawn` at the given level."""
    z2 = stats.norm.ppf((1 + level) / 2) ** 2
    middle = (changed + z2 / 2) / (drawn + z2)
    half = (z2 * (changed * (drawn - changed) / drawn + z2 / 4)).sqrt() / (drawn + z2)
    return (middle - half).clamp_min(0), (middle + half).clamp_max(1)


def bootstrap(shares, generator, level=0.95, resamples=1000):
    """An interval `(low, high)` of the mean of `shares` `[s]` over centres: a Bayesian bootstrap's.

    Each resample weights the centres anew, at random (D. B. Rubin, 1981). One more centre joins
    them, with all of its neighbours changed for the upper end, with none for the lower, since
    what is rare may be missing (N. Gaffke, 2005). So the interval has a width even where all
    shares are alike. Of shares that are all 0 or 1 it is Clopper and Pearson's. It covers what
    another sample of centres and what other neighbours would have given.
    """
    if not len(shares):
        return float("nan"), float("nan")
    weights = torch.empty(resamples, len(shares) + 1, device=shares.device)
    weights.exponential_(generator=generator)
    weights /= weights.sum(1, keepdim=True)
    means, tail = weights[:, :-1] @ shares.float(), (1 - level) / 2
    low, high = means.quantile(tail), (means + weights[:, -1]).quantile(1 - tail)
    return low.item(), min(1.0, high.item())


def _labels(model, x):
    return finite(forward(model, x), "logits").argmax(1)


def _check_centres(x, inside):
    if inside:
        checks.images(x)
    elif not (torch.is_tensor(x) and x.is_floating_point() and x.ndim == 4):
        got = f"{x.dtype} {list(x.shape)}" if torch.is_tensor(x) else type(x).__name__
        raise ValueError(f"centres must be a floating-point tensor [s, c, h, w], got {got}")
    elif not x.isfinite().all():
        raise ValueError("centres must be finite numbers")


def _directions(x, neighbours, generator):
    """Unit vectors `[s, neighbours, c, h, w]`, uniform on the sphere."""
    shape = (len(x), checks.count(neighbours, "neighbours"), *x.shape[1:])
    direction = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
    return direction / _length(direction)


def _length(delta):
    return delta.flatten(2).norm(dim=2)[:, :, None, None, None]


def _at(directions, x, eps, inside):
    x = x[:, None]
    if not inside:
        return torch.add(x, directions, alpha=eps)
    room = torch.maximum(x, 1 - x)
    if (_length(room) < eps).any():
        raise ValueError(f"no image in [0, 1] is at distance {eps:g} of some of these")
    size = eps * directions.abs()
    while (over := size > room).any():
        # Full entries stay so; the others have what is left of the length.
        full = (size >= room).to(x.dtype)
        size = torch.where(over, room, size)
        left = (eps**2 - _length(size * full) ** 2).clamp_min(0).sqrt()
        grown = size * left / _length(size * (1 - full)).clamp_min(1e-12)
        size = torch.where(full.bool(), size, grown)
    sign = torch.where(directions < 0, -1.0, 1.0).to(x.dtype)
    there = x + sign * size
    return torch.where((there < 0) | (there > 1), x - sign * size, there).clamp(0, 1)
