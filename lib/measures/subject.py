"""A point with its trained network, ready to be measured."""

import copy
from functools import cached_property, partial

import torch

from lib import runtime, training
from lib.attacks.gradient import pgd
from lib.augmentation.algebra import Sample, drawn_in_batches
from lib.influence.functions import s_test
from lib.runtime import memory, memory_for
from lib.seeds import generator


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
        self._adversarial, self._solved = {}, {}

    def _sample(self, images, labels):
        return training.to_sample(images.to(self.device), labels.to(self.device), self.classes)

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

    @cached_property
    def drawn(self):
        """One draw of A(S) over the training sample."""
        stream, size = self.generator("draw of A(S)"), self.profile.training["batch_size"]
        return drawn_in_batches(self.augmentation, self.train, stream, size)

    @cached_property
    def head(self):
        """The last layer as a softmax regression in double precision."""
        return copy.deepcopy(self.model.head).double()

    def features(self, sample):
        """The sample as the last layer sees it, in double precision."""
        with torch.no_grad(), memory_for("sweep: batch:", self.batch):
            parts = [self.model.features(x) for x in sample.x.split(runtime.batch(self.model))]
        return Sample(torch.cat(parts).double(), sample.y.double())

    @cached_property
    def seen(self):
        """What the last layer sees of the draw of A(S), and of `influence_tests`."""
        return self.features(self.drawn), self.features(self.influence_tests)

    @property
    def l2(self):
        return self.profile.training["weight_decay"]

    def s_test(self, method):
        """The last layer's s_test of `influence_tests`, solved once, and the solver's report."""
        if method not in self._solved:
            train, tests = self.seen
            report = {}
            found = s_test(
                self.head, train, tests, method=method, l2=self.l2, report=report, memory=memory()
            )
            self._solved[method] = found, report
        return self._solved[method]

    @cached_property
    def influence_tests(self):
        """The fixed test points, and after them their adversarial twins."""
        settings = self.profile.influence
        chosen = stratified(self.y, settings["test_points"])
        twins = self.adversarial(settings["eps"], settings["steps"])[chosen]
        clean, labels = self.test.x[chosen], self.test.y[chosen]
        return join(Sample(clean, labels), Sample(twins, labels))


def check_memory(profile, model):
    """ValueError, before hours of training, if an exact solve of the last layer does not fit."""
    d = sum(parameter.numel() for parameter in model.head.parameters())
    if profile.influence["method"] == "exact" and 3 * 8 * d**2 > memory():
        raise ValueError(
            f"influence: method: exact takes {24 * d**2 / 2**30:.1f} GiB for the {d} parameters of "
            f"the last layer, more than {memory() / 2**30:.1f}: choose cg"
        )


def stratified(y, number):
    """Indices of `number` examples, the first of each class in turn: the same for every model."""
    rank = torch.empty_like(y)
    for label in y.unique():
        members = (y == label).nonzero()[:, 0]
        rank[members] = torch.arange(len(members), device=y.device)
    return rank.argsort(stable=True)[:number].sort().values


def join(first, second):
    return Sample(torch.cat([first.x, second.x]), torch.cat([first.y, second.y]))
