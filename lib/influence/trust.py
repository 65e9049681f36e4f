"""How far predictions of influence can be trusted: against networks that were trained again.

One point at a time is left out where retraining converges, as in Koh and Liang (2017); where it
does not, sums over random training subsets are compared with the outputs of networks trained on
them: the linear datamodelling score of Ilyas et al. (2022) and Park et al. (2023).
"""

import copy
import math

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import rankdata
from tqdm.auto import tqdm

from lib import checks
from lib.influence.functions import indices_of, removal_effect
from lib.influence.last_layer import risk_in
from lib.influence.risk import MEMORY, positive, take, whole

DOUBLE = torch.float64


def leave_one_out(
    model,
    train,
    test,
    indices,
    *,
    l2=0.0,
    parameters=None,
    tolerance=1e-8,
    iterations=10_000,
    memory=MEMORY,
    progress=False,
):
    """The change of each test loss when a training point is removed, `[n_test, len(indices)]`.

    The truth that `removal_effect` predicts. In double precision, and from the model's parameters,
    L-BFGS takes the risk to its minimum, and from there each risk without a point to its own; the
    model is left as it is. indices, parameters, l2: as in `lib.influence`.

    Raises ValueError where the gradient of a risk stays longer than `tolerance` after `iterations`.
    """
    indices = indices_of(indices, len(train), "indices")
    if len(train) < 2:
        raise ValueError("the one training point can't be left out: nothing would be left")
    with risk_in(_doubled(model), train, l2=l2, parameters=parameters, memory=memory) as risk:
        test = risk.see(test)

        def test_losses(theta):
            parts = (take(test, part) for part in risk.gradient_chunks(test))
            losses = [risk.losses(theta, part.x, part.y) for part in parts]
            return torch.cat(losses) if losses else theta.new_empty(0)

        everyone = torch.ones(risk.n, dtype=DOUBLE, device=risk.theta.device)
        theta = _minimum(risk, everyone, risk.theta, tolerance, iterations, "of all points")
        risk.theta = theta
        factor = _whitening(risk)
        before = test_losses(theta)
        found = before.new_empty(len(before), len(indices))
        for column, i in enumerate(tqdm(indices.tolist(), "left out", disable=not progress)):
            weights = everyone.clone()
            weights[i] = 0
            where = f"without point {i}"
            there = _minimum(risk, weights, theta, tolerance, iterations, where, factor)
            found[:, column] = test_losses(there) - before
        return found


def minimised(model, train, *, l2=0.0, tolerance=1e-8, iterations=10_000):
    """A copy of the model in double precision at the minimum of its risk that L-BFGS finds from it.

    Raises ValueError where the gradient stays longer than `tolerance` after `iterations`.
    """
    model = _doubled(model)
    with risk_in(model, train, l2=l2) as risk:
        everyone = torch.ones(risk.n, dtype=DOUBLE, device=risk.theta.device)
        theta = _minimum(risk, everyone, risk.theta, tolerance, iterations, "on all points")
        for name, value in risk.named(theta).items():
            model.get_parameter(name).copy_(value)
    return model


def _doubled(model):
    with torch.inference_mode(False):
        return copy.deepcopy(model).to(DOUBLE) if isinstance(model, torch.nn.Module) else model


def _whitening(risk):
    """L of H = L L', in whose coordinates L' theta all curvatures are near 1; or None."""
    if 3 * len(risk.theta) * risk.row > risk.memory:
        return None
    factor, info = torch.linalg.cholesky_ex(risk.hessian())
    return None if info else factor


def _minimum(risk, weights, theta, tolerance, iterations, where, factor=None):
    """argmin of the weighted mean of the losses + (l2 / 2) |theta|^2, from `theta`."""
    tolerance, iterations = positive(tolerance, "tolerance"), whole(iterations, "iterations")
    like, total = theta, weights.sum()
    chunks = risk.gradient_chunks(risk.train)

    def at(u):
        u = torch.from_numpy(u).to(like.device)
        if factor is None:
            return like + u
        return like + torch.linalg.solve_triangular(factor.T, u[:, None], upper=True)[:, 0]

    def value_and_slope(u):
        theta = at(u).requires_grad_()
        value, slope = 0.0, torch.zeros_like(theta)
        with torch.enable_grad():
            for chunk in chunks:
                part = take(risk.train, chunk)
                loss = (weights[chunk] * risk.losses(theta, part.x, part.y)).sum() / total
                slope += torch.autograd.grad(loss, theta)[0]
                value += loss.item()
        theta = theta.detach()
        value += risk.l2 / 2 * theta.square().sum().item()
        slope += risk.l2 * theta
        nonlocal left
        left = slope.norm().item()
        if factor is not None:
            slope = torch.linalg.solve_triangular(factor, slope[:, None], upper=False)[:, 0]
        return value, slope.cpu().numpy()

    left, start = 0.0, np.zeros(len(like))
    largest = 1.0 if factor is None else factor.norm().item()
    goal = tolerance / max(largest, 1.0) / len(like) ** 0.5  # of each entry, in u's coordinates
    for _ in range(5):  # a line search that rounding stops is begun again with a fresh memory
        options = {"maxiter": iterations, "maxfun": 2 * iterations, "maxcor": 30,
                   "ftol": 0.0, "gtol": goal}  # fmt: skip
        start = minimize(
            value_and_slope, start, jac=True, method="L-BFGS-B", options=options
        ).x  # fmt: skip
        value_and_slope(start)
        if left <= tolerance:
            return at(start)
    raise ValueError(
        f"retraining {where} stopped at a gradient of norm {left:.2g}, above "
        f"tolerance={tolerance:g}: more iterations, a larger l2 or a looser tolerance is needed"
    )


