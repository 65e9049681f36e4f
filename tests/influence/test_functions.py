"""Influence against dense algebra, autograd loops and actual retraining, all in float64."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.func import functional_call, hessian
from torch.nn.utils import prune

from lib.augmentation.algebra import Sample
from lib.influence.functions import (
    gradient_norms,
    gradients,
    group_influence,
    influence,
    parameter_influence,
    perturbation_influence,
    removal_effect,
    s_test,
    scores,
    self_influence,
    smallest_eigenvalue,
)
from lib.influence.solvers import NotPositiveDefinite

METHODS = ("exact", "cg", "identity")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(s, *shape, classes=3, seed=0):
    """Noise with soft labels."""
    x = torch.randn(s, *shape, generator=rng(seed), dtype=torch.float64)
    logits = torch.randn(s, classes, generator=rng(seed + 1), dtype=torch.float64)
    return Sample(x, (3 * logits).softmax(1))


def randomise(model, scale=0.5):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=rng(7)))
    return model.double()


def regression():
    return randomise(nn.Linear(4, 3)), draw(60, 4), draw(7, 4, seed=50)


def perceptron():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    return randomise(model), draw(60, 4), draw(7, 4, seed=50)


def convolution():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    return randomise(model), draw(40, 1, 4, 4), draw(5, 1, 4, 4, seed=50)


# Each with what it takes to make the Hessian positive definite at weights that are not fitted.
PROBLEMS = {
    "softmax regression": (regression, None, {"l2": 0.02}),
    "its bias": (regression, ["bias"], {"l2": 0.05}),
    "perceptron": (perceptron, None, {"damping": 0.5, "l2": 0.1}),
    "its last layer": (perceptron, ["2.weight", "2.bias"], {"damping": 0.03, "l2": 0.01}),
    "convolution": (convolution, None, {"damping": 0.5}),
}
problems = pytest.mark.parametrize(
    ("problem", "parameters", "extra"), list(PROBLEMS.values()), ids=list(PROBLEMS)
)


def loops(model, sample, names=None):
    """Each example's loss gradient, by one backward pass an example: `[s, d]`."""
    named = dict(model.named_parameters())
    chosen = [named[name] for name in names or named]
    rows = []
    for x, y in zip(sample.x, sample.y, strict=True):
        loss = -(y * model(x[None]).log_softmax(1)[0]).sum()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, chosen)]))
    return torch.stack(rows)


def dense(model, train, test, names, damping=0.0, l2=0.0):
    """-g_test' (H + damping I)^-1 g_train, with torch.func's Hessian and a dense solve; H."""
    named = {name: value.detach() for name, value in model.named_parameters()}
    names = list(names or named)
    theta = torch.cat([named[name].flatten() for name in names])

    def objective(theta):
        parts = theta.split([named[name].numel() for name in names])
        replaced = {n: part.view_as(named[n]) for n, part in zip(names, parts, strict=True)}
        logits = functional_call(model, named | replaced, (train.x,))
        return -(train.y * logits.log_softmax(1)).sum(1).mean() + l2 / 2 * theta @ theta

    H = hessian(objective)(theta) + damping * torch.eye(len(theta))
    g_train = loops(model, train, names) + l2 * theta
    return -loops(model, test, names) @ torch.linalg.solve(H, g_train.T), H


# ------------------------------------------------------------------ against dense algebra


@problems
def test_exact_and_cg_are_the_dense_solve(problem, parameters, extra):
    model, train, test = problem()
    expected, H = dense(model, train, test, parameters, **extra)
    assert torch.linalg.eigvalsh(H)[0] > 0
    scale = expected.abs().max()
    for method in ("exact", "cg"):
        value = influence(model, train, test, method=method, parameters=parameters, **extra)
        assert value.shape == (len(test.x), len(train.x))
        assert not value.requires_grad
        assert (value - expected).abs().max() < 1e-6 * scale


@problems
def test_identity_is_minus_the_product_of_the_gradients(problem, parameters, extra):
    model, train, test = problem()
    named = dict(model.named_parameters())
    theta = torch.cat([named[name].flatten() for name in parameters or named])
    l2 = extra.get("l2", 0.0)
    expected = -loops(model, test, parameters) @ (loops(model, train, parameters) + l2 * theta).T
    value = influence(model, train, test, method="identity", parameters=parameters, l2=l2)
    assert torch.allclose(value, expected, atol=1e-12)


