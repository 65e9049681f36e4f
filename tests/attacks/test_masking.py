"""Networks with known weaknesses: each sign where its weakness is, and nowhere else."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from lib.attacks.gradient import pgd
from lib.attacks.masking import Sign, masked, missed, no_gradient, random_outputs
from lib.attacks.square import square
from lib.attacks.threat import predict

SHAPE, D = (3, 2, 2), 12
SHORT, GRADIENT, RANDOM, MISSED = "short of 1", "no gradient", "random outputs", "missed"


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(classes=2):
    model = nn.Sequential(nn.Flatten(), nn.Linear(D, classes)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, D, generator=rng(1)))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)  # the planes meet in the middle
    return model


def inside(s, seed=0):
    """Images well away from 0 and 1."""
    return 0.45 + 0.1 * torch.rand(s, *SHAPE, generator=rng(seed), dtype=torch.float64)


def at(*places):
    """Images whose pixels all are 0.5 + place / sqrt(d): `place` is their distance from grey."""
    shift = torch.tensor(places, dtype=torch.float64)[:, None] / D**0.5
    return (0.5 + shift.expand(-1, D)).reshape(-1, *SHAPE)


class Profile(nn.Module):
    """The gap of class 1 over class 0 is `gap` of the signed distance from grey along (1 .. 1)."""

    def __init__(self, gap):
        super().__init__()
        self.gap = gap

    def forward(self, x):
        gap = self.gap((x - 0.5).flatten(1).sum(1) / D**0.5)
        return torch.stack([torch.zeros_like(gap), gap], 1)


class Rounded(nn.Module):
    """The network sees images rounded to tenths: zero gradient everywhere."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((10 * x).round() / 10)


class Thresholded(Rounded):
    """The network sees which pixels are above one half: nothing to differentiate at all."""

    def forward(self, x):
        return self.network((x > 0.5).to(x.dtype))


class Noisy(nn.Module):
    """Noise on the logits of images that are brighter than grey."""

    def __init__(self, network, size=1.0):
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x):
        logits = self.network(x)
        bright = (x.flatten(1).mean(1) > 0.5)[:, None]
        return logits * (1 + self.size * torch.randn_like(logits) * bright)


def by_kind(signs):
    return {sign.kind: sign.share for sign in signs}


def asked(model, x, y, x_adv, eps=0.3, **more):
    how = {"steps": 4, "queries": 20, "restarts": 2, "generator": rng(), **more}
    signs = missed(model, x, y, x_adv, eps=eps, **how)
    assert all(sign.kind == MISSED and sign.eps == eps for sign in signs)
    return {sign.by: sign for sign in signs}


def shares(*args, **more):
    """By the first words: Square, PGD with twice the steps, from random starts, transfer."""
    signs = asked(*args, **more)
    names = ["square", "longer", "random", "transfer"][: len(signs)]
    return dict(zip(names, (sign.share for sign in signs.values()), strict=True))


# One sign


@pytest.mark.parametrize(
    ("kind", "limit"), [(GRADIENT, 0.01), (RANDOM, 0.0), (MISSED, 0.02), (SHORT, 0.01)]
)
def test_a_sign_warns_above_its_limit(kind, limit):
    assert Sign(kind, "PGD", 0.5, 0.0).limit == limit
    for share in (0.0, limit):
        assert Sign(kind, "PGD", 0.5, share).warns is False
    for share in (math.nextafter(limit, 1), 0.5, 1.0, math.nan):
        assert Sign(kind, "PGD", 0.5, share).warns is True


# What is sound