def correlation(predicted, actual):
    """Pearson's correlation of the rows, `[n_test]`: of `removal_effect` and `leave_one_out`, say.

    Missing (NaN) where either side is constant.
    """
    if predicted.ndim != 2 or predicted.shape != actual.shape:
        raise ValueError(
            f"predicted and actual must both be [n_test, n], got {list(predicted.shape)} and "
            f"{list(actual.shape)}"
        )
    left, right = (side - side.mean(1, keepdim=True) for side in (predicted, actual))
    constant = _constant(predicted) | _constant(actual)
    found = (left * right).sum(1) / (left.norm(dim=1) * right.norm(dim=1))
    return found.masked_fill(constant, math.nan)


def _constant(side):
    return (side == side[:, :1]).all(1)


def rank_correlation(predicted, actual):
    """Spearman's correlation of the rows, `[n_test]`: Pearson's of their ranks."""
    left, right = (
        torch.from_numpy(rankdata(side.cpu().numpy(), axis=1)) for side in (predicted, actual)
    )
    return correlation(left, right)


def agreement(model, train, test, *, l2, hardest=5, most=15, tolerance=1e-6):
    """Pearson's and Spearman's correlation of predicted and actual changes, means over test points.

    In the way of Basu et al. (2021): of the `hardest` test points, those of largest loss, and the
    `most` training points of largest predicted effect, left out one by one. model: at a minimum of
    its risk in all its parameters, as `minimised` gives it. ValueError as `leave_one_out`.
    """
    hardest, most = whole(hardest, "hardest"), whole(most, "most", 2)
    losses = _losses(model, test)
    test = take(test, losses.argsort(descending=True)[:hardest])
    predicted = removal_effect(model, train, test, method="exact", l2=l2)
    chosen = predicted.abs().mean(0).argsort(descending=True)[:most]
    actual = leave_one_out(model, train, test, chosen, l2=l2, tolerance=tolerance)
    sides = predicted[:, chosen], actual
    return correlation(*sides).mean().item(), rank_correlation(*sides).mean().item()


def _losses(model, test):
    """The loss of each test point, in eval mode."""
    every = [name for name, _ in model.named_parameters()]  # its losses need none to be trained
    with risk_in(model, test, parameters=every, what="test point") as risk:
        parts = (take(risk.train, part) for part in risk.gradient_chunks(risk.train))
        return torch.cat([risk.losses(risk.theta, part.x, part.y) for part in parts])


def linear_datamodelling_score(predicted, masks, outcomes):
    """Spearman correlations over training subsets, `[n_test]`, between -1 and 1.

    predicted: `[n_test, n_train]`, the scores of `influence`: a subset's prediction is their sum
    over its members. masks: bool `[subsets, n_train]`, True for the members. outcomes:
    `[subsets, n_test]`, what a model that was trained on each subset gives at the test points: its
    test losses for `influence`. Missing (NaN) where either side is constant.
    """
    if predicted.ndim != 2:
        raise ValueError(f"predicted must be [n_test, n_train], got {list(predicted.shape)}")
    if masks.dtype != torch.bool or masks.ndim != 2 or masks.shape[1] != predicted.shape[1]:
        raise ValueError(
            f"masks must be bool [subsets, {predicted.shape[1]}], got "
            f"{masks.dtype} {list(masks.shape)}"
        )
    if outcomes.shape != (len(masks), len(predicted)) or len(masks) < 2:
        raise ValueError(
            f"outcomes must be [{len(masks)}, {len(predicted)}], a row for each of at least two "
            f"subsets, got {list(outcomes.shape)}"
        )
    sums = predicted.double() @ masks.T.to(predicted.device, DOUBLE)  # [n_test, subsets]
    return rank_correlation(sums, outcomes.T)


def retrained_on_subsets(fit, train, test, subsets, *, generator, share=0.5, progress=False):
    """Random subsets of the training sample, and the test losses of models trained on them.

    fit: a callable, Sample -> model. Returns masks, bool `[subsets, n_train]` with `share` of the
    points in each (half by default), and test losses `[subsets, n_test]`, in eval mode.
    """
    subsets = whole(subsets, "subsets")
    size = round(checks.probability(share) * len(train))
    if not 0 < size < len(train):
        raise ValueError(f"share={share!r} of {len(train)} points leaves no proper subset")
    masks = torch.zeros(subsets, len(train), dtype=torch.bool)
    losses = []
    for mask in tqdm(masks, "subsets", disable=not progress):
        mask[torch.randperm(len(train), generator=generator, device=generator.device)[:size]] = True
        losses.append(_losses(fit(take(train, mask.to(train.x.device))), test))
    return masks, torch.stack(losses)
