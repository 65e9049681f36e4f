"""How good generated images are: Frechet distances in features, and what a classifier learns."""

import math
import socket
import sys
from functools import cached_property

import torch

from lib.seeds import generator as stream


def frechet_distance(features_a, features_b, *, few=False):
    """The squared Frechet distance of the Gaussians fitted to two sets of features `[n, d]`.

    |mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in double precision. ValueError if a set
    has no more examples than dimensions, which leaves its covariance singular, unless `few`.
    (Dowson and Landau 1982; Heusel et al. 2017)
    """
    sets = [torch.as_tensor(features).double() for features in (features_a, features_b)]
    for features in sets:
        if features.ndim != 2 or features.shape[1] != sets[0].shape[1]:
            shapes = " and ".join(str(list(f.shape)) for f in sets)
            raise ValueError(f"features must be [n, d] with the same d, got {shapes}")
        if not features.isfinite().all():
            raise ValueError("features must be finite")
        n, d = features.shape
        if n < 2:
            raise ValueError(f"{n} examples have no covariance: take at least 2")
        if n <= d and not few:
            raise ValueError(
                f"{n} examples leave the covariance of {d} features singular: "
                f"take more than {d}, or few=True"
            )
    (mean_a, mean_b) = (features.mean(0) for features in sets)
    (cov_a, cov_b) = (features.T.cov() if features.shape[1] > 1 else features.var(0)[None]
                      for features in sets)  # fmt: skip
    # (C_a C_b)^(1/2) has the trace of (R C_b R)^(1/2) with R = C_a^(1/2), which is symmetric.
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    mixed = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * mixed
    return max(0.0, distance.item())


def distance_or_missing(features_a, features_b):
    """Their Frechet distance, NaN where one of them has too few examples for its dimensions."""
    few = min(len(features_a), len(features_b)) <= features_a.shape[1]
    return math.nan if few else frechet_distance(features_a, features_b)


@torch.no_grad()
def features(model, images):
    """What the last layer of a study's network sees of images uint8 `[n, c, h, w]`: `[n, d]`."""
    images = images.to(next(model.parameters()).device)
    return torch.cat([model.features(x.float() / 255) for x in images.split(1000)])


def generated(network, labels, generator):
    """Images uint8 of a generator for `labels`, as a data set would hold them."""
    with torch.no_grad():
        parts = [network(part, generator=generator) for part in labels.split(1000)]
    return (torch.cat(parts) * 255).round().byte()


def inception(device="cpu", wait=20):
    """A function from colour images uint8 to Inception's 2,048 features, in which FID is defined.

    The weights are those of Heusel et al. (2017), as torch-fidelity converts them, from the cache
    of torch.hub or downloaded there. None, said on stderr, where they cannot be had within `wait`
    seconds of silence.
    """
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(wait)
    try:
        from lib.vision import torchvision  # noqa: F401, I001  (torch-fidelity imports it again)
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        network = FeatureExtractorInceptionV3("inception", ["2048"]).to(device).eval()
    except (ImportError, OSError, RuntimeError) as error:  # not to be had, or damaged
        print(f"no FID: Inception's weights cannot be had ({error})", file=sys.stderr)
        return None
    finally:
        socket.setdefaulttimeout(usual)

    @torch.no_grad()
    def of(images):
        return torch.cat([network(x.to(device))[0] for x in images.split(100)])

    return of


class Judge:
    """Frechet distances from the training images of a data set, in features of a study's network.

    `name` tells judges apart. `network()` gives that network, and is asked for at the first
    distance. The test images' distance is the yardstick for other sets of that size (no strict
    floor: copies of training images score less). NaN where there are too few for the features.
    """

    def __init__(self, name, images, network, seed):
        self.name, self.images, self.network, self.seed = name, images, network, seed

    def distance(self, images):
        """Of images uint8 `[n, c, h, w]` from all training images."""
        return distance_or_missing(self._real, features(self._model, images))

    def generated(self, generator):
        """Images of a generator, one for each test label, always of the same latent vectors."""
        labels = self.images.test_labels.to(self._device)
        return generated(generator, labels, stream(self.seed, "judge", device=self._device))

    @cached_property
    def _model(self):
        return self.network()

    @cached_property
    def _device(self):
        return next(self._model.parameters()).device

    @cached_property
    def _real(self):
        return features(self._model, self.images.train_images)
