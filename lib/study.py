"""The study: train a point's network, measure it three ways, record the rows.

Every stream of random numbers is named by the point's seed and its purpose, so a point's records
do not depend on which points were made before it, nor by which process.
"""

import shutil
import sys
import time
from dataclasses import replace
from functools import cache

import torch

from lib import attacks, data, gan, models, quality, records, runtime, show, training
from lib.checkpoint import CheckpointError
from lib.files import replacing
from lib.measures import (
    check,
    credibility,
    distances,
    influence,
    performance,
    row,
    stress,
    trust,
)
from lib.profile import Point, Profile, grid, jobs
from lib.provenance import ROOT, code_version, describe
from lib.quality import Judge
from lib.runtime import device
from lib.subject import Subject, check_memory

__all__ = ["Point", "Profile", "Subject", "augmentation", "dataset", "generator", "generators",
           "grid", "influence", "jobs", "performance", "record_path", "recorded", "run",
           "run_generator", "stress", "subject", "train_or_load"]  # fmt: skip

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


def checkpoint_path(profile, point):
    """The file of the point's network: another one for other settings of the training.

    Nor is one of another engine, or in another precision, taken for it.
    """
    version = profile.training_version(point.augmentation)
    kind = f"checkpoints-{version}-{code_version('training', 'models')}"
    precision = profile.training["precision"] if runtime.accelerated() else "fp32"
    return RUNS / profile.name / f"{kind}-{precision}" / f"{point}.safetensors"


def generator_path(profile, factor):
    """The file of the generator that a factor of an augmentation needs.

    Where points are remade when the engine changes, so are the generators.
    """
    code = [code_version("gan")] if profile.sweep["remake"] else []
    folder = "-".join(["generators", profile.generator_version(factor), *code])
    return RUNS / profile.name / folder / f"{factor}.safetensors"


def network(profile):
    """The profile's network on the device, not initialised; compiled, where it is to be."""
    precision = _set_up(profile)
    images = dataset(profile)
    shape, n = tuple(images.train_images.shape[1:]), len(images.train_images)
    kind = profile.network, len(images.classes), shape[0], precision
    model = models.build(*kind).to(device())
    if runtime.accelerated() and profile.sweep["compile"]:
        sizes = min(profile.training["batch_size"], n), profile.sweep["batch"]
        _compile(kind, shape, sizes)
        model.compiled = dict(zip((True, False), sizes, strict=True))
    return model


def _set_up(profile):
    """Switch the process to the precision in which the profile's networks run here; return it."""
    precision = profile.training["precision"] if runtime.accelerated() else "fp32"
    runtime.set_up(precision)
    return precision


@cache
def _compile(kind, shape, sizes):
    """Compile a kind of network, once a process."""
    model = models.build(*kind).to(device())
    model.compiled = dict(zip((True, False), sizes, strict=True))
    runtime.warm_up(model, shape)


def train_or_load(profile, point, *, progress=True):
    """The point's trained network, in eval mode, from its checkpoint if there is one.

    A damaged or foreign checkpoint is named on stderr and made again.
    """
    images, model, path = dataset(profile), network(profile), checkpoint_path(profile, point)
    own = augmentation(profile, point.augmentation, point.p, progress=progress)

    def train():
        settings = dict(profile.training, seed=point.seed, checkpoint=path, progress=progress)
        del settings["precision"]
        with runtime.memory_for("training: batch_size:", settings["batch_size"]):
            training.train(models.initialise(model, point.seed), images, own, **settings)
        return model.eval()

    return _again_if_refused(train, path)


def augmentation(profile, name, p=1.0, *, progress=True):
    """The profile's augmentation `name` with probability `p`, its generators trained or loaded."""
    return profile.augmentation(name, p, lambda part: generator(profile, part, progress=progress))


def generators(profile):
    """The factors of the grid's augmentations that need a trained generator."""
    names = profile.grid["augmentation"] if any(profile.grid["p"]) else []
    return sorted({factor for name in names for factor in profile.generators(name)})


