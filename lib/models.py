"""The networks of the study.

Each takes images in [0, 1] (normalisation lives inside), gives logits, and is the composition
`head(features(x))` of a feature map and a linear last layer.
"""

import math
from functools import partial

import torch
from torch import nn

from lib import checks, runtime


class Network(nn.Module):
    """`features`: images `[s, c, h, w]` -> `[s, d]`; `head`: linear, -> logits `[s, k]`.

    `precision`: of the body, "fp32" or "bf16"; weights and the last layer stay in fp32, for
    logits that are rounded to bf16 tie. `compiled`: the sizes of batches that `lib.runtime` runs
    compiled, by the mode `training`.
    """

    precision = "fp32"
    compiled = {}

    def __init__(self, body, head):
        super().__init__()
        self.body, self.head = body, head

    def features(self, x):
        with runtime.mixed(x, self.precision):
            # One centre and scale for every data set, so that eps means the same everywhere.
            return self.body((x - 0.5) / 0.25).to(x.dtype)

    def forward(self, x):
        return self.head(self.features(x))


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def _small_cnn(classes, channels):
    """Three convolutions without BatchNorm: 25,866 parameters for grey images of ten classes."""
    body = nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten(),
    )  # fmt: skip
    return Network(body, nn.Linear(256, classes))


def _resnet9(classes, channels, width=64):
    """The nine-layer residual network of the DAWNBench entries (D. Page).

    Its logits are an eighth of what the last layer would give: at full size they start so large
    that training hardly moves.
    """

    def convolution(inputs, outputs, *pool):
        layers = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        return nn.Sequential(*layers, nn.ReLU(), *pool)

    def residual(n):
        return Residual(convolution(n, n), convolution(n, n))

    w = width
    body = nn.Sequential(
        convolution(channels, w),
        convolution(w, 2 * w, nn.MaxPool2d(2)), residual(2 * w),
        convolution(2 * w, 4 * w, nn.MaxPool2d(2)),
        convolution(4 * w, 8 * w, nn.MaxPool2d(2)), residual(8 * w),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), Scaled(1 / 8),
    )  # fmt: skip
    return Network(body, nn.Linear(8 * w, classes))


def _resnet(name):
    def network(classes, channels):
        """torchvision's network with the CIFAR stem: 3 x 3, stride 1, no max-pool."""
        from lib.vision import models

        body = getattr(models, name)(num_classes=classes)
        body.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        body.maxpool = nn.Identity()
        head, body.fc = body.fc, nn.Identity()
        return Network(body, head)

    return network


NETWORKS = {
    "small_cnn": _small_cnn,
    "resnet9": _resnet9,
    "resnet9_narrow": partial(_resnet9, width=8),  # 103,954 parameters: a CPU trains it in minutes
    "resnet18": _resnet("resnet18"),
    "resnet50": _resnet("resnet50"),
}


def build(name, classes, channels, precision="fp32"):
    """The network `name` for `classes` classes and images of `channels` channels."""
    checks.one_of(name, NETWORKS, "network")
    checks.count(classes, "classes")
    checks.count(channels, "channels")
    # Channels last: faster convolutions, on a GPU's tensor cores and on a CPU alike.
    model = NETWORKS[name](classes, channels).to(memory_format=torch.channels_last)
    model.precision = checks.one_of(precision, runtime.PRECISIONS, "precision")
    return model


def dense(shape, classes, hidden=()):
    """Fully connected layers on images of `shape` (c, h, w), each of `hidden` units with a ReLU.

    Without any: multinomial logistic regression, of which all is the last layer.
    """
    checks.count(classes, "classes")
    widths = [math.prod(shape), *(checks.count(width, "hidden") for width in hidden)]
    body = [nn.Flatten()]
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        body += [nn.Linear(inputs, outputs), nn.ReLU()]
    return Network(nn.Sequential(*body), nn.Linear(widths[-1], classes))


def initialise(model, seed):
    """Draw the model's weights anew, in place, from `seed` alone, and return the model.

    Convolutions after He et al. (2015), as torchvision's residual networks; all else as torch does.
    """
    devices = {p.device for p in model.parameters() if p.is_cuda}
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
