"""Online learning: reference values, quadrature, streams in full, symmetries, refusals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from lib import online_learning as ol
from lib.online_learning import (
    Clusters,
    Rule,
    adversarial_error,
    averages,
    best_error,
    order_parameters,
    simulate,
    symmetry_breaking,
)

TIMES = [10, 20, 40, 60, 100, 1000]
# Computed for this project by another implementation, in four digits; R, then b, at TIMES.
REFERENCE = {
    (0.5, 0): {10: (0.2437, 0), 20: (0.4398, 0), 40: (0.6925, 0), 60: (0.8257, 0),
               100: (0.9373, 0)},
    (0.5, 1): {10: (0.2461, 0), 20: (0.4761, 0), 40: (0.7833, 0), 60: (0.9143, 0),
               100: (0.9802, 0)},
    (0.7, 0): {10: (0.2324, -0.3860), 40: (0.6345, -0.5832), 100: (0.9074, -0.4525)},
    (0.7, 1): {10: (0.2463, -0.5992), 40: (0.6090, -1.7436), 100: (0.7775, -2.1897),
               1000: (0.9908, -1.4697)},
}  # fmt: skip
ERRORS = {(0.5, 0): (0.1743, 0.5250), (0.5, 1): (0.1635, 0.5079),
          (0.7, 0): (0.1582, 0.4638), (0.7, 1): (0.2774, 0.3148)}  # fmt: skip
VARIANTS = {  # prior .7, alpha 100: R, b, error, S(1)
    ("random", 1): (0.9272, -0.8129, 0.1650, 0.4044),
    ("random", 2): (0.8068, -2.2415, 0.2781, 0.3120),
    ("non-robust", 1): (0.8146, -1.3517, 0.2219, 0.3666),
}
RULES = [Rule(), Rule(eps=1.0), Rule(eps=1.5, attack="random"), Rule(eps=1.0, attack="non-robust")]
RULES_BY_NAME = pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.attack} {rule.eps}")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------ the equations


@pytest.mark.parametrize(("prior", "eps"), REFERENCE)
def test_scenarios_of_the_source(prior, eps):
    clusters = Clusters(prior=prior)
    R, b = order_parameters(clusters, Rule(eps=eps), TIMES)
    for time, (expected_R, expected_b) in REFERENCE[prior, eps].items():
        assert R[TIMES.index(time)] == pytest.approx(expected_R, abs=1e-4)
        assert b[TIMES.index(time)] == pytest.approx(expected_b, abs=1e-4)
    at = TIMES.index(100)
    found = [adversarial_error(clusters, R[at], b[at], radius) for radius in (0, 1)]
    assert found == pytest.approx(ERRORS[prior, eps], abs=1e-4)


@pytest.mark.parametrize(("attack", "eps"), VARIANTS)
def test_variants_that_the_source_asks_for(attack, eps):
    clusters = Clusters(prior=0.7)
    R, b = order_parameters(clusters, Rule(eps=eps, attack=attack), [100])
    found = R[0], b[0], *(adversarial_error(clusters, R[0], b[0], radius) for radius in (0, 1))
    assert found == pytest.approx(VARIANTS[attack, eps], abs=1e-4)


def test_where_standard_training_ends():
    for prior, R_end, b_end in ((0.5, 0.9905, 0.0), (0.7, 0.9906, -0.4070)):
        R, b = order_parameters(Clusters(prior=prior), Rule(), [1e5])
        assert (R[0], b[0]) == pytest.approx((R_end, b_end), abs=1e-4)


def slope(y):
    return 2 / math.sqrt(math.pi) * math.exp(-y * y) * (math.erf(y) - 1)


def by_quadrature(m, v, rule, power):
    """The mean of d^power over y ~ N(m, v) and over the rule's attacks, by adaptive quadrature."""
    deviation = math.sqrt(v)

    def over_clean(eps):
        def integrand(y):
            attacked = y - eps
            learned = rule.attack != "non-robust" or attacked < 0
            density = math.exp(-(((y - m) / deviation) ** 2) / 2) / deviation
            return learned * slope(attacked) ** power * density / math.sqrt(2 * math.pi)

        ends = m - 10 * deviation, m + 10 * deviation
        places = [p for p in (eps - 3, eps, eps + 3) if ends[0] < p < ends[1]]
        return integrate.quad(integrand, *ends, points=places, epsabs=1e-11, limit=200)[0]

    if rule.attack == "random" and rule.eps:
        return integrate.quad(over_clean, 0, rule.eps, epsabs=1e-9)[0] / rule.eps
    return over_clean(rule.eps)