@problems
def test_gradient_norms_are_those_of_a_loop(problem, parameters, extra):
    model, train, _ = problem()
    expected = loops(model, train, parameters).norm(dim=1)
    assert torch.allclose(gradient_norms(model, train, parameters), expected, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_removal_effect_is_minus_influence_over_n(method):
    model, train, test = regression()
    settings = {"method": method, "l2": 0.1, "damping": 0.2, "parameters": ["weight"]}
    effect = removal_effect(model, train, test, **settings)
    assert torch.allclose(effect, -influence(model, train, test, **settings) / 60, atol=1e-14)


def test_cg_is_the_default():
    model, train, test = regression()
    default = influence(model, train, test, l2=0.02)
    assert torch.equal(default, influence(model, train, test, l2=0.02, method="cg"))
    assert not torch.equal(default, influence(model, train, test, l2=0.02, method="exact"))


def test_large_damping_leaves_the_gradient_product():
    """(H + c I)^-1 -> I / c as c grows."""
    model, train, test = perceptron()
    product = influence(model, train, test, method="identity")
    for method in ("exact", "cg"):
        value = influence(model, train, test, method=method, damping=1e6)
        assert torch.allclose(1e6 * value, product, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------ groups, points, inputs


@problems
def test_groups_sum_the_influence_of_their_points(problem, parameters, extra):
    model, train, test = problem()
    groups = [[3], [0, 5, 9], torch.arange(40), np.array([7, 3])]
    each, _ = dense(model, train, test, parameters, **extra)
    expected = torch.stack([each[:, torch.as_tensor(g)].sum(1) for g in groups], 1)
    for method in ("exact", "cg"):
        value = group_influence(
            model, train, test, groups, method=method, parameters=parameters, **extra
        )
        assert torch.allclose(value, expected, atol=1e-6 * expected.abs().max())


@given(cut=st.integers(1, 59), seed=st.integers(0, 50))
def test_disjoint_groups_add_up(cut, seed):
    model, train, test = regression()
    order = torch.randperm(60, generator=rng(seed))
    groups = [order[:cut], order[cut:], order]
    value = group_influence(model, train, test, groups, method="exact", l2=0.1)
    assert torch.allclose(value[:, 0] + value[:, 1], value[:, 2], atol=1e-9)


@given(weight=st.floats(0.1, 10), seed=st.integers(0, 50))
def test_influence_is_linear_in_the_test_points_labels(weight, seed):
    """The gradient is linear in soft labels, and so are scores in a test point's."""
    model, train, _ = regression()
    first, second = draw(4, 4, seed=seed), draw(4, 4, seed=seed)
    second = Sample(first.x, second.y.flip(0))
    both = Sample(first.x, first.y + weight * second.y)
    values = [influence(model, train, s, method="exact", l2=0.1) for s in (first, second, both)]
    assert torch.allclose(values[0] + weight * values[1], values[2], atol=1e-9)


@problems
def test_self_influence_is_the_diagonal(problem, parameters, extra):
    model, train, _ = problem()
    expected = dense(model, train, train, parameters, **extra)[0].diagonal()
    for method in ("exact", "cg"):
        value = self_influence(model, train, method=method, parameters=parameters, **extra)
        assert torch.allclose(value, expected, atol=1e-6 * expected.abs().max())
    some = self_influence(model, train, indices=[5, 2], parameters=parameters, **extra)
    assert torch.allclose(some, expected[[5, 2]], atol=1e-6 * expected.abs().max())


@problems
def test_parameter_influence_is_minus_the_solve_of_the_training_gradient(
    problem, parameters, extra
):
    model, train, test = problem()
    _, H = dense(model, train, test, parameters, **extra)
    named = dict(model.named_parameters())
    theta = torch.cat([named[name].detach().flatten() for name in parameters or named])
    for points in (train, test):
        g = loops(model, points, parameters) + extra.get("l2", 0.0) * theta
        expected = -torch.linalg.solve(H, g.T).T
        value = parameter_influence(
            model, train, None if points is train else points, parameters=parameters, **extra
        )
        assert torch.allclose(value, expected, atol=1e-6 * expected.abs().max())


@problems
def test_perturbation_influence_is_the_slope_of_influence_in_the_input(problem, parameters, extra):
    """Central differences of -s' grad L(x), s by dense algebra."""
    model, train, test = problem()
    _, H = dense(model, train, test, parameters, **extra)
    s = torch.linalg.solve(H, loops(model, test, parameters).T).T
    points = Sample(train.x[:2].clone(), train.y[:2])
    value = perturbation_influence(model, train, test, points, parameters=parameters, **extra)
    assert value.shape == (len(test), 2, *train.x.shape[1:])
    step = 1e-5
    for place in range(points.x[0].numel()):
        sides = []
        for sign in (1, -1):
            x = points.x.clone()
            x.flatten(1)[:, place] += sign * step
            sides.append(-s @ loops(model, Sample(x, points.y), parameters).T)
        expected = (sides[0] - sides[1]) / (2 * step)
        assert torch.allclose(value.flatten(2)[:, :, place], expected, atol=1e-5)


def test_every_training_points_perturbation_is_the_default():
    model, train, test = regression()
    whole = perturbation_influence(model, train, test, l2=0.1)
    some = perturbation_influence(model, train, test, Sample(train.x[7:9], train.y[7:9]), l2=0.1)
    assert torch.allclose(whole[:, 7:9], some, atol=1e-9)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ([], ["group 1", "at least one"]),
        ([60], ["group 1", "60", "0 .. 59"]),
        ([0, -1], ["group 1", "-1", "0 .. 59"]),
        ([4, 2, 4], ["group 1", "4", "more than once"]),
        ([0.5], ["group 1", "float"]),
        ([True, False], ["group 1", "bool"]),
    ],
)
def test_bad_groups(group, said, refuses):
    refuses(lambda: group_influence(*regression(), [[0], group], l2=0.1), *said)
    model, train, _ = regression()
    refuses(lambda: self_influence(model, train, indices=group, l2=0.1), *said[1:])


