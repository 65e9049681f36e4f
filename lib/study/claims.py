"""The source's sentences as claims, each decided by the records.

An effect is a difference or a reading with one value a seed; its interval is the t-interval at 95 %
over seeds. Values are paired by seed: minus that of p = 0, or of another augmentation, at the same
seed. An augmentation stands for the mean over its p > 0, as far as every augmentation has them at
every seed. Knows no torch.
"""

from dataclasses import dataclass, replace

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
    """A sentence, the rule that decides it, its effects in their unit, the verdict.

    `source`: whose sentence it is. `chapter`: where its measure is explained.
    """

    sentence: str
    source: str
    chapter: str
    rule: str
    unit: str
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


def balanced(table):
    """The rows of p = 0, and of those p where every augmentation has a value at every seed."""
    table = table[table.value.notna()]
    some = table[table.p > 0]
    pairs = (some.augmentation + " " + some.seed.astype(str)).rename("pair")
    counts = pairs.groupby(some.p).nunique()
    return table[(table.p == 0) | table.p.isin(counts.index[counts == pairs.nunique()])]


def planned(table, grid):
    """The rows on a profile's grid: points made beside it decide no claim."""
    on_grid = table.p.isin(grid["p"]) & table.seed.isin(grid["seed"])
    return table[on_grid & table.augmentation.isin(["none", *grid["augmentation"]])]


def augmentations(table):
    """The augmentations that claims are about: the sources speak of them one at a time."""
    return sorted(name for name in set(table["augmentation"]) - {"none"} if "+" not in name)


def versus(table, one, other, **where):
    """The effect `one` minus `other`, two augmentations' means over p > 0, paired by seed."""
    first = by_seed(table, augmentation=one, **where)
    second = by_seed(table, augmentation=other, **where)
    return effect(f"{one} - {'no augmentation' if other == 'none' else other}", first - second)


# One of the source's four attacks, named in advance: the smaller eps, where fewer networks are lost
# altogether, and the greater number of iterations.
ATTACK = {"attack": "pgd", "eps": 0.25, "steps": 100}
TALK, PAPER, BOOK = "talk", "paper", "this book"
LIMIT = 1 - 1e-9  # of a correlation whose Fisher z is finite
FEWEST = 5  # networks of a seed: ranks of fewer agree by chance from seed to seed
SEEN = 0.1  # of the neighbours: the stress from which on a radius tells networks apart
PERFORMANCE, STRESS, INFLUENCE = "03_performance", "04_stress", "05_influence"
RISK = "risk under L2 PGD, eps 0.25, 100 iterations"
# The tables that decide, in the order of `evaluate`'s arguments.
TABLES = ("performance", "distances", "stress", "influence")


def evaluate(performance, distances, stress, influence):
    """The claims decided for one profile from its tables, TABLES.

    Stress is read at the radius that `radius_that_tells` chooses. Raises ValueError if the attack
    that decides is not among the recorded ones.
    """
    performance, stress = balanced(performance), balanced(stress)
    if performance[(performance[list(ATTACK)] == pd.Series(ATTACK)).all(axis=1)].empty:
        raise ValueError(f"no risk is recorded for the attack that decides the claims, {ATTACK}")
    radius = {"centre": "clean", "eps": radius_that_tells(stress)}
    ratios = influence[influence.measure == "log ratio"]
    return [
        _classic(performance, "most useful", "clean error", attack="none"),
        _classic(performance, "most robust", RISK, **ATTACK),
        _boundary(balanced(distances[distances.measure == "mean distance"])),
        _accuracy_is_not_robustness(performance),
        _stress_of_the_vulnerable(performance, stress, radius),
        _stress_goes_with_risk(performance, stress, radius),
        *_influences(ratios[~ratios.method.isin(["identity", "gradient norm"])]),
    ]


def radius_that_tells(stress):
    """The smallest radius around clean points at which networks without augmentation are stressed.

    That is, at which they change the label of SEEN of the neighbours, on average; the largest
    where none is. In d dimensions a random direction has only 1 / sqrt(d) of its length across a
    boundary, so it takes a far larger radius than an attack; far beyond, every network errs.
    """
    clean = stress[stress.centre == "clean"]
    means = clean[clean.augmentation == "none"].groupby("eps").value.mean()
    enough = means.index[means >= SEEN]
    return enough.min() if len(enough) else clean.eps.max()


def _classic(performance, adjective, measure, **where):
    effects = _classic_versus_all(performance, **where)
    sentence = f"The expert's (classic) augmentation is the {adjective}."
    rule = f"{measure}: classic minus none, and minus every other, is below zero"
    unit = f"difference in {measure}"
    return Claim(sentence, TALK, PERFORMANCE, rule, unit, effects, verdict(effects, -1))


def _boundary(distances):
    """The most robust once more, by a reading that does not saturate as a risk at one eps does."""
    effects = _classic_versus_all(distances)
    sentence = "With the expert's (classic) augmentation the decision boundary is farthest away."
    measure = f"mean L2 distance to the boundary, up to {distances.upto.max():g}"
    rule = f"{measure}: classic minus none, and minus every other, is above zero"
    unit = f"difference in {measure}"
    return Claim(sentence, BOOK, PERFORMANCE, rule, unit, effects, verdict(effects, 1))


def _classic_versus_all(table, **where):
    others = [name for name in ("none", *augmentations(table)) if name != "classic"]
    return tuple(versus(table, "classic", other, **where) for other in others)


