"""Influence functions: how much a training point bears on the loss of a test point.

After Koh and Liang (2017). The training risk is R(theta) = mean of the training losses +
(l2 / 2) |theta|^2, the loss the cross-entropy against (soft) labels. With H the Hessian of R at
the trained parameters, I_up,loss(z, z_test) = -g_test' (H + damping I)^-1 g: the derivative of
the test loss with respect to the weight of z, without 1/n. The training point's gradient g has
its share l2 theta of the regulariser; the test point's has not. The network is in eval mode.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, hessian, jvp, vmap

from lib import checks
from lib.attacks import frozen

METHODS = ("exact", "cg", "identity")


class NotPositiveDefinite(ValueError):
    """The Hessian has a direction of negative or no curvature: influence is not defined there."""


def influence(model, train, test, *, points=None, l2=0.0, parameters=None, chunk_size=64, **solve):
    """I_up,loss of each training point on each test point, `[n_test, n_train]`.

    train, test: Samples; `x` of whatever shape the model takes, `y` rows of class probabilities.
    points: a Sample whose influence is asked for in place of the training sample's, which still
    makes the risk: what these points would do if they had a weight in it.
    parameters, damping, method and its settings: as `s_test`. chunk_size bounds how many gradients
    or products are computed at once.

    Raises NotPositiveDefinite where H + damping I is not.
    """
    shared = {"l2": l2, "parameters": parameters, "chunk_size": chunk_size}
    solved = s_test(model, train, test, **shared, **solve)
    return -solved @ gradients(model, train if points is None else points, **shared).T


def s_test(
    model,
    train,
    test,
    *,
    method="cg",
    damping=0.0,
    l2=0.0,
    parameters=None,
    chunk_size=64,
    **solver,
):
    """(H + damping I)^-1 g_test for each test point, `[n_test, d]`: Koh and Liang's s_test.

    parameters: names of those that count as theta, all by default; the others are constants.
    method: "exact" solves with the dense Hessian by Cholesky; "cg" by conjugate gradients
    (solver: tolerance=1e-8, of the relative residual, iterations=1000) with Hessian-vector
    products; "identity" drops the Hessian: the gradients themselves.
    """
    checks.one_of(method, METHODS, "method")
    checks.radius(damping, "damping")
    checks.radius(l2, "l2")
    if solver and method != "cg":
        raise ValueError(f"method {method!r} takes no settings, got {', '.join(solver)}")
    with frozen(model):
        risk = Risk(model, train, l2, parameters)
        g_test = risk.gradients(test, chunk_size)
        if method == "exact":
            return _cholesky_solve(risk.hessian(), damping, g_test)
        if method == "cg":
            return conjugate_gradients(
                lambda v: risk.hessian_products(v, chunk_size) + damping * v, g_test, **solver
            )
        return g_test


def gradients(model, sample, *, l2=0.0, parameters=None, chunk_size=64):
    """The gradient of each example's loss + (l2 / 2) |theta|^2, `[s, d]`."""
    with frozen(model):
        risk = Risk(model, sample, l2, parameters)
        return risk.gradients(sample, chunk_size) + l2 * risk.theta


def removal_effect(model, train, test, **settings):
    """-I / n: the predicted change of each test loss if a training point is removed.

    Above zero the training point is helpful: the test loss rises without it. Arguments and shape
    as `influence`.
    """
    return -influence(model, train, test, **settings) / len(train)


def gradient_norms(model, sample, parameters=None, chunk_size=64):
    """The norm of each example's loss gradient with respect to the parameters, `[s]`."""
    return gradients(model, sample, parameters=parameters, chunk_size=chunk_size).norm(dim=1)