# ------------------------------------------------------------------ parameters and memory


def test_the_last_layer_has_a_name_of_its_own():
    model, train, test = perceptron()
    settings = {"damping": 0.03, "l2": 0.01, "method": "exact"}
    named = influence(model, train, test, parameters=["2.weight", "2.bias"], **settings)
    assert torch.equal(influence(model, train, test, parameters="last", **settings), named)


def test_names_may_come_in_any_order():
    model, train, test = perceptron()
    order = ["2.bias", "0.weight", "2.weight", "0.bias"]
    settings = {"damping": 0.5, "l2": 0.1, "method": "exact"}
    shuffled = influence(model, train, test, parameters=order, **settings)
    assert torch.allclose(shuffled, influence(model, train, test, **settings), atol=1e-10)


def test_no_training_points(refuses):
    model, train, test = perceptron()
    refuses(lambda: influence(model, Sample(train.x[:0], train.y[:0]), test), "no example")


@pytest.mark.parametrize("method", METHODS)
def test_gradients_that_are_not_finite(method, refuses):
    model, train, test = perceptron()
    broken = Sample(test.x.clone(), test.y)
    broken.x[3, 1] = math.nan
    refuses(lambda: influence(model, train, broken, damping=0.5, method=method), "not finite")
    refuses(
        lambda: parameter_influence(model, train, broken, damping=0.5, method=method), "not finite"
    )


def test_no_last_layer(refuses):
    model = nn.Sequential(nn.Conv2d(1, 3, 4), nn.Flatten()).double()
    train = draw(20, 1, 4, 4)
    refuses(lambda: influence(model, train, train, parameters="last"), "last", "linear")
    refuses(lambda: influence(*regression(), parameters="weight"), "'weight'", "last")


def enough(call):
    """The value of `call(memory=...)` at the least budget that the errors name, and the budget."""
    memory, named = 8, []
    for _ in range(20):
        try:
            return call(memory=memory), memory
        except ValueError as error:
            message = str(error)
        assert f"memory={memory}" in message
        named.append(int(message.split("at least ")[1].split()[0]))
        assert named[-1] > memory
        memory = named[-1]
    raise AssertionError(f"no budget was enough: {named}")


@problems
@pytest.mark.parametrize("method", ["exact", "cg", "identity"])
def test_the_least_memory_gives_the_same_numbers(problem, parameters, extra, method):
    model, train, test = problem()
    settings = {"parameters": parameters, "method": method, **extra}
    value, least = enough(lambda memory: influence(model, train, test, memory=memory, **settings))
    plenty = influence(model, train, test, **settings)
    assert torch.allclose(value, plenty, atol=1e-7 * plenty.abs().max())
    assert least < 1e6