@pytest.mark.parametrize("classes", [2, 3])
def test_nothing_warns_in_a_linear_network(classes):
    model, x = linear(classes), inside(100)
    y = predict(model, x)
    y[:7] = (y[:7] + 1) % classes
    signs = masked(model, x, y, steps=20)
    assert [(sign.kind, sign.share, sign.warns) for sign in signs] == [
        (GRADIENT, 0, False), (RANDOM, 0, False), (SHORT, 0, False)
    ]  # fmt: skip
    assert signs[2].eps == pytest.approx(math.sqrt(D) / 2)
    assert "20" in signs[2].by
    for eps in (0.008, 0.025):
        x_adv = pgd(model, x, y, eps=eps, steps=20)
        fooled = (predict(model, x_adv) != y).double().mean().item()
        assert 0.1 < fooled < 0.9
        other = pgd(linear(classes + 1), x, y, eps=eps, steps=20)
        found = asked(model, x, y, x_adv, eps=eps, steps=20, queries=50, transferred=other)
        assert len(found) == 4
        assert not any(sign.warns for sign in found.values())


def test_what_each_sign_is_called():
    model, x = linear(), inside(5)
    y = predict(model, x)
    found = asked(model, x, y, x, steps=7, queries=11, restarts=3, transferred=x)
    for name, words in zip(found, [("Square", "11"), ("14",), ("3", "random"), ("transfer",)],
                           strict=True):  # fmt: skip
        assert all(word in name for word in words)
    assert len(asked(model, x, y, x)) == 3


# No gradient


def test_a_rounded_input_has_no_gradient():
    """PGD stays where it is, Square and another network's images don't."""
    model, x = Rounded(linear()), torch.rand(40, *SHAPE, generator=rng()).double()
    y = predict(model, x)
    signs = masked(model, x, y, steps=5)
    assert by_kind(signs) == {GRADIENT: 1, RANDOM: 0, SHORT: 1}
    assert [sign.warns for sign in signs] == [True, False, True]
    x_adv = pgd(model, x, y, eps=0.6, steps=5)
    assert torch.equal(x_adv, x)
    other = pgd(linear(), x, y, eps=0.6, steps=5)
    found = asked(model, x, y, x_adv, eps=0.6, queries=100, transferred=other)
    assert sum(sign.warns for sign in found.values()) >= 2
    values = shares(model, x, y, x_adv, eps=0.6, queries=100, transferred=other)
    assert values["transfer"] == (predict(model, other) != y).double().mean().item() > 0.1
    by_hand = square(model, x, y, eps=0.6, norm="l2", steps=100, generator=rng())
    assert values["square"] == (predict(model, by_hand) != y).double().mean().item() > 0.1
    assert values["longer"] == 0


@pytest.mark.parametrize("step", [torch.sign, torch.floor, torch.round])
def test_a_staircase_has_no_gradient(step):
    model, x = Profile(lambda t: 0.5 * step(10 * t) + 0.25), at(-0.3, -0.17, 0.11, 0.32)
    assert no_gradient(model, x, predict(model, x)) == 1


def test_a_network_that_cannot_be_differentiated_has_no_gradient():
    """A hard threshold, from which autograd has nothing: a sign, not an error."""
    model, x = Thresholded(linear()), torch.rand(10, *SHAPE, generator=rng()).double()
    y = predict(model, x)
    assert no_gradient(model, x, y) == 1
    assert by_kind(masked(model, x, y, steps=5)) == {GRADIENT: 1, RANDOM: 0, SHORT: 1}
    assert shares(model, x, y, x, eps=0.8, queries=100)["square"] > 0.1


@given(st.integers(0, 12), st.integers(1, 12))
def test_images_without_a_gradient_are_counted(flat, steep):
    """Flat beyond one half below grey, steep above."""
    model = Profile(lambda t: (t + 0.5).clamp_min(0) - 0.7)
    x = at(*[-0.6 - 0.05 * k for k in range(flat)], *[-0.4 + 0.05 * k for k in range(steep)])
    assert no_gradient(model, x, predict(model, x)) == pytest.approx(flat / (flat + steep))
    assert no_gradient(model, x, 1 - predict(model, x)) == pytest.approx(flat / (flat + steep))


