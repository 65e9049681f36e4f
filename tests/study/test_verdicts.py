"""How effects become a verdict."""

import subprocess
import sys
from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lib.study import verdicts
from lib.study.verdicts import (
    FAILS,
    HOLDS,
    OPEN,
    Effect,
    chance,
    decide,
    decide_example,
    effect,
    judge,
    pairings,
    verdict,
)

SPREAD = st.lists(st.integers(-1000, 1000), min_size=2, max_size=8, unique=True)


@given(numbers=SPREAD, gaps=st.integers(0, 3))
def test_an_effect_is_the_mean_with_scipys_interval(numbers, gaps):
    values = np.array(numbers) / 100
    series = pd.Series(np.append(values, [np.nan] * gaps), index=range(len(values) + gaps))
    found = effect("a", series)
    test = stats.ttest_1samp(values, 0)
    low, high = test.confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.label, found.seeds) == ("a", len(values))
    assert found.p == pytest.approx(test.pvalue)
    # The interval leaves zero out exactly where the two-sided test rejects.
    assert found.sign == (found.low > 0) - (found.high < 0)


def test_one_seed_or_none_decides_nothing():
    one = effect("a", pd.Series({3: -2.0}))
    assert (one.value, one.low, one.high, one.seeds, one.sign) == (-2, -np.inf, np.inf, 1, 0)
    for nothing in (pd.Series(dtype=float), pd.Series({0: np.nan, 1: np.nan})):
        none = effect("a", nothing)
        assert np.isnan(none.value)
        assert (none.low, none.high, none.seeds, none.sign) == (-np.inf, np.inf, 0, 0)
    assert effect("a", pd.Series({0: 1.0, 1: np.nan})).sign == 0


@given(numbers=SPREAD)
def test_an_effect_mirrors(numbers):
    one = effect("a", pd.Series(numbers, dtype=float))
    other = effect("a", -pd.Series(numbers, dtype=float))
    assert (other.value, other.low, other.high) == pytest.approx((-one.value, -one.high, -one.low))
    assert other.sign == -one.sign


@pytest.mark.parametrize("value", [0.0, 1e-16, -1e-16])
def test_equal_values_whose_last_digits_differ_decide_nothing(value):
    found = effect("a", pd.Series([value, value, value * (1 + 1e-15)]))
    assert found.sign == 0
    assert found.low < 0 < found.high
    assert found.p == pytest.approx(1)


@given(b=st.integers(0, 40), level=st.sampled_from([0.05, 0.05 / 4, 0.01]))
def test_b_images_are_mcnemars_b_for_one_side_and_none_for_the_other(b, level):
    found = effect("a", pd.Series([b / 500] * 3), 1 / 500)
    expected = stats.binomtest(b, b).pvalue if b else 1
    assert found.p == pytest.approx(expected)
    assert found.known(level) == (expected <= level)


def test_many_studies_at_once_are_each_as_alone():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4, 3, 5))
    values[0, 0, 2:] = values[1, 1] = values[2, 2, 1:] = np.nan
    means, halves, ps = judge(values, 0.1)
    for at in product(range(4), range(3)):
        one = effect("a", values[at], 0.1)
        assert one.p == pytest.approx(ps[at])
        assert one.value == pytest.approx(means[at], nan_ok=True)
        if one.seeds > 1:
            assert one.high - one.value == pytest.approx(halves[at])


# Several effects


def of(value, p):
    return Effect("a", value, value - 0.5, value + 0.5, 3, p)


SIGNED = st.tuples(st.sampled_from([-1, 1]), st.sampled_from([0.0, 0.01, 0.02, 0.04, 0.05, 0.5]))


@given(found=st.lists(SIGNED, max_size=6), side=st.sampled_from([-1, 1]))
def test_the_verdict_is_bergers_on_one_side_and_simes_on_the_other(found, side):
    """Simes' p of all together is the least m p_(i) / i."""
    effects = [of(*one) for one in found]
    got = verdict(effects, side)
    against = sorted(p if value == -side else 1 for value, p in found)
    simes = min((len(found) * p / (k + 1) for k, p in enumerate(against)), default=1)
    if found and all(value == side and p <= 0.05 for value, p in found):
        assert got == HOLDS
    else:
        assert got == (FAILS if simes <= 0.05 + 1e-12 else OPEN)
    # The other way round, the other claim; the order does not matter.
    assert verdict([of(-value, p) for value, p in found], -side) == got
    assert verdict(effects[::-1], side) == got
    # An effect that is not asked for is as one that is not there.
    if found:
        more = [[value for value, _ in found] + [-side], [p for _, p in found] + [0.0]]
        asked = [True] * len(found) + [False]
        assert verdicts.WORDS[int(decide(*more, side, asked))] == got