def test_the_least_memory_of_the_other_functions():
    model, train, test = convolution()
    train, test = (Sample(s.x[:n], s.y[:n]) for s, n in ((train, 8), (test, 2)))
    damped = {"damping": 3.0, "tolerance": 1e-10}
    for call in (
        lambda **memory: group_influence(model, train, test, [[0, 1], [5]], **damped, **memory),
        lambda **memory: self_influence(model, train, **damped, **memory),
        lambda **memory: parameter_influence(model, train, test, **damped, **memory),
        lambda **memory: perturbation_influence(model, train, test, test, **damped, **memory),
        lambda **memory: gradients(model, train, **memory),
        lambda **memory: s_test(model, train, test, **damped, **memory),
    ):
        value, _ = enough(call)
        assert torch.allclose(value, call(), atol=1e-7)


def test_scores_do_not_hold_the_gradients_of_all_points(monkeypatch):
    """The most gradients that are held at once do not grow with the training sample."""
    from lib.influence.risk import Risk

    seen, original = [], Risk.gradients
    monkeypatch.setattr(
        Risk, "gradients", lambda self, *a, **k: seen.append(g := original(self, *a, **k)) or g
    )
    model, _, test = perceptron()
    influence(model, draw(2000, 4), test, method="identity", memory=200_000)
    assert max(g.numel() * g.element_size() for g in seen) < 100_000
    assert sum(len(g) for g in seen) == 2007


@pytest.mark.parametrize("problem", [perceptron, regression])
def test_scores_of_what_is_solved_are_the_influence(problem):
    model, train, test = problem()
    other = draw(9, 4, seed=99)
    settings = {"damping": 0.5, "method": "exact", "l2": 0.1}
    solved = s_test(model, train, test, **settings)
    for points in (train, other):
        expected = influence(model, train, test, points=points, **settings)
        assert torch.allclose(scores(model, solved, points, l2=0.1), expected, atol=1e-10)


def test_no_test_points_and_no_groups():
    model, train, test = perceptron()
    none = Sample(test.x[:0], test.y[:0])
    assert influence(model, train, none, damping=0.5).shape == (0, 60)
    assert s_test(model, train, none, damping=0.5).shape == (0, 43)
    assert group_influence(model, train, test, [], damping=0.5).shape == (7, 0)


def test_in_single_precision():
    model, train, test = perceptron()
    single = [Sample(s.x.float(), s.y.float()) for s in (train, test)]
    expected = influence(model, train, test, damping=0.5, method="exact")
    for method in ("exact", "cg"):
        value = influence(model.float(), *single, damping=0.5, method=method)
        assert value.dtype == torch.float32
        assert torch.allclose(value.double(), expected, atol=1e-4 * expected.abs().max())


# ------------------------------------------------------------------ against retraining

L2 = 0.05


