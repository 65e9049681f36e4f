"""The sentences of the talk on modelling adversarial training, each decided by records.

An effect has one value a seed, and `verdicts` says how effects decide. The experiments are those of
`notebooks/experiments/`; each function takes the table of one. What the talk shows as a figure,
without a sentence, is a sentence of this book's. Knows no torch.
"""

import numpy as np

from lib.study.claims import BOOK, Claim
from lib.study.verdicts import ROUNDING, effect, verdict

MODELLING = "talk on modelling"
EXAMPLES, TRAINING, MODEL = (
    "08_adversarial_examples", "09_adversarial_training", "10_modelling")  # fmt: skip
EPS = 0.1  # Linf, of the linear networks: named in advance; the talk states none
FAR = 0.2  # of attacks through surrogates
BENT = 0.15  # of adversarial training of a small network, and of its judges
CLOSE = {"R": 0.01, "b": 0.04}  # how near is near enough, for a stream of 1,000 dimensions
EARLY = 40  # learning time at which the standard committee has left its plateau
END = 100  # learning time of the talk's scenarios


def by_seed(table, **where):
    """The one value at each seed of the rows that match `where`, as a Series."""
    for column, wanted in where.items():
        table = table[table[column] == wanted]
    twice = table.seed[table.seed.duplicated()]
    if len(twice):
        raise ValueError(f"several rows of seed {twice.iloc[0]} match {where}")
    return table.set_index("seed").value


def _claim(sentence, source, chapter, rule, unit, effects, side=1):
    effects = tuple(effects)
    return Claim(sentence, source, chapter, rule, unit, effects, verdict(effects, side))


def linear(table):
    """Claims on the linear networks of the experiment three_seven."""
    grain = 1 / table.examples.min()
    plain = table[table.weight_decay == 0]
    kinds = sorted(plain.eps_train.unique())

    def risk(eps_train, eps, attack="fgsm", **where):
        return by_seed(plain, measure="risk", eps_train=eps_train, eps=eps, attack=attack, **where)

    def steps(eps_train, measure):
        """The smallest step of a curve over eps, at each seed."""
        rows = plain[(plain.measure == measure) & (plain.attack == "fgsm")]
        rows = rows[rows.eps_train == eps_train].pivot(index="seed", columns="eps", values="value")
        return rows.diff(axis=1).min(axis=1)

    decayed = sorted(set(table.weight_decay))[-1]
    regularised = by_seed(
        table, measure="risk", attack="fgsm", eps=EPS, eps_train=0, weight_decay=decayed
    )
    robust = EPS if EPS in kinds else kinds[-1]
    return [
        _claim(
            "Perturbing all test samples drives the error of a linear classifier to 40 %.",
            MODELLING, EXAMPLES,
            f"risk under the fast gradient sign method at eps {EPS:g}, minus 40 %, and minus that "
            "under random signs, above zero",
            "difference of shares",
            [effect("minus 40 %", risk(0, EPS) - 0.4, grain),
             effect("minus random signs", risk(0, EPS) - risk(0, EPS, "random signs"), grain)],
        ),
        _claim(
            "The adversarial loss rises with eps.",
            MODELLING, EXAMPLES,
            "the smallest step of the loss under attack from one eps to the next, above zero, for "
            "each way of training",
            "nats",
            [effect(f"trained at eps {kind:g}", steps(kind, "loss"), ROUNDING) for kind in kinds],
        ),
        _claim(
            "Adversarial training makes a linear classifier robust.",
            MODELLING, TRAINING,
            f"risk at eps {EPS:g}: trained under attack minus standard, below zero",
            "difference of shares",
            [effect(f"trained at eps {kind:g}", risk(kind, EPS) - risk(0, EPS), grain)
             for kind in kinds if kind > 0],
            side=-1,
        ),
        _claim(
            "It costs clean error.",
            BOOK, TRAINING,
            "clean error: trained under attack minus standard, above zero",
            "difference of shares",
            [effect(f"trained at eps {kind:g}", risk(kind, 0) - risk(0, 0), grain)
             for kind in kinds if kind > 0],
        ),
        _claim(
            "Weight decay does not do what adversarial training does.",
            BOOK, TRAINING,
            f"risk at eps {EPS:g}: weight decay {decayed:g} minus training at eps {robust:g}, "
            "above zero",
            "difference of shares",
            [effect("decay - adversarial", regularised - risk(robust, EPS), grain)],
        ),
    ]  # fmt: skip


def surrogates(table):
    """The claim on networks that imitate another, of the experiment transfer."""
    grain = 1 / table.examples.min()

    def gain(target):
        rows = table[(table.measure == "risk") & (table.eps == FAR) & (table.target == target)]
        through = by_seed(rows[rows.attack == "pgd"], by="several of its kind")
        return through - by_seed(rows, by="random signs")

    return [
        _claim(
            "Attacks on a surrogate that was trained on a network's labels fool the network.",
            MODELLING, EXAMPLES,
            f"risk at eps {FAR:g} through several surrogates, minus that under random signs, above "
            "zero",
            "difference of shares",
            [effect(target, gain(target), grain) for target in sorted(set(table.target))],
        )
    ]  # fmt: skip