@given(
    m=st.floats(-6, 6),
    v=st.floats(0.05, 6),
    eps=st.sampled_from([0.0, 1e-12, 9e-6, 1e-4, 0.3, 1.0, 4.0]),
    attack=st.sampled_from(ol.ATTACKS),
)
def test_averages_are_those_of_quadrature(m, v, eps, attack):
    rule = Rule(eps=eps, attack=attack)
    found = averages(m, v, rule)
    assert found[0] == pytest.approx(by_quadrature(m, v, rule, 1), abs=1e-8)
    assert found[1] == pytest.approx(by_quadrature(m, v, rule, 2), abs=1e-8)


@RULES_BY_NAME
def test_averages_of_arrays_are_those_of_their_numbers(rule):
    m = np.linspace(-3, 3, 12).reshape(3, 4)
    for many, place in zip(averages(m, 0.7, rule), range(2), strict=True):
        one = np.array([averages(float(value), 0.7, rule)[place] for value in m.flat])
        assert np.abs(many - one.reshape(3, 4)).max() < 1e-14


def test_a_very_long_random_attack_is_the_sum_of_shorter_ones():
    """U[0, 60] is an equal mixture of U[k, k + 1]."""
    whole = averages(2.0, 1.3, Rule(eps=60.0, attack="random"))
    parts = [averages(2.0 - k, 1.3, Rule(eps=1.0, attack="random")) for k in range(60)]
    assert np.abs(np.mean(parts, 0) - whole).max() < 1e-10


@RULES_BY_NAME
def test_labels_are_interchangeable(rule):
    """Other labels for the same clusters: B and b turn round, R stays."""
    R, b = order_parameters(Clusters(0.3, 1.5, 0.6, 1.7), rule, TIMES, R=0.1, b=0.4)
    mirrored = order_parameters(Clusters(0.7, 1.5, 1.7, 0.6), rule, TIMES, R=0.1, b=-0.4)
    assert np.abs(R - mirrored[0]).max() < 1e-6
    assert np.abs(b + mirrored[1]).max() < 1e-6


def test_a_solution_goes_on_from_where_it_is():
    clusters, rule = Clusters(prior=0.6), Rule(eps=0.7)
    R, b = order_parameters(clusters, rule, [0, 30, 80])
    assert (R[0], b[0]) == (0, 0)
    again = order_parameters(clusters, rule, [50], R=float(R[1]), b=float(b[1]))
    assert (again[0][0], again[1][0]) == pytest.approx((R[2], b[2]), abs=1e-7)
    assert [part.tolist() for part in order_parameters(clusters, rule, [0], R=0.3, b=1.0)] == [
        [0.3], [1.0]]  # fmt: skip


# ------------------------------------------------------------------ streams


def full_stream(clusters, rule, steps, n, runs, seed):
    """The same learning in n dimensions, from whole examples and whole weights."""
    draw = np.random.default_rng(seed)
    B = np.zeros(n)
    B[0] = 1
    w = np.zeros((runs, n))
    w[:, 1] = 1
    b = np.zeros(runs)
    for _ in range(steps):
        tau = np.where(draw.random(runs) < clusters.prior, 1.0, -1.0)
        v = np.where(tau > 0, clusters.v1, clusters.v2)
        xi = (tau * clusters.rho / 2)[:, None] * B
        xi = xi + np.sqrt(v)[:, None] * draw.standard_normal((runs, n))
        eps = rule.eps * (draw.random(runs) if rule.attack == "random" else np.ones(runs))
        xi = xi - (tau * eps)[:, None] * w
        x = (w * xi).sum(1) - b
        d = (special.erf(x) - tau) * 2 / np.sqrt(np.pi) * np.exp(-(x**2))
        if rule.attack == "non-robust":
            d = np.where(tau * x < 0, d, 0)
        w = w - rule.eta_w / n * d[:, None] * xi
        w /= np.linalg.norm(w, axis=1, keepdims=True)
        b = b + rule.eta_b / n * d
    return w @ B, b


