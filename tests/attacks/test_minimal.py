import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import nn

from lib import data, models, training
from lib.attacks.autoattack import apgd
from lib.attacks.gradient import pgd, risk
from lib.attacks.minimal import boundary_distance, mean_distance, median_distance, risk_curve
from lib.attacks.threat import predict
from lib.augmentation.algebra import Identity

NORMS = ("l2", "linf")
SHAPE, D = (3, 2, 2), 12


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(classes, scale=1.0):
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, classes)).double()
    with torch.no_grad():
        model[1].weight.copy_(scale * torch.randn(classes, D, generator=rng(1)))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)  # the planes meet in the middle
    return model


def curved(width=16):
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, width), nn.Tanh(), nn.Linear(width, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng(width)))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    return model.double()


def inside(s, seed=0):
    """Images well away from 0 and 1."""
    return 0.45 + 0.1 * torch.rand(s, *SHAPE, generator=rng(seed), dtype=torch.float64)


def length(delta, norm):
    return delta.double().flatten(1).norm(dim=1, p={"l2": 2, "linf": math.inf}[norm])


def to_the_nearest_plane(model, x, y, norm):
    """min over j of (z_y - z_j) / ||w_y - w_j||, with the dual norm; 0 on the wrong side."""
    z, w = model(x).detach(), model[1].weight.detach()
    lead = z.gather(1, y[:, None]) - z
    slope = (w[y][:, None] - w).norm(dim=2, p=1 if norm == "linf" else 2)
    others = torch.arange(z.shape[1]) != y[:, None]
    return (lead / slope).where(others, math.inf).amin(1).clamp_min(0)


@pytest.mark.parametrize("scale", [0.01, 1, 1e4])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("norm", NORMS)
def test_distance_in_a_linear_model(classes, norm, scale):
    model, x = linear(classes, scale), inside(40)
    y = predict(model, x)
    y[:5] = (y[:5] + 1) % classes
    expected = to_the_nearest_plane(model, x, y, norm)
    assert (expected[5:] > 0).all()
    distance, x_adv = boundary_distance(model, x, y, norm=norm, steps=30, images=True)
    assert (distance[:5] == 0).all()
    assert torch.equal(x_adv[:5], x[:5])
    assert (distance >= expected).all()
    assert torch.allclose(distance, expected, rtol=0.01)
    assert torch.allclose(length(x_adv - x, norm), distance)
    assert risk(model, x_adv, y) == 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "attack",
    [partial(pgd, steps=40), partial(pgd, steps=40, loss="margin"), partial(apgd, steps=40),
     partial(apgd, steps=40, loss="dlr")],
)  # fmt: skip
def test_attacks_at_a_radius_agree_with_the_distance_of_a_linear_model(attack, norm):
    """They fool nothing just below the exact distance, and all of two classes' just above."""
    loss = attack.keywords.get("loss")
    model, x = linear(3 if loss == "dlr" else 2), inside(30)
    y = predict(model, x)
    expected = to_the_nearest_plane(model, x, y, norm)
    for i in range(0, 30, 3):
        one, label = x[i : i + 1], y[i : i + 1]
        for share in (0.99, 1.01):
            x_adv = attack(model, one, label, eps=share * expected[i].item(), norm=norm)
            if share < 1 or loss != "dlr":  # dlr heads for the best other class, not the nearest
                assert (predict(model, x_adv) != label).item() == (share > 1)


@pytest.mark.parametrize("norm", NORMS)
def test_a_box_that_cuts_the_shortest_way(norm):
    """Two pixels, one of them at its end: only the other can move, so the distance is longer."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0, 0.0], [3.0, 1.0]]))
        model[1].bias.copy_(torch.tensor([0.0, -3.5]))  # the plane 3 a + b = 3.5
    x, y = torch.tensor([[[[1.0, 0.1]]]]).double(), torch.tensor([0])
    distance = boundary_distance(model, x, y, norm=norm)
    assert distance.item() == pytest.approx(0.4, rel=0.01)


@given(st.sampled_from(NORMS), st.floats(0.05, 1), st.integers(1, 10), st.integers(0, 1000))
def test_never_above_what_an_attack_at_any_eps_proves(norm, eps, steps, seed):
    model, x = curved(), torch.rand(12, *SHAPE, generator=rng(seed)).double()
    y = predict(model, x)
    y[0] = (y[0] + 1) % 3
    x_adv = pgd(model, x, y, eps=eps, steps=20, norm=norm, keep="first_success")
    distance, nearest = boundary_distance(
        model, x, y, norm=norm, steps=steps, known=[x, x_adv], images=True
    )
    fooled = predict(model, x_adv) != y
    assert (distance[fooled] <= length(x_adv - x, norm)[fooled]).all()
    assert distance[0] == 0
    found = distance.isfinite()
    assert (predict(model, nearest)[found] != y[found]).all()
    assert torch.allclose(length(nearest - x, norm)[found], distance[found])
    assert torch.equal(nearest[~found], x[~found])
    assert nearest.min() >= 0
    assert nearest.max() <= 1


class Masked(nn.Module):
    """A network whose images are rounded: its gradient is zero everywhere."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((10 * x).round() / 10)


