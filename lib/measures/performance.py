"""Performance: the clean error, and the risk under PGD for every eps and number of steps."""

from typing import Annotated

from pydantic import Field

from lib.attacks.gradient import risk
from lib.records.schema import Count, Number, Schema
from lib.records.tables import row

TABLES = ("performance",)


class Settings(Schema):
    eps: Annotated[list[Number], Field(min_length=1)]
    steps: Annotated[list[Count], Field(min_length=1)]


def rows(subject, settings):
    n = len(subject.y)
    clean = risk(subject.model, subject.test.x, subject.y)
    found = [row("performance", "clean error", clean, n, attack="none", eps=0.0, steps=0)]
    for eps in settings["eps"]:
        for steps in settings["steps"]:
            attacked = risk(subject.model, subject.adversarial(eps, steps), subject.y)
            found.append(row("performance", "risk under attack", attacked, n,
                             attack="pgd", eps=eps, steps=steps))  # fmt: skip
    return found


def seconds(settings, cost):
    return cost.test * len(settings["eps"]) * sum(settings["steps"]) * cost.attacked


def extra(runs, cost):
    """Seconds of attacks `(eps, steps)` beyond those that performance has made already."""
    made = cost.measures.get("performance", {"eps": [], "steps": []})
    more = {(e, s) for e, s in runs if e not in made["eps"] or s not in made["steps"]}
    return cost.test * sum(steps for _, steps in more) * cost.attacked
