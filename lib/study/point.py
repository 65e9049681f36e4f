"""The study: measure a point's trained network three ways and record the rows."""

import sys
import time

from lib import attacks, records, runtime
from lib.gan import quality
from lib.measures import (
    credibility,
    distances,
    influence,
    performance,
    row,
    stress,
    trust,
)
from lib.measures.subject import Subject, check_memory
from lib.records.provenance import code_version, describe
from lib.runtime import device
from lib.study import trained
from lib.study.grid import Point, grid, jobs
from lib.study.profile import Profile
from lib.study.trained import (
    augmentation,
    checkpoint_path,
    dataset,
    generator,
    generators,
    judge,
    network,
    subject,
    train_or_load,
)

__all__ = ["Point", "Profile", "Subject", "augmentation", "dataset", "generator", "generators",
           "grid", "influence", "jobs", "performance", "record_path", "recorded", "run",
           "run_generator", "stress", "subject", "train_or_load"]  # fmt: skip


def record_folder(profile):
    return trained.RUNS / profile.name / "records"


def record_path(profile, point):
    """The file of the point's rows of all tables."""
    return record_folder(profile) / f"{point}.parquet"


def generator_record_path(profile, factor):
    """The file of the record of a generator's quality."""
    return record_folder(profile) / f"generator-{factor}.parquet"


def valid(profile, path):
    """Whether a record file is there and whole, made by the code and settings of now.

    Where the profile does not remake its points, any code does. A record that is damaged, or of
    another point than its name says, is named on stderr and does not count.
    """
    frame = _read(path)
    return frame is not None and bool(current(profile, frame).all())


def current(profile, frame):
    """Which rows are of the settings of now and, where points are remade, of the code of now."""
    settings = {}
    for name in frame.augmentation.unique():
        try:
            settings[name] = profile.version(name)
        except ValueError:  # the profile has dropped the augmentation
            settings[name] = None
    same = frame.settings == frame.augmentation.map(settings)
    return same & (frame.code == code_version("study.point")) if profile.sweep["remake"] else same


def recorded(profile, point):
    """Whether the point has a record of its own that is valid, or else rows in the tables."""
    where = {"augmentation": point.augmentation, "p": point.p, "seed": point.seed}
    return _recorded(profile, record_path(profile, point), "cost", where)


def generator_recorded(profile, factor):
    """Whether the quality of the factor's generator is recorded, as `recorded` does for points."""
    path = generator_record_path(profile, factor)
    return _recorded(profile, path, "generators", {"augmentation": factor})


def _recorded(profile, path, table, where):
    own = _read(path)
    if own is not None and current(profile, own).all():
        return True
    if own is None and path.exists():  # damaged: what is in the tables may be no better
        return False
    try:
        frame = records.every(profile.name, table)
    except FileNotFoundError:
        return False
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return bool(current(profile, frame).any())


def _read(path):
    """The rows of a record; None if it is missing, damaged or another's, said on stderr."""
    if not path.exists():
        return None
    try:
        frame = records.read_file(path)
    except ValueError as error:
        print(f"{error}: to be made again", file=sys.stderr)
        return None
    first = frame.iloc[0]
    name = f"{first['augmentation']}-p{first['p']:g}-seed{first['seed']}"
    if first["table"] == "generators":
        name = f"generator-{first['augmentation']}"
    if path.stem != name:
        print(f"record {path} is of another point: to be made again", file=sys.stderr)
        return None
    return frame