@pytest.mark.parametrize("n", [2, 5])
@RULES_BY_NAME
def test_three_numbers_have_the_law_of_whole_examples(rule, n):
    """A few large steps in few dimensions: no limit that could hide a difference."""
    clusters = Clusters(0.7, 2.0, 0.5, 1.5)
    rule = Rule(2.0, 3.0, rule.eps, rule.attack)
    whole = full_stream(clusters, rule, 8, n, 20_000, 1)
    three = simulate(clusters, rule, [8 / n], n=n, runs=20_000, generator=rng())
    for one, other in zip(whole, three, strict=True):
        assert stats.ks_2samp(one, other[0]).pvalue > 1e-3


def test_the_source_s_stream_in_its_thousand_dimensions():
    clusters, rule = Clusters(prior=0.7), Rule(eps=1.0)
    R, b = full_stream(clusters, rule, 5000, 1000, 6, 0)
    expected_R, expected_b = order_parameters(clusters, rule, [5])
    assert R.mean() == pytest.approx(expected_R[0], abs=0.01)
    assert b.mean() == pytest.approx(expected_b[0], abs=0.04)


@pytest.mark.parametrize("prior", [0.5, 0.7])
@RULES_BY_NAME
def test_means_of_five_streams_follow_the_equations(rule, prior):
    clusters, times = Clusters(prior=prior), [10, 40, 100]
    R, b = simulate(clusters, rule, times, runs=6, generator=rng(2))
    expected_R, expected_b = order_parameters(clusters, rule, times)
    assert np.abs(R.mean(1) - expected_R).max() < 0.01
    assert np.abs(b.mean(1) - expected_b).max() < 0.04


def test_unequal_variances_follow_the_equations():
    clusters, rule = Clusters(0.4, 1.5, 0.3, 2.0), Rule(eps=0.5)
    R, b = simulate(clusters, rule, [60], runs=20, generator=rng(3), R=0.2, b=0.5)
    expected_R, expected_b = order_parameters(clusters, rule, [60], R=0.2, b=0.5)
    assert R.mean() == pytest.approx(expected_R[0], abs=0.01)
    assert b.mean() == pytest.approx(expected_b[0], abs=0.04)


def test_a_stream_depends_on_its_generator_alone():
    one, again, other = (
        simulate(Clusters(), Rule(), [0, 1, 2], n=50, runs=2, generator=rng(seed))
        for seed in (0, 0, 1)
    )
    assert one[0].shape == one[1].shape == (3, 2)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert not one[0][0].any()


# ------------------------------------------------------------------ errors


def test_adversarial_error_is_the_share_of_examples_that_the_attack_makes_wrong():
    clusters, R, b, s = Clusters(0.7, 2.0, 0.5, 1.5), 0.8, -0.3, 400_000
    draw = np.random.default_rng(0)
    tau = np.where(draw.random(s) < 0.7, 1, -1)
    x = tau * R + np.sqrt(np.where(tau > 0, 0.5, 1.5)) * draw.standard_normal(s) - b
    for eps in (0, 0.5, 1.3):
        wrong = (tau * x - eps < 0).mean()
        assert adversarial_error(clusters, R, b, eps) == pytest.approx(wrong, abs=0.004)


@given(R=st.floats(-1, 1), b=st.floats(-3, 3), prior=st.floats(0.01, 0.99))
def test_adversarial_error_rises_with_eps_and_is_never_below_the_best(R, b, prior):
    clusters = Clusters(prior=prior)
    errors = adversarial_error(clusters, R, b, np.linspace(0, 3, 13))
    assert (np.diff(errors) >= 0).all()
    for eps, error in zip(np.linspace(0, 3, 13)[::4], errors[::4], strict=True):
        assert best_error(clusters, float(eps)) <= error + 1e-9


