"""The source's sentences as claims, each decided by the records.

An effect is a difference or a reading with one value a seed. Values are paired by seed: minus that
of p = 0, or of another augmentation, at the same seed. An augmentation stands for the mean over its
p > 0, as far as every augmentation has them at every seed. `verdicts` says how effects decide.
Knows no torch.
"""

from dataclasses import dataclass, replace

import pandas as pd

from lib.study import verdicts
from lib.study.verdicts import FAILS, HOLDS, LEVEL, OPEN, ROUNDING, Effect, effect, verdict

__all__ = ["FAILS", "HOLDS", "OPEN"]


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


def by_seed(table, **where):
    """The values of the rows that match `where`, averaged over p, as a Series over seeds."""
    return _where(table, where).groupby("seed")["value"].mean()


def _where(table, where):
    for column, wanted in where.items():
        table = table[table[column] == wanted]
    return table


def grain(table):
    """The least change of a reading that says anything: of a share, one of its test images.

    Of other readings what single precision leaves: of a log ratio's ratio, or of the largest.
    """
    if set(table.measure) <= SHARES:
        return 1 / table.examples.min()
    return ROUNDING * (1 if set(table.measure) == {"log ratio"} else table.value.abs().max())


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
    """The augmentations that the sources' claims are about: they speak of them one at a time.

    Adversarial training is a yardstick beside them.
    """
    names = set(table["augmentation"]) - {"none", ADVERSARIAL}
    return sorted(name for name in names if "+" not in name)


def versus(table, one, other, **where):
    """The effect `one` minus `other`, two augmentations' means over p > 0, paired by seed."""
    rows = _where(table, where)
    difference = by_seed(rows, augmentation=one) - by_seed(rows, augmentation=other)
    label = f"{one} - {'no augmentation' if other == 'none' else other}"
    return effect(label, difference, grain(rows))


# One of the source's four attacks, named in advance: the smaller eps, where fewer networks are lost
# altogether, and the greater number of iterations.
ATTACK = {"attack": "pgd", "eps": 0.25, "steps": 100}
ADVERSARIAL = "adversarial"  # as every profile calls it
TALK, PAPER, BOOK = "talk", "paper", "this book"
SHARES = {"clean error", "risk under attack", "prediction-change stress"}  # of test images
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
    names = augmentations(performance)
    clean = [versus(performance, name, "none", attack="none") for name in names]
    risk = [versus(performance, name, "none", **ATTACK) for name in names]
    both = [[[e.value for e in part], [e.p for e in part]] for part in (clean, risk)]
    decided = verdicts.WORDS[int(verdicts.decide_example(*both))]
    effects = [
        replace(e, label=f"{what}, {e.label}")
        for pair in zip(clean, risk, strict=True)
        for what, e in zip(("clean error", "risk"), pair, strict=True)
    ]
    sentence = "Better accuracy is not always accompanied by lower risk under attack."
    rule = (
        f"one augmentation is enough that lowers the clean error and raises the {RISK}; it does "
        "not hold if every augmentation is known to do otherwise; each is judged at "
        f"{LEVEL / max(1, len(names)):.1%}, {LEVEL:.0%} shared by {len(names)}"
    )
    unit = "difference in share of test images"
    return Claim(sentence, PAPER, PERFORMANCE, rule, unit, tuple(effects), decided)


def _stress_of_the_vulnerable(performance, stress, radius):
    """An augmentation is not robust if its risk is above that of none: of all, by chance, none."""
    names = augmentations(performance)
    risks = [versus(performance, name, "none", **ATTACK) for name in names]
    weak = [a for a, e in zip(names, risks, strict=True) if e.known(LEVEL / len(names)) == 1]
    effects = [versus(stress, name, "none", **radius) for name in weak]
    sentence = "Augmentations that are not robust raise the stress around test points."
    rule = f"{_stress_at(radius)}: each augmentation of higher {RISK}, minus none, is above zero"
    unit = "difference in stress"
    return Claim(sentence, TALK, STRESS, rule, unit, tuple(effects), verdict(effects, 1))


def _stress_goes_with_risk(performance, stress, radius):
    found, seeds = rank_correlations(stress, performance, radius)
    label = f", {found[0]:+.2f}, minus that of all {len(found)} pairings" if seeds > 1 else ""
    effects = (verdicts.beyond(f"Spearman correlation{label}", found, seeds),)
    rule = (
        f"rank correlation of {_stress_at(radius)} with {RISK}: higher than in all but {LEVEL:.0%} "
        "of the ways to pair the augmentations' curves of stress with those of risk, of which the "
        "true one counts as one. It is never refuted: so few ways leave no room for that"
    )
    unit = "difference in rank correlation"
    sentence = "Stress goes with risk."
    return Claim(sentence, TALK, STRESS, rule, unit, effects, verdict(effects, 1))


def _stress_at(radius):
    return f"stress around clean test points at eps {radius['eps']:g}"


def _influences(ratios):
    """Two claims on the log ratio of mean |I| of augmented over real points."""
    groups = balanced(ratios[ratios.reading == "groups"])
    names = augmentations(ratios)

    def reading(name, test):
        return by_seed(groups, augmentation=name, test=test)

    each = tuple(
        effect(f"{name}, {test} test points", reading(name, test))
        for name in names
        for test in ("clean", "adversarial")
    )
    more = tuple(
        effect(name, reading(name, "adversarial") - reading(name, "clean")) for name in names
    )
    ratio = "log ratio of mean |I|, augmented over real points"
    return [
        Claim(
            "Models are more influenced by augmented than by real data.",
            TALK,
            INFLUENCE,
            f"{ratio}, above zero",
            "natural log of a ratio",
            each,
            verdict(each, 1),
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


def rank_correlations(stress, other, radius, where=None):
    """Spearman's correlation of stress with another reading, and that of all pairings; seeds.

    `verdicts.pairings` over augmentations and p, of means over seeds that have all of them; `where`
    selects the other reading, by default the risk that decides. Compositions are left out: made
    of other augmentations, they would count these twice.
    """
    parts = [_where(stress, radius), _where(other, where or ATTACK)]
    names = augmentations(pd.concat(parts))
    wide = [
        part[part.augmentation.isin(["none", *names])]
        .pivot_table("value", ["augmentation", "p"], "seed")
        .dropna(axis=1)
        for part in parts
    ]
    seeds = wide[0].columns.intersection(wide[1].columns)
    # At other seeds: a network that came out badly is bad in both, whatever its augmentation.
    means = wide[0][seeds[::2]].mean(axis=1), wide[1][seeds[1::2]].mean(axis=1)
    means = pd.concat(means, axis=1, join="inner").dropna()
    curves = [means[k].drop("none", errors="ignore").unstack("p").dropna(axis=1) for k in means]
    shared = means.loc["none"].iloc[0] if "none" in means.index else None
    return verdicts.pairings(*(curve.to_numpy() for curve in curves), shared), len(seeds)


def frame(claims):
    """The claims as a table: claim, verdict, whose sentence it is."""
    rows = [{"claim": c.sentence, "verdict": c.verdict, "source": c.source} for c in claims]
    return pd.DataFrame(rows)


def effects_frame(claim):
    """The effects of a claim as a table: label, value, low, high, seeds, p, verdict."""
    return verdicts.frame(claim.effects)
