"""Augmentation: a random function from a sample to a sample, closed under composition.

An augmentation acts on whole batches on any device and draws only from the generator it is given
(which lives on the sample's device). `(A @ B)(S) = A(B(S))`.
"""

from dataclasses import dataclass

import torch

from lib import checks

UNITS = ("example", "batch")


@dataclass(frozen=True)
class Sample:
    """Images `x`, float `[s, c, h, w]` in [0, 1], with `y`, float `[s, k]`, class probabilities."""

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self):
        return len(self.x)


class Augmentation:
    """A random function on samples; a subclass says in `draw` how one value of it is drawn.

    `unit` is what one coin of `with_probability` decides on: an "example" or the whole "batch".
    """

    unit = "example"

    def __call__(self, sample, generator):
        """One draw of A(sample), the sample itself left as it is. ValueError if it is not one."""
        x, y = checks.images(sample.x), sample.y
        if y.ndim != 2 or len(y) != len(x) or not y.is_floating_point():
            raise ValueError(
                f"labels of a sample must be float [{len(x)}, classes], one row of class "
                f"probabilities for each image, got {y.dtype} {list(y.shape)}"
            )
        if not ((y >= 0).all() and torch.allclose(y.sum(1), torch.ones_like(y[:, 0]), atol=1e-4)):
            raise ValueError("the rows of y must be class probabilities: >= 0, with sum 1")
        return self.draw(sample, generator)

    def draw(self, sample, generator):
        raise NotImplementedError

    def begin(self, model):
        """Hear which network is about to be trained; ValueError if it is the wrong one."""

    def __matmul__(self, inner):
        return Composition((self, inner))

    def __repr__(self):
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


class Identity(Augmentation):
    """The neutral element of composition."""

    def draw(self, sample, generator):
        return sample


class Composition(Augmentation):
    """The factors' composition, outermost first: the last factor acts on the sample first."""

    def __init__(self, factors):
        self.factors = tuple(factors)

    def draw(self, sample, generator):
        for factor in reversed(self.factors):
            sample = factor.draw(sample, generator)
        return sample

    def begin(self, model):
        for factor in self.factors:
            factor.begin(model)


class Sometimes(Augmentation):
    """An augmentation that leaves each unit as it is, bit for bit, unless its coin falls heads."""

    def __init__(self, augmentation, p, unit):
        self.augmentation, self.p, self.unit = augmentation, p, unit

    def draw(self, sample, generator):
        x, y = sample.x, sample.y
        tossed = 1 if self.unit == "batch" else len(x)
        heads = torch.rand(tossed, generator=generator, device=x.device) < self.p
        drawn = self.augmentation.draw(sample, generator)
        # A mask, never a smaller batch: shapes stay fixed, and so does what the generator gives.
        return Sample(
            torch.where(heads[:, None, None, None], drawn.x, x),
            torch.where(heads[:, None], drawn.y, y),
        )

    def begin(self, model):
        self.augmentation.begin(model)


def with_probability(augmentation, p, per=None):
    """`augmentation` applied with probability `p`, a coin for each "example" or each "batch".

    `per=None` takes the augmentation's own unit. A composition hands `p` to each of its factors,
    and every factor has a coin of its own. `p = 0` is the identity and `p = 1` the augmentation
    itself; neither tosses a coin.
    """
    p = checks.probability(p)
    if per is not None:
        checks.one_of(per, UNITS, "unit of a coin")
    if p == 1 or isinstance(augmentation, Identity):
        return augmentation
    if p == 0:
        return Identity()
    if isinstance(augmentation, Composition):
        return Composition(with_probability(factor, p, per) for factor in augmentation.factors)
    return Sometimes(augmentation, p, per or augmentation.unit)


def drawn_in_batches(augmentation, sample, generator, batch_size):
    """One draw of A over a whole sample, minibatch by minibatch in a random order, as in training.

    An augmentation whose unit is the batch would else toss one coin for all. The examples come
    back in the sample's own order.
    """
    order = torch.randperm(len(sample), generator=generator, device=sample.x.device)
    parts = [
        augmentation.draw(Sample(sample.x[batch], sample.y[batch]), generator)
        for batch in order.split(batch_size)
    ]
    back = order.argsort()
    x, y = (torch.cat([getattr(part, field) for part in parts])[back] for field in "xy")
    return Sample(x, y)


def changed(before, after):
    """Which examples are augmented: bool `[s]`, true where x or y differs from `before`."""
    return (before.x != after.x).flatten(1).any(1) | (before.y != after.y).any(1)
