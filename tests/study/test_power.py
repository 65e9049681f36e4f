"""Verdicts on made-up studies whose truth is known."""

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.study import claims, power
from lib.study.power import FOLLOWS, NULLS, RISKIER, RULES, SAME, SHAPES, UNRELATED, made_up
from lib.study.verdicts import WORDS

# What the sources' sentences are in `claims.evaluate`, in its order.
SENTENCES = dict(zip(
    RULES,
    ["most useful", "most robust", "farthest away", "not always", "raise the stress",
     "goes with risk", "more influenced by", "weigh even more"],
    strict=True,
))  # fmt: skip


def tables(values, images, k):
    """Study k of the made-up ones as recorded tables."""
    _, kinds, p, seeds = values["risk"].shape
    names = ["none", "classic", *"bcdefg"[: kinds - 3], "b+classic"]

    def table(what, /, **columns):
        rows = [
            {"augmentation": name, "p": q * (name != "none"), "seed": s, "examples": images,
             "value": values[what][k, i, j, s], **columns}
            for i, name in enumerate(names)
            for j, q in enumerate(np.arange(1, p + 1) / p)
            for s in range(seeds)
            if name != "none" or j == 0
        ]  # fmt: skip
        return pd.DataFrame(rows)

    return (
        pd.concat([
            table("clean", measure="clean error", attack="none", eps=0.0, steps=0),
            table("risk", measure="risk under attack", **claims.ATTACK),
        ]),
        table("distance", measure="mean distance", upto=1.5),
        table("stress", measure="prediction-change stress", centre="clean", eps=2.0),
        pd.concat([
            table(f"ratio, {test}", measure="log ratio", method="exact", reading="groups",
                  test=test)
            for test in ("clean", "adversarial")
        ]),
    )  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("truth", [SAME, RISKIER, UNRELATED, FOLLOWS])
def test_made_up_studies_are_decided_as_recorded_ones_are(name, truth):
    shape, number = SHAPES[name], 6
    values = made_up(shape, number, np.random.default_rng(1), truth)
    found = power.decided(values, shape.images)
    for k in range(number):
        for rule, claim in zip(
            RULES, claims.evaluate(*tables(values, shape.images, k)), strict=True
        ):
            assert SENTENCES[rule] in claim.sentence
            assert claim.verdict == WORDS[int(found[rule][k])]


def test_where_there_is_nothing_to_find_at_most_7_percent_is_decided():
    start = time.process_time()
    found = power.sizes(number=2000)
    assert found.rule.tolist() == list(RULES)
    sizes = found.drop(columns="rule")
    assert sizes.shape == (8, 4)
    assert (sizes <= 0.07).all(axis=None)
    assert set(NULLS[SAME]) == set(RULES)
    assert time.process_time() - start < 20


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
@pytest.mark.parametrize("truth", [SAME, UNRELATED])
def test_stress_and_risk_that_are_unrelated_go_together_in_1_of_24(seeds, truth):
    """Exactly, whether augmentations differ or not: one of the 24 pairings is the best."""
    shape = replace(SHAPES["digits"], seeds=seeds)
    values = made_up(shape, 8000, np.random.default_rng(seeds), truth)
    share = (power.decided(values, 500)[power.WITH_RISK] != 0).mean()
    error = (1 / 24 * 23 / 24 / 8000) ** 0.5
    assert share == pytest.approx(1 / 24, abs=4 * error)


def test_a_study_of_three_augmentations_never_says_that_stress_goes_with_risk():
    for augmentations in (2, 3):
        shape = replace(SHAPES["digits"], augmentations=augmentations)
        values = made_up(shape, 50, np.random.default_rng(0), FOLLOWS)
        assert not power.decided(values, 500)[power.WITH_RISK].any()


def test_effects_are_found_more_often_the_larger_and_the_more_seeds():
    found = power.powers((1, 2, 4), number=1000)
    holds = found.set_index(["effects", "seeds", "size"])
    for column in ("holds", "does not hold"):
        by_size = holds[column].unstack("size")
        assert (by_size.diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
        by_seeds = holds[column].unstack("seeds")
        assert (by_seeds[5] >= by_seeds[3]).all()
    assert holds.loc[(2, 5, 4)].min() > 0.95
    # Of one effect both are the power of the two-sided t-test, by the noncentral t.
    for seeds in (3, 5):
        for size in (1, 2, 4):
            cut = stats.t.ppf(0.975, seeds - 1)
            expected = stats.nct.sf(cut, seeds - 1, size * seeds**0.5)
            for column in ("holds", "does not hold"):
                assert holds.loc[(1, seeds, size), column] == pytest.approx(expected, abs=0.06)


def test_stress_that_follows_risk_is_found():
    found = power.followed(number=1000).set_index(["study", "seeds"]).holds
    assert (found["digits"] > 0.4).all()
    assert (found["photographs"] == 0).all()
