"""What the measures of influence share: a point's last layer, and what it sees."""

import copy
from functools import cached_property

import torch

from lib import runtime
from lib.augmentation.algebra import Sample, drawn_in_batches
from lib.influence.functions import s_test
from lib.measures.subject import join, stratified
from lib.runtime import memory, memory_for


class LastLayer:
    """The last layer of a Subject as a softmax regression in double precision.

    Its training sample is one draw of A(S), its test points are fixed and, after them, their
    adversarial twins; `settings` are those of the measure "influence".
    """

    def __init__(self, subject):
        self.subject, self.settings = subject, subject.settings("influence")
        self.l2 = subject.profile.training["weight_decay"]
        self._solved = {}

    @cached_property
    def drawn(self):
        """One draw of A(S) over the training sample."""
        subject = self.subject
        stream, size = subject.generator("draw of A(S)"), subject.profile.training["batch_size"]
        return drawn_in_batches(subject.augmentation, subject.train, stream, size)

    @cached_property
    def tests(self):
        """The fixed test points, and after them their adversarial twins."""
        subject, settings = self.subject, self.settings
        chosen = stratified(subject.y, settings["test_points"])
        twins = subject.adversarial(settings["eps"], settings["steps"])[chosen]
        clean, labels = subject.test.x[chosen], subject.test.y[chosen]
        return join(Sample(clean, labels), Sample(twins, labels))

    @cached_property
    def head(self):
        return copy.deepcopy(self.subject.model.head).double()

    def features(self, sample):
        """The sample as the last layer sees it, in double precision."""
        model = self.subject.model
        with torch.no_grad(), memory_for("sweep: batch:", self.subject.batch):
            parts = [model.features(x) for x in sample.x.split(runtime.batch(model))]
        return Sample(torch.cat(parts).double(), sample.y.double())

    @cached_property
    def seen(self):
        """What the last layer sees of the draw of A(S), and of `tests`."""
        return self.features(self.drawn), self.features(self.tests)

    def s_test(self, method):
        """The s_test of `tests`, solved once, and the solver's report."""
        if method not in self._solved:
            train, tests = self.seen
            report = {}
            found = s_test(
                self.head, train, tests, method=method, l2=self.l2, report=report, memory=memory()
            )
            self._solved[method] = found, report
        return self._solved[method]


def check(settings, model):
    """ValueError, before hours of training, if an exact solve of the last layer does not fit."""
    d = sum(parameter.numel() for parameter in model.head.parameters())
    if settings["method"] == "exact" and 3 * 8 * d**2 > memory():
        raise ValueError(
            f"influence: method: exact takes {24 * d**2 / 2**30:.1f} GiB for the {d} parameters of "
            f"the last layer, more than {memory() / 2**30:.1f}: choose cg"
        )
