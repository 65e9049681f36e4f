"""The three measures of a point: performance, stress and influence, as rows of records."""

import copy
import math
from functools import cached_property

import torch

from lib import attacks, checks, training
from lib.augmentation import Sample, changed, drawn_in_batches
from lib.influence import METHODS, gradient_norms, gradients, s_test
from lib.seeds import generator
from lib.stress import prediction_change_stress

SMALLEST_GROUP = 30  # a ratio of means over fewer points is missing, not zero
SOLVERS = [method for method in METHODS if method != "identity"]  # that one is always shown
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def check(profile):
    """Refuse settings of the measures that would else be refused only after a training."""
    attack, stress, influence = profile.attack, profile.stress, profile.influence
    checks.one_of(attack["norm"], attacks.NORMS, "norm of the attack")
    checks.one_of(influence["method"], SOLVERS, "method of influence")
    for eps in [*attack["eps"], *stress["clean"], *stress["adversarial"], influence["eps"]]:
        checks.radius(eps)
    for steps in [*attack["steps"], stress["steps"], influence["steps"]]:
        checks.count(steps, "steps")
    checks.count(stress["neighbours"], "neighbours")
    checks.count(influence["test_points"], "test_points")


class Subject:
    """A point with its trained network and what its measures share, on the network's device."""

    def __init__(self, profile, point, model, dataset, augmentation):
        self.profile, self.point, self.model = profile, point, model
        self.augmentation = augmentation
        self.device = next(model.parameters()).device
        self.batch = 250 if self.device.type == "cpu" else 2000  # what a CPU's caches hold
        self.classes = len(dataset.classes)
        self.y = dataset.test_labels.to(self.device)
        self.test = self._sample(dataset.test_images, dataset.test_labels)
        self.train = self._sample(dataset.train_images, dataset.train_labels)
        self._adversarial, self._solved = {}, {}

    def _sample(self, images, labels):
        return training.to_sample(images.to(self.device), labels.to(self.device), self.classes)

    def generator(self, purpose):
        return generator(self.point.seed, purpose, device=self.device)

    def adversarial(self, eps, steps):
        """The test images attacked by the study's PGD."""
        if (eps, steps) not in self._adversarial:
            attacked = [
                attacks.pgd(
                    self.model, x, y, eps=eps, steps=steps, norm=self.profile.attack["norm"]
                )
                for x, y in zip(
                    self.test.x.split(self.batch), self.y.split(self.batch), strict=True
                )
            ]
            self._adversarial[eps, steps] = torch.cat(attacked)
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
        with torch.no_grad():
            parts = [self.model.features(x) for x in sample.x.split(1000)]
        return Sample(torch.cat(parts).double(), sample.y.double())

    @property
    def l2(self):
        return self.profile.training["weight_decay"]

    def s_test(self, method):
        """The last layer's s_test of `influence_tests`, solved once."""
        if method not in self._solved:
            train, tests = self.features(self.drawn), self.features(self.influence_tests)
            self._solved[method] = s_test(self.head, train, tests, method=method, l2=self.l2)
        return self._solved[method]

    @cached_property
    def influence_tests(self):
        """The fixed test points, and after them their adversarial twins."""
        settings = self.profile.influence
        chosen = stratified(self.y, settings["test_points"])
        twins = self.adversarial(settings["eps"], settings["steps"])[chosen]
        clean, labels = self.test.x[chosen], self.test.y[chosen]
        return join(Sample(clean, labels), Sample(twins, labels))


def row(table, measure, value, examples, **settings):
    return dict(table=table, measure=measure, **settings, value=float(value), examples=examples)


def stratified(y, number):
    """Indices of `number` examples, the first of each class in turn: the same for every model."""
    rank = torch.empty_like(y)
    for label in y.unique():
        members = (y == label).nonzero()[:, 0]
        rank[members] = torch.arange(len(members), device=y.device)
    return rank.argsort(stable=True)[:number].sort().values


def performance(subject):
    """Rows: the clean error, and the risk under PGD for every eps and number of steps."""
    settings, n = subject.profile.attack, len(subject.y)
    clean = attacks.risk(subject.model, subject.test.x, subject.y)
    rows = [row("performance", "clean error", clean, n, attack="none", eps=0.0, steps=0)]
    for eps in settings["eps"]:
        for steps in settings["steps"]:
            attacked = attacks.risk(subject.model, subject.adversarial(eps, steps), subject.y)
            rows.append(row("performance", "risk under attack", attacked, n,
                                    attack="pgd", eps=eps, steps=steps))  # fmt: skip
    return rows


