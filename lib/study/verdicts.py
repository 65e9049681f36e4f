"""How a verdict is made: from values by seed to "holds", "does not hold" or "undecided".

A value is a paired reading of a study at one seed. Its mean over seeds is an *effect*, with the
t-interval at 95 %, but never a narrower one than the test images resolve. What a verdict takes:

- `decide`, for all of several effects on one side. Holding needs each at 95 %, and no correction
  (R. L. Berger's intersection-union test). Failing needs Simes' test of all together, so that a
  study of no effect fails in 2.5 % of cases however many there are.
- `decide_example`, for one augmentation that does what others need not.
- `pairings`, for two readings that go together over augmentations. Seeds repeat augmentations,
  they add none: here the unit is the augmentation.

Arrays may have leading axes, for many studies at once. Knows no torch.
"""

from dataclasses import dataclass
from itertools import permutations
from math import factorial

import numpy as np
import pandas as pd
from scipy import stats

HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided"
WORDS = {1: HOLDS, -1: FAILS, 0: OPEN}
LEVEL = 0.05  # of an interval, of a verdict
ROUNDING = 1e-6  # what arithmetic in single precision leaves of a number of size 1
ENUMERATED = 7  # augmentations: all orders of more are too many, and are sampled


@dataclass(frozen=True)
class Effect:
    """The mean over seeds of a paired reading, its 95 % interval (infinite for one seed), and p.

    `p` is the smallest level at which the interval leaves zero out.
    """

    label: str
    value: float
    low: float
    high: float
    seeds: int
    p: float

    @property
    def sign(self):
        """-1 or 1 if the whole interval lies on that side of zero, else 0."""
        return self.known(LEVEL)

    def known(self, level):
        """-1 or 1 if the interval at 1 - level lies on that side of zero, else 0."""
        return int(np.sign(self.value)) if self.p <= level else 0


def judge(values, grain=ROUNDING):
    """Mean, half width of the 95 % interval, and p of `values` `[..., seeds]`; NaN is missing.

    `grain` is the least change of the reading: of a share, one test image. A mean that is worth b
    images passes McNemar's exact test on these images at best, where not one speaks against it,
    with p = 2 / 2^b: so p is never less, and six images are the fewest that decide at 5 %.
    """
    values = np.asarray(values, float)
    there = np.isfinite(values)
    n = there.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0).sum(-1) / n
        spread = np.where(there, values - mean[..., None], 0)
        error = np.sqrt((spread**2).sum(-1) / (n - 1) / n)
        p = 2 * stats.t.sf(np.abs(mean) / error, n - 1)
        half = np.maximum(stats.t.isf(LEVEL / 2, n - 1) * error, grain * np.log2(2 / LEVEL))
        p = np.fmax(p, np.minimum(1, 2 ** (1 - np.abs(mean) / grain)))
    return mean, np.where(n > 1, half, np.inf), np.where(n > 1, p, 1)


def effect(label, by_seed, grain=ROUNDING):
    """The effect of a Series indexed by seed; missing values are left out."""
    values = np.asarray(by_seed, float)
    mean, half, p = map(float, judge(values, grain))
    ends = (mean - half, mean + half) if np.isfinite(half) else (-np.inf, np.inf)
    return Effect(label, mean, *ends, int(np.isfinite(values).sum()), p)


def decide(mean, p, side, asked=True):
    """1 where all of the effects `[..., m]` lie on `side` (-1 or 1), -1 where not all do, else 0.

    `asked`, of the same shape, leaves effects out. Not all do if for some i the i-th smallest p
    of those on the other side is at most i / m of LEVEL (R. J. Simes, 1986).
    """
    mean, p = np.asarray(mean, float), np.asarray(p, float)
    asked = np.broadcast_to(asked, p.shape)
    m = asked.sum(-1)
    holds = (((np.sign(mean) == side) & (p <= LEVEL)) | ~asked).all(-1) & (m > 0)
    against = np.sort(np.where(asked & (np.sign(mean) == -side), p, np.inf), -1)
    allowed = LEVEL * np.arange(1, p.shape[-1] + 1) / np.maximum(m, 1)[..., None]
    return np.where(holds, 1, -(against <= allowed).any(-1).astype(int))


