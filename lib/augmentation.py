"""Augmentation: a random function from a sample to a sample, closed under composition.

An augmentation acts on whole batches on any device and draws only from the generator it is given
(which lives on the sample's device). `(A @ B)(S) = A(B(S))`.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.special import betaincinv

from lib import checks, runtime

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


class Transform(Augmentation):
    """An augmentation of the images alone, example by example; `warp(x, draw)` says how.

    `uniform(low, high)` draws one number for each example.
    """

    def draw(self, sample, generator):
        x = sample.x

        def uniform(low, high):
            unit = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype)
            return low + (high - low) * unit

        return Sample(self.warp(x, uniform), sample.y)

    def warp(self, x, uniform):
        raise NotImplementedError


class Crop(Transform):
    """A random crop of the image's own size after zero padding: a shift by whole pixels."""

    def __init__(self, padding):
        self.padding = checks.count(padding, "padding of a crop")

    def warp(self, x, uniform):
        s, _, h, w = x.shape
        top, left = (uniform(0, 2 * self.padding + 1).long()[:, None] for _ in range(2))
        rows = top + torch.arange(h, device=x.device)
        columns = left + torch.arange(w, device=x.device)
        padded = F.pad(x, [self.padding] * 4)
        example = torch.arange(s, device=x.device)[:, None, None]
        return padded.movedim(1, -1)[example, rows[:, :, None], columns[:, None]].movedim(-1, 1)


class Flip(Transform):
    """The mirror image, or the image itself, with equal chances (torchvision's default flip)."""

    def warp(self, x, uniform):
        return torch.where((uniform(0, 1) < 0.5)[:, None, None, None], x.flip(3), x)


class Jitter(Transform):
    """Brightness, contrast and, in colour, saturation, each scaled by a factor in 1 +- its range.

    The three act in this order, each clipped to [0, 1], as torchvision's `adjust_*` functions.
    """

    def __init__(self, brightness=0.25, contrast=0.25, saturation=0.25):
        self.ranges = (brightness, contrast, saturation)
        for span in self.ranges:
            checks.spread(span, "a range of jitter")

    def warp(self, x, uniform):
        for blend, span in zip((_black, _mean_grey, _grey), self.ranges, strict=True):
            factor = uniform(1 - span, 1 + span)[:, None, None, None]
            x = (factor * x + (1 - factor) * blend(x)).clamp(0, 1)
        return x


def _black(x):
    return torch.zeros_like(x)


def _grey(x):
    """ITU-R 601 luma, as torchvision and Pillow compute it."""
    if x.shape[1] != 3:
        return x
    red, green, blue = x.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None].expand_as(x)


def _mean_grey(x):
    return _grey(x).mean((1, 2, 3), keepdim=True)


def _resample(x, rows):
    """`x` read at `rows @ (column, row, 1)`, coordinates in pixels from the centre; zeros outside.

    `rows`: `[s, 2, 3]`. Bilinear.
    """
    h, w = x.shape[2:]
    size = x.new_tensor([w, h])
    rows = torch.cat([rows[:, :, :2] * size[None, None] / size[None, :, None], rows[:, :, 2:]], 2)
    grid = F.affine_grid(rows, x.shape, align_corners=False)
    return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)


class Rotation(Transform):
    """A turn about the centre by an angle uniform in +- `degrees`; bilinear, zeros outside."""

    def __init__(self, degrees):
        checks.radius(degrees, "degrees of a rotation")
        self.degrees = degrees

    def warp(self, x, uniform):
        angle = uniform(-self.degrees, self.degrees).deg2rad()
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        return _resample(x, torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3))


class Zoom(Transform):
    """Enlargement about the centre by a factor uniform in 1 +- `fraction`; bilinear."""

    def __init__(self, fraction):
        self.fraction = checks.spread(fraction, "fraction of a zoom")

    def warp(self, x, uniform):
        scale = 1 / uniform(1 - self.fraction, 1 + self.fraction)
        zero = torch.zeros_like(scale)
        return _resample(x, torch.stack([scale, zero, zero, zero, scale, zero], 1).view(-1, 2, 3))