def stress(subject):
    """Rows: prediction-change stress around clean and around adversarial test points.

    Of adversarial centres, those that fool the network and those that do not are rows apart.
    """
    settings = subject.profile.stress
    centres = [("clean", eps, subject.test.x) for eps in settings["clean"]]
    centres += [
        ("adversarial", eps, subject.adversarial(eps, settings["steps"]))
        for eps in settings["adversarial"]
    ]
    rows = []
    for centre, eps, x in centres:
        shares = prediction_change_stress(
            subject.model, x, eps=eps, neighbours=settings["neighbours"],
            generator=subject.generator("stress"),
        )  # fmt: skip
        groups = {"all": torch.ones_like(subject.y, dtype=torch.bool)}
        if centre == "adversarial":
            fooled = attacks.predict(subject.model, x) != subject.y
            groups = {"successful": fooled, "unsuccessful": ~fooled}
        for group, members in groups.items():
            rows.append(row(
                "stress", "prediction-change stress", shares[members].mean(), int(members.sum()),
                centre=centre, group=group, eps=eps, neighbours=settings["neighbours"],
            ))  # fmt: skip
    return rows


def influence(subject, control=None):
    """Rows: influence of real and of augmented training points on clean and adversarial tests.

    The last layer's influence, in a training risk over one draw of A(S): with the Hessian, without
    it ("identity"), and the points' gradient norms alone. For each test point the log of the mean
    |I| over augmented points divided by that over real ones; a row holds the median over the test
    points. reading "groups" compares the augmented points of the draw with its real ones; "pairs"
    each augmented point with the example it was made from; "control" the same pairs in the eyes
    of `control`, the Subject of the same seed at p = 0.
    """
    drawn, augmented = subject.drawn, changed(subject.train, subject.drawn)
    n = len(drawn)
    twins, originals = (Sample(s.x[augmented], s.y[augmented]) for s in (drawn, subject.train))
    groups = {"real": ~augmented, "augmented": augmented}
    sizes = {group: int(members.sum()) for group, members in groups.items()}

    y = subject.influence_tests.y.argmax(1)
    wrong = attacks.predict(subject.model, subject.influence_tests.x) != y
    rows = [
        row("influence", "test points misclassified", part.float().mean(), len(part), test=test)
        for test, part in zip(("clean", "adversarial"), wrong.chunk(2), strict=True)
    ]
    own = _leanings(subject, join(drawn, originals))
    seen = _leanings(control, join(twins, originals)) if control and len(twins) else {}
    for (test, method), scores in own.items():
        of = {group: scores[:, :n][:, members] for group, members in groups.items()}
        readings = {
            "groups": _log_ratio(of["augmented"], of["real"]),
            "pairs": _log_ratio(of["augmented"], scores[:, n:]),
        }
        if seen:
            readings["control"] = _log_ratio(*seen[test, method].chunk(2, 1))
        where = {"test": test, "method": method}
        for reading, ratio in readings.items():
            rows.append(row("influence", "log ratio", ratio.quantile(0.5), sizes["augmented"],
                            reading=reading, **where))  # fmt: skip
        for group, size in sizes.items():
            if size:
                # torch.quantile refuses large inputs; a sort does not.
                ordered = of[group].flatten().sort().values
                for q in QUANTILES:
                    value = ordered[round(q * (len(ordered) - 1))]
                    rows.append(row("distribution", "|I|", value, size, group=group, q=q, **where))
    return rows


def _leanings(subject, points):
    """|I| of each of `points` on each test point, `[n_test, n_points]`, by (test, method).

    The method "gradient norm" knows no test point: one row, of test "none".
    """
    points = subject.features(points)
    found = {("none", "gradient norm"): gradient_norms(subject.head, points)[None]}
    slopes = gradients(subject.head, points, l2=subject.l2)
    for method in (subject.profile.influence["method"], "identity"):
        scores = (subject.s_test(method) @ slopes.T).abs()
        found["clean", method], found["adversarial", method] = scores.chunk(2)
    return found


def join(first, second):
    return Sample(torch.cat([first.x, second.x]), torch.cat([first.y, second.y]))


def _log_ratio(augmented, real):
    """Log of the ratio of row means, `[n_test]`; NaN where a group is too small to be compared."""
    if min(augmented.shape[1], real.shape[1]) < SMALLEST_GROUP:
        return augmented.new_full((len(augmented),), math.nan)
    return (augmented.mean(1) / real.mean(1)).log()
