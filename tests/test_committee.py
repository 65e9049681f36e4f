"""The soft committee: whole streams beside the exact law, attacks by autograd, exclusive or."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from lib.committee import Committees, Layout, errors, exclusive_or, learn, start

LAYOUT = Layout(((1.0, 0.5), (-1.5, 0.0), (0.0, 1.2)), (1, -1, 1), (0.5, 0.3, 0.2), 0.6)
SIGNS = np.array([1.0, -1.0, 1.0])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def gradient(w, b, xi):
    """f and its gradient by xi of each run, by autograd."""
    xi = torch.tensor(xi, requires_grad=True)
    x = torch.einsum("rkn,rn->rk", torch.tensor(w), xi) - torch.tensor(b)
    f = (torch.tensor(SIGNS) * torch.erf(x)).sum(1)
    (slope,) = torch.autograd.grad(f.sum(), xi)
    return f.detach().numpy(), slope.numpy()


def in_full(w, b, steps, eta, eps, seed):
    """The same learning from whole examples in n dimensions."""
    draw = np.random.default_rng(seed)
    w, b = w.copy(), b.copy()
    runs, _, n = w.shape
    for _ in range(steps):
        k = draw.choice(3, runs, p=LAYOUT.shares)
        tau = np.array(LAYOUT.labels)[k]
        xi = math.sqrt(LAYOUT.v) * draw.standard_normal((runs, n))
        xi[:, :2] += np.array(LAYOUT.centres)[k]
        if eps:
            _, slope = gradient(w, b, xi)
            xi = xi - tau[:, None] * eps * slope / np.linalg.norm(slope, axis=1, keepdims=True)
        x = np.einsum("rkn,rn->rk", w, xi) - b
        f = (SIGNS * special.erf(x)).sum(1)
        d = (f - tau)[:, None] * SIGNS * 2 / np.sqrt(np.pi) * np.exp(-x * x)
        w = w - eta / n * d[:, :, None] * xi[:, None, :]
        b = b + eta / n * d
    return w, b


@pytest.mark.parametrize("eps", [0.0, 0.7])
@pytest.mark.parametrize("n", [6, 12])
def test_has_the_law_of_whole_examples(n, eps):
    """A few large steps from one start: every overlap and threshold has the same distribution."""
    runs, eta, steps = 8000, 1.5, 6
    one = np.random.default_rng(5).standard_normal((1, 3, n)) / math.sqrt(n)
    w = np.repeat(one, runs, 0)
    vectors = np.concatenate([np.broadcast_to(np.eye(2, n), (runs, 2, n)), w], 1)
    begin = Committees(vectors @ vectors.transpose(0, 2, 1), np.zeros((runs, 3)), SIGNS, n)
    (found,) = learn(begin, LAYOUT, [steps / n], eta_w=eta, eta_b=eta, eps=eps, generator=rng(1))
    w, b = in_full(w, np.zeros((runs, 3)), steps, eta, eps, 2)
    inner = w @ w.transpose(0, 2, 1)
    pairs = [(found.b[:, k], b[:, k]) for k in range(3)]
    pairs += [(found.overlaps[:, k, j], w[:, k, j]) for k in range(3) for j in range(2)]
    pairs += [(found.gram[:, 2 + k, 2 + j], inner[:, k, j]) for k in range(3) for j in range(k + 1)]
    assert min(stats.ks_2samp(*pair).pvalue for pair in pairs) > 1e-3


@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_errors_are_those_of_whole_networks(eps):
    n, s = 10, 40_000
    w = np.random.default_rng(1).standard_normal((1, 3, n)) / 2
    b = np.array([[0.3, -0.2, 0.5]])
    vectors = np.concatenate([np.eye(2, n)[None], w], 1)
    one = Committees(vectors @ vectors.transpose(0, 2, 1), b, SIGNS, n)
    many = Committees(*(np.repeat(part, 50, 0) for part in (one.gram, one.b)), SIGNS, n)
    found = errors(many, LAYOUT, eps=eps, examples=800, generator=rng()).mean()

    draw = np.random.default_rng(0)
    k = draw.choice(3, s, p=LAYOUT.shares)
    tau = np.array(LAYOUT.labels)[k]
    xi = math.sqrt(LAYOUT.v) * draw.standard_normal((s, n))
    xi[:, :2] += np.array(LAYOUT.centres)[k]
    whole, thresholds = np.repeat(w, s, 0), np.repeat(b, s, 0)
    if eps:
        _, slope = gradient(whole, thresholds, xi)
        xi = xi - tau[:, None] * eps * slope / np.linalg.norm(slope, axis=1, keepdims=True)
    f, _ = gradient(whole, thresholds, xi)
    assert found == pytest.approx((tau * f <= 0).mean(), abs=0.012)


def test_learns_exclusive_or_by_sharing_out_the_directions():
    layout = exclusive_or(4.0, 0.25)
    begin = start(layout, [1, 1, -1, -1], n=200, runs=4, generator=rng())
    (end,) = learn(begin, layout, [120], eta_w=0.3, eta_b=0.3, generator=rng(1))
    assert errors(begin, layout, examples=500, generator=rng(2)).min() > 0.3
    assert errors(end, layout, examples=500, generator=rng(2)).max() < 0.05
    shares = np.abs(end.overlaps)  # each unit has one direction of its own
    assert (shares.min(2) < 0.2 * shares.max(2)).all()


def test_a_start_is_random_weights_of_the_length_asked_for():
    begin = start(LAYOUT, SIGNS, n=50, runs=300, length=0.7, generator=rng())
    lengths = np.sqrt(np.diagonal(begin.gram, axis1=1, axis2=2))
    assert np.allclose(lengths[:, :2], 1)
    assert np.allclose(lengths[:, 2:], 0.7)
    assert np.allclose(begin.gram[:, 0, 1], 0)
    assert begin.overlaps.std() == pytest.approx(0.7 / math.sqrt(50), rel=0.1)
    assert not begin.b.any()


def test_a_stream_goes_on_from_where_it_is_and_depends_on_its_generator():
    begin = start(LAYOUT, SIGNS, n=20, runs=3, generator=rng())
    none, one, two = learn(begin, LAYOUT, [0, 1, 2], generator=rng(1))
    assert np.array_equal(none.gram, begin.gram)
    again = learn(begin, LAYOUT, [2], generator=rng(1))[0]
    assert np.array_equal(two.gram, again.gram)
    assert not np.array_equal(two.gram, learn(begin, LAYOUT, [2], generator=rng(2))[0].gram)
    assert not np.array_equal(one.gram, two.gram)


def test_refusals(refuses):
    refuses(lambda: Layout(((0.0,),), (2,), (1.0,)), "label")
    refuses(lambda: Layout(((0.0,), (1.0,)), (1, -1), (0.5, 0.6)), "shares")
    refuses(lambda: exclusive_or(v=0.0), "v")
    refuses(lambda: start(LAYOUT, [1, 2], n=20, runs=1, generator=rng()), "signs")
    refuses(lambda: start(LAYOUT, [1], n=3, runs=1, generator=rng()), "n", 3)
    begin = start(LAYOUT, SIGNS, n=20, runs=1, generator=rng())
    refuses(lambda: learn(begin, LAYOUT, [2, 1], generator=rng()), "alpha")
    refuses(lambda: learn(begin, LAYOUT, [1], eps=-1, generator=rng()), "eps", -1)
