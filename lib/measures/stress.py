"""Stress: prediction-change stress, and its interval over test points, around three centres."""

import torch

from lib.attacks.threat import predict
from lib.measures.performance import extra
from lib.records.schema import Count, Number, Schema
from lib.records.tables import row
from lib.runtime import memory_for
from lib.stress import bootstrap, prediction_change_stress, sphere

TABLES = ("stress",)
CENTRES = ("clean", "sphere", "adversarial")


class Settings(Schema):
    neighbours: Count
    clean: list[Number]
    sphere: list[Number]
    adversarial: list[Number]
    steps: Count


def rows(subject, settings):
    """Around clean test points, points on the sphere around them, and adversarial ones.

    Of the last, those that fool the network and those that do not are rows apart.
    """
    everyone = {"all": torch.ones_like(subject.y, dtype=torch.bool)}

    def shares(x, eps):
        with memory_for("sweep: batch:", subject.batch):
            return prediction_change_stress(
                subject.model, x, eps=eps, neighbours=settings["neighbours"],
                generator=subject.generator("stress"), batch_size=subject.batch,
            )  # fmt: skip

    measured = []
    if settings["clean"]:
        around = shares(subject.test.x, settings["clean"])
        measured += [
            ("clean", eps, everyone, values)
            for eps, values in zip(settings["clean"], around, strict=True)
        ]
    for eps in settings["sphere"]:
        centres = sphere(subject.test.x, eps, 1, subject.generator("centres"))[:, 0]
        measured.append(("sphere", eps, everyone, shares(centres, eps)))
    for eps in settings["adversarial"]:
        centres = subject.adversarial(eps, settings["steps"])
        fooled = predict(subject.model, centres) != subject.y
        groups = {"successful": fooled, "unsuccessful": ~fooled}
        measured.append(("adversarial", eps, groups, shares(centres, eps)))
    found = []
    for centre, eps, groups, values in measured:
        for group, members in groups.items():
            low, high = bootstrap(values[members], subject.generator("bootstrap"))
            found.append(row(
                "stress", "prediction-change stress", values[members].mean(), int(members.sum()),
                centre=centre, group=group, eps=eps, neighbours=settings["neighbours"],
                low=low, high=high,
            ))  # fmt: skip
    return found


def seconds(settings, cost):
    radii = sum(len(settings[centre]) for centre in CENTRES)
    attacked = extra({(eps, settings["steps"]) for eps in settings["adversarial"]}, cost)
    return cost.test * settings["neighbours"] * radii * cost.predicted + attacked