def networks(table):
    """Claims on the small convolutional network of the experiment adversarial_training."""
    grain = 1 / table[table.measure == "risk"].examples.min()

    def risk(method, attack, eps=BENT):
        return by_seed(table, measure="risk", method=method, attack=attack, eps=eps)

    def gap(method):
        return risk(method, "pgd") - risk(method, "fgsm")

    return [
        _claim(
            "Training on the examples of projected gradient descent makes a network robust.",
            MODELLING, TRAINING,
            f"risk under PGD at eps {BENT:g}: PGD training minus standard, below zero",
            "difference of shares",
            [effect("PGD training", risk("pgd", "pgd") - risk("standard", "pgd"), grain)],
            side=-1,
        ),
        _claim(
            "Training with one step leaves more risk than with several.",
            BOOK, TRAINING,
            f"risk under PGD at eps {BENT:g}: FGSM training minus PGD training, above zero",
            "difference of shares",
            [effect("FGSM - PGD training", risk("fgsm", "pgd") - risk("pgd", "pgd"), grain)],
        ),
        _claim(
            "Its own attack overrates a network that was trained with one step.",
            BOOK, TRAINING,
            f"risk at eps {BENT:g} under PGD minus that under FGSM, after FGSM training minus "
            "after PGD training, above zero",
            "difference of shares",
            [effect("FGSM - PGD training", gap("fgsm") - gap("pgd"), grain)],
        ),
    ]  # fmt: skip


def streams(table):
    """Claims on the experiment online_learning: the equations, and the talk's two scenarios."""
    last = table[(table.n == table.n.max()) & (table.alpha == END)]

    def value(measure, scenario, prior, source="stream"):
        return by_seed(last, measure=measure, scenario=scenario, prior=prior, source=source)

    def change(measure, prior):
        return value(measure, "adversarial", prior) - value(measure, "standard", prior)

    def near(measure):
        """How far the mean stays on either side within what is near enough: two effects each."""
        cells = last[["scenario", "prior"]].drop_duplicates().sort_values(["scenario", "prior"])
        for scenario, prior in cells.itertuples(index=False):
            where = measure, scenario, prior
            off = value(*where) - value(*where, source="equations")
            for side, word in ((1, "not below"), (-1, "not above")):
                label = f"{measure}, {scenario}, prior {prior:g}: {word}"
                yield effect(label, CLOSE[measure] + side * off)

    return [
        _claim(
            "For many dimensions the order parameters follow the differential equations.",
            MODELLING, MODEL,
            f"streams minus equations at time {END}, within {CLOSE['R']:g} in R and {CLOSE['b']:g} "
            "in b on either side, for every rule and prior",
            "what is left of the tolerance",
            [*near("R"), *near("b")],
        ),
        _claim(
            "With classes of one size, adversarial training lowers both errors.",
            BOOK, MODEL,
            f"adversarial minus standard training at prior .5 and time {END}, below zero",
            "difference of shares",
            [effect(name, change(name, 0.5)) for name in ("error", "adversarial error")],
            side=-1,
        ),
        _claim(
            "With classes of two sizes, it trades one error for the other.",
            BOOK, MODEL,
            f"adversarial minus standard training at prior .7 and time {END}: error, and "
            "adversarial error with its sign turned, above zero",
            "difference of shares",
            [effect("error", change("error", 0.7)),
             effect("minus adversarial error", -change("adversarial error", 0.7))],
        ),
    ]  # fmt: skip


def committees(table):
    """The claim on two layers, of the experiment committee."""
    strong = 1 if (table.eps == 1).any() else table.eps.max()
    early = table[(table.measure == "error") & (table.alpha == EARLY)]
    late = by_seed(early, eps=strong) - by_seed(early, eps=0)
    return [
        _claim(
            "A strong attack in training delays the learning of two layers.",
            BOOK, MODEL,
            f"error at time {EARLY}: trained at eps {strong:g} minus standard, above zero",
            "difference of shares",
            [effect(f"trained at eps {strong:g}", late, 1 / table.examples.max())],
        )
    ]  # fmt: skip


def in_words(one, unit="points", digits=1):
    """An effect in words: its value and interval, of shares in percentage points."""
    scale = 100 if unit == "points" else 1
    value, low, high = (f"{scale * end:+.{digits}f}" for end in (one.value, one.low, one.high))
    if not np.isfinite([one.low, one.high]).all():
        return f"{value} {unit} (one seed: no interval)"
    return f"{value} {unit} (95 % interval {low} to {high})"
