"""Checks: signs that the risks under attack are too small, on a few fixed test images."""

from lib.attacks import masking
from lib.attacks.gradient import pgd
from lib.measures.subject import stratified
from lib.records.schema import Count, Schema
from lib.records.tables import row

TABLES = ("checks",)
AFTER = ("performance",)
NEEDS = ("rival",)
FIRST_SEED = True


class Settings(Schema):
    images: Count
    queries: Count
    restarts: Count


def rows(subject, settings):
    """A value above its limit is a warning.

    The adversarial examples of the rival, if there is one, are tried on the network.
    """
    attack = subject.settings("performance")
    steps = max(attack["steps"])
    chosen = stratified(subject.y, settings["images"])
    x, y = subject.test.x[chosen], subject.y[chosen]
    signs = masking.masked(subject.model, x, y, steps=steps)
    for eps in attack["eps"]:
        x_adv = subject.adversarial(eps, steps)[chosen]
        rival = subject.rival
        elsewhere = None if rival is None else pgd(rival, x, y, eps=eps, steps=steps)
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


def seconds(settings, cost):
    """Twice the steps, one run a restart, one on the rival; Square only predicts."""
    attack = cost.measures["performance"]
    runs = max(attack["steps"]) * (3 + settings["restarts"]) * cost.attacked
    each = runs + settings["queries"] * cost.predicted
    return min(settings["images"], cost.test) * len(attack["eps"]) * each
