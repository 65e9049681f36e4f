"""The measures of a point as rows of records: performance, with how far it can be believed and
how far the decision boundary is, stress, and influence.
"""

import math
import sys

import torch

from lib import attacks
from lib.attacks import masking
from lib.attacks.minimal import boundary_distance, mean_distance, risk_curve
from lib.augmentation.algebra import Sample, changed
from lib.influence.functions import gradient_norms, scores
from lib.influence.trust import correlation, leave_one_out
from lib.measures.subject import join, stratified
from lib.runtime import memory, memory_for
from lib.stress import bootstrap, prediction_change_stress, sphere

SMALLEST_GROUP = 30  # a ratio of means over fewer points is missing, not zero
SOLVERS = ("exact", "cg")  # of the last layer; "identity" is always shown beside them
TOP = 100  # the most influential training points of a test point
RETRAINING = "correlation with retraining"
LOSS_ALONE = ", loss alone"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
CENTRES = ("clean", "sphere", "adversarial")  # of stress
CURVE = 31  # radii at which the robustness curve is recorded


def row(table, measure, value, examples, **settings):
    return dict(table=table, measure=measure, **settings, value=float(value), examples=examples)


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


def distances(subject):
    """Rows: how far each test image is from the boundary, as near as any attack came to it.

    The robustness curve at radii up to `upto`, the mean distance up to there (the area above the
    curve), and quantiles of the distances; one that no attack found is missing.
    """
    settings, attack = subject.profile.distance, subject.profile.attack
    known = [subject.adversarial(eps, steps) for eps in attack["eps"] for steps in attack["steps"]]

    def search(x, y, *known):
        return boundary_distance(subject.model, x, y, steps=settings["steps"], known=known)

    found = subject.batched(search, subject.test.x, subject.y, *known).double()
    n, upto = len(found), settings["upto"]
    radii = torch.linspace(0, upto, CURVE, dtype=torch.float64).tolist()
    rows = [
        row("distances", "risk within", value, n, eps=round(eps, 6))
        for eps, value in zip(radii, risk_curve(found, radii), strict=True)
    ]
    rows.append(row("distances", "mean distance", mean_distance(found, upto), n, upto=upto))
    ordered = found.sort().values
    for q in QUANTILES:
        value = ordered[round(q * (n - 1))].item()
        rows.append(row("distances", "quantile", value if value < math.inf else math.nan, n, q=q))
    return rows


def credibility(subject, rival=None):
    """Rows: signs that the risks under attack are too small, on a few fixed test images.

    `rival` is the network whose adversarial examples are tried on this one. A value above its
    limit is a warning.
    """
    attack, settings = subject.profile.attack, subject.profile.checks
    steps = max(attack["steps"])
    chosen = stratified(subject.y, settings["images"])
    x, y = subject.test.x[chosen], subject.y[chosen]
    signs = masking.masked(subject.model, x, y, steps=steps)
    for eps in attack["eps"]:
        x_adv = subject.adversarial(eps, steps)[chosen]
        elsewhere = None if rival is None else attacks.pgd(rival, x, y, eps=eps, steps=steps)
        signs += masking.missed(
            subject.model, x, y, x_adv, eps=eps, steps=steps, queries=settings["queries"],
            restarts=settings["restarts"], transferred=elsewhere,
            generator=subject.generator("checks"),
        )  # fmt: skip
    return [
        row("checks", sign.kind, sign.share, len(x), by=sign.by, eps=sign.eps, limit=sign.limit,
            warning=sign.warns)
        for sign in signs
    ]  # fmt: skip


def stress(subject):
    """Rows: prediction-change stress, and its interval over test points, around three centres.

    Clean test points, points on the sphere around them, and adversarial ones, of which those that
    fool the network and those that do not are rows apart.
    """
    settings = subject.profile.stress
    everyone = {"all": torch.ones_like(subject.y, dtype=torch.bool)}

    def shares(x, eps):
        with memory_for("sweep: batch:", subject.batch):
            return prediction_change_stress(
                subject.model, x, eps=eps, neighbours=settings["neighbours"],
                generator=subject.generator("stress"), batch_size=subject.batch,
            )  # fmt: skip

    found = []
    if settings["clean"]:
        around = shares(subject.test.x, settings["clean"])
        found += [
            ("clean", eps, everyone, values)
            for eps, values in zip(settings["clean"], around, strict=True)
        ]
    for eps in settings["sphere"]:
        centres = sphere(subject.test.x, eps, 1, subject.generator("centres"))[:, 0]
        found.append(("sphere", eps, everyone, shares(centres, eps)))
    for eps in settings["adversarial"]:
        centres = subject.adversarial(eps, settings["steps"])
        fooled = attacks.predict(subject.model, centres) != subject.y
        groups = {"successful": fooled, "unsuccessful": ~fooled}
        found.append(("adversarial", eps, groups, shares(centres, eps)))
    rows = []
    for centre, eps, groups, values in found:
        for group, members in groups.items():
            low, high = bootstrap(values[members], subject.generator("bootstrap"))
            rows.append(row(
                "stress", "prediction-change stress", values[members].mean(), int(members.sum()),
                centre=centre, group=group, eps=eps, neighbours=settings["neighbours"],
                low=low, high=high,
            ))  # fmt: skip
    return rows


