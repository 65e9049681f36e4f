"""Solvers against dense linear algebra."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lib.augmentation.algebra import Sample
from lib.influence.functions import influence, s_test, smallest_eigenvalue
from lib.influence.last_layer import LinearRisk, risk_of
from lib.influence.risk import Risk
from lib.influence.solvers import (
    NotPositiveDefinite,
    conjugate_gradients,
    gauss_newton_inverse,
    lanczos,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def definite(d, seed=0, condition=1e3):
    basis = torch.linalg.qr(randn(d, d, seed=seed)).Q
    return (basis * torch.logspace(0, torch.tensor(condition).log10(), d).double()) @ basis.T


def draw(s, *shape, seed=0):
    return Sample(randn(s, *shape, seed=seed), (3 * randn(s, 3, seed=seed + 1)).softmax(1))


def problem(kind="perceptron"):
    layers = [nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)]
    model = nn.Sequential(*layers) if kind == "perceptron" else nn.Linear(4, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(randn(*parameter.shape, seed=7) / 2)
    return model.double(), draw(60, 4), draw(7, 4, seed=50)


# ------------------------------------------------------------------ conjugate gradients


@given(d=st.integers(1, 12), m=st.integers(1, 15), seed=st.integers(0, 100))
def test_cg_solves_for_many_right_sides(d, m, seed):
    """More right sides than dimensions, equal ones, multiples and zeros among them."""
    A, right = definite(d, seed), randn(m, d, seed=seed + 1)
    right[m // 2] = 3 * right[0]
    right[m - 1] = 0
    found = conjugate_gradients(lambda v: v @ A, right, tolerance=1e-10)
    assert torch.allclose(found, torch.linalg.solve(A, right.T).T, atol=1e-7)


def test_a_block_takes_fewer_products_than_one_by_one():
    A, right, count = definite(60), randn(20, 60, seed=1), [0]

    def product(v):
        count[0] += len(v)
        return v @ A

    conjugate_gradients(product, right)
    together, count[0] = count[0], 0
    for row in right:
        conjugate_gradients(product, row[None])
    assert together < count[0] / 5


def test_a_preconditioner_changes_the_way_and_not_the_end():
    A, right, count = definite(60), randn(3, 60, seed=1), [0]

    def product(v):
        count[0] += 1
        return v @ A

    plain, before = conjugate_gradients(product, right), count[0]
    near = torch.linalg.inv(A + 0.1 * definite(60, seed=5, condition=3))
    guided = conjugate_gradients(product, right, precondition=lambda v: v @ near)
    assert torch.allclose(plain, guided, atol=1e-6)
    assert count[0] - before < before / 2


def test_cg_that_runs_out_of_iterations(refuses):
    refuses(
        lambda: conjugate_gradients(lambda v: v @ definite(40), randn(2, 40), iterations=3),
        "3 iterations", "tolerance=1e-08",
    )  # fmt: skip


def test_cg_names_the_smallest_eigenvalue(refuses):
    A = definite(30) - 5 * torch.eye(30)
    least = torch.linalg.eigvalsh(A)[0].item()
    message = refuses(
        lambda: conjugate_gradients(lambda v: v @ A, randn(2, 30)),
        f"{least:.3g}", error=NotPositiveDefinite,
    )  # fmt: skip
    named = float(message.split("damping above ")[1].split()[0])
    assert -least < named < -1.02 * least


@pytest.mark.parametrize("kind", ["perceptron", "regression"])
@pytest.mark.parametrize("method", ["exact", "cg"])
def test_the_damping_that_is_named_mends_it(kind, method):
    """A perceptron's Hessian is indefinite, softmax regression's singular."""
    call = problem(kind)
    with pytest.raises(NotPositiveDefinite) as caught:
        influence(*call, method=method)
    named = float(str(caught.value).split("damping above ")[1].split()[0])
    assert influence(*call, method=method, damping=1.001 * named + 1e-9).isfinite().all()


@pytest.mark.parametrize("kind", ["perceptron", "regression"])
def test_the_preconditioner_is_the_inverse_of_gauss_newton_where_it_has_all_directions(kind):
    model, train, _ = problem(kind)
    risk = risk_of(model, train, l2=0.3, curvature="gauss-newton")
    dense = risk.hessian() + 0.2 * torch.eye(len(risk.theta))
    v = randn(5, len(risk.theta))
    expected = torch.linalg.solve(dense, v.T).T
    with torch.no_grad():
        assert torch.allclose(gauss_newton_inverse(risk, 0.2, 180)(v), expected, atol=1e-9)
        few = gauss_newton_inverse(risk, 0.2, 20)(v)  # by Woodbury's identity
        rows = risk.curvature_rows(20)
    dense = rows.T @ rows + 0.5 * torch.eye(len(risk.theta))
    assert torch.allclose(few, torch.linalg.solve(dense, v.T).T, atol=1e-9)


# ------------------------------------------------------------------ curvature


def test_gauss_newton_is_jacobians_around_the_softmax():
    model, train, _ = problem()
    risk = risk_of(model, train, l2=0.1, curvature="gauss-newton")
    J = torch.func.jacrev(risk.outputs)(risk.theta, train.x)  # [n, k, d]
    q = model(train.x).softmax(1)
    inner = torch.diag_embed(q) - q[:, :, None] * q[:, None]
    expected = torch.einsum("nid,nij,nje->de", J, inner, J) / 60 + 0.1 * torch.eye(43)
    assert torch.allclose(risk.hessian(), expected, atol=1e-10)


@pytest.mark.parametrize("curvature", ["hessian", "gauss-newton"])
def test_the_last_layer_in_closed_form_is_that_of_automatic_differentiation(curvature):
    model, train, test = problem()
    closed = risk_of(model, train, l2=0.1, parameters="last", curvature=curvature)
    names = {name: model.get_parameter(name).detach() for name in ("2.weight", "2.bias")}
    general = Risk(model, train, names, 0.1, curvature, 2**30, None)
    assert isinstance(closed, LinearRisk)
    v = randn(6, 18)
    with torch.no_grad():
        assert torch.allclose(closed.hessian(), general.hessian(), atol=1e-12)
        assert torch.allclose(closed.products(v), general.products(v), atol=1e-12)
        seen = closed.see(test)
        assert torch.allclose(closed.gradients(seen), general.gradients(test), atol=1e-12)
        assert torch.allclose(closed.scores(v, seen), general.scores(v, test), atol=1e-12)


def test_a_linear_layer_that_does_not_give_the_outputs_has_no_closed_form():
    class Scaled(nn.Sequential):
        def forward(self, x):
            return 2 * super().forward(x)

    model, train, test = problem()
    scaled = Scaled(*model)
    assert type(risk_of(scaled, train, parameters="last")) is Risk
    tied = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    tied[0].weight = tied[2].weight
    four = Sample(train.x, torch.eye(4).double()[torch.arange(60) % 4])
    assert type(risk_of(tied, four, parameters=["0.weight", "2.bias"])) is Risk


def test_the_smallest_eigenvalue():
    for kind in ("perceptron", "regression"):
        model, train, _ = problem(kind)
        for curvature in ("hessian", "gauss-newton"):
            found = smallest_eigenvalue(model, train, l2=0.01, curvature=curvature)
            dense = risk_of(model, train, l2=0.01, curvature=curvature).hessian()
            least = torch.linalg.eigvalsh(dense)[0].item()
            assert least - 0.02 < found <= least + 1e-9


@pytest.mark.parametrize(("which", "place"), [("SA", 0), ("LA", -1)])
def test_lanczos(which, place):
    A = definite(80) - 50 * torch.eye(80)
    found = lanczos(lambda v: v @ A, A[0], which, tolerance=1e-6)
    assert found == pytest.approx(torch.linalg.eigvalsh(A)[place].item(), rel=1e-4)


# ------------------------------------------------------------------ LiSSA and Arnoldi


def test_lissa_comes_near_the_solution():
    model, train, test = problem("regression")
    settings = {"l2": 0.1, "damping": 0.1}
    expected = s_test(model, train, test, method="exact", **settings)
    found = s_test(
        model, train, test, method="lissa", depth=1000, repeat=4, batch_size=40, **settings
    )
    assert (found - expected).norm() < 0.1 * expected.norm()
    again = s_test(
        model, train, test, method="lissa", depth=1000, repeat=4, batch_size=40,
        generator=rng(), **settings,
    )  # fmt: skip
    assert torch.equal(found, again)


@pytest.mark.parametrize("kind", ["regression", "perceptron"])
def test_lissa_that_diverges_says_so(kind, refuses):
    refuses(
        lambda: influence(*problem(kind), method="lissa", l2=0.1, scale=0.05),
        "diverged", "scale=0.05", "damping",
    )  # fmt: skip


def test_lissa_of_an_indefinite_hessian_diverges(refuses):
    refuses(lambda: influence(*problem(), method="lissa", depth=3000), "diverged", "damping")


@pytest.mark.parametrize(
    "setting", [{"depth": 0}, {"repeat": 0}, {"batch_size": 0}, {"scale": -1.0}]
)
def test_bad_settings_of_lissa(setting, refuses):
    ((name, value),) = setting.items()
    refuses(lambda: influence(*problem(), method="lissa", **setting), name, value)


def test_arnoldi_of_all_directions_is_exact():
    model, train, test = problem()
    settings = {"l2": 0.1, "damping": 0.5}
    expected = s_test(model, train, test, method="exact", **settings)
    found = s_test(model, train, test, method="arnoldi", rank=43, iterations=43, **settings)
    assert torch.allclose(found, expected, atol=1e-8)


def test_arnoldi_keeps_the_largest_eigenpairs():
    model, train, test = problem()
    values, vectors = torch.linalg.eigh(risk_of(model, train).hessian())
    top, kept = values[-3:] + 0.3, vectors[:, -3:]
    g = risk_of(model, train).gradients(test)
    found = s_test(model, train, test, method="arnoldi", rank=3, iterations=43, damping=0.3)
    assert torch.allclose(found, g @ kept / top @ kept.T, atol=1e-8)


def test_arnoldi_that_keeps_a_negative_eigenvalue(refuses):
    refuses(
        lambda: influence(*problem(), method="arnoldi", rank=43, iterations=43),
        "not positive definite", "damping", error=NotPositiveDefinite,
    )  # fmt: skip


# ------------------------------------------------------------------ reports


@pytest.mark.parametrize("method", ["exact", "cg", "lissa", "arnoldi", "identity"])
def test_a_report_carries_the_damping_and_the_residual(method):
    model, train, test = problem()
    report = {}
    few = {"depth": 300} if method == "lissa" else {}
    found = s_test(model, train, test, method=method, damping=0.5, l2=0.1, report=report, **few)
    assert (report["method"], report["damping"]) == (method, 0.5)
    assert report["curvature"] == "hessian"
    if method == "identity":
        assert report["residual"] is None
        return
    risk = risk_of(model, train, l2=0.1)
    g, dense = risk.gradients(test), risk.hessian() + 0.5 * torch.eye(43)
    rest = ((found @ dense - g).norm(dim=1) / g.norm(dim=1)).max().item()
    assert report["residual"] == pytest.approx(rest, rel=1e-3, abs=1e-12)
    assert rest < {"lissa": 0.2, "arnoldi": 1e-8}.get(method, 1e-7)


# ------------------------------------------------------------------ settings that can not work


@pytest.mark.parametrize("method", ["cg", "lissa", "arnoldi"])
@pytest.mark.parametrize("value", [0, -3, 2.0, "2", None, math.nan])
def test_counts(method, value, refuses):
    names = {"cg": ["iterations"], "lissa": ["depth", "repeat", "batch_size"],
             "arnoldi": ["rank", "iterations"]}[method]  # fmt: skip
    for name in names:
        call = {"method": method, "damping": 2.0, name: value}
        refuses(lambda call=call: influence(*problem(), **call), name, repr(value))


@pytest.mark.parametrize("value", [-1, 1.5, "few", None])
def test_rank_of_the_preconditioner(value, refuses):
    refuses(lambda: influence(*problem(), damping=2.0, rank=value), "rank", repr(value))


def test_no_preconditioner():
    model, train, test = problem()
    plain = influence(model, train, test, damping=0.5, rank=0, l2=0.1)
    exact = influence(model, train, test, damping=0.5, method="exact", l2=0.1)
    assert torch.allclose(plain, exact, atol=1e-6)


@pytest.mark.parametrize("method", ["cg", "lissa"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1e-3, 1.0, "small"])
def test_tolerance(method, value, refuses):
    refuses(
        lambda: influence(*problem(), damping=2.0, method=method, tolerance=value),
        "tolerance", repr(value),
    )  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, "one"])
def test_scale(value, refuses):
    refuses(
        lambda: influence(*problem(), damping=2.0, method="lissa", scale=value),
        "scale", repr(value),
    )  # fmt: skip


@pytest.mark.parametrize("settings", [{"scale": 1e4}, {"depth": 20}, {"batch_size": 2}])
def test_lissa_that_is_not_there_yet_says_how_far_it_is(settings, refuses):
    """The residual bounds what it returns: where it returns, it is near the dense solve."""
    call = {"l2": 0.01, "depth": 300, **settings}
    message = refuses(
        lambda: s_test(*problem("regression"), method="lissa", tolerance=0.05, **call),
        "residual", "tolerance=0.05", "depth",
    )  # fmt: skip
    named = float(message.split("residual of ")[1].split(",")[0])
    found = s_test(*problem("regression"), method="lissa", tolerance=0.9999, **call)
    exact = s_test(*problem("regression"), method="exact", l2=0.01)
    off = ((found - exact).norm(dim=1) / exact.norm(dim=1)).max().item()
    assert off == pytest.approx(named, rel=0.5)


def test_what_lissa_returns_is_near():
    model, train, test = problem("regression")
    report = {}
    exact = influence(model, train, test, method="exact", l2=0.01)
    found = influence(model, train, test, method="lissa", l2=0.01, report=report)
    assert report["residual"] < 0.2
    assert ((found - exact).norm(dim=1) / exact.norm(dim=1)).max() < 0.25


def test_arnoldi_refuses_an_indefinite_hessian_as_exact_does(refuses):
    """However few of its directions are kept."""
    for rank in (1, 3, 40):
        with pytest.raises(NotPositiveDefinite) as caught:
            influence(*problem(), method="arnoldi", rank=rank)
        with pytest.raises(NotPositiveDefinite) as exactly:
            influence(*problem(), method="exact")
        assert str(caught.value) == str(exactly.value)


def test_arnoldi_of_fewer_steps_than_directions(refuses):
    refuses(
        lambda: influence(*problem(), method="arnoldi", damping=2.0, rank=9, iterations=8),
        "rank=9", "iterations=8",
    )  # fmt: skip


@given(seed=st.integers(0, 200), classes=st.integers(2, 6), features=st.integers(1, 6))
def test_a_singular_hessian_is_refused_whatever_rounding_says(seed, classes, features):
    """Without a regulariser softmax regression has directions without curvature."""
    model = nn.Linear(features, classes).double()
    with torch.no_grad():
        model.weight.copy_(randn(classes, features, seed=seed))
        model.bias.zero_()
    train = Sample(randn(40, features, seed=seed + 1), randn(40, classes, seed=seed).softmax(1))
    for method in ("exact", "arnoldi", *["ekfac"] * (seed % 8 == 0)):
        with pytest.raises(NotPositiveDefinite) as caught:
            influence(model, train, train, method=method)
        named = float(str(caught.value).split("damping above ")[1].split()[0])
        assert 0 < named < 1e-9
