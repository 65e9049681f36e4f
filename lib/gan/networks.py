"""The networks of the label-conditional GANs: generators and critics, residual and dense.

A generator is called with labels and a source of randomness and gives images in [0, 1]. A critic
scores images and labels by projection (Miyato and Koyama 2018). Inside, images are in [-1, 1].
"""

import hashlib

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from lib import checks


class ConditionalNorm(nn.Module):
    """Batch norm whose scale and shift belong to the label (de Vries et al. 2017)."""

    def __init__(self, norm, classes):
        super().__init__()
        self.norm = norm
        self.scale = nn.Parameter(torch.ones(classes, norm.num_features))
        self.shift = nn.Parameter(torch.zeros(classes, norm.num_features))

    def forward(self, x, labels):
        scale, shift = (v[labels].view(*x.shape[:2], *[1] * (x.ndim - 2))
                        for v in (self.scale, self.shift))  # fmt: skip
        return self.norm(x) * scale + shift


class Generator(nn.Module):
    """`generator(labels, generator=rng)`: labels int64 `[s]` -> images `[s, *shape]` in [0, 1].

    `shape`: of an image, `[c, h, w]`. In eval mode each image depends on its own label and its own
    latent vector alone, so images are independent given their labels.
    """

    def __init__(self, shape, classes, latent):
        super().__init__()
        self.shape, self.classes, self.latent = tuple(shape), classes, latent

    def forward(self, labels, *, generator):
        checks.labels(labels, len(labels), self.classes)
        return (self.images(self.latents(len(labels), generator), labels) + 1) / 2

    def latents(self, s, generator):
        return torch.randn(s, self.latent, generator=generator, device=generator.device)

    def images(self, latents, labels):
        """Images in [-1, 1] for latent vectors `[s, latent]`."""
        raise NotImplementedError

    def digest(self):
        """Twelve hexadecimal digits that stand for the weights."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode() + value.cpu().numpy().tobytes())
        return digest.hexdigest()[:12]


class Critic(nn.Module):
    """`critic(x, labels)`: images in [-1, 1] and labels -> scores `[s]`.

    score = a linear function of the features + their product with the label's own vector.
    """

    def __init__(self, body, width, classes, normalise):
        super().__init__()
        self.body, self.score = body, normalise(nn.Linear(width, 1))
        self.of_label = normalise(nn.Embedding(classes, width))

    def forward(self, x, labels):
        h = self.body(x).float()
        return self.score(h)[:, 0] + (self.of_label(labels) * h).sum(1)


class DenseGenerator(Generator):
    """Two hidden layers: enough for images of 64 pixels, and a hundredth of the arithmetic."""

    def __init__(self, shape, classes, width, latent):
        super().__init__(shape, classes, latent)
        sizes = [latent, width, width]
        self.layers = nn.ModuleList(
            nn.Linear(*pair) for pair in zip(sizes, sizes[1:], strict=False)
        )
        self.norms = nn.ModuleList(
            ConditionalNorm(nn.BatchNorm1d(width, affine=False), classes) for _ in self.layers
        )
        self.last = nn.Linear(width, shape.numel())

    def images(self, latents, labels):
        h = latents
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = norm(layer(h), labels).relu()
        return self.last(h).float().tanh().view(-1, *self.shape)


def dense_critic(shape, classes, width, normalise):
    body = nn.Sequential(
        nn.Flatten(), normalise(nn.Linear(shape.numel(), width)), nn.LeakyReLU(0.2),
        normalise(nn.Linear(width, width)), nn.LeakyReLU(0.2),
    )  # fmt: skip
    return Critic(body, width, classes, normalise)


class Up(nn.Module):
    """A residual block that doubles the side of its images."""

    def __init__(self, width, classes):
        super().__init__()
        self.norms = nn.ModuleList(
            ConditionalNorm(nn.BatchNorm2d(width, affine=False), classes) for _ in range(2)
        )
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.shortcut = nn.Conv2d(width, width, 1)

    def forward(self, x, labels):
        h = F.interpolate(self.norms[0](x, labels).relu(), scale_factor=2)
        h = self.convolutions[0](h)
        h = self.convolutions[1](self.norms[1](h, labels).relu())
        return h + F.interpolate(self.shortcut(x), scale_factor=2)


class ResidualGenerator(Generator):
    """The usual residual network: 4 x 4 doubled to 32 x 32 (Gulrajani et al. 2017).

    Other sides are halved as long as they are even and above four.
    """

    def __init__(self, shape, classes, width, latent):
        super().__init__(shape, classes, latent)
        halvings, side = _halvings(shape)
        self.start = (width, side, side)
        self.first = nn.Linear(latent, width * side * side)
        self.blocks = nn.ModuleList(Up(width, classes) for _ in range(halvings))
        self.norm, self.last = nn.BatchNorm2d(width), nn.Conv2d(width, shape[0], 3, padding=1)

    def images(self, latents, labels):
        h = self.first(latents).view(-1, *self.start)
        for block in self.blocks:
            h = block(h, labels)
        return self.last(self.norm(h).relu()).float().tanh()


class Down(nn.Module):
    """A residual block of the critic, halving the side of its images if `pool`."""

    def __init__(self, inputs, width, normalise, *, pool):
        super().__init__()
        self.raw = inputs != width  # the first block: nothing negative is cut off the image
        self.convolutions = nn.ModuleList(
            normalise(nn.Conv2d(i, width, 3, padding=1)) for i in (inputs, width)
        )
        self.shortcut = normalise(nn.Conv2d(inputs, width, 1)) if pool else nn.Identity()
        self.pool = nn.AvgPool2d(2) if pool else nn.Identity()

    def forward(self, x):
        h = self.convolutions[0](x if self.raw else x.relu())
        return self.pool(self.convolutions[1](h.relu())) + self.shortcut(self.pool(x))


def residual_critic(shape, classes, width, normalise):
    """At most two halvings, then as many blocks at the smallest side."""
    pools = max(1, min(2, _halvings(shape)[0]))
    blocks = [
        Down(shape[0] if i == 0 else width, width, normalise, pool=i < pools)
        for i in range(2 * pools)
    ]
    body = nn.Sequential(*blocks, nn.ReLU(), Sum())
    return Critic(body, width, classes, normalise)


class Sum(nn.Module):
    """Over the pixels: `[s, c, h, w]` -> `[s, c]`."""

    def forward(self, x):
        return x.sum((2, 3))


def _halvings(shape):
    """How often the side can be halved, and what is left."""
    _, height, width = shape
    if height != width:
        raise ValueError(f"generated images must be square, got {height} x {width}")
    halvings, side = 0, height
    while side % 2 == 0 and side > 4:
        halvings, side = halvings + 1, side // 2
    return halvings, side


NETWORKS = {
    "dense": (DenseGenerator, dense_critic),
    "residual": (ResidualGenerator, residual_critic),
}


def build(network, shape, classes, *, width, critic_width, latent, spectral):
    """A generator and its critic, the critic spectrally normalised (Miyato et al. 2018) or not."""
    checks.one_of(network, NETWORKS, "network of a GAN")
    for name, value in (("width", width), ("critic_width", critic_width), ("latent", latent)):
        checks.count(value, name)
    generator, critic = NETWORKS[network]
    shape = torch.Size(shape)
    normalise = spectral_norm if spectral else lambda module: module
    return generator(shape, classes, width, latent), critic(shape, classes, critic_width, normalise)