def influence(subject, control=None, measured=()):
    """Rows: influence of real and of augmented training points on clean and adversarial tests.

    The last layer's influence, in a training risk over one draw of A(S): with the Hessian, without
    it ("identity"), and the points' gradient norms alone. For each test point the log of the mean
    |I| over augmented points divided by that over real ones; a row holds the median over the test
    points. reading "groups" compares the augmented points of the draw with its real ones; "pairs"
    each augmented point with the example it was made from; "control" the same pairs in the eyes
    of `control`, the Subject of the same seed at p = 0. "..., loss alone" is the same without the
    regulariser's share in the points' gradients. Beside them, the share of augmented points among
    the TOP points of largest |I|, the mean over test points, and among all points of the draw.

    Rows that take the Hessian carry the damping, the solver's residual and the trust: the
    correlation with retraining of the network whose influence it is, if the rows `measured` before
    have it; missing where they have not, as of the control.
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
    rows.append(row("influence", "augmented points", augmented.float().mean(), n))
    own = _leanings(subject, join(drawn, originals))
    seen = _leanings(control, join(twins, originals)) if control and len(twins) else {}
    believed = {r["test"]: r["value"] for r in measured if r["measure"] == RETRAINING}
    for (test, method, share), strength in own.items():
        of = {group: strength[:, :n][:, members] for group, members in groups.items()}
        readings = {
            "groups": log_ratio(of["augmented"], of["real"]),
            "pairs": log_ratio(of["augmented"], strength[:, n:]),
        }
        if seen:
            readings["control"] = log_ratio(*seen[test, method, share].chunk(2, 1))
        how = _how(subject, test, method, believed)
        for reading, ratio in readings.items():
            by = _how(control, test, method) if reading == "control" else how
            rows.append(row("influence", "log ratio", ratio.quantile(0.5), sizes["augmented"],
                            reading=reading + share, **by))  # fmt: skip
        top = strength[:, :n].topk(min(TOP, n)).indices
        rows.append(row("influence", "augmented among the most influential",
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
                    rows.append(row("distribution", "|I|", value, size, group=group, q=q, **how))
    return rows


def trust(subject):
    """Rows: whether the predicted effect of removing a training point is what retraining gives.

    Of the last layer: Pearson's correlation over `left_out` training points, half of them the most
    influential, half random; the median over test points. Missing where retraining does not
    converge.
    """
    method, number = subject.profile.influence["method"], subject.profile.influence["left_out"]
    train, tests = subject.seen
    predicted = -scores(subject.head, subject.s_test(method)[0], train, l2=subject.l2) / len(train)
    ranked = predicted.abs().mean(0).argsort(descending=True)
    most, rest = ranked[: number // 2], ranked[number // 2 :]
    order = torch.randperm(len(rest), generator=subject.generator("left out"), device=rest.device)
    chosen = torch.cat([most, rest[order[: number - len(most)]]])
    try:
        actual = leave_one_out(
            subject.head, train, tests, chosen, l2=subject.l2, tolerance=1e-6, memory=memory()
        )
        found = correlation(predicted[:, chosen], actual)
    except ValueError as error:
        print(f"{subject.point}: {error}", file=sys.stderr)
        found = predicted.new_full((len(predicted),), math.nan)
    return [
        row("influence", RETRAINING, part.nanmedian(), len(chosen),
            test=test, method=method)
        for test, part in zip(("clean", "adversarial"), found.chunk(2), strict=True)
    ]  # fmt: skip


def _leanings(subject, points):
    """|I| of each of `points` on each test point, `[n_test, n_points]`, by (test, method, share).

    share: "" with the regulariser's in the points' gradients, else LOSS_ALONE. The method
    "gradient norm" has the loss's alone and knows no test point: one row, of test "none".
    """
    points, head = subject.features(points), subject.head
    found = {("none", "gradient norm", ""): gradient_norms(head, points)[None]}
    theta = torch.cat([parameter.flatten() for parameter in head.parameters()]).detach()
    for method in (subject.profile.influence["method"], "identity"):
        s, _ = subject.s_test(method)
        alone = scores(head, s, points)
        for share, part in (("", subject.l2 * (s @ theta)[:, None]), (LOSS_ALONE, 0)):
            clean, adversarial = (alone - part).abs().chunk(2)
            found["clean", method, share], found["adversarial", method, share] = clean, adversarial
    return found


def _how(subject, test, method, believed=None):
    """Columns of a row: of what, and how far it can be trusted."""
    solver, trust = {}, math.nan
    if method in SOLVERS:
        _, solver = subject.s_test(method)
        trust = (believed or {}).get(test, math.nan)
    numbers = {name: solver.get(name, math.nan) for name in ("damping", "residual")}
    return {"test": test, "method": method, **numbers, "trust": trust}


def log_ratio(augmented, real):
    """Log of the ratio of row means, `[n_test]`; NaN where a group is too small to be compared."""
    if min(augmented.shape[1], real.shape[1]) < SMALLEST_GROUP:
        return augmented.new_full((len(augmented),), math.nan)
    return (augmented.mean(1) / real.mean(1)).log()
