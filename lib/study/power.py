"""The verdicts rehearsed on made-up studies: how often they err, and what they find.

A made-up study has the shape of a recorded one, and its truth is known. Its arrays are
`[studies, kinds, p, seeds]`: kind 0 is no augmentation, 1 is classic, then come the others, and
last a composition of the first two, whose curves are the mean of theirs.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lib.study.verdicts import LEVEL, chance, decide, decide_example, judge, pairings

# Levels of the readings: three are shares of test images, and two are logs, which start at 0.
LEVELS = {"clean": 0.1, "risk": 0.5, "stress": 0.2, "distance": 0.5,
          "ratio, clean": 1.0, "ratio, adversarial": 1.0}  # fmt: skip
SHARES, RATIOS = tuple(LEVELS)[:3], tuple(LEVELS)[4:]
# Standard deviations, as parts of a level: of a network, of a seed, of an augmentation's curve.
NETWORK, SEED, CURVE = 0.1, 0.2, 0.3
SAME, RISKIER, BETTER, UNRELATED, FOLLOWS = (
    "no differences", "augmentations raise the risk alone", "they lower the clean error alone",
    "they differ, stress and risk unrelated", "they differ, stress as risk",
)  # fmt: skip
RULES = USEFUL, ROBUST, FAR, NOT_ALWAYS, STRESSED, WITH_RISK, MORE, ADVERSARIAL = (
    "most useful", "most robust", "boundary farthest", "accuracy without robustness",
    "stress of the vulnerable", "stress goes with risk", "more influenced",
    "more so on adversarial points",
)  # fmt: skip
# Truths in which there is nothing to find, and for which rules.
NULLS = {SAME: RULES, RISKIER: (USEFUL, FAR, NOT_ALWAYS, STRESSED), BETTER: (ROBUST, NOT_ALWAYS),
         UNRELATED: (WITH_RISK,)}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """How many augmentations, values of p > 0, seeds and test images."""

    augmentations: int
    p: int
    seeds: int
    images: int


SHAPES = {"digits": Shape(4, 4, 5, 500), "photographs": Shape(2, 2, 3, 1000)}


def made_up(shape, number, rng, truth=SAME):
    """{reading: values} of `number` studies; the readings are those of LEVELS.

    A seed is good or bad for all of its networks, a network in all of its readings. Where
    augmentations differ, each has a curve along p of its own, beside a rise common to all.
    """
    p = np.arange(1, shape.p + 1)[:, None] / shape.p
    networks = number, shape.augmentations + 2, shape.p, shape.seeds

    def curves():
        slope, bend = rng.standard_normal((2, *networks[:2], 1, 1))
        return CURVE * p * (1 + slope + bend * (p - 0.5))

    quality, luck = rng.standard_normal(networks), rng.standard_normal((number, 1, 1, shape.seeds))
    risk, found = curves(), {}
    for reading, level in LEVELS.items():
        shift = {(RISKIER, "risk"): 0.5, (BETTER, "clean"): -0.5}.get((truth, reading), 0)
        effect = np.full((*networks[:3], 1), shift, float)
        if truth in (UNRELATED, FOLLOWS):
            alike = reading == "risk" or (truth, reading) == (FOLLOWS, "stress")
            effect = risk.copy() if alike else curves()
        effect[:, 0], effect[:, -1] = 0, effect[:, 1:3].mean(1)
        noise = NETWORK * (0.8 * quality + 0.6 * rng.standard_normal(networks))
        start = 0 if reading in RATIOS else 1 + SEED * luck
        value = level * (start + effect + noise)
        if reading in SHARES:
            value = rng.binomial(shape.images, value.clip(0, 1)) / shape.images
        value[:, 0] = value[:, 0, :1]  # one network, whatever p
        found[reading] = value
    return found


def decided(values, images):
    """{rule: verdict `[studies]`}, 1 holds, -1 does not hold, 0 undecided, as `claims` decides."""
    single = np.arange(1, values["risk"].shape[1] - 1)
    over_p = {reading: value.mean(2) for reading, value in values.items()}

    def minus(reading, kinds, others):
        found = over_p[reading][:, kinds] - over_p[reading][:, others]
        return judge(found, *[1 / images] * (reading in SHARES))[::2]

    def classic(reading):
        return minus(reading, [1], [0, *single[1:]])

    clean, risk, stress = (minus(name, single, [0]) for name in SHARES)
    vulnerable = (risk[0] > 0) & (risk[1] <= LEVEL / len(single))
    means = values["stress"][..., ::2].mean(-1), values["risk"][..., 1::2].mean(-1)
    paired = pairings(*(m[:, single] for m in means), [m[:, 0, 0] for m in means])
    ratios = [over_p[reading][:, single] for reading in RATIOS]
    verdicts = (
        decide(*classic("clean"), -1),
        decide(*classic("risk"), -1),
        decide(*classic("distance"), 1),
        decide_example(clean, risk),
        decide(*stress, 1, asked=vulnerable),
        (chance(paired) <= LEVEL).astype(int),
        decide(*judge(np.concatenate(ratios, 1))[::2], 1),
        decide(*judge(ratios[1] - ratios[0])[::2], 1),
    )
    return dict(zip(RULES, verdicts, strict=True))


def sizes(number=2000, seeds=(3, 5)):
    """How often each rule decides where there is nothing to find: the largest share of NULLS."""
    columns = {}
    for name, shape in SHAPES.items():
        for k in seeds:
            found = dict.fromkeys(RULES, 0.0)
            for truth, rules in NULLS.items():
                rng = np.random.default_rng(0)
                values = made_up(replace(shape, seeds=k), number, rng, truth)
                verdicts = decided(values, shape.images)
                found |= {r: max(found[r], (verdicts[r] != 0).mean()) for r in rules}
            columns[f"{name}, {k} seeds"] = found
    return pd.DataFrame(columns).rename_axis("rule").reset_index()


def powers(effects, seeds=(3, 5), times=(1, 2, 4, 8), number=2000):
    """How often the verdict on m effects is right, for effects of a stated size.

    The size is in standard deviations of a paired difference from seed to seed. Columns: effects,
    seeds, size, "holds" where all m are of that size on the claimed side, "does not hold" where
    one is on the other side. The effects share what they are compared with.
    """
    rows = []
    for m in effects:
        for k in seeds:
            noise = np.random.default_rng(0).standard_normal((number, m + 1, k))
            noise = (noise[:, 1:] - noise[:, :1]) / 2**0.5
            for size in times:
                right = np.full((m, 1), float(size))
                wrong = np.where(np.arange(m) == 0, -1, 1)[:, None] * right
                shares = [
                    (decide(*judge(noise + truth)[::2], 1) == side).mean()
                    for truth, side in ((right, 1), (wrong, -1))
                ]
                found = dict(zip(("holds", "does not hold"), shares, strict=True))
                rows.append({"effects": m, "seeds": k, "size": size, **found})
    return pd.DataFrame(rows)


def followed(number=2000, seeds=(3, 5)):
    """How often "stress goes with risk" is found where each curve of stress is that of risk."""
    found = []
    for name, shape in SHAPES.items():
        for k in seeds:
            rng = np.random.default_rng(0)
            values = made_up(replace(shape, seeds=k), number, rng, FOLLOWS)
            share = (decided(values, shape.images)[WITH_RISK] == 1).mean()
            found.append({"study": name, "seeds": k, "holds": share})
    return pd.DataFrame(found)