def within_the_cube(model, x, y, norm):
    """The exact distance of two classes' plane where [0, 1] cuts the way to it; inf out of reach.

    The nearest point is x + clip(t g) (or its sign) for the t that just reaches the plane, which
    the root finder looks for: what is gained rises with t.
    """
    w, z = model[1].weight.detach(), model(x).detach()
    found = []
    for image, label, logits in zip(x.flatten(1), y, z, strict=True):
        g = (w[1 - label] - w[label]).numpy()
        ahead = (logits[label] - logits[1 - label]).item()
        way = g if norm == "l2" else np.sign(g)

        pixels = image.numpy()

        def delta(t, image=pixels, way=way):
            return (image + t * way).clip(0, 1) - image

        if g @ delta(1e9) <= ahead:
            found.append(math.inf)
            continue
        t = brentq(lambda t, g=g, ahead=ahead: g @ delta(t) - ahead, 0, 1e9, xtol=1e-15)
        found.append(np.linalg.norm(delta(t), {"l2": 2, "linf": np.inf}[norm]))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("corner", [0.5, 0.9, 0.99])
def test_near_a_corner_of_the_cube_the_distance_is_exact(norm, corner):
    """Planes that only images near one corner, or none, lie beyond: inf there, and only there."""
    x = torch.rand(80, *SHAPE, generator=rng(3), dtype=torch.float64)
    x[::4] = x[::4].round()  # black and white
    for seed in range(6):
        model = nn.Sequential(nn.Flatten(), nn.Linear(D, 2)).double()
        with torch.no_grad():
            model[1].weight.copy_(torch.randn(2, D, generator=rng(seed), dtype=torch.float64))
            across = model[1].weight[1] - model[1].weight[0]
            most, least = across.clamp_min(0).sum(), across.clamp_max(0).sum()
            model[1].bias.copy_(torch.stack([least + corner * (most - least), 0 * most]))
        y = predict(model, x)
        exact = within_the_cube(model, x, y, norm)
        found = boundary_distance(model, x, y, norm=norm, steps=20)
        assert torch.equal(found.isinf(), exact.isinf())
        reached = exact.isfinite()
        assert (found[reached] >= exact[reached] - 1e-9).all()
        assert (found[reached] <= 1.003 * exact[reached] + 1e-6).all()


def test_without_a_gradient_only_what_is_known_is_found():
    model, x = Masked(linear(2)), torch.rand(20, *SHAPE, generator=rng()).double()
    y = predict(model, x)
    assert boundary_distance(model, x, y, steps=3, restarts=0).isinf().all()
    known = x.clone()
    known[:10] = 1 - x[:10]  # the other side of the middle
    fooled = predict(model, known) != y
    assert fooled[:10].all()
    assert not fooled[10:].any()
    distance = boundary_distance(model, x, y, steps=3, known=[known], restarts=0)
    assert torch.equal(distance.isfinite(), fooled)
    assert (distance[fooled] <= length(known - x, "l2")[fooled]).all()


@pytest.fixture(scope="module")
def digits():
    dataset = data.load("digits")
    model = models.initialise(models.build("small_cnn", 10, 1), 0)
    training.train(model, dataset, Identity(), epochs=6, seed=0, progress=False)
    return model, dataset.test_images[:150].float() / 255, dataset.test_labels[:150]