def test_of_eight_effects_one_that_would_refute_alone_does_not():
    rest = [of(1, 0.001)] * 7
    assert verdict([of(-1, 0.02), *rest], 1) == OPEN
    assert verdict([of(-1, 0.006), *rest], 1) == FAILS
    assert verdict([of(-1, 0.02)], 1) == FAILS
    assert verdict([of(-1, 0.05)] * 8, 1) == FAILS  # all of them at 5 %


@pytest.mark.parametrize("m", [1, 2, 4, 8])
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("shared", [0.0, 0.5, 0.95])
def test_effects_that_are_not_there_are_decided_in_5_percent_at_most(m, seeds, shared):
    """However many they are, and however alike."""
    rng = np.random.default_rng(m + seeds)
    common, own = rng.standard_normal((2, 8000, m, seeds))
    values = shared**0.5 * common[:, :1] + (1 - shared) ** 0.5 * own
    mean, _, p = judge(values)
    found = decide(mean, p, 1)
    assert (found != 0).mean() <= 0.05 + 4 * (0.05 * 0.95 / 8000) ** 0.5
    assert (found == -1).mean() <= 0.025 + 4 * (0.025 / 8000) ** 0.5


def test_one_example_is_enough_but_it_is_judged_among_all():
    def found(*pairs):
        first, second = zip(*pairs, strict=True)
        return int(decide_example(*(np.array(part).T for part in (first, second))))

    lower, higher, unknown = (-1, 0.001), (1, 0.001), (1, 0.5)
    assert found((lower, higher)) == 1
    assert found((lower, higher), (unknown, unknown)) == 1
    assert found((lower, (1, 0.04))) == 1
    assert found((lower, (1, 0.04)), (unknown, unknown)) == 0
    assert found((lower, lower)) == -1
    assert found((lower, lower), (higher, unknown)) == -1
    assert found((lower, lower), (unknown, unknown)) == 0
    assert found((higher, higher)) == 0  # none is more accurate


# Readings that go together


@given(seed=st.integers(0, 500), m=st.integers(2, 4), p=st.integers(1, 4), ties=st.booleans())
def test_pairings_are_scipys_of_every_order(seed, m, p, ties):
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, 3 if ties else 10**6, (2, m, p))
    start = rng.integers(0, 3, 2)
    found = pairings(one, other, start)
    orders = list(permutations(range(m)))
    assert found.shape == (len(orders),)
    for k, order in enumerate(orders):
        first = [start[0], *one.flatten()]
        second = [start[1], *other[list(order)].flatten()]
        if len(set(first)) > 1 and len(set(second)) > 1:
            assert found[k] == pytest.approx(stats.spearmanr(first, second).statistic)
        else:
            assert found[k] == 0
    assert chance(found) == pytest.approx(np.mean(found >= found[0] - 1e-9))


def test_a_sample_of_pairings_has_the_true_one_first():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((9, 3))
    found = pairings(values, values)
    assert len(found) == 5040
    assert found[0] == pytest.approx(1)
    assert chance(found) == pytest.approx(1 / 5040)


@given(seed=st.integers(0, 300), m=st.integers(1, 5))
def test_beyond_is_above_zero_where_the_pairing_is_among_the_best(seed, m):
    rng = np.random.default_rng(seed)
    found = pairings(*rng.standard_normal((2, m, 2)), (0.0, 0.0))
    one = verdicts.beyond("a", found, 3)
    assert one.p == chance(found)
    assert one.sign == (one.p <= 0.05) == (one.low > 0)
    assert one.low <= one.high
    assert one.high >= 0
    assert verdicts.beyond("a", found, 1).sign == 0


def test_verdicts_know_no_torch():
    script = "import sys, lib.study.verdicts, lib.study.power; print('torch' in sys.modules)"
    made = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert made.stdout.strip() == "False"