class Classic(Composition):
    """The expert's transforms, composed, each with a coin of its own.

    images="colour": crop after padding by 4, mirror, colour jitter (.25, .25, .25), rotation by
    up to 2 degrees (Eghbal-zadeh et al.'s list, the defaults of MadryLab/robustness).
    images="digits": shift by up to 1 pixel, rotation by up to 15 degrees, zoom by up to 10 %. No
    mirror: a mirrored 2 is not a 2.
    """

    def __init__(self, images="colour"):
        checks.one_of(images, ("colour", "digits"), "kind of images")
        if images == "colour":
            first_to_last = Crop(4), Flip(), Jitter(), Rotation(2)
        else:
            first_to_last = Crop(1), Rotation(15), Zoom(0.1)
        super().__init__(reversed(first_to_last))


class Mixup(Augmentation):
    """Convex combinations of examples and of their labels (Zhang et al. 2018).

    per="batch", as its authors have it: lambda ~ Beta(alpha, alpha) and the partners, a random
    permutation, are drawn once a batch, so the outputs depend on each other. per="example": each
    has a lambda and a partner of its own, drawn with replacement; given the sample, the outputs
    are independent.
    """

    def __init__(self, alpha=1.0, per="batch"):
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha of mixup must be a finite number > 0, got {alpha!r}")
        self.alpha, self.unit = float(alpha), checks.one_of(per, UNITS, "unit of mixup")

    def draw(self, sample, generator):
        x, y, s = sample.x, sample.y, len(sample)
        device, each = x.device, self.unit == "example"
        # torch's own Beta takes no generator: lambda is the quantile of a uniform number.
        weight = torch.rand(s if each else 1, generator=generator, device=device)
        if self.alpha != 1:  # Beta(1, 1) is uniform: a GPU need not wait for the processor
            uniform = weight.double().cpu().numpy()
            weight = torch.from_numpy(betaincinv(self.alpha, self.alpha, uniform)).to(device)
        weight = weight.to(x.dtype)[:, None]
        if each:
            partner = torch.randint(s, (s,), generator=generator, device=device)
        else:
            partner = torch.randperm(s, generator=generator, device=device)
        # lerp, unlike a weighted sum, leaves an example that is its own partner bit for bit.
        return Sample(
            torch.lerp(x[partner], x, weight[:, :, None, None]), torch.lerp(y[partner], y, weight)
        )


class Generative(Augmentation):
    """Each example gives way to an image generated for its label.

    `network`, a module called as `network(labels, generator=rng)`, gives images in [0, 1] and says
    for which `.shape` and how many `.classes` it was trained; it follows the sample to its device.
    Of a soft label the class is drawn, and is the label of the image: the expected label stays
    what it was. The network runs in its `.precision`, fp32 where it names none.
    """

    def __init__(self, network):
        self.network = network

    def draw(self, sample, generator):
        x, y = sample.x, sample.y
        shape, classes = tuple(x.shape[1:]), y.shape[1]
        if (shape, classes) != (self.network.shape, self.network.classes):
            raise ValueError(
                f"the generator is of {self.network.classes} classes of images "
                f"{list(self.network.shape)}, the sample of {classes} classes of {list(shape)}"
            )
        labels = torch.multinomial(y, 1, generator=generator)[:, 0]
        self.network.to(x.device)
        precision = getattr(self.network, "precision", "fp32")
        with torch.no_grad(), runtime.mixed(x, precision):
            images = self.network(labels, generator=generator)
        return Sample(images.to(x.dtype), F.one_hot(labels, classes).to(y.dtype))

    def __repr__(self):
        # Of the weights, because a checkpoint knows by this text what it was trained with.
        return f"Generative({self.network.digest()})"