def run(profile, point, *, controls=None, progress=True):
    """Train and measure a point and write its record; return its path.

    `controls` are Subjects at p = 0 by seed, to which those that the point needs are added. They
    are made before its seconds are counted, and so are the generators and the network of another
    seed whose adversarial examples are tried on it.
    """
    rows, clock = [], [time.perf_counter()]
    compiled = trained.compilations()
    check_memory(profile, network(profile))
    if trained.compilations() > compiled:
        seconds = time.perf_counter() - clock[0]
        rows.append(row("cost", "seconds", seconds, 1, stage="compile"))
    controls = {} if controls is None else controls
    if point.p > 0 and point.seed not in controls:
        zero = profile.point("none", 0, point.seed)
        controls[point.seed] = subject(profile, zero, progress=progress)
    control = controls.get(point.seed) if point.p > 0 else None
    alone = point.seed != profile.grid["seed"][0]
    rival = None if alone else _rival(profile)
    augmentation(profile, point.augmentation, point.p, progress=progress)
    # What is loaded from a checkpoint cost more seconds than it takes now.
    first = "load" if checkpoint_path(profile, point).exists() else "train"
    clock = [time.perf_counter()]
    own = subject(profile, point, progress=progress)
    measures = {
        first: list,
        "performance": lambda: performance(own),
        "distances": lambda: distances(own),
        "checks": lambda: credibility(own, rival),
        "stress": lambda: stress(own),
        "trust": lambda: trust(own),
        "influence": lambda: influence(own, control, rows),
    }
    if alone:  # of networks alike but for the seed, one is enough
        del measures["checks"], measures["trust"]
    for stage, measure in measures.items():
        rows += measure()
        clock.append(time.perf_counter())
        rows.append(row("cost", "seconds", clock[-1] - clock[-2], 1, stage=stage))
    return _record(profile, own.model, point, rows, record_path(profile, point))


def _rival(profile):
    """The network at p = 0 of the second seed, None if there is none."""
    if len(profile.grid["seed"]) == 1:
        return None
    return train_or_load(profile, profile.point("none", 0, profile.grid["seed"][1]), progress=False)


def run_generator(profile, factor, *, progress=True):
    """Train a factor's generator, if that is to be done, and write the record of its quality.

    Rows: the Frechet distance after each round, that of the test images as its yardstick, and the
    classification accuracy score, of a network trained on generated images alone (the point at
    p = 1). For colour images, where Inception's weights can be had, the FID of both as well.
    """
    network, by = generator(profile, factor, progress=progress), judge(profile)
    images, history = by.images, network.history
    n, last = len(images.test_labels), history[-1]["step"]

    def distance(of, step, value, features=profile.network):
        return row("generators", "Frechet distance", value, n, of=of, step=step, features=features)

    rows = [distance("test images", 0, by.distance(images.test_images))]
    rows += [
        distance("generated images", past["step"], past["distance"])
        for past in history[:-1]
        if past["judge"] == by.name
    ]
    rows.append(distance("generated images", last, by.distance(by.generated(network))))
    inception = quality.inception(device()) if network.shape[0] == 3 else None
    if inception:
        real, made = inception(images.train_images), inception(by.generated(network))
        fresh = quality.distance_or_missing(real, inception(images.test_images))
        fid = quality.distance_or_missing(real, made)
        rows.append(distance("test images", 0, fresh, "inception"))
        rows.append(distance("generated images", last, fid, "inception"))
    point = profile.point(factor, 1, by.seed)
    model = train_or_load(profile, point, progress=progress)
    test = images.test_images.float().to(device()) / 255
    score = 1 - attacks.risk(model, test, images.test_labels.to(device()))
    rows.append(row("generators", "classification accuracy score", score, n, step=last))
    seconds = sum(past["seconds"] for past in history)
    rows.append(row("generators", "training seconds", seconds, 1, step=last))
    return _record(profile, model, point, rows, generator_record_path(profile, factor))


def _record(profile, model, point, rows, path):
    shared = {
        "profile": profile.name, **vars(point), "code": code_version("study.point"),
        "settings": profile.version(point.augmentation), "data": dataset(profile).checksum[:12],
        **describe(device(), runtime.how(model)),
    }  # fmt: skip
    records.write([{**shared, **row} for row in rows], path)
    return path
