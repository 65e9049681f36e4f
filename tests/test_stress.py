import copy
import math

import pytest
import torch
from scipy import stats
from scipy.special import betainc
from torch import nn

from lib.stress import prediction_change_stress, sphere

SHAPE, D = (3, 2, 3), 18


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def images(s, seed=0, dtype=torch.float64):
    return torch.rand(s, *SHAPE, generator=rng(seed), dtype=dtype)


def directions(x, eps, neighbours, seed=0):
    return ((sphere(x, eps, neighbours, rng(seed)) - x[:, None]) / eps).flatten(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.1, 0.5, 3.0])
def test_sphere_is_at_distance_eps_and_not_clipped(eps, dtype):
    x = images(5, dtype=dtype)
    around = sphere(x, eps, 50, rng())
    assert around.shape == (5, 50, *SHAPE)
    assert around.dtype == dtype
    distance = (around - x[:, None]).double().flatten(2).norm(dim=2)
    assert torch.allclose(distance, torch.tensor(eps).double(), rtol=1e-5)
    assert around.min() < 0
    assert around.max() > 1


def test_directions_are_uniform():
    """The square of u . v is Beta(1/2, (d - 1)/2) for any unit v; the covariance is I / d."""
    n = 4000
    u = directions(images(2), 0.3, n)
    for v in (torch.eye(D)[0], torch.full((D,), D**-0.5)):
        along = u.flatten(0, 1) @ v.double()
        assert stats.kstest(along**2, stats.beta(0.5, (D - 1) / 2).cdf).pvalue > 1e-4
        assert stats.binomtest(int((along > 0).sum()), 2 * n).pvalue > 1e-4
    covariance = u[0].T @ u[0] / n
    assert torch.allclose(covariance, torch.eye(D).double() / D, atol=5 / D / n**0.5)
    # The neighbours of two images have nothing to do with each other.
    assert (u[0].T @ u[1] / n).abs().max() < 5 / D / n**0.5


def test_generator_decides_directions_for_every_eps(global_rng_untouched):
    x = images(3)
    one = global_rng_untouched(lambda: directions(x, 0.1, 7, seed=1))
    assert torch.allclose(one, directions(x, 2.0, 7, seed=1))
    assert not torch.allclose(one, directions(x, 0.1, 7, seed=2))


def test_eps_zero():
    x = images(3)
    assert torch.equal(sphere(x, 0, 4, rng()), x[:, None].expand(-1, 4, -1, -1, -1))


def plane():
    """A linear two-class model and the distances of five images to its plane."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(2, D, generator=rng(1)))
        w = model[1].weight[1] - model[1].weight[0]
        model[1].bias.copy_(torch.tensor([0.0, -0.5 * w.sum()]))
        distances = torch.tensor([0.02, 0.1, -0.2, 0.3, -0.45]).double()
        x = 0.5 + distances[:, None] * (w / w.norm())
    return model, x.view(5, *SHAPE), distances.abs()


@pytest.mark.parametrize("eps", [0.05, 0.25, 0.5, 1.0])
def test_closed_form_of_a_linear_model(eps):
    """A cap's share of the sphere: 1/2 I_{1 - (g/eps)^2}((d - 1)/2, 1/2) beyond g, 0 before."""
    model, x, g = plane()
    n = 4000
    stress = prediction_change_stress(model, x, eps=eps, neighbours=n, generator=rng())
    assert stress.shape == (5,)
    for value, gap in zip(stress.tolist(), g.tolist(), strict=True):
        expected = betainc((D - 1) / 2, 0.5, 1 - (gap / eps) ** 2) / 2 if eps > gap else 0.0
        assert stats.binomtest(round(value * n), n, expected).pvalue > 1e-4


def test_stress_of_a_linear_model_rises_with_eps():
    """One set of directions for every eps: along a ray a half-space is entered and never left."""
    model, x, _ = plane()
    curve = torch.stack(
        [
            prediction_change_stress(model, x, eps=eps, neighbours=300, generator=rng())
            for eps in (0.0, 0.1, 0.3, 0.5, 1.0, 3.0)
        ]
    )
    assert (curve[0] == 0).all()
    assert (curve.diff(dim=0) >= 0).all()
    assert (curve[-1] > 0.2).all()
    assert curve.max() <= 1


class Radius(nn.Module):
    """Class 0 within `radius` of the grey image, class 1 without."""

    def __init__(self, radius):
        super().__init__()
        self.radius = radius

    def forward(self, x):
        distance = (x - 0.5).flatten(1).norm(dim=1)
        return torch.stack([self.radius - distance, torch.zeros_like(distance)], 1)


def test_stress_at_the_ends():
    grey = torch.full((2, *SHAPE), 0.5)
    for eps, expected in ((0.2, 0.0), (0.4, 1.0)):
        value = prediction_change_stress(Radius(0.3), grey, eps=eps, neighbours=20, generator=rng())
        assert (value == expected).all()


def test_the_network_is_in_eval_mode_and_then_as_it_was(delicate, global_rng_untouched):
    model, check = delicate
    evaluated = copy.deepcopy(model).eval()
    x = torch.rand(20, 1, 4, 4, generator=rng())

    def stress(model):
        return global_rng_untouched(
            lambda: prediction_change_stress(model, x, eps=1.0, neighbours=30, generator=rng())
        )

    value = stress(model)
    assert torch.equal(value, stress(evaluated))
    assert value.max() > 0
    assert not value.requires_grad
    check()


@pytest.mark.parametrize("eps", [-0.1, math.nan, "1"])
def test_bad_eps(eps, refuses):
    model, x, _ = plane()
    refuses(lambda: sphere(x, eps, 3, rng()), "eps", repr(eps))
    refuses(
        lambda: prediction_change_stress(model, x, eps=eps, neighbours=3, generator=rng()),
        "eps", repr(eps),
    )  # fmt: skip


@pytest.mark.parametrize("neighbours", [0, -2])
def test_bad_neighbours(neighbours, refuses):
    model, x, _ = plane()
    refuses(lambda: sphere(x, 0.1, neighbours, rng()), "neighbours", neighbours)
    refuses(
        lambda: prediction_change_stress(
            model, x, eps=0.1, neighbours=neighbours, generator=rng()
        ),
        "neighbours", neighbours,
    )  # fmt: skip