def wine():
    """Three classes, 178 points; 13 features, standardised, and a constant."""
    x, y = load_wine(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    return np.column_stack([x, np.ones(178)]), y


def fit(x, y):
    """argmin of mean cross-entropy + L2/2 |W|^2, converged, by scikit-learn: W."""
    solver = LogisticRegression(
        C=1 / (len(x) * L2), fit_intercept=False, tol=1e-10, max_iter=10_000
    )
    return solver.fit(x, y).coef_


def fitted(x, y):
    model = nn.Linear(14, 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(fit(x, y)))
    return model


def sample(x, y):
    return Sample(torch.from_numpy(x), F.one_hot(torch.from_numpy(y), 3).double())


@pytest.mark.parametrize("method", ["exact", "cg"])
def test_removal_effect_is_the_loss_change_on_leaving_a_point_out(method):
    """Koh and Liang's figure: predicted against retrained, for each of four test points."""
    x, y = wine()
    held, rest = np.arange(20, 178, 40), np.setdiff1d(np.arange(178), np.arange(20, 178, 40))
    train, test = (x[rest], y[rest]), sample(x[held], y[held])
    model = fitted(*train)
    predicted = removal_effect(model, sample(*train), test, method=method, l2=L2).numpy()

    def losses(weight):
        logits = test.x @ torch.as_tensor(weight).T
        return F.cross_entropy(logits, test.y, reduction="none").numpy()

    before = losses(model.weight.detach())
    left_out = range(0, len(rest), 4)
    actual = [losses(fit(*(np.delete(part, i, 0) for part in train))) - before for i in left_out]
    predicted, actual = predicted[:, left_out], np.transpose(actual)
    for guess, truth in zip(predicted, actual, strict=True):
        assert stats.pearsonr(guess, truth).statistic >= 0.98
        assert 0.8 < stats.linregress(guess, truth).slope < 1.3


@pytest.mark.parametrize("method", METHODS)
def test_influences_of_a_fitted_model_sum_to_zero(method):
    """At the minimum the train gradients, their share of the regulariser included, sum to 0."""
    x, y = wine()
    points = sample(x, y)
    value = influence(fitted(x, y), points, points, method=method, l2=L2)
    assert value.sum(1).abs().max() < 1e-4 * value.abs().max()


# ------------------------------------------------------------------ the network and its modes


def test_the_network_is_in_eval_mode_and_then_as_it_was(delicate, global_rng_untouched):
    model, check = delicate
    evaluated = copy.deepcopy(model).eval()
    train = Sample(torch.rand(20, 1, 4, 4, generator=rng()), torch.eye(3)[torch.arange(20) % 3])
    last = {"parameters": ["6.weight", "6.bias"]}
    for call in (
        lambda model: influence(model, train, train, damping=0.1, **last),
        lambda model: influence(model, train, train, damping=0.1, method="exact", **last),
        lambda model: removal_effect(model, train, train, method="identity", **last),
        lambda model: gradient_norms(model, train, **last),
        lambda model: gradient_norms(model, train),
        lambda model: group_influence(model, train, train, [[0, 1], [2]], damping=0.1, **last),
        lambda model: self_influence(model, train, damping=0.1, **last),
        lambda model: parameter_influence(model, train, damping=0.1, **last),
        lambda model: perturbation_influence(model, train, train, damping=0.1, **last),
        lambda model: influence(model, train, train, method="lissa", damping=1.0, depth=9, **last),
        lambda model: influence(model, train, train, method="arnoldi", damping=1.0, **last),
    ):
        value = global_rng_untouched(lambda call=call: call(model))
        assert torch.equal(value, call(evaluated))
        check()


# ------------------------------------------------------------------ what is refused


def indefinite():
    """A network far from any minimum, whose Hessian has eigenvalues clearly below zero."""
    model, train, test = perceptron()
    assert torch.linalg.eigvalsh(dense(model, train, test, None)[1])[0] < -0.01
    return model, train, test


@pytest.mark.parametrize("method", ["exact", "cg"])
def test_negative_curvature(method, refuses):
    refuses(
        lambda: influence(*indefinite(), method=method),
        "not positive definite", "damping", error=NotPositiveDefinite,
    )  # fmt: skip
    assert issubclass(NotPositiveDefinite, ValueError)


@pytest.mark.parametrize("method", ["exact", "cg"])
def test_damping_makes_it_definite(method):
    model, train, test = indefinite()
    expected, H = dense(model, train, test, None, damping=1.0)
    assert torch.linalg.eigvalsh(H)[0] > 0
    value = influence(model, train, test, method=method, damping=1.0)
    assert torch.allclose(value, expected, atol=1e-6)


def test_singular_hessian(refuses):
    """Without regulariser softmax regression has flat directions: all classes shifted alike."""
    refuses(
        lambda: influence(*regression(), method="exact"),
        "not positive definite", "damping", error=NotPositiveDefinite,
    )  # fmt: skip


@pytest.mark.parametrize("setting", ["damping", "l2"])
@pytest.mark.parametrize("value", [-0.1, math.nan])
@pytest.mark.parametrize("method", METHODS)
def test_bad_damping_and_l2(setting, value, method, refuses):
    refuses(
        lambda: influence(*regression(), method=method, **{setting: value}), setting, repr(value)
    )


def test_unknown_method(refuses):
    for call in (influence, removal_effect):
        refuses(lambda call=call: call(*regression(), method="newton"), "newton", *METHODS)


def test_unknown_parameter(refuses):
    model, train, test = perceptron()
    names = [name for name, _ in model.named_parameters()]
    for call in (
        lambda: influence(model, train, test, damping=1.0, parameters=["0.weight", "head"]),
        lambda: removal_effect(model, train, test, damping=1.0, parameters=["head"]),
        lambda: gradient_norms(model, train, parameters=["head"]),
    ):
        refuses(call, "head", *names)


@pytest.mark.parametrize("method", ["exact", "identity"])
def test_a_setting_that_the_method_does_not_have(method, refuses):
    refuses(lambda: influence(*regression(), method=method, l2=0.1, depth=3), "depth")


# ------------------------------------------------------------------ samples that do not fit

LISSA = {"method": "lissa", "depth": 30, "tolerance": 0.9}
EVERY_METHOD = {
    "exact": {}, "cg": {}, "identity": {}, "ekfac": {}, "lissa": LISSA, "arnoldi": {},
}  # fmt: skip
WHICH = pytest.mark.parametrize("parameters", [None, "last"], ids=["all", "last"])


def calls(parameters=None, **extra):
    """Public functions as functions of model, train, test: those of both samples, and of one.

    All of them for the default method, those that solve for a named one, the first for ekfac.
    """
    p = {"parameters": parameters}
    own = {**p, "damping": 2.0, "l2": 0.1, **extra}
    both = [
        lambda m, train, test: influence(m, train, test, **own),
        lambda m, train, test: removal_effect(m, train, test, **own),
        lambda m, train, test: group_influence(m, train, test, [[0, 5, 3], [2]], **own),
        lambda m, train, test: s_test(m, train, test, **own),
        lambda m, train, test: perturbation_influence(m, train, test, **own),
        lambda m, train, test: parameter_influence(m, train, test, **own),
        lambda m, train, test: influence(m, train, train, points=test, **own),
        lambda m, train, test: perturbation_influence(m, train, train, test, **own),
    ]
    one = [
        lambda m, train, test: self_influence(m, train, **own),
        lambda m, train, test: parameter_influence(m, train, **own),
        lambda m, train, test: gradients(m, train, **p),
        lambda m, train, test: gradient_norms(m, train, **p),
        lambda m, train, test: scores(
            m, torch.ones(2, 43 if parameters is None else 18).double(), train, **p
        ),
        lambda m, train, test: torch.tensor(smallest_eigenvalue(m, train, **p)),
    ]
    if "method" in extra:
        both, one = (both[:1], []) if extra["method"] == "ekfac" else (both[:6], one[:1])
    return both, one


MISFITS = {
    "one row for all": lambda y: y[:1],
    "a column": lambda y: y[:, :1],
    "one number each": lambda y: y[:, 0],
    "integers": lambda y: y.argmax(1),
    "integer rows": lambda y: F.one_hot(y.argmax(1), 3),
    "a class too many": lambda y: torch.cat([y, torch.zeros_like(y[:, :1])], 1),
    "a list": lambda y: y.tolist(),
}


@WHICH
@pytest.mark.parametrize("misfit", MISFITS.values(), ids=list(MISFITS))
def test_labels_that_do_not_fit(misfit, parameters, refuses):
    model, train, test = perceptron()
    both, one = calls(parameters)
    for call in both + one:
        broken = Sample(train.x, misfit(train.y))
        refuses(lambda call=call, s=broken: call(model, s, test), "labels", "[60, 3]")
    for call in both:
        broken = Sample(test.x, misfit(test.y))
        refuses(lambda call=call, s=broken: call(model, train, s), "labels", "[7, 3]")


@WHICH
def test_labels_of_a_risk_that_are_no_probabilities(parameters, refuses):
    model, train, test = perceptron()
    both, one = calls(parameters)
    for change in (lambda y: 2 * y, lambda y: y - torch.eye(3)[0], lambda y: y * 0):
        y = train.y.clone()
        y[4] = change(y[4])
        for call in [*both, *one[:2]]:
            refuses(
                lambda call=call, y=y: call(model, Sample(train.x, y), test),
                "training point 4", "probabilities",
            )  # fmt: skip


@WHICH
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("method", EVERY_METHOD)
def test_the_point_that_is_not_finite_is_named(method, value, parameters, refuses):
    model, train, test = perceptron()
    both, one = calls(parameters, **{"method": method, **EVERY_METHOD[method]})
    for part in "xy":
        broken = {}
        for name, s, i in (("train", train, 5), ("test", test, 3)):
            values = {"x": s.x.clone(), "y": s.y.clone()}
            values[part][i, 1] = value
            broken[name] = Sample(**values)
        for call in both + one:
            refuses(lambda call=call, s=broken: call(model, s["train"], test), "5", "not finite")
        for call in both:
            refuses(lambda call=call, s=broken: call(model, train, s["test"]), "3", "not finite")


class Root(nn.Module):
    """Finite outputs whose slope in the weights is not finite where the first input is zero."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x).abs().sqrt()


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_a_gradient_that_is_not_finite_names_its_point(method, refuses):
    model = randomise(Root())
    with torch.no_grad():
        model.layer.bias.zero_()
    train, test = draw(60, 4), draw(7, 4, seed=50)
    still = Sample(train.x.clone(), train.y)
    still.x[5] = 0
    settings = {"method": method, "damping": 50.0, **EVERY_METHOD[method]}
    refuses(lambda: influence(model, still, test, **settings), "training point 5", "not finite")
    refuses(lambda: influence(model, train, still, **settings), "test point 5", "not finite")


def test_weights_that_are_not_finite(refuses):
    model, train, test = perceptron()
    with torch.no_grad():
        model[2].bias[1] = math.nan
    for call in (*calls()[0], *calls()[1], *calls("last")[0], *calls("last")[1]):
        refuses(lambda call=call: call(model, train, test), "not", "finite", "parameters")


# ------------------------------------------------------------------ layers that only look linear


class Doubling(nn.Linear):
    def forward(self, x):
        return super().forward(2 * x)


def hooked():
    layer = nn.Linear(5, 3)
    layer.register_forward_pre_hook(lambda _, args: (2 * args[0],))
    return layer


LAYERS = {
    "subclass": lambda: Doubling(5, 3),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(5, 3)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(
        nn.Linear(5, 3), use_trivialization=False
    ),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(5, 3), "weight", 6),
    "hook": hooked,
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=list(LAYERS))
def test_a_last_layer_with_a_way_of_its_own(make, refuses):
    """In the influence of its parameters, and where it is all there is."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = make().double().eval()
    for model in (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), layer).double(), layer):
        width = 4 if model is not layer else 5
        train, test = draw(60, width), draw(7, width, seed=50)
        names = [n for n, _ in model.named_parameters() if model is layer or n[0] == "2"]
        settings = {"damping": 0.5, "l2": 0.1}
        expected, _ = dense(model, train, test, names, **settings)
        for method in ("exact", "cg"):
            value = influence(model, train, test, method=method, parameters="last", **settings)
            assert torch.allclose(value, expected, atol=1e-6 * expected.abs().max())
        refuses(
            lambda model=model, s=train: influence(model, s, s, method="ekfac", parameters="last"),
            "ekfac",
        )  # fmt: skip


