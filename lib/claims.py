"""The source's sentences as claims, each decided by the records.

An effect is a difference or a reading with one value a seed; its interval is the t-interval at 95 %
over seeds. Values are paired by seed: minus that of p = 0, or of another augmentation, at the same
seed. An augmentation stands for the mean over its p > 0. Knows no torch.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Effect:
    """The mean over seeds of a paired reading and its 95 % interval (infinite for one seed)."""

    label: str
    value: float
    low: float
    high: float
    seeds: int

    @property
    def sign(self):
        """-1 or 1 if the whole interval lies on that side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Claim:
    """A sentence of the source with the rule that decides it, its effects and the verdict."""

    sentence: str
    measure: str
    effects: tuple[Effect, ...]
    verdict: str


def effect(label, by_seed):
    """The effect of a Series indexed by seed; missing values are left out."""
    values = np.asarray(pd.Series(by_seed).dropna(), float)
    n = len(values)
    if n == 0:
        return Effect(label, np.nan, -np.inf, np.inf, 0)
    mean = values.mean()
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.inf
    return Effect(label, mean, mean - half, mean + half, n)


def verdict(effects, side):
    """All effects on the claimed `side` (-1 or 1): holds; one on the other: does not hold."""
    signs = [e.sign for e in effects]
    if signs and all(sign == side for sign in signs):
        return HOLDS
    return FAILS if -side in signs else OPEN


def by_seed(table, **where):
    """The values of the rows that match `where`, averaged over p, as a Series over seeds."""
    for column, wanted in where.items():
        table = table[table[column] == wanted]
    return table.groupby("seed")["value"].mean()


def augmentations(table):
    return sorted(set(table["augmentation"]) - {"none"})


def versus(table, one, other, **where):
    """The effect `one` minus `other`, two augmentations' means over p > 0, paired by seed."""
    first = by_seed(table, augmentation=one, **where)
    second = by_seed(table, augmentation=other, **where)
    return effect(f"{one} - {'no augmentation' if other == 'none' else other}", first - second)


# The strongest of the source's attacks at the eps where an undefended network is not yet lost.
ATTACK = {"attack": "pgd", "eps": 0.25, "steps": 100}


def evaluate(performance, stress, influence):
    """The claims of the source decided for one profile from its three tables."""
    names = augmentations(performance)
    others = [name for name in ("none", *names) if name != "classic"]
    clean = {name: versus(performance, name, "none", attack="none") for name in names}
    risk = {name: versus(performance, name, "none", **ATTACK) for name in names}
    shown = f"risk under L2 PGD, eps {ATTACK['eps']}, {ATTACK['steps']} iterations"
    claims = []

    for adjective, measure, where in (
        ("most useful", "clean error", {"attack": "none"}),
        ("most robust", shown, ATTACK),
    ):
        effects = [versus(performance, "classic", other, **where) for other in others]
        claims.append(_claim(f"The expert's (classic) augmentation is the {adjective}.",
                             f"{measure}: classic minus every other, below zero", effects, -1))  # fmt: skip

    # A claim of existence: one augmentation with lower error and higher risk is enough.
    better = [name for name in names if clean[name].sign == -1]
    if any(risk[name].sign == 1 for name in better):
        decided = HOLDS
    else:
        every = better and all(risk[name].sign == -1 for name in better)
        decided = FAILS if every and len(better) == len(names) else OPEN
    effects = []
    for name in names:
        effects += [_relabel(clean[name], f"clean error, {clean[name].label}"),
                    _relabel(risk[name], f"risk, {risk[name].label}")]  # fmt: skip
    claims.append(Claim(
        "Better accuracy is not always accompanied by lower risk under attack.",
        f"clean error and {shown}: an augmentation lowers the first and raises the second",
        tuple(effects), decided,
    ))  # fmt: skip

    # Those whose risk is above that of no augmentation, by the whole interval, are not robust.
    radius = {"centre": "clean", "eps": stress.loc[stress.centre == "clean", "eps"].max()}
    measure = f"prediction-change stress around clean test points, eps {radius['eps']:g}"
    effects = [versus(stress, name, "none", **radius) for name in names if risk[name].sign == 1]
    claims.append(_claim("Augmentations that are not robust raise the stress around test points.",
                         f"{measure}: minus no augmentation, above zero, for each augmentation "
                         "whose risk is above that of none", effects, 1))  # fmt: skip
    claims.append(_claim("Stress goes with risk.",
                         f"rank correlation over the grid of {measure} with {shown}, above zero",
                         [rank_correlation(stress, performance, radius)], 1))  # fmt: skip

    ratios = influence[influence.measure == "log ratio"]
    method = next(m for m in ratios.method.unique() if m not in ("identity", "gradient norm"))
    ratios = ratios[ratios.method == method]
    groups, pairs, control = (
        ratios[ratios.reading == reading] for reading in ("groups", "pairs", "control")
    )
    effects = [effect(f"{name}, {test} test points", by_seed(groups, augmentation=name, test=test))
               for name in names for test in ("clean", "adversarial")]  # fmt: skip
    claims.append(_claim("Models are more influenced by augmented than by real data.",
                         "log ratio of mean |I|, augmented over real points, above zero",
                         effects, 1))  # fmt: skip
    effects = [effect(f"{name}, {test} test points",
                      by_seed(pairs, augmentation=name, test=test)
                      - by_seed(control, augmentation=name, test=test))
               for name in names for test in ("clean", "adversarial")]  # fmt: skip
    claims.append(_claim("That influence is owed to training on them.",
                         "log ratio over pairs (an example and its augmented twin), minus the same "
                         "pairs' in the model without augmentation, above zero", effects, 1))  # fmt: skip
    effects = [effect(name, by_seed(groups, augmentation=name, test="adversarial")
                      - by_seed(groups, augmentation=name, test="clean")) for name in names]  # fmt: skip
    claims.append(_claim("For adversarial test points even more so.",
                         "that log ratio for adversarial minus for clean test points, above zero",
                         effects, 1))  # fmt: skip
    return claims


def rank_correlation(stress, performance, radius, attack=None):
    """Spearman's correlation of stress and risk over the points of a seed, as an effect."""
    attack = ATTACK if attack is None else attack
    cell = ["augmentation", "p", "seed"]
    first, second = stress, performance
    for column, wanted in radius.items():
        first = first[first[column] == wanted]
    for column, wanted in attack.items():
        second = second[second[column] == wanted]
    both = first.merge(second, on=cell, suffixes=("_stress", "_risk"))
    found = {
        seed: stats.spearmanr(part.value_stress, part.value_risk).statistic
        for seed, part in both.groupby("seed")
        if len(part) > 2
    }
    return effect("Spearman correlation", pd.Series(found, dtype=float))


def frame(claims):
    """The claims as a table: sentence, measure, verdict."""
    return pd.DataFrame([{"claim": c.sentence, "decided by": c.measure, "verdict": c.verdict}
                         for c in claims])  # fmt: skip


def effects_frame(claim):
    """The effects of a claim as a table: label, value, low, high, seeds, verdict."""
    words = {-1: "below zero", 0: "undecided", 1: "above zero"}
    return pd.DataFrame([{**vars(e), "verdict": words[e.sign]} for e in claim.effects])


def _claim(sentence, measure, effects, side):
    return Claim(sentence, measure, tuple(effects), verdict(effects, side))


def _relabel(e, label):
    return Effect(label, e.value, e.low, e.high, e.seeds)
