"""Attacks: perturbations within an eps-ball that raise a classifier's loss.

Images are float `[s, c, h, w]` in [0, 1], labels int64 `[s]`, eps is in pixel units; L2 is over
the whole image. Every attack treats each example alone: norms, steps and the loss (a sum, in
fp32) do not know the batch. The network is in eval mode during an attack, its parameters ask for
no gradient, and afterwards it is as it was before.
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F

from lib import checks

NORMS = ("l2", "linf")
TINY = 1e-12


@contextmanager
def frozen(model):
    """The model in eval mode with parameters that need no gradient, all restored at the end."""
    modes = [(module, module.training) for module in model.modules()]
    needs = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        yield model
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, need in needs:
            parameter.requires_grad = need


def logits_of(model, x, batch_size=1000):
    """The logits `[s, k]` in eval mode."""
    with frozen(model), torch.no_grad():
        return torch.cat([model(part) for part in x.split(batch_size)])


def predict(model, x, batch_size=1000):
    """The classifier f: the label `[s]` of the largest logit, in eval mode."""
    return logits_of(model, x, batch_size).argmax(1)


def risk(model, x, y, attack=None, *, batch_size=1000):
    """The share of examples whose prediction differs from the label `y`.

    With `attack`, a callable `(model, x, y) -> x_adv`, the risk under that attack: predictions
    are counted on the images that it returns.
    """
    checks.labels(y, len(checks.images(x)))
    wrong = 0
    for part, label in zip(x.split(batch_size), y.split(batch_size), strict=True):
        if attack is not None:
            part = attack(model, part, label)
        logits = logits_of(model, part)
        checks.labels(label, len(part), logits.shape[1])
        wrong += (logits.argmax(1) != label).sum().item()
    return wrong / len(x)


def fgsm(model, x, y, *, eps, norm="linf", targeted=False):
    """The fast gradient method (Goodfellow et al. 2015): one step of length `eps` from `x`."""
    return pgd(model, x, y, eps=eps, steps=1, norm=norm, step_size=eps, targeted=targeted)


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
    generator=None,
):
    """Projected gradient ascent on the loss at the label `y` (Madry et al. 2018) -> `x_adv`.

    Each of `steps` steps goes `step_size` (2.5 eps / steps by default) along the normalised
    gradient (l2) or its sign (linf), then back into the eps-ball around `x` and into [0, 1].
    start: "zero" at `x`; "ball" uniform in the eps-ball; "sphere" uniform on its surface; the
    last two draw from `generator`. loss: "ce" cross-entropy, or "margin", the log-sum-exp of the
    other logits minus the label's. Cross-entropy is softplus of that margin, so both gradients
    have one direction; that of the margin alone does not underflow on the most confident examples.
    keep: the "last" iterate, the "best" (largest loss), or the "first_success" (last, if none is).
    With `targeted`, `y` are the labels to reach and the loss is descended.
    """
    eps = checks.radius(eps)
    checks.images(x)
    checks.count(steps, "steps")
    step_size = 2.5 * eps / steps if step_size is None else checks.radius(step_size, "step_size")
    checks.one_of(norm, NORMS, "norm")
    checks.one_of(loss, LOSSES, "loss")
    checks.one_of(keep, ("last", "best", "first_success"), "iterate to keep")
    origin = x.detach()
    x_adv = _start(origin, eps, norm, checks.one_of(start, STARTS, "start"), generator)
    checks.labels(y, len(x))
    kept, best = x_adv, torch.full((len(x),), -torch.inf, device=x.device)

    with frozen(model):
        for step in range(steps + 1):
            finished = step == steps
            if finished and keep == "last":
                return x_adv
            x_adv = x_adv.detach().requires_grad_(True)
            with torch.enable_grad():
                logits = model(x_adv).float()
                if step == 0:
                    checks.labels(y, len(x), logits.shape[1])
                losses = LOSSES[loss](logits, y) * (-1 if targeted else 1)
                gradient = None if finished else torch.autograd.grad(losses.sum(), x_adv)[0]
            x_adv = x_adv.detach()
            if keep != "last":
                # Of "best", the largest loss wins; of "first_success", the first iterate that
                # succeeds, and until then the latest one.
                success = (logits.argmax(1) == y) == targeted
                first = torch.where(success, torch.inf, float(step))
                rank = losses.detach() if keep == "best" else first
                kept = torch.where((rank > best)[:, None, None, None], x_adv, kept)
                best = torch.maximum(best, rank)
            if not finished:
                moved = x_adv + step_size * _steepest(gradient, norm)
                x_adv = (origin + _project(moved - origin, eps, norm)).clamp(0, 1)
    return kept


def _cross_entropy(logits, y):
    # log(1 + e^margin). Of the usual form the gradient at the label's logit, q_y - 1, rounds to
    # zero where the network is confident, and the step would leave the steepest direction.
    return F.softplus(_margin(logits, y))


def _margin(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(1) - logits.gather(1, y[:, None])[:, 0]


LOSSES = {"ce": _cross_entropy, "margin": _margin}
STARTS = ("zero", "ball", "sphere")


def _norm(x):
    return x.flatten(1).norm(dim=1)[:, None, None, None]


def _steepest(gradient, norm):
    if norm == "linf":
        return gradient.sign()
    # Scaled by its largest entry first: a gradient of 1e-30 still gives a step of full length.
    gradient = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-38)
    return gradient / _norm(gradient).clamp_min(TINY)


def _project(delta, eps, norm):
    if norm == "linf":
        return delta.clamp(-eps, eps)
    return delta * (eps / _norm(delta).clamp_min(TINY)).clamp_max(1)


def _start(x, eps, norm, start, generator):
    if start == "zero":
        return x.clone()
    if generator is None:
        raise ValueError(f"start {start!r} is random: pass a generator")

    def uniform(*shape):
        return torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)

    # A point uniform on the surface, from one whose radial projection there is uniform.
    if norm == "linf":
        delta = 2 * uniform(*x.shape) - 1
        delta = delta / delta.abs().amax((1, 2, 3), keepdim=True)
    else:
        delta = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        delta = delta / _norm(delta)
    if start == "ball":
        # The share of a d-dimensional ball within radius r of its centre is r^d.
        delta = delta * uniform(len(x), 1, 1, 1) ** (1 / x[0].numel())
    delta = _project(eps * delta, eps, norm)
    return (x + delta).clamp(0, 1)
