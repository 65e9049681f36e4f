"""Transforms of the images alone, and the expert's composition of them."""

import torch
import torch.nn.functional as F

from lib import checks
from lib.augmentation.algebra import Augmentation, Composition, Sample


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
