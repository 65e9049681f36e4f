import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq
from scipy.special import betainc, gamma, jv
from torch import nn

from lib.stress import ROUND, bootstrap, label_changes, prediction_change_stress, sphere, wilson

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


# Inside [0, 1]


def farthest(x):
    """The distance of each image to the corner of [0, 1] that is farthest from it."""
    return torch.maximum(x, 1 - x).flatten(1).norm(dim=1)


def edges(s, seed=0):
    """Images of which a third of the pixels is black and a third white."""
    x, where = images(s, seed), torch.rand(s, *SHAPE, generator=rng(seed + 1))
    return x.masked_fill(where < 1 / 3, 0).masked_fill(where > 2 / 3, 1)


@given(st.floats(0.001, 0.9999), st.integers(0, 1000), st.booleans())
def test_inside_is_inside_and_at_distance_eps(share, seed, black_and_white):
    """Against numpy: entries of size min(c |eps u_i|, room_i), with the one c that gives eps."""
    x = (edges if black_and_white else images)(4, seed)
    eps = share * farthest(x).min().item()
    around = sphere(x, eps, 6, rng(seed), inside=True)
    assert around.min() >= 0
    assert around.max() <= 1
    delta = around - x[:, None]
    distance = delta.flatten(2).norm(dim=2)
    assert torch.allclose(distance, torch.tensor(eps, dtype=torch.float64), rtol=1e-5)
    free = (sphere(x, eps, 6, rng(seed)) - x[:, None]).abs().flatten(2).numpy()
    rooms = torch.maximum(x, 1 - x).flatten(1).numpy()
    for i, room in enumerate(rooms):
        for entries, found in zip(free[i], delta[i].flatten(1).abs().numpy(), strict=True):

            def excess(c, entries=entries, room=room):
                return np.linalg.norm(np.minimum(c * entries, room)) - eps

            fits = (entries <= room).all()
            c = 1 if fits else brentq(excess, 1, 1.0001 * (room / entries).max(), xtol=1e-13)
            np.testing.assert_allclose(found, np.minimum(c * entries, room), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("make", [images, edges])
def test_inside_only_flips_signs_that_would_lead_out(make):
    x, eps = make(40), 0.4
    assert eps < torch.maximum(x, 1 - x).min()
    free, around = (sphere(x, eps, 20, rng(), inside=i) for i in (False, True))
    out = (free < 0) | (free > 1)
    assert 0.05 < out.double().mean() < 0.95
    mirrored = 2 * x[:, None] - free
    assert torch.allclose(around, torch.where(out, mirrored, free), atol=1e-12)


def test_inside_in_single_precision():
    x = edges(50).float()
    for eps in (0.5, 2.0, 0.999 * farthest(x).min().item()):
        around = sphere(x, eps, 20, rng(), inside=True)
        assert around.dtype == torch.float32
        assert around.min() >= 0
        assert around.max() <= 1
        distance = (around - x[:, None]).double().flatten(2).norm(dim=2)
        assert torch.allclose(distance, torch.tensor(eps).double(), rtol=1e-5)


@pytest.mark.parametrize("eps", [1e-8, 1e-6, 1e-3])
def test_inside_near_black(eps):
    """Each point is the free one with its negative entries turned, however small they are."""
    black = torch.zeros(3, *SHAPE)
    around = sphere(black, eps, 20, rng(), inside=True)
    torch.testing.assert_close(around, sphere(black, eps, 20, rng()).abs(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("eps", [0, 0.01, 0.3, 0.5])
def test_inside_is_no_restriction_around_grey(eps):
    grey = torch.full((3, *SHAPE), 0.5, dtype=torch.float64)
    inside, free = (sphere(grey, eps, 30, rng(), inside=i) for i in (True, False))
    torch.testing.assert_close(inside, free, rtol=0, atol=1e-15)


def test_where_no_image_is_that_far(refuses):
    x = edges(5)
    limit = farthest(x).min().item()
    sphere(x, limit * 0.9999, 3, rng(), inside=True)
    refuses(lambda: sphere(x, limit * 1.0001, 3, rng(), inside=True), f"{limit * 1.0001:g}")
    model, *_ = plane()
    refuses(
        lambda: label_changes(
            model, x, eps=limit * 1.0001, neighbours=3, generator=rng(), inside=True
        ),
        f"{limit * 1.0001:g}",
    )


def ask_sphere(x, inside):
    return sphere(x, 0.1, 3, rng(), inside=inside)


def ask_changes(x, inside):
    return label_changes(plane()[0], x, eps=0.1, neighbours=3, generator=rng(), inside=inside)


ASK = pytest.mark.parametrize("ask", [ask_sphere, ask_changes])


@ASK
def test_centres_outside_are_for_neighbours_outside(ask, refuses):
    for x in (images(5) - 1, images(5) + 1):
        ask(x, False)
        refuses(lambda x=x: ask(x, True), "[0, 1]")


@ASK
@pytest.mark.parametrize("inside", [False, True])
def test_centres_that_are_refused(ask, inside, refuses):
    for bad in (math.nan, math.inf, -math.inf):
        x = images(5)
        x[1, 0, 0, 0] = bad
        refuses(lambda x=x: ask(x, inside), *(["[0, 1]"] if inside else ["centres", "finite"]))
    for x in ((255 * images(5)).byte(), images(5)[0], images(5).tolist()):
        refuses(lambda x=x: ask(x, inside), "floating-point")


# The mean over the sphere, and the Laplacian


@pytest.mark.parametrize("eps", [0.01, 0.5, 4.0])
def test_mean_of_a_paraboloid_is_exact(eps):
    """g = |x|^2: mean over the sphere - g(x) = eps^2, whatever eps, as its Laplacian is 2 d."""
    x, n = images(4), 4000
    around = sphere(x, eps, n, rng()).flatten(2)
    center = x.flatten(1)
    rise = around.square().sum(2).mean(1) - center.square().sum(1)
    # What is random is 2 eps x . u, of variance 4 eps^2 |x|^2 / d.
    error = 2 * eps * center.norm(dim=1) / (D * n) ** 0.5
    assert ((rise - eps**2).abs() < 4 * error).all()
    both = (around.square() + (2 * center[:, None] - around).square()).sum(2).mean(1) / 2
    torch.testing.assert_close(both - center.square().sum(1), torch.full((4,), eps**2).double())


@pytest.mark.parametrize("reach", [0.05, 1.0, 3.0, 8.0])
def test_mean_of_a_wave_is_a_bessel_function(reach):
    """g = sin(w . x): Gamma(d/2) (2/r)^(d/2 - 1) J_(d/2 - 1)(r) g(x), r = |w| eps."""
    x, n, eps = images(6), 4000, 0.7
    w = torch.randn(D, generator=rng(3), dtype=torch.float64)
    w *= reach / eps / w.norm()
    factor = gamma(D / 2) * (2 / reach) ** (D / 2 - 1) * jv(D / 2 - 1, reach)
    waves = (sphere(x, eps, n, rng()).flatten(2) @ w).sin()
    expected = factor * (x.flatten(1) @ w).sin()
    assert ((waves.mean(1) - expected).abs() < 4 * waves.std(1) / n**0.5 + 1e-12).all()
    if reach < 1:
        # eps^2 / (2 d) times the Laplacian, - |w|^2 g; the next term is r^4 / (8 d (d + 2)).
        assert factor - 1 == pytest.approx(-(reach**2) / (2 * D), abs=reach**4 / (8 * D * D))
        even = ((sphere(x, eps, n, rng()) - x[:, None]).flatten(2) @ w).cos()
        rise = even.mean() - 1
        error = even.std() / (6 * n) ** 0.5
        assert (rise + reach**2 / (2 * D)).abs() < 4 * error + reach**4 / (8 * D * (D + 2))


# Many radii, in batches


class Seen(nn.Module):
    """A network that remembers the images it is given."""

    def __init__(self, network):
        super().__init__()
        self.network, self.batches = network, []

    def forward(self, x):
        self.batches.append(x.detach().clone())
        return self.network(x)

    def sizes(self):
        return [len(batch) for batch in self.batches]


@given(
    st.lists(st.floats(0, 2), min_size=1, max_size=4), st.integers(1, 50), st.integers(1, 300),
    st.booleans(), st.sampled_from([list, tuple]),
)  # fmt: skip
def test_a_list_of_radii_is_a_call_for_each(radii, neighbours, batch_size, inside, kind):
    model, x, _ = plane()

    def stress(eps):
        return prediction_change_stress(
            model, x, eps=eps, neighbours=neighbours, generator=rng(5), inside=inside,
            batch_size=batch_size,
        )  # fmt: skip

    together = stress(kind(radii))
    assert together.shape == (len(radii), 5)
    for row, eps in zip(together, radii, strict=True):
        assert torch.equal(row, stress(eps))
    assert torch.equal(stress(radii[::-1]), together.flip(0))


@given(
    st.integers(1, 6), st.integers(1, 70), st.integers(1, 80), st.integers(1, 3), st.integers(0, 9)
)
def test_what_the_network_is_given(s, neighbours, batch_size, radii, seed):
    """Never more than a batch at once, and of each centre exactly its neighbours, at each eps."""
    levels = torch.linspace(0.1, 0.9, s).double()
    x = levels[:, None, None, None].expand(-1, *SHAPE)
    model, eps = Seen(plane()[0]), [0.01 * (k + 1) for k in range(radii)]
    changed, drawn = label_changes(
        model, x, eps=eps, neighbours=neighbours, generator=rng(seed), batch_size=batch_size
    )
    assert changed.shape == (radii, s)
    assert (drawn == neighbours).all()
    assert drawn.shape == (s,)
    assert max(model.sizes()) <= batch_size
    seen = torch.cat(model.batches)
    nearest = (seen[:, None] - x).flatten(2).norm(dim=2)
    distance, centre = nearest.min(1)
    for k in range(s):
        own = distance[centre == k]
        for radius in eps:
            assert (own.sub(radius).abs() < 1e-9).sum() == neighbours
    assert len(torch.unique(seen[distance > 1e-9], dim=0)) == s * neighbours * radii
    # Each centre has directions of its own, the same at every eps.
    away = (seen - x[centre])[distance > 1e-9].flatten(1)
    ways = (1e6 * away / away.norm(dim=1, keepdim=True)).round()
    assert len(torch.unique(ways, dim=0)) == s * neighbours
    # No more than s labels of centres are asked for beside them.
    assert (distance < 1e-9).sum() <= s


def test_counts_do_not_depend_on_who_else_is_there():
    """Neighbours at eps beyond every boundary and at none, in batches of any size."""
    grey = torch.full((7, *SHAPE), 0.5)
    for batch_size in (1, 3, 10, 64, 2000):
        for neighbours in (1, 10, 33):
            changed, drawn = label_changes(
                Radius(0.3), grey, eps=[0.2, 0.4], neighbours=neighbours, generator=rng(),
                batch_size=batch_size,
            )  # fmt: skip
            assert (changed[0] == 0).all()
            assert (changed[1] == neighbours).all()
            assert (drawn == neighbours).all()


def test_counts_of_one_radius_and_their_share():
    model, x, _ = plane()
    for width in (None, 0.2):
        asked = {"neighbours": 200, "generator": None, "width": width}
        changed, drawn = label_changes(model, x, eps=0.3, **asked | {"generator": rng()})
        assert changed.shape == drawn.shape == (5,)
        assert torch.equal(changed, changed.round())
        share = prediction_change_stress(model, x, eps=0.3, **asked | {"generator": rng()})
        torch.testing.assert_close(share, changed / drawn)


class NanOutside(nn.Module):
    """No numbers for what leaves [0, 1]."""

    def forward(self, x):
        outside = ((x < 0) | (x > 1)).flatten(1).any(1)
        return torch.stack([x.sum((1, 2, 3))] * 2, 1).masked_fill(outside[:, None], math.nan)


@pytest.mark.parametrize("width", [None, 0.1])
def test_nan_logits_are_refused(width, refuses):
    x = images(4)

    def ask(x, eps, **how):
        label_changes(NanOutside(), x, eps=eps, neighbours=40, generator=rng(), width=width, **how)

    ask(x, 0.5, inside=True)
    refuses(lambda: ask(x, 0.5), "logits", "finite")
    refuses(lambda: ask(x + 0.7, 0.0), "logits", "finite")


# Drawn until it is known well enough


def mean_width(changed, drawn):
    """Of the interval of the mean over all centres, which are drawn alike."""
    pooled = stats.binomtest(int(changed.sum()), int(drawn.sum()))
    interval = pooled.proportion_ci(0.95, method="wilson")
    return interval.high - interval.low


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("most", [20, 50, 500, 100_000])
@pytest.mark.parametrize("width", [0.01, 0.05, 0.2])
def test_neighbours_are_drawn_until_the_mean_is_known(width, most, inside):
    model, x, _ = plane()
    changed, drawn = label_changes(
        model, x, eps=[0.1, 0.35], neighbours=most, generator=rng(), width=width, inside=inside
    )
    number = int(drawn[0])
    assert (drawn == number).all()
    assert number <= most
    assert number == most or number % ROUND == 0
    if number < most:
        assert max(mean_width(row, drawn) for row in changed) <= width
    # No more than a share of one half needs, and a round: n = (z / width)^2 - z^2 for all centres.
    z = stats.norm.ppf(0.975)
    assert number <= ((z / width) ** 2 - z**2) / 5 + ROUND
    assert most < 100_000 or number < most


def test_easy_questions_take_fewer_neighbours():
    model, x, _ = plane()

    def drawn(eps, width):
        return label_changes(
            model, x, eps=eps, neighbours=100_000, generator=rng(), width=width
        )[1][0]  # fmt: skip

    assert drawn(0.01, 0.005) < drawn(0.1, 0.005) / 2
    assert drawn([0.01, 0.1], 0.005) == drawn(0.1, 0.005)
    assert drawn(0.1, 0.05) < drawn(0.1, 0.01) < drawn(0.1, 0.005)
    # A share of 0 is known when z^2 / (n + z^2) is as small as the width; the first round leaves
    # it possible that it is a little more.
    z2 = stats.norm.ppf(0.975) ** 2
    assert drawn(0.0, 0.005) >= (z2 / 0.005 - z2) / 5


@pytest.mark.parametrize(("centres", "share"), [(1, 0.05), (1, 0.02), (4, 0.02), (20, 0.01)])
def test_stopping_does_not_bias_the_share(centres, share):
    """To stop where the interval happens to be narrow finds a tenth to four tenths too little."""

    class Coin(nn.Module):
        """Another label than the centre's for a share of the neighbours, by the first pixel."""

        def forward(self, x):
            return torch.stack([torch.zeros(len(x)), x[:, 0, 0, 0] - level], 1)

    x = torch.zeros(centres, *SHAPE)
    # The share of the sphere beyond a plane at distance `level` of its centre.
    level = brentq(lambda g: betainc((D - 1) / 2, 0.5, 1 - g**2) / 2 - share, 1e-6, 1 - 1e-6)
    stream, found = rng(), []
    for _ in range(1500):
        changed, drawn = label_changes(
            Coin(), x, eps=1.0, neighbours=2000, generator=stream, width=0.1 / centres**0.5
        )
        found.append((changed / drawn).mean().item())
    assert np.mean(found) == pytest.approx(share, abs=4 * stats.sem(found))
    assert stats.sem(found) < 0.03 * share  # a tenth too little would be seen


def test_a_wide_interval_takes_one_round():
    model, x, _ = plane()
    for neighbours in (3, ROUND, 5 * ROUND):
        seen = Seen(model)
        _, drawn = label_changes(
            seen, x, eps=[0.1, 0.5], neighbours=neighbours, generator=rng(), width=1.0
        )
        number = min(neighbours, ROUND)
        assert (drawn == number).all()
        # Beside the centres the first round, which says that one is enough, and that one.
        assert sum(seen.sizes()) <= 5 + 2 * 2 * 5 * number


@pytest.mark.parametrize("batch_size", [1, ROUND - 1, ROUND, 100, 2000])
@pytest.mark.parametrize("most", [20, 510])
def test_what_is_drawn_beside_the_first_round_is_counted(batch_size, most):
    x = torch.tensor([0.1, 0.5, 0.9]).double()[:, None, None, None].expand(-1, *SHAPE)
    model = Seen(plane()[0])
    _, drawn = label_changes(
        model, x, eps=0.2, neighbours=most, generator=rng(), width=0.1, batch_size=batch_size
    )
    assert (drawn[0] > ROUND) == (most > ROUND)
    seen = torch.cat(model.batches)
    distance, centre = (seen[:, None] - x).flatten(2).norm(dim=2).min(1)
    counted = centre[(distance - 0.2).abs() < 1e-9].bincount()
    assert counted.tolist() == (drawn + min(most, ROUND)).tolist()
    assert max(model.sizes()) <= batch_size


@pytest.mark.parametrize("eps", [0.05, 0.25, 1.0])
def test_closed_form_when_stopped_early(eps):
    model, x, g = plane()
    changed, drawn = label_changes(
        model, x, eps=eps, neighbours=20_000, generator=rng(7), width=0.01
    )
    assert (drawn < 20_000).all()
    for k, n, gap in zip(changed.tolist(), drawn.tolist(), g.tolist(), strict=True):
        expected = betainc((D - 1) / 2, 0.5, 1 - (gap / eps) ** 2) / 2 if eps > gap else 0.0
        assert stats.binomtest(round(k), round(n), expected).pvalue > 1e-4


def test_stopping_early_draws_from_its_generator_alone(global_rng_untouched):
    model, x, _ = plane()

    def counts(seed):
        return label_changes(
            model, x, eps=[0.1, 0.3], neighbours=900, generator=rng(seed), width=0.08
        )

    one, same, other = (global_rng_untouched(lambda s=s: counts(s)) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


@pytest.mark.parametrize("width", [-0.1, math.nan, "1"])
def test_bad_width(width, refuses):
    model, x, _ = plane()
    refuses(
        lambda: label_changes(model, x, eps=0.1, neighbours=3, generator=rng(), width=width),
        "width", repr(width),
    )  # fmt: skip


@pytest.mark.parametrize("eps", [[0.1, -1], [math.nan], (0.1, "1")])
def test_a_bad_radius_among_several(eps, refuses):
    model, x, _ = plane()
    refuses(lambda: label_changes(model, x, eps=eps, neighbours=3, generator=rng()), "eps")


# Intervals


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wilson_is_that_of_scipy(level, dtype):
    for n in (1, 2, 16, 33, 126):
        low, high = wilson(torch.arange(n + 1, dtype=dtype), torch.tensor(n, dtype=dtype), level)
        for k in range(n + 1):
            expected = stats.binomtest(k, n).proportion_ci(level, method="wilson")
            assert low[k].item() == pytest.approx(expected.low, abs=2e-6, rel=1e-5)
            assert high[k].item() == pytest.approx(expected.high, abs=2e-6, rel=1e-5)
        assert (low >= 0).all()
        assert (high <= 1).all()
    if level == 0.95:
        for given_level, default in zip((low, high), wilson(torch.arange(n + 1), n), strict=True):
            torch.testing.assert_close(given_level.float(), default.float())


@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize(("number", "ones"), [(1, 0), (1, 1), (20, 0), (20, 3), (500, 5), (60, 60)])
def test_bootstrap_of_shares_0_and_1_is_clopper_and_pearsons(
    number, ones, level, global_rng_untouched
):
    """Ends within 5 standard errors of a quantile: sqrt(p (1 - p) / B) / density."""
    shares = (torch.arange(number) < ones).float()
    found = global_rng_untouched(lambda: bootstrap(shares, rng(), level, resamples=20_000))
    exact = stats.binomtest(ones, number).proportion_ci(level, method="exact")
    p = (1 - level) / 2
    betas = (
        stats.beta(max(ones, 1e-9), number - ones + 1),
        stats.beta(ones + 1, max(number - ones, 1e-9)),
    )
    for end, wanted, beta in zip(found, exact, betas, strict=True):
        if 0 < wanted < 1:
            error = (p * (1 - p) / 20_000) ** 0.5 / beta.pdf(wanted)
            assert end == pytest.approx(wanted, abs=5 * error)
        else:
            assert end == pytest.approx(wanted, abs=1e-6)


def test_bootstrap_of_many_shares_is_the_normal_interval():
    shares = torch.rand(4000, generator=rng()) ** 4
    low, high = bootstrap(shares, rng(1), resamples=4000)
    mean = shares.mean().item()
    half = 1.96 * float(stats.sem(shares.numpy()))
    assert low == pytest.approx(mean - half, abs=half / 8)
    assert high == pytest.approx(mean + half, abs=half / 8)


COIN = (("even", 60, 0.3), ("even", 20, 0.01))
RARE = (("half of few", 500, 0.01), ("half of few", 20, 0.05), ("half of few", 20, 0.01))
SKEW = (("skewed", 500, 0.01), ("skewed", 20, 0.1), ("skewed", 20, 0.5))


@pytest.mark.parametrize(("kind", "number", "mean"), [*COIN, *RARE, *SKEW])
def test_bootstrap_covers_the_mean(kind, number, mean):
    """Of centres whose probabilities of a change are alike, or 0 but for a few, or skewed."""
    stream, covered = rng(1), []
    for _ in range(600):
        uniform = torch.rand(number, 1, generator=stream)
        chance = {
            "even": torch.full_like(uniform, mean),
            "half of few": 0.5 * (uniform < 2 * mean),
            "skewed": uniform ** (1 / mean - 1),
        }[kind]
        shares = (torch.rand(number, 16, generator=stream) < chance).double().mean(1)
        low, high = bootstrap(shares, stream, resamples=400)
        covered.append(low - 1e-7 <= mean <= high + 1e-7)
    assert np.mean(covered) >= 0.93


def test_bootstrap_at_the_ends():
    assert all(math.isnan(end) for end in bootstrap(torch.tensor([]), rng()))
    for value in (0.0, 0.3, 1.0):
        low, high = bootstrap(torch.full((60,), value), rng())
        assert 0 <= low <= value <= high <= 1
        assert high - low > 0.04


def test_bootstrap_is_the_generators():
    shares = torch.rand(50, generator=rng())
    one, same, other = (bootstrap(shares, rng(seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert all(isinstance(end, float) for end in one)
    narrow, wide = (bootstrap(shares, rng(1), level=level) for level in (0.8, 0.99))
    assert wide[0] < one[0] < narrow[0] < narrow[1] < one[1] < wide[1]