def test_a_confident_network_has_a_gradient():
    """Cross-entropy would round to zero here, and its gradient with it."""
    model, x = linear().float(), inside(20).float()
    with torch.no_grad():
        model[1].weight *= 1e5
        model[1].bias *= 1e5
    y = predict(model, x)
    assert nn.functional.cross_entropy(model(x), y, reduction="none").median() == 0
    assert no_gradient(model, x, y) == 0


def test_a_network_that_sees_one_pixel_has_a_gradient():
    model, x = linear(), inside(9)
    with torch.no_grad():
        model[1].weight[:, 1:] = 0
    assert no_gradient(model, x, predict(model, x)) == 0


# Random outputs


def test_noise_is_counted():
    x = at(-0.3, -0.2, -0.1, 0.05, 0.4)
    assert random_outputs(Noisy(linear()), x) == pytest.approx(0.4)
    assert random_outputs(Noisy(linear()), x[3:]) == 1
    assert random_outputs(linear(), x) == 0
    signs = masked(Noisy(linear(), 0.01), x, predict(linear(), x), steps=3)
    assert by_kind(signs)[RANDOM] == pytest.approx(0.4)
    assert [sign.warns for sign in signs if sign.kind == RANDOM] == [True]


@pytest.mark.parametrize("scale", [1e-8, 1, 1e8])
def test_rounding_is_no_noise(scale):
    class Scaled(nn.Sequential):
        def forward(self, x):
            return scale * super().forward(x)

    x = at(0.3, 0.1, 0.2)
    assert random_outputs(Scaled(Noisy(linear(), 1e-6)), x) == 0
    assert random_outputs(Scaled(Noisy(linear(), 0.1)), x) == 1


def test_dropout_in_training_mode_is_not_random(delicate, global_rng_untouched):
    model, check = delicate
    x, y = torch.rand(30, 1, 4, 4, generator=rng()), torch.arange(30) % 3
    with torch.random.fork_rng(), torch.no_grad():
        assert not torch.equal(model[3](x), model[3](x))
    assert global_rng_untouched(lambda: random_outputs(model, x)) == 0
    assert global_rng_untouched(lambda: no_gradient(model, x, y)) == 0
    signs = global_rng_untouched(lambda: masked(model, x, y, steps=3))
    assert by_kind(signs)[RANDOM] == 0
    global_rng_untouched(lambda: asked(model, x, y, x, transferred=1 - x))
    check()


# Short of one


def test_a_plateau_keeps_pgd_from_one():
    """Flat around some images, at any eps; the label changes beyond 0.5 to either side."""
    model = Profile(lambda t: (t.abs() - 0.4).clamp_min(0) - 0.1)
    x = at(0.0, 0.1, -0.2, 0.3, 0.45, -0.42, 0.47, 0.6)
    y = torch.zeros(8, dtype=torch.int64)
    signs = masked(model, x, y, steps=10)
    assert by_kind(signs) == pytest.approx({GRADIENT: 0.5, RANDOM: 0, SHORT: 0.5})
    assert [sign.warns for sign in signs] == [True, False, True]


@pytest.mark.parametrize("kept", [0, 1, 2, 5])
def test_one_in_a_hundred_may_be_missed_at_a_large_eps(kept):
    model = Profile(lambda t: (t.abs() - 0.4).clamp_min(0) - 0.1)
    x = at(*[0.02 * k for k in range(kept)], *[0.45] * (100 - kept))
    (sign,) = [s for s in masked(model, x, torch.zeros(100).long(), steps=10) if s.kind == SHORT]
    assert sign.share == pytest.approx(kept / 100)
    assert sign.warns == (kept > 1)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_large_eps_is_reached_in_the_steps_that_are_asked_for(steps):
    """Fooled where 0.55 < t / eps < 0.85: of steps of 2.5 eps / steps only the last land there."""
    eps = math.sqrt(D) / 2
    model, x = Profile(lambda t: 0.15 - (t / eps - 0.7).abs()), at(0.0, 0.01)
    signs = masked(model, x, torch.zeros(2, dtype=torch.int64), steps=steps)
    assert by_kind(signs)[SHORT] == (steps < 4)


