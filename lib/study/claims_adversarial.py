"""Adversarial training beside the augmentations of the study: sentences of this book, decided.

Read where it is applied to every example, p = 1, at the radius and steps of the strongest recorded
attack; values are paired by seed. Knows no torch.
"""

from lib.study import claims
from lib.study.claims import ADVERSARIAL, BOOK, Claim, by_seed, grain
from lib.study.verdicts import effect, verdict

CHAPTER = "09_adversarial_training"


def evaluate(performance, distances, stress, influence):
    """The claims for one profile from its tables; none where it has no adversarial training."""
    if ADVERSARIAL not in set(performance.augmentation):
        return []
    attacked = performance[performance.measure == "risk under attack"]
    strongest = {"eps": attacked.eps.max(), "steps": attacked.steps.max(), "attack": "pgd"}
    at = f"L2 PGD, eps {strongest['eps']:g}, {strongest['steps']} iterations"
    radius = {"centre": "clean", "eps": claims.radius_that_tells(stress)}
    ratios = influence[(influence.measure == "log ratio") & (influence.reading == "groups")]
    ratios = ratios[~ratios.method.isin(["identity", "gradient norm"])]
    return [
        _claim(
            "Adversarial training leaves less risk than every other augmentation.",
            f"risk under {at}: adversarial minus every other, below zero", "difference in risk",
            [_versus(performance, name, **strongest) for name in others(performance)], -1,
        ),
        _claim(
            "It puts the decision boundary farther away than every other augmentation.",
            "mean L2 distance to the boundary: adversarial minus every other, above zero",
            "difference in distance",
            [_versus(distances, name, measure="mean distance") for name in others(distances)], 1,
        ),
        _claim(
            "It costs clean error.",
            "clean error: adversarial minus none, above zero", "difference in clean error",
            [_versus(performance, "none", attack="none")], 1,
        ),
        _claim(
            "It lowers the stress around test points.",
            f"stress at eps {radius['eps']:g}: adversarial minus none, below zero",
            "difference in stress", [_versus(stress, "none", **radius)], -1,
        ),
        _claim(
            "Networks are more influenced by attacked than by real data.",
            "log ratio of mean |I|, attacked over real points, at every p below 1 that leaves real "
            "ones: above zero", "natural log of a ratio",
            [effect(f"{test} test points", by_seed(ratios[ratios.value.notna()],
                                                   augmentation=ADVERSARIAL, test=test))
             for test in ("clean", "adversarial")], 1,
        ),
    ]  # fmt: skip


def others(table):
    """What adversarial training is compared with: no augmentation, each alone, and compositions."""
    return ["none", *sorted(set(table.augmentation) - {"none", ADVERSARIAL})]


def _versus(table, other, **where):
    """Adversarial training at p = 1 minus another augmentation at p = 1, or none, by seed."""
    for column, wanted in where.items():
        table = table[table[column] == wanted]
    own = by_seed(table, augmentation=ADVERSARIAL, p=1)
    beside = by_seed(table, augmentation=other, p=0 if other == "none" else 1)
    return effect(f"minus {'no augmentation' if other == 'none' else other}",
                  (own - beside).dropna(), grain(table))  # fmt: skip


def _claim(sentence, rule, unit, effects, side):
    return Claim(sentence, BOOK, CHAPTER, rule, unit, tuple(effects), verdict(effects, side))