# ------------------------------------------------------------------ networks that do not fit


class Outputs(nn.Module):
    def __init__(self, of):
        super().__init__()
        self.layer, self.of = nn.Linear(4, 3), of

    def forward(self, x):
        return self.of(self.layer(x))


@pytest.mark.parametrize(
    ("of", "got"),
    [
        (lambda z: (z, z), "tuple"),
        (lambda z: {"logits": z}, "dict"),
        (lambda z: z[:, 0], "[1]"),
        (lambda z: z[:, :1], "[1, 1]"),
        (lambda z: z[:, :, None], "[1, 3, 1]"),
        (lambda z: z.sum(0, keepdim=True).expand(2, 3), "[2, 3]"),
    ],
)
def test_outputs_that_are_no_logits(of, got, refuses):
    model = randomise(Outputs(of))
    for call in (*calls()[0], *calls()[1]):
        refuses(lambda call=call: call(model, draw(60, 4), draw(7, 4)), "logits [s, k]", got)


def test_what_is_no_network(refuses):
    for call in (*calls()[0], *calls()[1]):
        refuses(lambda call=call: call(torch.tanh, draw(60, 4), draw(7, 4)), "nn.Module")


class InPlace(nn.Sequential):
    """Normalises its input where it lies."""

    def forward(self, x):
        return super().forward(x.sub_(0.3).mul_(2))