def verdict(effects, side):
    """The verdict that all effects lie on `side` (-1 or 1); undecided if there is none."""
    return WORDS[int(decide([e.value for e in effects], [e.p for e in effects], side))]


def decide_example(first, second):
    """1 if one of m augmentations lowers the first reading and raises the second, -1 if none.

    `first`, `second`: (mean, p), each `[..., m]`. Whichever it is would do, so each is judged at
    LEVEL / m. None does if each is known to do otherwise, and one to lower both.
    """
    one, other = (
        np.sign(mean) * (np.asarray(p) <= LEVEL / max(1, np.shape(p)[-1]))
        for mean, p in (first, second)
    )
    example = ((one == -1) & (other == 1)).any(-1)
    none = ((one == 1) | (other == -1)).all(-1) & ((one == -1) & (other == -1)).any(-1)
    return np.where(example, 1, -none.astype(int))


def pairings(first, second, shared=None):
    """Spearman's correlation of two readings over cells, and that of every other pairing.

    `first`, `second` `[..., augmentations, p]`; `shared` `(first, second)` `[...]` of the point at
    p = 0, which all augmentations share. In a pairing each augmentation's whole curve of the first
    reading meets the curve of one augmentation of the second: if the readings are unrelated, all
    are alike to come about, however the curves run along p. Returns `[..., pairings]`, the true
    one first; of more than ENUMERATED augmentations a sample.
    """
    shared = (None, None) if shared is None else shared
    (one, start), (other, end) = map(_ranks, (first, second), shared)
    agree = np.einsum("...ap,...bp->...ab", one, other)
    order = _orders(agree.shape[-1])
    return agree[..., np.arange(agree.shape[-1]), order].sum(-1) + (start * end)[..., None]


def _ranks(cells, shared):
    """Centred ranks of length 1 of the cells, and that of the shared one; all 0 if all are tied."""
    cells = np.asarray(cells, float)
    flat = cells.reshape(*cells.shape[:-2], -1)
    if shared is not None:
        flat = np.concatenate([flat, np.asarray(shared, float)[..., None]], -1)
    # Equal but for the last digits is equal.
    ranks = stats.rankdata(flat.round(9), axis=-1) - (flat.shape[-1] + 1) / 2
    length = np.sqrt((ranks**2).sum(-1, keepdims=True))
    ranks = np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0)
    n = cells.shape[-2] * cells.shape[-1]
    return ranks[..., :n].reshape(cells.shape), ranks[..., n:].sum(-1)


def _orders(m):
    if m <= ENUMERATED:
        return np.array(list(permutations(range(m))), int)
    rng = np.random.default_rng(0)
    sample = [np.arange(m), *(rng.permutation(m) for _ in range(factorial(ENUMERATED) - 1))]
    return np.array(sample)


def chance(found):
    """The share of `pairings` `[..., pairings]` that agree at least as well as the true one."""
    return (~(found < found[..., :1] - 1e-9)).mean(-1)


def beyond(label, found, seeds):
    """The effect of `pairings`: the true one's correlation minus those of all.

    `value` is minus their mean, `low` minus the highest of them but LEVEL of all, `high` minus the
    lowest: it may be above zero, never below, since the few pairings of a study leave room for an
    error on one side only. Of one seed nothing is known.
    """
    true, ordered = found[0], np.sort(found)[::-1]
    if seeds < 2:
        return Effect(label, true - found.mean(), -np.inf, np.inf, seeds, 1.0)
    allowed = int(LEVEL * len(found) + 1e-9)
    return Effect(label, true - found.mean(), true - ordered[min(allowed, len(found) - 1)],
                  true - ordered[-1], seeds, float(chance(found)))  # fmt: skip


def frame(effects):
    """Effects as a table: label, value, low, high, seeds, p, verdict."""
    words = {-1: "below zero", 0: "undecided", 1: "above zero"}
    return pd.DataFrame([{**vars(e), "verdict": words[e.sign]} for e in effects])
