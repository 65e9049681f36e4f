"""Trust: whether the predicted effect of removing a training point is what retraining gives."""

import math
import sys
from typing import Annotated

import torch
from pydantic import Field

from lib.influence.functions import scores
from lib.influence.trust import correlation, leave_one_out
from lib.measures.last_layer import LastLayer
from lib.records.schema import Schema
from lib.records.tables import row
from lib.runtime import memory

TABLES = ("trust",)
AFTER = ("influence",)
FIRST_SEED = True


class Settings(Schema):
    left_out: Annotated[int, Field(ge=3)]  # a correlation of fewer says nothing


def rows(subject, settings):
    """Whether the predicted effect of removing a training point is what retraining gives.

    Of the last layer: Pearson's correlation over `left_out` training points, half of them the most
    influential, half random; the median over test points. Missing where retraining does not
    converge.
    """
    last, number = subject.view(LastLayer), settings["left_out"]
    method = last.settings["method"]
    train, tests = last.seen
    predicted = -scores(last.head, last.s_test(method)[0], train, l2=last.l2) / len(train)
    ranked = predicted.abs().mean(0).argsort(descending=True)
    most, rest = ranked[: number // 2], ranked[number // 2 :]
    order = torch.randperm(len(rest), generator=subject.generator("left out"), device=rest.device)
    chosen = torch.cat([most, rest[order[: number - len(most)]]])
    try:
        actual = leave_one_out(
            last.head, train, tests, chosen, l2=last.l2, tolerance=1e-6, memory=memory()
        )
        found = correlation(predicted[:, chosen], actual)
    except ValueError as error:
        print(f"{subject.point}: {error}", file=sys.stderr)
        found = predicted.new_full((len(predicted),), math.nan)
    return [
        row("trust", "correlation with retraining", part.nanmedian(), len(chosen),
            test=test, method=method)
        for test, part in zip(("clean", "adversarial"), found.chunk(2), strict=True)
    ]  # fmt: skip


def seconds(settings, cost):
    return 0.0  # retraining is linear algebra, which no step of the network foretells
