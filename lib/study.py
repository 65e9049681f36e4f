"""The study: train a point's network, measure it three ways, record the rows.

Every stream of random numbers is named by the point's seed and its purpose, so a point's records
do not depend on which points were made before it, nor by which process.
"""

import sys
import time
from dataclasses import replace
from functools import cache

import torch

from lib import data, models, records, training
from lib.measures import Subject, check, influence, performance, row, stress
from lib.profile import Point, Profile, grid, jobs
from lib.provenance import ROOT, code_version, describe

__all__ = ["Point", "Profile", "Subject", "dataset", "grid", "influence", "jobs", "performance",
           "record_path", "recorded", "run", "stress", "subject", "train_or_load"]  # fmt: skip

RUNS = ROOT / "runs"


_load = cache(data.load)


def dataset(profile):
    """The profile's data set; with a subset, of each part only the first so many images."""
    whole = _load(profile.dataset)
    train, test = profile.subset or (None, None)
    return replace(
        whole,
        train_images=whole.train_images[:train],
        train_labels=whole.train_labels[:train],
        test_images=whole.test_images[:test],
        test_labels=whole.test_labels[:test],
    )


def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def checkpoint_path(profile, point):
    """The file of the point's network: another one for other settings of the training.

    Where points are remade when the engine changes, so are their checkpoints.
    """
    version = [code_version("training", "models")] if profile.sweep["remake"] else []
    folder = "-".join(["checkpoints", profile.training_version, *version])
    return RUNS / profile.name / folder / f"{point}.safetensors"


def train_or_load(profile, point, *, progress=True):
    """The point's trained network, in eval mode, from its checkpoint if there is one.

    A damaged or foreign checkpoint is named on stderr and made again.
    """
    images = dataset(profile)
    model = models.build(profile.network, len(images.classes), images.train_images.shape[1])
    model = model.to(device())
    path = checkpoint_path(profile, point)
    settings = dict(profile.training, seed=point.seed, checkpoint=path, progress=progress)
    augmentation = profile.augmentation(point.augmentation, point.p)
    try:
        training.train(models.initialise(model, point.seed), images, augmentation, **settings)
    except training.CheckpointError as error:
        print(f"{error}: set aside, and trained again", file=sys.stderr)
        path.replace(path.with_suffix(".refused"))
        training.train(models.initialise(model, point.seed), images, augmentation, **settings)
    return model.eval()


def subject(profile, point, *, progress=True):
    """The point ready to be measured: its network trained or loaded, with the data."""
    model = train_or_load(profile, point, progress=progress)
    return Subject(profile, point, model, dataset(profile))


def record_folder(profile):
    return RUNS / profile.name / "records"


def record_path(profile, point):
    """The file of the point's rows of all tables."""
    return record_folder(profile) / f"{point}.parquet"


def valid(profile, path):
    """Whether a record file is there and whole, made by the code and settings of now.

    Where the profile does not remake its points, any code does. A record that is damaged, or of
    another point than its name says, is named on stderr and does not count.
    """
    if not path.exists():
        return False
    try:
        frame = records.read_file(path)
    except records.RecordError as error:
        print(f"{error}: to be made again", file=sys.stderr)
        return False
    first = frame.iloc[0]
    if path.stem != f"{first['augmentation']}-p{first['p']:g}-seed{first['seed']}":
        print(f"record {path} is of another point: to be made again", file=sys.stderr)
        return False
    current = not profile.sweep["remake"] or first["code"] == code_version("study")
    return current and first["settings"] == profile.version


def recorded(profile, point):
    """Whether the point has a valid record, or a row in the tables of a profile that keeps them."""
    if valid(profile, record_path(profile, point)):
        return True
    if profile.sweep["remake"]:
        return False
    try:
        cost = records.read(profile.name, "cost")
    except FileNotFoundError:
        return False
    same = (cost.augmentation == point.augmentation) & (cost.seed == point.seed)
    return bool((same & (cost.p == point.p) & (cost.settings == profile.version)).any())


def run(profile, point, *, control=None, progress=True):
    """Train and measure a point and write its record; return its path.

    `control` is the Subject at p = 0 of the same seed, made if it is not given.
    """
    check(profile)
    if point.p > 0 and control is None:
        control = subject(profile, profile.point("none", 0, point.seed), progress=progress)
    # What is loaded from a checkpoint cost more seconds than it takes now.
    first = "load" if checkpoint_path(profile, point).exists() else "train"
    rows, clock = [], [time.perf_counter()]
    own = subject(profile, point, progress=progress)
    for stage, measure in [
        (first, list),
        ("performance", lambda: performance(own)),
        ("stress", lambda: stress(own)),
        ("influence", lambda: influence(own, control)),
    ]:
        rows += measure()
        clock.append(time.perf_counter())
        rows.append(row("cost", "seconds", clock[-1] - clock[-2], 1, stage=stage))
    shared = {
        "profile": profile.name, **vars(point), "code": code_version("study"),
        "settings": profile.version, "data": dataset(profile).checksum[:12],
        **describe(own.device),
    }  # fmt: skip
    path = record_path(profile, point)
    records.write([{**shared, **row} for row in rows], path)
    return path
