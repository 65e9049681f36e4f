"""Sentences on adversarial training, from tables made by hand."""

import pandas as pd
import pytest

from lib.study.claims_adversarial import evaluate
from lib.study.verdicts import FAILS, HOLDS, OPEN
from tests.study.test_claims import distances_table, influence_table, stress_table, table

NAMES = ("none", "classic", "mixup", "classic+mixup", "adversarial")
STEP = 0.05  # far more than the noise of a seed


def values(*steps):
    return dict(zip(NAMES, (0.5 + STEP * step for step in steps), strict=True))


def performance(clean, risk):
    """At the strongest attack, p = 1; half of the dial and weaker attacks say the opposite."""
    pgd = {"measure": "risk under attack", "attack": "pgd"}
    opposite = {name: -value for name, value in risk.items()}
    parts = [table(clean, measure="clean error", attack="none", eps=0.0, steps=0, p=(1.0,))]
    parts += [table(risk, **pgd, eps=0.5, steps=100, p=(1.0,))]
    parts += [table(opposite, **pgd, eps=0.5, steps=100, p=(0.5,)).query("p > 0")]
    parts += [table(opposite, **pgd, eps=eps, steps=steps, p=(1.0,))
              for eps, steps in ((0.25, 100), (0.5, 10))]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def decided(risk=(0, 0, 0, 0, -1), clean=(0, 0, 0, 0, 1), distance=(0, 0, 0, 0, 1),
            stress=(0, 0, 0, 0, -1), leaning=1.0):  # fmt: skip
    def readings(sign):
        return {("groups", test): dict.fromkeys(NAMES[1:], sign)
                for test in ("clean", "adversarial")}  # fmt: skip

    found = evaluate(
        performance(values(*clean), values(*risk)), distances_table(values(*distance)),
        stress_table(values(*stress)), influence_table(readings(leaning)),
    )  # fmt: skip
    return [claim.verdict for claim in found]


def test_all_hold_where_all_is_so():
    assert decided() == [HOLDS] * 5


@pytest.mark.parametrize("best", range(4))
def test_one_augmentation_that_is_more_robust_refutes_it(best):
    risk = [0, 0, 0, 0, -1]
    risk[best] = -2
    assert decided(risk=risk)[0] == FAILS
    distance = [-one for one in risk]
    assert decided(distance=distance)[1] == FAILS


@pytest.mark.parametrize(
    ("settings", "position", "verdict"),
    [
        ({"clean": (0, 2, 2, 2, 0)}, 2, OPEN),
        ({"clean": (0, 0, 0, 0, -1)}, 2, FAILS),
        ({"stress": (0, 0, 0, 0, 1)}, 3, FAILS),
        ({"stress": (0, -1, -1, -1, 0)}, 3, OPEN),
        ({"leaning": -1.0}, 4, FAILS),
        ({"leaning": 0.0}, 4, OPEN),
    ],
)
def test_each_is_decided_by_its_own_reading(settings, position, verdict):
    found = decided(**settings)
    assert found[position] == verdict
    assert [one for k, one in enumerate(found) if k != position] == [HOLDS] * 4


def test_without_adversarial_training_there_is_nothing_to_decide():
    tables = (
        performance(values(*[0] * 5), values(*[0] * 5)), distances_table(values(*[0] * 5)),
        stress_table(values(*[0] * 5)), influence_table({("groups", "clean"): {"classic": 1.0}}),
    )  # fmt: skip
    assert evaluate(*(one[one.augmentation != "adversarial"] for one in tables)) == []
