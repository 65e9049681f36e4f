"""The threat model: a frozen network, and the perturbations of its images that an attack may use.

A perturbation lies in a ball of radius eps, L2 or Linf over the whole image, and the image with
it in [0, 1]. Images are float `[s, c, h, w]`, labels int64 `[s]`, logits `[s, k]`; norms, steps
and losses are each example's own, whatever else is in the batch.
"""

from contextlib import contextmanager, nullcontext

import torch

from lib import checks, runtime

NORMS = ("l2", "linf")
STARTS = ("zero", "ball", "sphere")
TINY = 1e-12


@contextmanager
def frozen(model):
    """The model in eval mode with parameters that need no gradient, all restored at the end.

    Within, `torch.inference_mode()` is left, in which nothing has a gradient.
    """
    checks.network(model)
    modes = [(module, module.training) for module in model.modules()]
    # One made under torch.inference_mode() has no gradient, nor can it be told to have one again.
    ordinary = [parameter for parameter in model.parameters() if not parameter.is_inference()]
    needs = [(parameter, parameter.requires_grad) for parameter in ordinary]
    try:
        model.eval()
        for parameter in ordinary:
            parameter.requires_grad = False
        inside = torch.is_inference_mode_enabled()
        with torch.inference_mode(False) if inside else nullcontext():
            yield model
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, need in needs:
            parameter.requires_grad = need


def forward(model, x):
    """The network's outputs on a copy of `x`, which it may change, in its parameters' precision."""
    return runtime.forward(model, x.to(next(model.parameters(), x).dtype, copy=True))


def ordinary(tensor):
    """The tensor detached, as autograd takes it: one of `torch.inference_mode()` is copied."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def logits_of(model, x, batch_size=None):
    """The logits `[s, k]` in eval mode."""
    parts = checks.batch(x).split(runtime.batch(model, batch_size))
    with frozen(model), torch.no_grad():
        logits = torch.cat([forward(model, part) for part in parts])
    return finite(logits, "logits")


def predict(model, x, batch_size=None):
    """The classifier f: the label `[s]` of the largest logit, in eval mode."""
    return logits_of(model, x, batch_size).argmax(1)


def finite(values, what):
    if not values.isfinite().all():
        raise ValueError(f"the network's {what} are not all finite numbers")
    return values


def check_outputs(outputs, y):
    """Refuse outputs that are not finite logits `[s, k]` with k >= 2 and every label below k."""
    if outputs.shape[1] < 2:
        shape = list(outputs.shape)
        raise ValueError(f"the network must give logits [s, k] of at least 2 classes, got {shape}")
    checks.labels(y, len(outputs), outputs.shape[1])
    finite(outputs, "logits")
    tolerance = max(1e-5, 4 * torch.finfo(outputs.dtype).eps)
    sums_to_one = ((outputs.float().sum(1) - 1).abs() < tolerance).all()
    # Hard labels, 0 and 1 alone, may be the logits of a network that says one thing to all.
    soft = ((outputs > 0) & (outputs < 1)).any()
    if soft and sums_to_one and (outputs >= 0).all():
        raise ValueError("the network gives probabilities: attacks need logits, without softmax")


class NoGradient(ValueError):
    """The network cannot be differentiated at its images."""


def gradient_at(model, x, objective, check=None):
    """Outputs, losses `[s]` and the gradient of their sum, in fp32 or fp64, `x`'s precision.

    With the labels `check`, `check_outputs` before the loss.
    """
    if any(value.is_inference() for value in model.parameters()):
        raise ValueError(
            "a network made under torch.inference_mode() has no gradient: copy it outside"
        )
    x, gradient = x.detach().requires_grad_(True), None
    with torch.enable_grad():
        outputs = forward(model, x)
        if check is not None:
            check_outputs(outputs, check)
        losses = objective(at_least_fp32(outputs))
        if losses.requires_grad:
            (gradient,) = torch.autograd.grad(losses.sum(), x, allow_unused=True)
    if gradient is None:
        raise NoGradient("the network has no gradient at its images: attack it with square")
    return outputs.detach(), losses.detach(), gradient


def at_least_fp32(outputs):
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


# ------------------------------------------------------------------ losses at the label


def margin(logits, y):
    """The log-sum-exp of the other logits minus the label's, `[s]`.

    Cross-entropy is softplus of it, so both rise together and their gradients have one direction.
    But where the network is confident that of cross-entropy rounds to zero, in its usual form
    beyond a gap of 17 in fp32: attacks on cross-entropy ascend this margin.
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.logsumexp(1) - logits.gather(1, y[:, None])[:, 0]