# What a weak attack misses


def test_an_attack_that_does_nothing_is_caught():
    """In a linear network PGD finds each image that is nearer than eps, and no other."""
    model, x = linear(), inside(60)
    y = predict(model, x)
    y[:10] = 1 - y[:10]
    w, z = model[1].weight.detach(), model(x).detach()
    gap = (z[:, 0] - z[:, 1]).abs() / (w[0] - w[1]).norm()
    eps = gap.quantile(0.6).item() + 1e-6
    reach = ((gap < eps) & (torch.arange(60) >= 10)).sum().item() / 60
    found = shares(model, x, y, x, eps=eps, steps=10, queries=200, transferred=x)
    assert found["longer"] == pytest.approx(reach)
    assert 0.9 * reach <= found["random"] <= reach
    assert 0.1 < found["square"] <= reach
    assert found["transfer"] == 0
    signs = asked(model, x, y, x, eps=eps, steps=10, queries=200, transferred=x)
    assert [sign.warns for sign in signs.values()] == [True, True, True, False]


@pytest.mark.parametrize("wrong", [0, 2, 5])
def test_shares_are_counted_by_hand(wrong):
    """A plateau, which a zero start never leaves: five images on it, four too far away.

    A start in the ball of 12 dimensions lies outside the plateau, which is that narrow.
    """
    model = Profile(lambda t: (t.abs() - 1e-6).clamp_min(0) - 2e-6)
    x, n = at(*[0.0] * 5, *[-1.0] * 4), 9
    model.gap = lambda t, near=model.gap: torch.where(t > -0.7, near(t), -1 - t)
    y = torch.zeros(n, dtype=torch.int64)
    y[:wrong] = 1
    x_adv = pgd(model, x, torch.zeros(n).long(), eps=0.2, steps=4)
    assert torch.equal(x_adv[:5], x[:5])
    x_adv[:wrong] = x[:wrong]
    transferred = x.clone()
    transferred[4] += 0.01
    transferred[3] += 0.01
    y[:wrong] = 1
    found = shares(model, x, y, x_adv, eps=0.2, transferred=transferred)
    assert found["longer"] == 0
    assert found["random"] == pytest.approx((5 - wrong) / n)
    assert found["square"] == pytest.approx((5 - wrong) / n)
    assert found["transfer"] == pytest.approx(min(5 - wrong, 2) / n)


def test_more_steps_find_what_a_long_step_leaps_over():
    """Fooled where 0.55 < t / eps < 0.85: two steps of 1.25 eps leap over it, four of 0.625 don't.

    Places at a distance of 1.5 are out of reach.
    """
    eps = 0.3
    model = Profile(lambda t: 0.15 - (t / eps - 0.7).abs())
    x, y = at(0.0, 0.0, 0.0, -1.5, -1.5), torch.zeros(5, dtype=torch.int64)
    x_adv = pgd(model, x, y, eps=eps, steps=2)
    assert (predict(model, x_adv) == 0).all()
    found = shares(model, x, y, x_adv, eps=eps, steps=2, restarts=1)
    assert found["longer"] == pytest.approx(0.6)
    again = shares(model, x, y, x, eps=eps, steps=1, restarts=1)
    assert again["longer"] == 0


@pytest.mark.parametrize("restarts", [1, 3])
def test_random_starts_are_in_the_ball_and_as_many_as_asked_for(restarts):
    """A plateau half as wide as the ball: the square of a start's place is Beta(1/2, (d + 1)/2)."""
    eps, n = 0.3, 900
    model = Profile(lambda t: (t.abs() - eps / 2).clamp_min(0) - 1e-4)
    x, y = at(*[0.0] * n), torch.zeros(n, dtype=torch.int64)
    found = shares(model, x, y, x, eps=eps, steps=4, queries=1, restarts=restarts)
    assert found["longer"] == 0
    one = stats.beta(0.5, (D + 1) / 2).sf(1 / 4)
    expected = 1 - (1 - one) ** restarts
    assert stats.binomtest(round(n * found["random"]), n, expected).pvalue > 1e-3


