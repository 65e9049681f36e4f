"""Influence of real and of augmented training points on clean and adversarial test points."""

import math
from typing import Literal

import torch

from lib.attacks.threat import predict
from lib.augmentation.algebra import Sample, changed
from lib.influence.functions import gradient_norms, scores
from lib.measures.last_layer import LastLayer, check
from lib.measures.performance import extra
from lib.measures.subject import join
from lib.records.schema import Count, Number, Schema
from lib.records.tables import row

__all__ = ["check", "log_ratio", "rows", "seconds"]
TABLES = ("influence", "distribution")
NEEDS = ("control",)
SMALLEST_GROUP = 30  # a ratio of means over fewer points is missing, not zero
SOLVERS = ("exact", "cg")  # of the last layer; "identity" is always shown beside them
TOP = 100  # the most influential training points of a test point
LOSS_ALONE = ", loss alone"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Settings(Schema):
    test_points: Count
    eps: Number
    steps: Count
    method: Literal["exact", "cg"]


def rows(subject, settings):
    """Influence of real and of augmented training points on clean and adversarial tests.

    The last layer's influence, in a training risk over one draw of A(S): with the Hessian, without
    it ("identity"), and the points' gradient norms alone. For each test point the log of the mean
    |I| over augmented points divided by that over real ones; a row holds the median over the test
    points. reading "groups" compares the augmented points of the draw with its real ones; "pairs"
    each augmented point with the example it was made from; "control" the same pairs in the eyes
    of the subject's control, the network of the same seed at p = 0. "..., loss alone" is the same
    without the regulariser's share in the points' gradients. Beside them, the share of augmented
    points among the TOP points of largest |I|, the mean over test points, and among all points of
    the draw.

    Rows that take the Hessian carry the damping and the solver's residual.
    """
    last = subject.view(LastLayer)
    other = subject.control and subject.control.view(LastLayer)
    drawn, augmented = last.drawn, changed(subject.train, last.drawn)
    n = len(drawn)
    twins, originals = (Sample(s.x[augmented], s.y[augmented]) for s in (drawn, subject.train))
    groups = {"real": ~augmented, "augmented": augmented}
    sizes = {group: int(members.sum()) for group, members in groups.items()}

    y = last.tests.y.argmax(1)
    wrong = predict(subject.model, last.tests.x) != y
    found = [
        row("influence", "test points misclassified", part.float().mean(), len(part), test=test)
        for test, part in zip(("clean", "adversarial"), wrong.chunk(2), strict=True)
    ]
    found.append(row("influence", "augmented points", augmented.float().mean(), n))
    own = _leanings(last, settings, join(drawn, originals))
    seen = _leanings(other, settings, join(twins, originals)) if other and len(twins) else {}
    for (test, method, share), strength in own.items():
        of = {group: strength[:, :n][:, members] for group, members in groups.items()}
        readings = {
            "groups": log_ratio(of["augmented"], of["real"]),
            "pairs": log_ratio(of["augmented"], strength[:, n:]),
        }
        if seen:
            readings["control"] = log_ratio(*seen[test, method, share].chunk(2, 1))
        how = _how(last, test, method)
        for reading, ratio in readings.items():
            by = _how(other, test, method) if reading == "control" else how
            found.append(row("influence", "log ratio", ratio.quantile(0.5), sizes["augmented"],
                            reading=reading + share, **by))  # fmt: skip
        top = strength[:, :n].topk(min(TOP, n)).indices
        found.append(row("influence", "augmented among the most influential",
                        augmented[top].float().mean(), top.shape[1],
                        reading="top" + share, **how))  # fmt: skip
        if share:
            continue
        for group, size in sizes.items():
            if size:
                # torch.quantile refuses large inputs; a sort does not.
                ordered = of[group].flatten().sort().values
                for q in QUANTILES:
                    value = ordered[round(q * (len(ordered) - 1))]
                    found.append(row("distribution", "|I|", value, size, group=group, q=q, **how))
    return found


def _leanings(last, settings, points):
    """|I| of each of `points` on each test point, `[n_test, n_points]`, by (test, method, share).

    share: "" with the regulariser's in the points' gradients, else LOSS_ALONE. The method
    "gradient norm" has the loss's alone and knows no test point: one row, of test "none".
    """
    points, head = last.features(points), last.head
    found = {("none", "gradient norm", ""): gradient_norms(head, points)[None]}
    theta = torch.cat([parameter.flatten() for parameter in head.parameters()]).detach()
    for method in (settings["method"], "identity"):
        s, _ = last.s_test(method)
        alone = scores(head, s, points)
        for share, part in (("", last.l2 * (s @ theta)[:, None]), (LOSS_ALONE, 0)):
            clean, adversarial = (alone - part).abs().chunk(2)
            found["clean", method, share], found["adversarial", method, share] = clean, adversarial
    return found


def _how(last, test, method):
    """Columns of a row: of what, and how well it was solved."""
    solver = last.s_test(method)[1] if method in SOLVERS else {}
    numbers = {name: solver.get(name, math.nan) for name in ("damping", "residual")}
    return {"test": test, "method": method, **numbers}


def log_ratio(augmented, real):
    """Log of the ratio of row means, `[n_test]`; NaN where a group is too small to be compared."""
    if min(augmented.shape[1], real.shape[1]) < SMALLEST_GROUP:
        return augmented.new_full((len(augmented),), math.nan)
    return (augmented.mean(1) / real.mean(1)).log()


def seconds(settings, cost):
    """The draw of A(S) and its originals, and both once more in the control's eyes."""
    return 4 * cost.train * cost.predicted + extra({(settings["eps"], settings["steps"])}, cost)
