"""Influence functions: how much a training point bears on the loss of a test point.

After Koh and Liang (2017). The training risk is R(theta) = mean of the training losses +
(l2 / 2) |theta|^2, the loss the cross-entropy against (soft) labels. With H the Hessian of R at
the trained parameters, I_up,loss(z, z_test) = -g_test' (H + damping I)^-1 g: the derivative of
the test loss with respect to the weight of z, without 1/n. The training point's gradient g has
its share l2 theta of the regulariser; the test point's has not. The network is in eval mode.

Samples: `x` of whatever shape the network takes, `y` float `[s, k]`, of training points rows of
class probabilities, of others any weights of the k losses. They are taken in the precision of the
network, single or double. A ValueError names the point whose input, label or gradient is not
finite, and says in one line what else does not fit.

What every function here takes besides:
- parameters: None for all that are trained (requires_grad), "last" for the weight and bias of the
  last linear layer, or names, trained or not. What is not among them is a constant.
- curvature: "hessian", or "gauss-newton" (J' diag(loss'') J, never indefinite).
- method: "exact", the dense H by Cholesky; "cg", conjugate gradients (settings: tolerance=1e-8,
  of the relative residual; iterations=1000; rank=512 of the preconditioner, 0 for none); "lissa"
  and "arnoldi", as `lib.solvers` has them; "identity", which drops H; "ekfac", by kronfluence; and,
  where torch-influence is installed, "torch-influence-direct", "-cg" and "-lissa". damping is
  added to H.
- memory: the bytes that what is made on the way may take at once: gradients, products, vectors
  being solved, the dense Hessian; they are made in as many chunks as it needs. Beside it come
  what is given and what is returned, and for a last layer its inputs, one row an example, which
  are kept. chunk_size bounds the examples of a chunk further.
- report: a dict that receives method, curvature, damping and residual, the largest
  |(H + damping I) s - g| / |g| of what was solved (None where H is not what the method solves).
"""

from contextlib import contextmanager

import torch

from lib import checks
from lib.influence import torch_influence
from lib.influence.ekfac import ekfac
from lib.influence.last_layer import LinearRisk, risk_in
from lib.influence.risk import MEMORY, as_given, finite, take
from lib.influence.solvers import (
    DENSE,
    NotPositiveDefinite,
    conjugate_gradients,
    influences,
    lanczos,
    prepare,
    relative_residual,
    solved,
)
from lib.influence.solvers import SOLVERS as OWN

__all__ = [
    "METHODS", "NotPositiveDefinite", "conjugate_gradients", "gradient_norms", "gradients",
    "group_influence", "indices_of", "influence", "parameter_influence", "perturbation_influence",
    "removal_effect", "s_test", "scores", "self_influence", "smallest_eigenvalue",
]  # fmt: skip

SOLVERS = {**OWN, "ekfac": ekfac, **torch_influence.METHODS}
METHODS = tuple(SOLVERS)
OTHER_H = ("identity", "ekfac")  # what these solve is not H


def influence(model, train, test, *, points=None, progress=False, **settings):
    """I_up,loss of each training point on each test point, `[n_test, n_train]`.

    points: a Sample whose influence is asked for in place of the training sample's, which still
    makes the risk: what these points would do if they had a weight in it.
    progress: show a bar.

    Raises NotPositiveDefinite where H + damping I is not: "exact" always, "cg" and "arnoldi" only
    where the directions that they walk meet the negative curvature, so that a number from them is
    no proof that there is none. `smallest_eigenvalue` says it beforehand.
    """
    with problem(model, train, **settings) as (risk, solve):
        if points is None:
            return influences(risk, solve, risk.see(test), risk.train, progress)
        points = risk.see(points, "point")
        return influences(risk, solve, risk.see(test), points, progress, "point")


def removal_effect(model, train, test, **settings):
    """-I / n: the predicted change of each test loss if a training point is removed.

    Above zero the training point is helpful: the test loss rises without it. Arguments and shape
    as `influence`.
    """
    return -influence(model, train, test, **settings) / len(train)


