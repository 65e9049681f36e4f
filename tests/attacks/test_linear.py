"""Distances of linear networks: against the attack that ends where the formula says."""

import pytest
import torch
from torch import nn

from lib import attacks
from lib.attacks import boundary_distance, linearised_distance
from lib.models import dense, initialise


def interior(s=64, side=4, seed=0):
    """Images so far from 0 and 1 that no attack here is cut off."""
    draw = torch.Generator().manual_seed(seed)
    x = 0.4 + 0.2 * torch.rand(s, 1, side, side, generator=draw, dtype=torch.float64)
    return x, torch.randint(0, 2, (s,), generator=draw)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_attack_succeeds_just_beyond_and_fails_just_before(norm):
    model, (x, y) = initialise(dense((1, 4, 4), 2), 0).double(), interior()
    distance = linearised_distance(model, x, y, norm=norm)
    right = attacks.predict(model, x) == y
    assert right.any()
    assert (distance[~right] == 0).all()
    for one, label, d in zip(x[right], y[right], distance[right].tolist(), strict=True):
        if d > 0.3:
            continue
        for share, fooled in ((0.999, False), (1.001, True)):
            moved = attacks.fgsm(model, one[None], label[None], eps=share * d, norm=norm)
            assert (attacks.predict(model, moved) != label[None]).item() == fooled


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_is_the_margin_over_the_dual_norm(norm):
    model, (x, y) = initialise(dense((1, 4, 4), 2), 1).double(), interior(seed=1)
    w = (model.head.weight[1] - model.head.weight[0]) / 0.25
    z = model(x)
    margin = (z[:, 1] - z[:, 0]) * (2 * y - 1)
    expected = margin.clamp_min(0) / w.norm(p=1 if norm == "linf" else 2)
    assert torch.allclose(linearised_distance(model, x, y, norm=norm), expected, atol=1e-12)


def test_the_range_of_pixels_only_lengthens_the_way():
    model = initialise(dense((1, 4, 4), 2), 2)
    x = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(0)).round()  # in corners
    y = attacks.predict(model, x)
    free, bounded = linearised_distance(model, x, y), boundary_distance(model, x, y, norm="linf")
    assert (free <= bounded + 1e-4).all()
    assert (free < 0.9 * bounded).any()


def test_a_constant_network_has_no_boundary_and_no_error():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    x = interior(8)[0].float()
    assert (linearised_distance(model, x, torch.zeros(8, dtype=torch.int64)) > 1e6).all()
    assert not linearised_distance(model, x, torch.ones(8, dtype=torch.int64)).any()


def test_refusals(refuses):
    model, (x, y) = dense((1, 4, 4), 2).double(), interior()
    refuses(lambda: linearised_distance(model, x, y[:3]), "labels")
    refuses(lambda: linearised_distance(model, x, y, norm="l1"), "norm", "l1")