@pytest.mark.parametrize(("norm", "radii"), [("l2", (0.3, 0.5, 0.8)), ("linf", (0.05, 0.1))])
def test_risk_from_distances_is_at_least_that_of_pgd(digits, norm, radii):
    """Less 1 %, as no attack is the best on every example."""
    model, x, y = digits
    curve = risk_curve(boundary_distance(model, x, y, norm=norm), [0, *radii])
    assert curve[0].item() == pytest.approx(risk(model, x, y))
    for value, eps in zip(curve[1:].tolist(), radii, strict=True):
        attack = partial(pgd, eps=eps, steps=40, norm=norm)
        assert 0.05 < value < 0.99
        assert value >= risk(model, x, y, attack) - 0.01


def test_distances_are_as_small_as_those_of_foolbox(digits):
    foolbox = pytest.importorskip("foolbox", reason="the peer, foolbox 3.3.4, is not installed")
    model, x, y = digits
    network = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
    _, theirs, fooled = foolbox.attacks.DDNAttack(steps=100)(network, x, y, epsilons=None)
    model.requires_grad_(True)
    assert fooled.all()
    ours = boundary_distance(model, x, y, steps=100)
    assert ours.mean() <= 1.005 * length(theirs - x, "l2").mean()


# ------------------------------------------------------------------ the curve


def test_curve_of_known_distances():
    distances = torch.tensor([0.0, 0.0, 0.5, 0.25, math.inf])
    eps = [0, 0.1, 0.25, 0.4, 0.5, 1e9]
    assert risk_curve(distances, eps).tolist() == pytest.approx([0.4, 0.4, 0.6, 0.6, 0.8, 0.8])
    assert mean_distance(distances, 1) == pytest.approx((0.75 + 1) / 5)
    assert median_distance(distances) == 0.25
    assert median_distance(torch.tensor([1.0, math.inf, math.inf])) == math.inf
    assert median_distance(torch.tensor([0.2, 0.4, 0.6, 0.8])) == pytest.approx(0.4)


@given(
    st.lists(st.floats(0, 2) | st.just(math.inf), min_size=1, max_size=20),
    st.lists(st.floats(0, 3), min_size=1, max_size=20),
)
def test_curve_is_monotone_its_area_and_median_its_own(distances, eps):
    distances = torch.tensor(distances, dtype=torch.float64)
    eps = sorted(eps)
    curve = risk_curve(distances, eps)
    assert (curve.diff() >= 0).all()
    assert curve.tolist() == pytest.approx([(distances <= e).double().mean().item() for e in eps])
    steps = torch.linspace(0, eps[-1], 20_001, dtype=torch.float64)
    area = torch.trapezoid(1 - risk_curve(distances, steps), steps).item()
    assert mean_distance(distances, eps[-1]) == pytest.approx(area, abs=1e-3)
    median = median_distance(distances)
    if median < math.inf:
        assert risk_curve(distances, [median]).item() >= 0.5
    if median > 0:
        assert risk_curve(distances, [math.nextafter(median, 0)]).item() < 0.5


@pytest.mark.parametrize(
    "distances", [torch.tensor([]), torch.tensor([math.nan]), torch.tensor([-1.0]), [1.0],
                  torch.ones(2, 2)],
)  # fmt: skip
def test_bad_distances(distances, refuses):
    refuses(lambda: risk_curve(distances, [1.0]), "distances")
    refuses(lambda: median_distance(distances), "distances")
    refuses(lambda: mean_distance(distances, 1.0), "distances")


def test_what_else_is_refused(refuses):
    model, x, y = linear(3), inside(3), torch.arange(3)
    refuses(lambda: boundary_distance(model, x, y, norm="l1"), "l1", *NORMS)
    refuses(lambda: boundary_distance(model, x, y, steps=0), "steps")
    refuses(lambda: boundary_distance(model, x, y + 1), "labels")
    refuses(lambda: boundary_distance(model, x, y, known=[x[:2]]), "known")
    refuses(lambda: boundary_distance(model, x, y, known=[x + 1]), "[0, 1]")
    refuses(lambda: boundary_distance(nn.Sequential(model, nn.Softmax(1)), x, y), "probabilities")
    refuses(lambda: risk_curve(torch.ones(2), [-1.0]), "eps")
    refuses(lambda: risk_curve(torch.ones(2), [math.nan]), "eps")


def test_the_network_is_as_it_was(delicate):
    model, check = delicate
    x, y = torch.rand(20, 1, 4, 4, generator=rng()), torch.arange(20) % 3
    boundary_distance(model, x, y, steps=3)
    check()