def _accuracy_is_not_robustness(performance):
    """A claim of existence: one augmentation with lower error and higher risk is enough."""
    names, effects, signs = augmentations(performance), [], []
    for name in names:
        clean = versus(performance, name, "none", attack="none")
        risk = versus(performance, name, "none", **ATTACK)
        effects += [
            replace(clean, label=f"clean error, {clean.label}"),
            replace(risk, label=f"risk, {risk.label}"),
        ]
        signs.append((clean.sign, risk.sign))
    # Refuted if each is known to be no example, and one to lower both.
    refuted = (-1, -1) in signs and all(clean == 1 or risk == -1 for clean, risk in signs)
    decided = HOLDS if (-1, 1) in signs else FAILS if refuted else OPEN
    sentence = "Better accuracy is not always accompanied by lower risk under attack."
    rule = (
        f"one augmentation is enough that lowers the clean error and raises the {RISK}; it does "
        "not hold if every augmentation is known to do otherwise"
    )
    unit = "difference in share of test images"
    return Claim(sentence, PAPER, PERFORMANCE, rule, unit, tuple(effects), decided)


def _stress_of_the_vulnerable(performance, stress, radius):
    """An augmentation is not robust if its risk is above that of none by the whole interval."""
    names = augmentations(performance)
    weak = [name for name in names if versus(performance, name, "none", **ATTACK).sign == 1]
    effects = [versus(stress, name, "none", **radius) for name in weak]
    sentence = "Augmentations that are not robust raise the stress around test points."
    rule = f"{_stress_at(radius)}: each augmentation of higher {RISK}, minus none, is above zero"
    unit = "difference in stress"
    return Claim(sentence, TALK, STRESS, rule, unit, tuple(effects), verdict(effects, 1))


def _stress_goes_with_risk(performance, stress, radius):
    effects = [rank_correlation(stress, performance, radius)]
    rule = f"rank correlation over the grid of {_stress_at(radius)} with {RISK}, above zero"
    unit = "rank correlation, -1 to 1"
    return Claim(
        "Stress goes with risk.", TALK, STRESS, rule, unit, tuple(effects), verdict(effects, 1)
    )


def _stress_at(radius):
    return f"stress around clean test points at eps {radius['eps']:g}"


def _influences(ratios):
    """Three claims on the log ratio of mean |I| of augmented over real points."""
    tests = [(a, test) for a in augmentations(ratios) for test in ("clean", "adversarial")]

    parts = {name: balanced(part) for name, part in ratios.groupby("reading")}

    def reading(name, augmentation, test):
        return by_seed(parts[name], augmentation=augmentation, test=test)

    def each(values):
        return tuple(effect(f"{a}, {test} test points", values(a, test)) for a, test in tests)

    groups = each(lambda a, test: reading("groups", a, test))
    excess = each(lambda a, test: reading("pairs", a, test) - reading("control", a, test))
    more = tuple(
        effect(a, reading("groups", a, "adversarial") - reading("groups", a, "clean"))
        for a in augmentations(ratios)
    )
    ratio = "log ratio of mean |I|, augmented over real points"
    return [
        Claim(
            "Models are more influenced by augmented than by real data.",
            TALK,
            INFLUENCE,
            f"{ratio}, above zero",
            "natural log of a ratio",
            groups,
            verdict(groups, 1),
        ),
        Claim(
            "Augmented twins outweigh their originals beyond what their being new explains.",
            BOOK,
            INFLUENCE,
            "the log ratio over pairs (an example, its augmented twin) minus the same pairs' in "
            "the model trained without augmentation, above zero",
            "difference of natural logs of ratios",
            excess,
            verdict(excess, 1),
        ),
        Claim(
            "On adversarial test points augmented data weigh even more.",
            PAPER,
            INFLUENCE,
            f"{ratio}: adversarial minus clean test points, above zero",
            "difference of natural logs of ratios",
            more,
            verdict(more, 1),
        ),
    ]


def rank_correlation(stress, performance, radius, attack=None):
    """Spearman's correlation of stress and risk over the points of a seed, as an effect.

    A seed with fewer than FEWEST points has none. Its interval is taken of Fisher's z and
    transformed back, so that it stays within [-1, 1].
    """
    attack = ATTACK if attack is None else attack
    cell = ["augmentation", "p", "seed"]
    first, second = stress, performance
    for column, wanted in radius.items():
        first = first[first[column] == wanted]
    for column, wanted in attack.items():
        second = second[second[column] == wanted]
    both = first.merge(second, on=cell, suffixes=("_stress", "_risk"))
    found = {
        seed: np.arctanh(np.clip(spearman(part.value_stress, part.value_risk), -LIMIT, LIMIT))
        for seed, part in both.groupby("seed")
        if len(part) >= FEWEST
    }
    z = effect("Spearman correlation", pd.Series(found, dtype=float))
    return replace(z, value=np.tanh(z.value), low=np.tanh(z.low), high=np.tanh(z.high))


def spearman(one, other):
    return stats.spearmanr(one, other).statistic


def frame(claims):
    """The claims as a table: claim, verdict, whose sentence it is."""
    rows = [{"claim": c.sentence, "verdict": c.verdict, "source": c.source} for c in claims]
    return pd.DataFrame(rows)


def effects_frame(claim):
    """The effects of a claim as a table: label, value, low, high, seeds, verdict."""
    words = {-1: "below zero", 0: "undecided", 1: "above zero"}
    return pd.DataFrame([{**vars(e), "verdict": words[e.sign]} for e in claim.effects])