def generator(profile, factor, *, progress=True):
    """The trained generator of a factor, from its checkpoint if there is one.

    It has been judged after every round, and a sheet of its previews lies beside the checkpoint.
    """
    ((_, _, arguments),) = profile.factors(factor)
    _set_up(profile)
    path, critic = generator_path(profile, factor), judge(profile)

    def after_round(network, record, previews):
        record["distance"] = critic.distance(critic.generated(network))
        record["judge"] = critic.name
        sheet = show.pictures(
            previews.cpu().numpy().reshape(-1, *network.shape) / 255,
            rows=[f"round {i + 1}" for i in range(len(previews))], titles=critic.images.classes,
            description=f"Images of the generator {factor} after each round of its training",
        )  # fmt: skip
        sheet.save(path.with_suffix(".png"))

    def train():
        with runtime.memory_for(f"{factor}: batch_size:", arguments.get("batch_size", "of 64")):
            return gan.train_gan(
                dataset=critic.images, after_round=after_round, checkpoint=path, device=device(),
                progress=progress, **arguments,
            )  # fmt: skip

    kept = kept_generator_path(profile, factor)
    if kept.exists() and not path.exists():
        _copy(kept, path)
    trained = _again_if_refused(train, path)
    if not profile.sweep["remake"] and not kept.exists():
        _copy(path, kept)
    if runtime.accelerated():
        trained.precision = arguments.get("precision", "fp32")
        trained.to(memory_format=torch.channels_last)
    return trained


def kept_generator_path(profile, factor):
    """Where a profile that keeps its points keeps the finished generator as well."""
    version = profile.generator_version(factor)
    return records.results() / profile.name / "generators" / f"{factor}-{version}.safetensors"


def _copy(source, target):
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _again_if_refused(train, path):
    try:
        return train()
    except CheckpointError as error:
        print(f"{error}: set aside, and trained again", file=sys.stderr)
        path.replace(path.with_suffix(".refused"))
        return train()


def judge(profile):
    """Of generated images, in the eyes of the study's network at p = 0 of the first seed."""
    seed = profile.grid["seed"][0]
    point = profile.point("none", 0, seed)
    name = checkpoint_path(profile, point).parent.name  # another one has features of its own
    return Judge(
        name, dataset(profile), lambda: train_or_load(profile, point, progress=False), seed
    )


def subject(profile, point, *, progress=True):
    """The point ready to be measured: its network trained or loaded, with the data."""
    model = train_or_load(profile, point, progress=progress)
    own = augmentation(profile, point.augmentation, point.p, progress=progress)
    return Subject(profile, point, model, dataset(profile), own)


def record_folder(profile):
    return RUNS / profile.name / "records"


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
    if not path.exists():
        return False
    try:
        frame = records.read_file(path)
        first = frame.iloc[0]
        settings = profile.version(first["augmentation"])
    except ValueError as error:
        print(f"{error}: to be made again", file=sys.stderr)
        return False
    name = f"{first['augmentation']}-p{first['p']:g}-seed{first['seed']}"
    if first["table"] == "generators":
        name = f"generator-{first['augmentation']}"
    if path.stem != name:
        print(f"record {path} is of another point: to be made again", file=sys.stderr)
        return False
    current = not profile.sweep["remake"] or first["code"] == code_version("study")
    return bool(current and first["settings"] == settings)


def recorded(profile, point):
    """Whether the point has a valid record, or a row in the tables of a profile that keeps them."""
    where = {"augmentation": point.augmentation, "p": point.p, "seed": point.seed}
    return valid(profile, record_path(profile, point)) or _kept(profile, "cost", where)


def generator_recorded(profile, factor):
    """Whether the quality of the factor's generator is recorded, as `recorded` does for points."""
    where = {"augmentation": factor}
    path = generator_record_path(profile, factor)
    return valid(profile, path) or _kept(profile, "generators", where)


def _kept(profile, table, where):
    if profile.sweep["remake"]:
        return False
    try:
        frame = records.every(profile.name, table)
    except FileNotFoundError:
        return False
    same = frame.settings == profile.version(where["augmentation"])
    for name, value in where.items():
        same &= frame[name] == value
    return bool(same.any())


def run(profile, point, *, controls=None, progress=True):
    """Train and measure a point and write its record; return its path.

    `controls` are Subjects at p = 0 by seed, to which those that the point needs are added. They
    are made before its seconds are counted, and so are the generators and the network of another
    seed whose adversarial examples are tried on it.
    """
    check(profile)
    rows, clock = [], [time.perf_counter()]
    kinds = _compile.cache_info().misses
    check_memory(profile, network(profile))
    if _compile.cache_info().misses > kinds:
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
    check(profile)
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
        "profile": profile.name, **vars(point), "code": code_version("study"),
        "settings": profile.version(point.augmentation), "data": dataset(profile).checksum[:12],
        **describe(device(), runtime.how(model)),
    }  # fmt: skip
    records.write([{**shared, **row} for row in rows], path)
    return path