def group_influence(model, train, test, groups, *, progress=False, **settings):
    """The sum of I_up,loss over the points of each group, `[n_test, n_groups]`.

    groups: sequences of indices of training points. To first order a group's effect is the sum of
    its points' (Koh et al. 2019). ValueError for a group that is empty or has an index twice or
    out of range.
    """
    groups = [indices_of(group, len(train), f"group {i}") for i, group in enumerate(groups)]
    with problem(model, train, **settings) as (risk, solve):
        members = torch.cat(groups) if groups else torch.empty(0, dtype=torch.int64)
        of = torch.cat([torch.full_like(group, i) for i, group in enumerate(groups)] or [members])
        members, of = members.to(risk.theta.device), of.to(risk.theta.device)
        sizes = torch.tensor([float(len(group)) for group in groups]).to(risk.theta)
        found = risk.theta.new_zeros(len(test), len(groups))
        for block, s in solved(risk, solve, risk.see(test), progress):
            for part in risk.score_chunks(members, len(s)):
                scores = risk.scores(s, take(risk.train, members[part]))
                finite(scores.T, "the gradient of training point", members[part])
                found[block] = found[block].index_add(1, of[part], scores)
            found[block] += (s @ risk.share())[:, None] * sizes
        return found.neg_()


def self_influence(model, train, *, indices=None, progress=False, **settings):
    """I_up,loss of training points on themselves, `[n]`, or of those at `indices`.

    -g_test' (H + damping I)^-1 g of the same point: on the left without the regulariser.
    """
    with problem(model, train, **settings) as (risk, solve):
        points = risk.train
        if indices is not None:
            points = take(points, indices_of(indices, len(train), "indices").to(risk.theta.device))
        found = risk.theta.new_empty(len(points))
        for block, s in solved(risk, solve, points, progress, what="training point"):
            part = take(points, block)
            for chunk in risk.gradient_chunks(part, len(s)):
                g = risk.gradients(take(part, chunk)) + risk.share()
                found[block][chunk] = -(g * s[chunk]).sum(1)
        return found


def parameter_influence(model, train, points=None, **settings):
    """I_up,params: -(H + damping I)^-1 g of each point, `[s, d]`, how its weight moves theta.

    points: a Sample, by default the training sample. d counts the parameters in their order.
    """
    with problem(model, train, **settings) as (risk, solve):
        what = "training point" if points is None else "point"
        points = risk.train if points is None else risk.see(points, what)
        found = risk.theta.new_empty(len(points), len(risk.theta))
        size = risk.block(len(points), 8)
        for start in range(0, len(points), size):
            block = slice(start, start + size)
            g = _gradients(risk, take(points, block)) + risk.share()
            found[block] = -solve(finite(g, f"the gradient of {what}", range(start, len(points))))
        return found


def perturbation_influence(model, train, test, points=None, *, progress=False, **settings):
    """I_pert,loss: -g_test' (H + damping I)^-1 d_x d_theta L(z), `[n_test, s, *x.shape[1:]]`.

    How the test loss changes as the point's input does, in every direction of it at once, without
    1/n (Koh and Liang 2017, section 2.2). points: a Sample, by default the training sample.
    """
    with problem(model, train, **settings) as (risk, solve):
        what = "training point" if points is None else "point"
        points = risk.fit(train if points is None else points, what)
        if not points.x.is_floating_point():
            raise ValueError(f"only floating-point inputs can be perturbed, got {points.x.dtype}")
        found = risk.theta.new_empty(len(test), *points.x.shape)
        for block, s in solved(risk, solve, risk.see(test), progress):
            for rows in risk.perturbation_chunks(s, points.x):
                for part in risk.perturbation_chunks(points, points.x, len(s[rows])):
                    slope = risk.perturbations(s[rows], take(points, part))
                    found[block][rows, part] = -slope
        finite(found.movedim(1, 0), f"the gradient of {what}")
        return found


def s_test(model, train, test, **settings):
    """(H + damping I)^-1 g_test for each test point, `[n_test, d]`: Koh and Liang's s_test."""
    with problem(model, train, **settings) as (risk, solve):
        found = [s for _, s in solved(risk, solve, risk.see(test))]
        return torch.cat(found) if found else risk.theta.new_empty(0, len(risk.theta))