@WHICH
@pytest.mark.parametrize("method", EVERY_METHOD)
def test_a_network_that_changes_its_input_gets_a_copy(method, parameters):
    model, train, test = perceptron()
    careless = InPlace(*model)
    shifted = [Sample((s.x - 0.3) * 2, s.y) for s in (train, test)]
    kept = train.x.clone(), test.x.clone()
    settings = {"method": method, **EVERY_METHOD[method]}
    both, one = calls(parameters, **settings)
    for call in both + one:
        value, expected = call(careless, train, test), call(model, *shifted)
        if value.shape[1:] == (60, 4) or value.shape[1:] == (7, 4):
            expected = 2 * expected  # the slope in what is given
        assert torch.equal(train.x, kept[0])
        assert torch.equal(test.x, kept[1])
        assert torch.allclose(value, expected, rtol=1e-6, atol=1e-9)


def test_frozen_parameters_are_not_among_all(refuses):
    model, train, test = perceptron()
    names = ["0.weight", "2.bias"]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    settings = {"damping": 0.5, "l2": 0.1, "method": "exact"}
    expected, _ = dense(model, train, test, names, damping=0.5, l2=0.1)
    found = influence(model, train, test, **settings)
    assert torch.allclose(found, expected, atol=1e-9)
    assert gradients(model, train).shape == (60, 23)
    # Names say what they say, whether it is trained or not.
    named = influence(model, train, test, parameters=["2.weight", "2.bias"], **settings)
    model.requires_grad_(True)
    assert torch.equal(influence(model, train, test, parameters="last", **settings), named)
    model.requires_grad_(False)
    refuses(lambda: influence(model, train, test, **settings), "requires_grad=False", "parameters")


