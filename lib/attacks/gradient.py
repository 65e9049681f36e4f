"""Attacks: perturbations within an eps-ball that raise a classifier's loss.

Images are float `[s, c, h, w]` in [0, 1], labels int64 `[s]`, eps is in pixel units; L2 is over
the whole image. Every attack treats each example alone: norms, steps and the loss (a sum, in
fp32) do not know the batch. The network is in eval mode during an attack, its parameters ask for
no gradient, and afterwards it is as it was before. Its outputs must be finite logits of at least
two classes; a ValueError says what else they are.

Here are the gradient attacks of a given step; `autoattack` and `square` have those without one to
choose, and `minimal` the smallest perturbation.
"""

from functools import partial

import torch

from lib import checks, runtime
from lib.attacks.threat import (
    NORMS,
    STARTS,
    at_least_fp32,
    begin,
    best_of,
    finite,
    forward,
    frozen,
    gradient_at,
    images_like,
    logits_of,
    margin,
    ordinary,
    predict,
    project,
    steepest,
    where,
)

LOSSES = ("ce", "margin")
KEEPS = ("last", "best", "first_success")


def risk(model, x, y, attack=None, *, batch_size=None):
    """The share of examples whose prediction differs from the label `y`.

    With `attack`, a callable `(model, x, y) -> x_adv`, the risk under that attack: predictions
    are counted on the images that it returns.
    """
    checks.labels(y, len(checks.some(x)))
    wrong, batch_size = 0, runtime.batch(model, batch_size)
    for part, label in zip(x.split(batch_size), y.split(batch_size), strict=True):
        if attack is not None:
            part = images_like(attack(model, part, label), part)
        logits = logits_of(model, part)
        checks.labels(label, len(part), logits.shape[1])
        wrong += (logits.argmax(1) != label).sum().item()
    return wrong / len(x)


def fgsm(model, x, y, *, eps, norm="linf", targeted=False):
    """The fast gradient method (Goodfellow et al. 2015): one step of length `eps` from `x`."""
    return pgd(model, x, y, eps=eps, steps=1, norm=norm, step_size=eps, targeted=targeted)


def bim(model, x, y, *, eps, steps, targeted=False):
    """The basic iterative method (Kurakin et al. 2017): Linf steps of eps / steps from `x`."""
    step_size = checks.radius(eps) / checks.count(steps, "steps")
    return pgd(
        model, x, y, eps=eps, steps=steps, norm="linf", step_size=step_size, targeted=targeted
    )


def pgd(
    model,
    x,
    y,
    *,
    eps,
    steps,
    norm="l2",
    step_size=None,
    start="zero",
    loss="ce",
    keep="last",
    targeted=False,
    restarts=1,
    generator=None,
):
    """Projected gradient ascent on the loss at the label `y` (Madry et al. 2018) -> `x_adv`.

    Each of `steps` steps goes `step_size` (2.5 eps / steps by default) along the normalised
    gradient (l2) or its sign (linf), then back into the eps-ball around `x` and into [0, 1].
    start: "zero" at `x`; "ball" uniform in the eps-ball; "sphere" uniform on its surface; the
    last two draw from `generator`. loss: "ce" cross-entropy, or "margin", the log-sum-exp of the
    other logits minus the label's. Cross-entropy is softplus of that margin: the two have the same
    order and the same steps, which are computed on the margin, for its gradient does not underflow.
    keep: the "last" iterate, the "best" (largest loss), or the "first_success" (last, if none is),
    which takes an example out of the batch as soon as it is fooled: the fastest for a risk. What
    is wrong before any step is returned as it came.
    With `targeted`, `y` are the labels to reach and the loss is descended.
    `restarts` runs, each from a random start of its own, keep for each example the first run that
    fools it, else that of the largest loss.
    """
    eps = checks.radius(eps)
    checks.images(x)
    checks.labels(y, len(x))
    steps = checks.count(steps, "steps")
    step_size = 2.5 * eps / steps if step_size is None else checks.radius(step_size, "step_size")
    checks.one_of(norm, NORMS, "norm")
    checks.one_of(start, STARTS, "start")
    checks.one_of(loss, LOSSES, "loss")
    checks.one_of(keep, KEEPS, "iterate to keep")
    restarts = checks.count(restarts, "restarts")
    if restarts > 1 and start == "zero":
        raise ValueError("restarts > 1 need a random start, ball or sphere, not 'zero'")

    def objective(logits, y):
        return margin(logits, y) * (-1 if targeted else 1)

    def run(origin, y):
        x_adv = begin(origin, eps, norm, start, generator)
        if keep == "first_success" and start != "zero":
            done = (predict(model, origin) == y) == targeted
            x_adv = where(done, origin, x_adv)
        kept, best = x_adv.clone(), torch.full((len(x_adv),), -torch.inf, device=x.device)
        active = torch.arange(len(x_adv), device=x.device)
        for step in range(steps):
            outputs, losses, gradient = gradient_at(
                model, x_adv, partial(objective, y=y), check=y if step == 0 else None
            )
            if keep == "best":
                kept = where(losses > best, x_adv, kept)
                best = torch.maximum(best, losses)
            elif keep == "first_success":
                going = (outputs.argmax(1) == y) != targeted
                if not going.all():
                    kept[active[~going]] = x_adv[~going]
                    active, origin, x_adv, y, gradient = (
                        part[going] for part in (active, origin, x_adv, y, gradient)
                    )
                    if not len(active):
                        break
            x_adv = project(x_adv + step_size * steepest(gradient, norm), origin, eps, norm)
        if keep == "best":
            with torch.no_grad():
                losses = objective(at_least_fp32(forward(model, x_adv)), y)
            x_adv = where(losses > best, finite(x_adv, "gradients"), kept)
        kept[active] = x_adv
        return finite(kept, "gradients")

    with frozen(model):
        x, y = ordinary(x), ordinary(y)
        if restarts == 1:
            return run(x, y)
        return best_of(model, x, y, [run] * restarts, targeted)