class Risk:
    """The regularised training risk as a function of the flat vector `theta` `[d]`."""

    def __init__(self, model, train, l2, names=None):
        every = dict(model.named_parameters())
        unknown = [name for name in names or () if name not in every]
        if unknown or names == []:
            raise ValueError(f"unknown parameters {unknown}: choose among {', '.join(every)}")
        chosen = {name: every[name].detach() for name in names or every}
        self.model, self.train, self.l2 = model, train, l2
        self.shapes = {name: value.shape for name, value in chosen.items()}
        self.theta = torch.cat([value.flatten() for value in chosen.values()])
        # For a linear model in all its parameters the Hessian is known in closed form.
        self.linear = isinstance(model, nn.Linear) and list(chosen) == list(every)

    def losses(self, theta, x, y):
        parts = theta.split([shape.numel() for shape in self.shapes.values()])
        named = {
            name: part.view(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        return F.cross_entropy(functional_call(self.model, named, (x,)), y, reduction="none")

    def mean(self, theta, x, y):
        return self.losses(theta, x, y).mean() + self.l2 / 2 * theta.square().sum()

    def gradients(self, sample, chunk_size):
        """The gradient of each example's loss, without the regulariser, `[s, d]`."""
        if not len(sample):
            return self.theta.new_empty(0, len(self.theta))
        if self.linear:  # (q - y) (x) a, of the predicted probabilities q and the input a
            q, y = self.model(sample.x).softmax(1), sample.y
            residual = q * y.sum(1, keepdim=True) - y
            weight = (residual[:, :, None] * sample.x[:, None]).flatten(1)
            return weight if self.model.bias is None else torch.cat([weight, residual], 1)
        one = grad(lambda theta, x, y: self.losses(theta, x[None], y[None])[0])
        each = vmap(one, in_dims=(None, 0, 0), chunk_size=chunk_size)
        return each(self.theta, sample.x, sample.y)

    def hessian_products(self, vectors, chunk_size):
        """H v for each row of `vectors` `[m, d]`, forward over reverse."""
        slope = grad(lambda theta: self.mean(theta, self.train.x, self.train.y))

        def product(vector):
            return jvp(slope, (self.theta,), (vector,))[1]

        return vmap(product, chunk_size=chunk_size)(vectors)

    def hessian(self):
        """The dense Hessian `[d, d]`."""
        if self.linear:
            return self._softmax_regression_hessian()
        return hessian(lambda theta: self.mean(theta, self.train.x, self.train.y))(self.theta)

    def _softmax_regression_hessian(self):
        """Mean of (diag(q) - q q') (x) (a a') over the examples, q the predicted probabilities.

        a is the input, with a 1 for the bias; rows are in the order of weight, then bias.
        """
        x, layer = self.train.x, self.model
        q = layer(x).softmax(1)
        a = x if layer.bias is None else torch.cat([x, torch.ones_like(x[:, :1])], 1)
        k, d = q.shape[1], a.shape[1]
        blocks = a.new_empty(k, d, k, d)
        for i in range(k):
            for j in range(i + 1):
                weight = q[:, i] * (float(i == j) - q[:, j]) / len(x)
                blocks[i, :, j] = blocks[j, :, i] = (a * weight[:, None]).T @ a
        width = x.shape[1]
        index = torch.arange(k * d, device=x.device).view(k, d)
        order = torch.cat([index[:, :width].flatten(), index[:, width:].flatten()])
        dense = blocks.view(k * d, k * d)[order][:, order]
        dense.diagonal().add_(self.l2)
        return dense


def _cholesky_solve(matrix, damping, right):
    """(matrix + damping I)^-1 applied to each row of `right`."""
    matrix.diagonal().add_(damping)
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info:
        smallest = torch.linalg.eigvalsh(matrix)[0].item()
        raise NotPositiveDefinite(
            f"H + damping I is not positive definite: its smallest eigenvalue is {smallest:.3g}; "
            f"a damping above {damping - smallest:.3g} makes it so, at the price of another H"
        )
    return torch.cholesky_solve(right.T, factor).T


def conjugate_gradients(product, right, *, tolerance=1e-8, iterations=1000):
    """Solve A s = r for each row r of `right` `[m, d]`; `product` multiplies rows by A.

    Raises NotPositiveDefinite when it meets negative curvature, ValueError when the relative
    residual is still above `tolerance` after `iterations`.
    """
    solution, residual = torch.zeros_like(right), right.clone()
    direction = residual.clone()
    square = residual.square().sum(1)
    goal = tolerance**2 * square
    for _ in range(iterations):
        active = square > goal
        if not active.any():
            return solution
        image = product(direction)
        curvature = (direction * image).sum(1)
        if (curvature[active] <= 0).any():
            along = (curvature / direction.square().sum(1))[active].min().item()
            raise NotPositiveDefinite(
                f"H + damping I is not positive definite: a direction has curvature {along:.3g}; "
                "a larger damping makes it so, at the price of another H"
            )
        length = torch.where(active, square / curvature, 0)[:, None]
        solution += length * direction
        residual -= length * image
        before, square = square, residual.square().sum(1)
        direction = residual + torch.where(active, square / before, 0)[:, None] * direction
    if (square <= goal).all():
        return solution
    worst = (square / right.square().sum(1)).max().sqrt().item()
    raise ValueError(
        f"conjugate gradients stopped after {iterations} iterations at a relative residual of "
        f"{worst:.2g}, above tolerance={tolerance:g}"
    )