def scores(model, s, points, *, l2=0.0, parameters=None, memory=MEMORY):
    """-s_test' g of each point, `[n_test, n_points]`: influence from an `s_test` solved before."""
    settings = {"l2": l2, "parameters": parameters, "memory": memory, "what": "point"}
    with risk_in(model, points, **settings) as risk:
        d = len(risk.theta)
        if not (torch.is_tensor(s) and s.ndim == 2 and s.shape[1] == d):
            got = list(s.shape) if torch.is_tensor(s) else type(s).__name__
            raise ValueError(f"s must be what s_test gives, [m, {d}], got {got}")
        s = as_given(s, "s must be finite: row", risk.theta)
        found = s.new_empty(len(s), len(points))
        for part in risk.score_chunks(risk.train, len(s)):
            found[:, part] = risk.scores(s, take(risk.train, part))
        finite(found.T, "the gradient of point")
        return -(found + (s @ risk.share())[:, None])


def gradients(model, sample, *, l2=0.0, parameters=None, chunk_size=None, memory=MEMORY):
    """The gradient of each example's loss + (l2 / 2) |theta|^2, `[s, d]`."""
    settings = {"l2": l2, "parameters": parameters, "chunk_size": chunk_size, "memory": memory}
    with risk_in(model, sample, what="point", **settings) as risk:
        return finite(_gradients(risk, risk.train), "the gradient of point") + risk.share()


def gradient_norms(model, sample, parameters=None, chunk_size=None, memory=MEMORY):
    """The norm of each example's loss gradient with respect to the parameters, `[s]`."""
    settings = {"parameters": parameters, "chunk_size": chunk_size, "memory": memory}
    with risk_in(model, sample, what="point", **settings) as risk:
        norms = [
            risk.gradients(take(risk.train, part)).norm(dim=1)
            for part in risk.gradient_chunks(risk.train)
        ]
        return finite(torch.cat(norms)[:, None], "the gradient of point")[:, 0]


def smallest_eigenvalue(
    model, train, *, l2=0.0, parameters=None, curvature="hessian", memory=MEMORY
):
    """The smallest eigenvalue of H: below zero, a damping above its size makes H definite.

    Exact where H is dense; else Lanczos's bound from below, from products alone.
    """
    settings = {"l2": l2, "parameters": parameters, "curvature": curvature, "memory": memory}
    with risk_in(model, train, **settings) as risk:
        if isinstance(risk, LinearRisk) and len(risk.theta) <= DENSE:
            return torch.linalg.eigvalsh(risk.hessian())[0].item()
        return lanczos(risk.products, risk.theta, "SA")


@contextmanager
def problem(
    model,
    train,
    *,
    method="cg",
    damping=0.0,
    l2=0.0,
    parameters=None,
    curvature="hessian",
    memory=MEMORY,
    chunk_size=None,
    report=None,
    **solver,
):
    """The Risk of a training sample, and the function that solves with its H + damping I."""
    checks.one_of(method, METHODS, "method")
    damping = checks.radius(damping, "damping")
    with risk_in(
        model, train, l2=l2, parameters=parameters, curvature=curvature, memory=memory,
        chunk_size=chunk_size,
    ) as risk:  # fmt: skip
        solve = prepare(SOLVERS[method], method, risk, damping, solver)
        if report is None:
            yield risk, solve
            return
        report.update(method=method, curvature=curvature, damping=damping, residual=None)

        def reported(right):
            s = solve(right)
            if method not in OTHER_H:
                rest = relative_residual(risk, damping, s, right)
                report["residual"] = max(report["residual"] or 0.0, rest)
            return s

        yield risk, reported


def _gradients(risk, sample):
    rows = [risk.gradients(take(sample, part)) for part in risk.gradient_chunks(sample)]
    return torch.cat(rows) if rows else risk.theta.new_empty(0, len(risk.theta))


def indices_of(values, n, what):
    """Indices of training points as int64; ValueError if empty, out of range or repeated."""
    if not n:
        raise ValueError("the sample of training points holds no example")
    values = torch.as_tensor(values)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"{what} must hold at least one index of a training point")
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"{what} must hold integer indices, got {values.dtype}")
    values = values.to(torch.int64).cpu()
    outside = values[(values < 0) | (values >= n)]
    if len(outside):
        raise ValueError(f"{what} has index {outside[0].item()}: choose among 0 .. {n - 1}")
    unique, counts = values.unique(return_counts=True)
    if len(unique) < len(values):
        raise ValueError(f"{what} has index {unique[counts > 1][0].item()} more than once")
    return values