def test_best_errors_in_closed_form():
    """Equal variances: with centres 2 k apart after the attack, b = -log(p / (1 - p)) / (2 k)."""
    for prior, eps in ((0.5, 0.0), (0.7, 0.0), (0.7, 0.6), (0.9, 0.2)):
        k = 1 - eps
        b = -math.log(prior / (1 - prior)) / (2 * k)
        expected = prior * stats.norm.cdf(b - k) + (1 - prior) * stats.norm.cdf(-b - k)
        assert best_error(Clusters(prior=prior), eps) == pytest.approx(expected, abs=1e-9)
    for eps in (1.0, 1.5, 5.0):
        assert best_error(Clusters(prior=0.7), eps) == pytest.approx(0.3)


def test_where_the_symmetric_solution_breaks():
    for clusters in (Clusters(), Clusters(rho=3.0, v1=0.4, v2=0.4)):
        critical = symmetry_breaking(clusters)
        for eps, grows in ((critical - 0.02, False), (critical + 0.02, True)):
            speed = ol.derivatives(clusters, Rule(eps=eps), 1.0, 1e-6)[1]
            assert (speed > 0) == grows
    assert symmetry_breaking(Clusters()) == pytest.approx(1.389, abs=5e-4)
    assert symmetry_breaking(Clusters(), R=0.5) == pytest.approx(0.889, abs=5e-4)


def test_streams_leave_an_unstable_symmetry_to_both_sides():
    _, b = simulate(Clusters(), Rule(eps=1.6), [150], runs=20, generator=rng(4))
    assert (b > 0.5).any()
    assert (b < -0.5).any()
    assert not order_parameters(Clusters(), Rule(eps=1.6), [150])[1].any()


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("what", "setting", "value"),
    [
        (Clusters, "prior", 0), (Clusters, "prior", 1.0), (Clusters, "prior", math.nan),
        (Clusters, "prior", "a half"), (Clusters, "rho", -1), (Clusters, "rho", math.inf),
        (Clusters, "v1", 0), (Clusters, "v2", -1.0), (Clusters, "v1", math.nan),
        (Rule, "eps", -0.1), (Rule, "eps", math.nan), (Rule, "eta_w", 0), (Rule, "eta_b", -1),
        (Rule, "attack", "strongest"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(what, setting, value, refuses):
    refuses(lambda: what(**{setting: value}), setting, value)


@pytest.mark.parametrize(
    "alpha", [[2, 1], [1, 1], [-1, 2], [], [0, math.inf], [math.nan], [[1, 2]]]
)
def test_times_that_do_not_increase(alpha, refuses):
    refuses(lambda: order_parameters(Clusters(), Rule(), alpha), "alpha")
    refuses(lambda: simulate(Clusters(), Rule(), alpha, generator=rng()), "alpha")


@pytest.mark.parametrize("start", [{"R": 1.1}, {"R": -2}, {"R": math.nan}, {"b": math.inf}])
def test_starts_that_cannot_be(start, refuses):
    refuses(lambda: order_parameters(Clusters(), Rule(), [1], **start), *start, *start.values())
    refuses(lambda: simulate(Clusters(), Rule(), [1], generator=rng(), **start), *start)


def test_other_refusals(refuses):
    refuses(lambda: simulate(Clusters(), Rule(), [1], n=1, generator=rng()), "n", 1)
    refuses(lambda: simulate(Clusters(), Rule(), [1], runs=0, generator=rng()), "runs", 0)
    refuses(lambda: simulate(Clusters(), Rule(), [1], generator=0), "generator", "int")
    refuses(lambda: adversarial_error(Clusters(), 0.5, 0.0, -1), "eps", -1)
    refuses(lambda: best_error(Clusters(), -1), "eps", -1)
    refuses(lambda: symmetry_breaking(Clusters(prior=0.6)), "prior")