def test_what_is_fooled_already_is_not_missed():
    model, x = linear(), inside(30)
    y = predict(model, x)
    x_adv = 1 - x
    assert (predict(model, x_adv) != y).all()
    found = asked(model, x, y, x_adv, eps=0.5, transferred=x_adv)
    assert [sign.share for sign in found.values()] == [0, 0, 0, 0]
    assert not any(sign.warns for sign in found.values())
    none = asked(model, x, 1 - y, x, eps=0.5, transferred=x_adv)
    assert [sign.share for sign in none.values()] == [0, 0, 0, 0]
    some = x.clone()
    some[:12] = x_adv[:12]
    assert shares(model, x, y, some, transferred=x_adv)["transfer"] == pytest.approx(18 / 30)


@pytest.mark.parametrize(("fooled", "left", "n"), [(5, 147, 250), (6, 275, 300), (7, 275, 300)])
def test_two_in_a_hundred_may_be_missed(fooled, left, n):
    model, x = linear(), inside(n)
    y = predict(model, x)
    x_adv, transferred = x.clone(), x.clone()
    x_adv[left:] = 1 - x[left:]
    transferred[:fooled] = 1 - x[:fooled]
    found = asked(model, x, y, x_adv, eps=0.0, queries=1, steps=1, transferred=transferred)
    assert found["transfer"].share == pytest.approx(fooled / n)
    assert found["transfer"].warns == (fooled > 0.02 * n)


@pytest.mark.parametrize("n", [999, 1000, 1001, 2100])
def test_more_images_than_a_batch(n):
    model, x = linear(), inside(n)
    y = predict(model, x)
    transferred = x.clone()
    transferred[::3] = 1 - x[::3]
    found = shares(model, x, y, x, eps=0.0, queries=1, steps=1, restarts=1,
                   transferred=transferred)  # fmt: skip
    assert found["transfer"] == pytest.approx(math.ceil(n / 3) / n)
    assert found["longer"] == 0


def test_the_generator_decides_and_the_global_one_is_not_asked(global_rng_untouched):
    model, x = Rounded(linear()), torch.rand(60, *SHAPE, generator=rng()).double()
    y = predict(model, x)

    def ask(seed):
        return shares(model, x, y, x, eps=0.5, queries=15, generator=rng(seed))

    one, same, other = (global_rng_untouched(partial(ask, seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert one["random"] > 0


def test_an_eps_of_zero_misses_nothing():
    model, x = Rounded(linear()), inside(10)
    found = shares(model, x, predict(model, x), x, eps=0.0, transferred=x)
    assert set(found.values()) == {0}


# What is refused


class Nan(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :2] * math.nan


def test_what_is_refused(refuses):
    x, y = inside(5), torch.zeros(5, dtype=torch.int64)
    soft = nn.Sequential(linear(), nn.Softmax(1))
    y_soft = predict(soft, x)
    refuses(lambda: masked(soft, x, y, steps=3), "probabilities")
    refuses(lambda: no_gradient(soft, x, y), "probabilities")
    refuses(lambda: asked(soft, x, y_soft, x), "probabilities")
    for call in (
        lambda: masked(Nan(), x, y, steps=3),
        lambda: no_gradient(Nan(), x, y),
        lambda: random_outputs(Nan(), x),
        lambda: asked(Nan(), x, y, x),
    ):
        refuses(call, "logits", "finite")
    model = linear()
    refuses(lambda: masked(model, x, y, steps=0), "steps")
    refuses(lambda: masked(model, x, y + 2, steps=3), "labels")
    y = predict(model, x)
    refuses(lambda: asked(model, x, y, x, eps=-1.0), "eps")
    refuses(lambda: asked(model, x, y, x, queries=0), "steps")
    refuses(lambda: asked(model, x, y, x, restarts=0), "restarts")
