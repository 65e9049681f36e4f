"""Attacks without a step size to choose, and the worst of several, after AutoAttack.

Conventions are those of `attacks`. Each example leaves the batch once it is fooled, and what is
wrong from the start is returned as it came; of the others the image of the largest loss is kept.
"""

import math
from functools import partial

import torch

from lib import checks
from lib.attacks.threat import (
    NORMS,
    begin,
    best_of,
    check_outputs,
    finite,
    frozen,
    gap,
    gradient_at,
    logits_of,
    margin,
    ordinary,
    project,
    steepest,
    where,
)


def worst_of(*attacks):
    """The attack `(model, x, y) -> x_adv` that runs `attacks` in turn, each on the survivors.

    An example that is wrong already, or fooled by an earlier attack, is not attacked again; of
    one that all fail on, the image of the largest margin loss is returned.
    """
    if not attacks:
        raise ValueError("worst_of needs at least one attack")

    def worst(model, x, y):
        runs = [lambda x, y: x] + [partial(attack, model) for attack in attacks]
        return best_of(model, x, y, runs)

    return worst


# ------------------------------------------------------------------ Auto-PGD


def difference_of_logits_ratio(logits, y, _):
    """DLR of Croce and Hein (2020): the gap of the logits, in units that no rescaling changes."""
    ordered = logits.topk(3).values
    return gap(logits, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def targeted_ratio(logits, y, goal):
    """Their targeted form: the logit of `goal` minus the label's, in such units."""
    ordered = logits.topk(4).values
    reach = logits.gather(1, goal[:, None])[:, 0] - logits.gather(1, y[:, None])[:, 0]
    return reach / (ordered[:, 0] - ordered[:, 2:].mean(1) + 1e-12)


LOSSES = {"ce": lambda logits, y, _: margin(logits, y), "dlr": difference_of_logits_ratio}


def apgd(
    model,
    x,
    y,
    *,
    eps,
    norm,
    steps=100,
    loss="ce",
    targeted=False,
    targets=None,
    restarts=1,
    generator=None,
):
    """Auto-PGD (Croce and Hein 2020), projected ascent that chooses its own step -> `x_adv`.

    The step starts at 2 eps and is halved, with a return to the best iterate so far, at the
    paper's checkpoints where the loss rose too rarely or the step brought nothing new. loss: "ce"
    or "dlr", the difference of logits ratio, which needs three classes. With `targeted`, `y` are
    the labels to reach. `targets`, a number below that of the classes (at least four), aims
    instead in turn at so many highest-scoring classes other than the label `y`, by the targeted
    ratio. The first run starts at `x`, which keeps it deterministic; each further one of
    `restarts` starts uniform in the ball, drawn from `generator`.
    """
    eps = checks.radius(eps)
    checks.images(x)
    checks.labels(y, len(x))
    checks.one_of(norm, NORMS, "norm")
    checks.one_of(loss, LOSSES, "loss")
    steps = checks.count(steps, "steps")
    if targets is not None and (targeted or loss != "dlr"):
        raise ValueError("targets go with loss 'dlr' and labels y that are true, not targeted")
    restarts = checks.count(restarts, "restarts")
    if restarts > 1 and generator is None:
        raise ValueError("restarts > 1 start at random: pass a generator")

    def run(x, y, start, rank):
        goal, objective = y, LOSSES[loss]
        if rank is not None:
            others = logits_of(model, x).scatter(1, y[:, None], -torch.inf)
            goal, objective = others.argsort(1, descending=True)[:, rank], targeted_ratio
        first = begin(x, eps, norm, start, generator)
        return _ascend(model, x, first, y, goal, objective, eps, norm, steps, targeted)

    with frozen(model):
        x, y = ordinary(x), ordinary(y)
        outputs = logits_of(model, x)
        check_outputs(outputs, y)
        _enough_classes(outputs.shape[1], loss, targets)
        starts = ["zero"] + ["ball"] * (restarts - 1)
        ranks = [None] if targets is None else range(targets)
        runs = [partial(run, start=start, rank=rank) for start in starts for rank in ranks]
        return best_of(model, x, y, runs, targeted)


def _enough_classes(classes, loss, targets):
    needed = 2 if loss == "ce" else 3 if targets is None else 4
    if classes < needed:
        raise ValueError(f"this loss needs at least {needed} classes, the network has {classes}")
    if targets is not None and checks.count(targets, "targets") >= classes:
        raise ValueError(f"targets must be below the number of classes, {classes}, got {targets}")


def checkpoints(steps):
    """The paper's iterations at which the step may be halved, after each p_j of the way."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return [math.ceil(share * steps - 1e-9) for share in shares]  # 0.41 + 0.16 is 0.57


def _ascend(model, origin, start, y, goal, objective, eps, norm, steps, targeted):
    """One run; `state` holds, row for row, what is known of each example not fooled yet."""
    sign = -1 if targeted else 1
    marks = checkpoints(steps)
    kept, x = start.clone(), start
    state = {
        "index": torch.arange(len(x), device=x.device), "origin": origin, "y": y, "goal": goal,
        "step": torch.full_like(x[:, :1, :1, :1], 2 * eps),
        "rises": torch.zeros(len(x), device=x.device),
        "halved": torch.ones(len(x), dtype=torch.bool, device=x.device),
    }  # fmt: skip

    def look(x, y, goal):
        return gradient_at(model, x, lambda logits: sign * objective(logits, y, goal))

    for k in range(steps + 1):
        outputs, loss, gradient = look(x, state["y"], state["goal"])
        now = {"x": x, "loss": loss, "gradient": gradient}
        if k == 0:
            state |= {f"best_{name}": value for name, value in now.items()}
            state |= {"best_at_mark": loss, "previous": x}
        else:
            state["rises"] = state["rises"] + (loss > state["loss"])
            better = loss > state["best_loss"]
            for name, value in now.items():
                state[f"best_{name}"] = where(better, value, state[f"best_{name}"])
        state |= now
        fooled = (outputs.argmax(1) == state["y"]) == targeted
        if fooled.any():
            kept[state["index"][fooled]] = x[fooled]
            state = {name: value[~fooled] for name, value in state.items()}
        if k == steps or not len(state["x"]):
            break
        if k in marks[1:]:
            state = _halve(state, k - marks[marks.index(k) - 1])
        here, origin = state["x"], state["origin"]
        x = project(here + state["step"] * steepest(state["gradient"], norm), origin, eps, norm)
        if k > 0:  # momentum
            x = here + 0.75 * (x - here) + 0.25 * (here - state["previous"])
            x = project(x, origin, eps, norm)
        state["previous"] = here
    kept[state["index"]] = state["best_x"]
    return finite(kept, "gradients")


def _halve(state, period):
    """At a checkpoint: half the step from the best iterate, where the last period was a poor one.

    Poor is a loss that rose in less than three of four iterations, or a best loss and a step
    both as they were at the checkpoint before.
    """
    stuck = ~state["halved"] & (state["best_at_mark"] == state["best_loss"])
    poor = (state["rises"] < 0.75 * period) | stuck
    back = {name: where(poor, state[f"best_{name}"], state[name])
            for name in ("x", "loss", "gradient")}  # fmt: skip
    return (
        state
        | back
        | {
            "step": where(poor, state["step"] / 2, state["step"]),
            "rises": torch.zeros_like(state["rises"]),
            "best_at_mark": state["best_loss"],
            "halved": poor,
        }
    )