def gap(logits, y):
    """The largest other logit minus the label's, `[s]`: positive where the label is not f's."""
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]


# ------------------------------------------------------------------ the ball


def tiny(like):
    """The smallest normal number: smaller ones may count as zero."""
    return torch.finfo(like.dtype).tiny


def length(delta, norm):
    """The norm of each example, `[s, 1, 1, 1]`."""
    if norm == "linf":
        return delta.flatten(1).abs().amax(1)[:, None, None, None]
    return delta.flatten(1).norm(dim=1)[:, None, None, None]


def dual_length(gradient, norm):
    """The dual norm, `[s, 1, 1, 1]`: what a step of length one gains on a linear loss."""
    return gradient.flatten(1).norm(dim=1, p=1 if norm == "linf" else 2)[:, None, None, None]


def steepest(gradient, norm):
    """The direction of length one that gains most on a linear loss; zero without a gradient."""
    if norm == "linf":
        return gradient.sign()
    # Scaled by its largest entry first: a gradient of 1e-30 still gives a step of full length.
    gradient = gradient / length(gradient, "linf").clamp_min(tiny(gradient))
    return gradient / length(gradient, norm).clamp_min(TINY)


def shrink(delta, eps, norm):
    """The point of the eps-ball nearest to each `delta`; eps is a number or `[s, 1, 1, 1]`."""
    if norm == "linf":
        return delta.clamp(-eps, eps)
    return delta * (eps / length(delta, norm).clamp_min(TINY)).clamp_max(1)


def project(x, origin, eps, norm):
    """`x` moved into the eps-ball around `origin`, then into [0, 1]: still in the ball."""
    return (origin + shrink(x - origin, eps, norm)).clamp(0, 1)


def begin(x, eps, norm, start, generator):
    """Where an attack starts: at `x`, uniform in the eps-ball, or on its surface (then clipped)."""
    if start == "zero":
        return x.clone()
    if generator is None:
        raise ValueError(f"start {start!r} is random: pass a generator")

    def uniform(*shape):
        return torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)

    # A point uniform on the surface, from one whose radial projection there is uniform.
    if norm == "linf":
        delta = 2 * uniform(*x.shape) - 1
    else:
        delta = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    delta = delta / length(delta, norm)
    if start == "ball":
        # The share of a d-dimensional ball within radius r of its centre is r^d.
        delta = delta * uniform(len(x), 1, 1, 1) ** (1 / x.shape[1:].numel())
    return project(x + eps * delta, x, eps, norm)


def where(choice, one, other):
    """torch.where with a mask `[s]` over tensors `[s, ...]`."""
    return torch.where(choice.view(-1, *[1] * (one.ndim - 1)), one, other)


def images_like(x_adv, x):
    """What an attack on `x` gave, refused if it is not as many images."""
    if checks.images(x_adv).shape != x.shape:
        raise ValueError(f"the attack must give images {list(x.shape)}, got {list(x_adv.shape)}")
    return x_adv


def best_of(model, x, y, runs, targeted=False):
    """The best of several runs `(x, y) -> x_adv` for each example of `x`.

    An example that a run has fooled is its result, and later runs don't see it; of one that no
    run fools, the result is that of the largest margin loss.
    """
    kept, best = x.clone(), x.new_full((len(x),), -torch.inf, dtype=torch.float64)
    todo = torch.arange(len(x), device=x.device)
    for run in runs:
        x_adv = images_like(run(x[todo], y[todo]), x[todo])
        logits = at_least_fp32(logits_of(model, x_adv))
        fooled = (logits.argmax(1) == y[todo]) == targeted
        loss = margin(logits, y[todo]) * (-1 if targeted else 1)
        better = fooled | (loss > best[todo])
        kept[todo[better]], best[todo[better]] = x_adv[better], loss[better].double()
        todo = todo[~fooled]
        if not len(todo):
            break
    return kept
