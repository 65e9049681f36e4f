"""The definition of an augmentation, decided exactly where every law is a finite table.

A *sample* is a tuple of examples; an *example* is a pair (image, label), or an image alone where
there is one class. A *random function* is a callable from a sample to the `Law` of what it returns.
Definition: Eghbal-zadeh et al. 2020.
"""

from collections import Counter
from fractions import Fraction
from itertools import permutations


class Law(dict):
    """The probabilities of finitely many outcomes: Fractions > 0 of sum one, else ValueError."""

    def __init__(self, probabilities):
        super().__init__(probabilities)
        for outcome, p in self.items():
            if not isinstance(p, Fraction) or p <= 0:
                raise ValueError(f"a probability must be a Fraction > 0, got {p!r} for {outcome!r}")
        if (total := sum(self.values())) != 1:
            raise ValueError(f"probabilities must have sum 1, got {total} for {len(self)} outcomes")


def certainly(function):
    """A function without randomness as a random function."""
    return lambda sample: Law({function(sample): Fraction(1)})


def uniform(outcomes):
    """The law of one of these with equal chances; what is listed twice is twice as likely."""
    counts = Counter(outcomes)
    return Law({outcome: Fraction(n, counts.total()) for outcome, n in counts.items()})


def product(laws):
    """The law of a tuple of independent draws, one from each law."""
    joint = {(): Fraction(1)}
    for law in laws:
        joint = {(*drawn, one): p * q for drawn, p in joint.items() for one, q in law.items()}
    return Law(joint)


def power(law, s):
    """The law of a sample: `s` independent draws."""
    return product([law] * s)


def push(A, law):
    """The law of A(S) where S has the given law and A draws independently of it."""
    total = Counter()
    for sample, p in law.items():
        for outcome, q in A(sample).items():
            total[outcome] += p * q
    return Law(total)


def compose(A, B):
    """A after B, each with draws of its own."""
    return lambda sample: push(A, B(sample))


def marginals(law):
    """The laws of the components of a random tuple."""
    components = range(len(next(iter(law))))
    return [push(certainly(lambda drawn, i=i: drawn[i]), law) for i in components]


def dominates(law, other):
    """Whether `law` can show all that `other` can: its support contains the other's."""
    return law.keys() >= other.keys()


def independent(law):
    """Whether the components of a random tuple are mutually independent."""
    return law == product(marginals(law))


def decide(A, Q, s):
    """What holds of A(S) for a sample S of `s` independent examples of law `Q`: {condition: bool}.

    "independent": its outputs are, over S and the draws of A; "independent given S": over the draws
    of A alone; "dominates": the law of each image, that of the images of Q. An "augmentation" is,
    by definition, what is independent and dominates.
    """
    S = power(Q, s)
    out = push(A, S)
    images = [push(certainly(_image), law) for law in (Q, *marginals(out))]
    found = {
        "independent": independent(out),
        "independent given S": all(independent(A(sample)) for sample in S),
        "dominates": all(dominates(law, images[0]) for law in images[1:]),
    }
    return found | {"augmentation": found["independent"] and found["dominates"]}


def example_by_example(functions):
    """A(S) = (A_1(s_1), ..., A_r(s_r)) with independent random functions from example to Law."""
    return lambda sample: product(A(one) for A, one in zip(functions, sample, strict=True))


def with_probability(A, p, per):
    """A with probability `p`, else the sample as it is: a coin per "example" or per "batch"."""
    coin = Law({heads: q for heads, q in ((True, p), (False, 1 - p)) if q})

    def choose(drawn, sample):
        return tuple(new if heads else old for heads, new, old in zip(*drawn, sample, strict=True))

    return lambda sample: push(
        certainly(lambda drawn: choose(drawn, sample)),
        product([_draws(coin, len(sample), per), A(sample)]),
    )


def mixup(weight, per):
    """Mixup (Zhang et al. 2018) with lambda of the law `weight`, of numbers or tuples of them.

    per="batch": one lambda and one permutation for all. per="example": a lambda for each, and a
    partner for each from the whole sample, itself included.
    """

    def blended(sample):
        s = len(sample)
        partners = power(uniform(sample), s) if per == "example" else uniform(permutations(sample))
        return push(
            certainly(lambda drawn: tuple(map(_blend, *drawn, sample))),
            product([_draws(weight, s, per), partners]),
        )

    return blended


def _image(example):
    return example[0] if isinstance(example, tuple) else example


def _draws(law, s, per):
    """The law of `s` draws: one for each "example", or the same one for all of the "batch"."""
    if per not in ("example", "batch"):
        raise ValueError(f"per must be 'example' or 'batch', got {per!r}")
    return power(law, s) if per == "example" else push(certainly(lambda one: (one,) * s), law)


def _blend(weight, partner, example):
    if isinstance(example, tuple):
        return tuple(_blend(weight, *both) for both in zip(partner, example, strict=True))
    return weight * example + (1 - weight) * partner
