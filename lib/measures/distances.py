"""Distances: how far each test image is from the decision boundary, as near as any attack came."""

import math

import torch

from lib.attacks.minimal import boundary_distance, mean_distance, risk_curve
from lib.records.schema import Count, Number, Schema
from lib.records.tables import row

TABLES = ("distances",)
AFTER = ("performance",)
CURVE = 31  # radii at which the robustness curve is recorded
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Settings(Schema):
    steps: Count
    upto: Number


def rows(subject, settings):
    """The robustness curve at radii up to `upto`, the mean distance up to there, quantiles.

    The mean distance is the area above the curve; a quantile that no attack found is missing.
    """
    attack = subject.settings("performance")
    known = [subject.adversarial(eps, steps) for eps in attack["eps"] for steps in attack["steps"]]

    def search(x, y, *known):
        return boundary_distance(subject.model, x, y, steps=settings["steps"], known=known)

    distances = subject.batched(search, subject.test.x, subject.y, *known).double()
    n, upto = len(distances), settings["upto"]
    radii = torch.linspace(0, upto, CURVE, dtype=torch.float64).tolist()
    found = [
        row("distances", "risk within", value, n, eps=round(eps, 6))
        for eps, value in zip(radii, risk_curve(distances, radii), strict=True)
    ]
    found.append(row("distances", "mean distance", mean_distance(distances, upto), n, upto=upto))
    ordered = distances.sort().values
    for q in QUANTILES:
        value = ordered[round(q * (n - 1))].item()
        found.append(row("distances", "quantile", value if value < math.inf else math.nan, n, q=q))
    return found


def seconds(settings, cost):
    return cost.test * settings["steps"] * cost.attacked
