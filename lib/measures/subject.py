"""A point with its trained network, ready to be measured."""

from functools import partial

import torch

from lib.attacks.gradient import pgd
from lib.augmentation.algebra import Sample
from lib.runtime import memory_for
from lib.seeds import generator
from lib.training import to_sample


class Subject:
    """A point with its trained network and what its measures share, on the network's device."""

    def __init__(self, profile, point, model, dataset, augmentation):
        self.profile, self.point, self.model = profile, point, model
        self.augmentation = augmentation
        self.device = next(model.parameters()).device
        self.batch = profile.sweep["batch"]
        self.classes = len(dataset.classes)
        self.y = dataset.test_labels.to(self.device)
        self.test = self._sample(dataset.test_images, dataset.test_labels)
        self.train = self._sample(dataset.train_images, dataset.train_labels)
        self.control = self.rival = None  # those that a measure needs, if there are any
        self._adversarial, self._views = {}, {}

    def _sample(self, images, labels):
        return to_sample(images.to(self.device), labels.to(self.device), self.classes)

    def generator(self, purpose):
        return generator(self.point.seed, purpose, device=self.device)

    def batched(self, function, *tensors):
        """`function` over batches of tensors `[s, ...]` that a device's memory holds, in one."""
        parts = zip(*(tensor.split(self.batch) for tensor in tensors), strict=True)
        with memory_for("sweep: batch:", self.batch):
            return torch.cat([function(*part) for part in parts])

    def adversarial(self, eps, steps):
        """The test images attacked by the study's PGD."""
        if (eps, steps) not in self._adversarial:
            attack = partial(pgd, self.model, eps=eps, steps=steps)
            self._adversarial[eps, steps] = self.batched(attack, self.test.x, self.y)
        return self._adversarial[eps, steps]

    def view(self, kind):
        """What `kind(self)` makes of it, made once: what several measures share."""
        if kind not in self._views:
            self._views[kind] = kind(self)
        return self._views[kind]

    def settings(self, measure):
        """The profile's settings of a measure."""
        return self.profile.measures[measure]


def stratified(y, number):
    """Indices of `number` examples, the first of each class in turn: the same for every model."""
    rank = torch.empty_like(y)
    for label in y.unique():
        members = (y == label).nonzero()[:, 0]
        rank[members] = torch.arange(len(members), device=y.device)
    return rank.argsort(stable=True)[:number].sort().values


def join(first, second):
    return Sample(torch.cat([first.x, second.x]), torch.cat([first.y, second.y]))