# ------------------------------------------------------------------ precisions and modes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, refuses):
    model, train, test = perceptron()
    halved = [Sample(s.x.to(dtype), s.y) for s in (train, test)]
    for both in (*calls()[0], *calls("last")[0]):
        refuses(lambda call=both: call(model.to(dtype), *halved), str(dtype), "single or double")
    # Images in half precision are what they are: the network takes them in its own.
    wide = [Sample(s.x.double(), s.y) for s in halved]
    for parameters in (None, "last"):
        both, one = calls(parameters)
        for call in both + one:
            assert torch.equal(call(model.double(), *halved), call(model, *wide))


@WHICH
def test_labels_are_taken_in_the_networks_precision(parameters):
    model, train, test = perceptron()
    hard = [Sample(s.x, F.one_hot(s.y.argmax(1), 3).double()) for s in (train, test)]
    single = [Sample(s.x, s.y.float()) for s in hard]
    for call in calls(parameters)[0]:
        assert torch.equal(call(model, *single), call(model, *hard))


@WHICH
@pytest.mark.parametrize("method", EVERY_METHOD)
def test_in_inference_mode(method, parameters):
    model, train, test = perceptron()
    both, one = calls(parameters, **{"method": method, **EVERY_METHOD[method]})
    for call in both + one:
        expected = call(model, train, test)
        with torch.inference_mode():
            inside = [Sample(s.x + 0, s.y + 0) for s in (train, test)]
            for given in ((train, test), inside):
                assert torch.equal(call(model, *given), expected)
        assert torch.equal(call(model, *inside), expected)


def test_a_network_made_in_inference_mode(refuses):
    with torch.inference_mode():
        model = nn.Linear(4, 3).double()
    refuses(lambda: influence(model, draw(60, 4), draw(7, 4), l2=0.1), "inference_mode")


@WHICH
def test_autocast_around_a_call_changes_nothing(parameters):
    model, train, test = perceptron()
    single = [Sample(s.x.float(), s.y.float()) for s in (train, test)]
    for call in calls(parameters)[0]:
        expected = call(model.float(), *single)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(call(model, *single), expected)


# ------------------------------------------------------------------ sizes


def test_empty_samples(refuses):
    model, train, test = perceptron()
    none = Sample(test.x[:0], test.y[:0])
    for parameters in (None, "last"):
        both, one = calls(parameters)
        for call in both + one:
            refuses(lambda call=call: call(model, none, test), "holds no example")
        for call in both:
            assert 0 in call(model, train, none).shape or call is both[2]


def test_settings_may_be_numpys():
    model, train, test = perceptron()
    plain = influence(model, train, test, damping=2.0, chunk_size=9, rank=3, iterations=80)
    theirs = influence(
        model, train, test, damping=np.float64(2), chunk_size=np.int64(9), rank=np.int32(3),
        iterations=np.int64(80), memory=np.int64(2**31),
    )  # fmt: skip
    assert torch.equal(plain, theirs)
    small = np.float32(0.5)
    assert torch.equal(
        influence(model, train, test, method="exact", damping=small, l2=small),
        influence(model, train, test, method="exact", damping=0.5, l2=0.5),
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.ones(2, 42), "[m, 43]"),
        (torch.ones(2, 60), "[m, 43]"),
        (torch.ones(43), "[m, 43]"),
        (torch.full((2, 43), math.nan), "not finite"),
    ],
)
def test_solved_vectors_that_do_not_fit(value, said, refuses):
    model, train, _ = perceptron()
    refuses(lambda: scores(model, value.double(), train), "s must", said)


def test_perturbation_of_integers(refuses):
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3)).double()
    tokens = torch.arange(40).view(20, 2) % 9
    train = Sample(tokens, draw(20, 1).y)
    refuses(lambda: perturbation_influence(model, train, train, damping=5.0), "floating-point")
    both = [influence(model, train, train, damping=5.0, parameters=p) for p in (None, "last")]
    assert all(found.isfinite().all() for found in both)
