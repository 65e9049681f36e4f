"""A point of the study: trained, and measured as its profile says; each measure a record."""

import time

from lib import measures, records, runtime
from lib.records.provenance import describe
from lib.records.tables import row
from lib.runtime import device
from lib.study import generation, trained
from lib.study.index import Index, generator_file, record_file, record_folder
from lib.study.trained import checkpoint_path, dataset, network, subject, train_or_load


def run(profile, point, *, controls=None, index=None, progress=True):
    """Train a point's network and measure what is not recorded of it, a record each.

    `controls` are Subjects at p = 0 by seed, to which that of the point is added, if a measure
    needs it; `index` says what is recorded. What a measure needs is made before its seconds are
    counted.
    """
    index = index or Index(profile)
    todo = index.missing(point)
    modules = {name: measures.module(name) for name in todo}
    needs = {need for name in todo for need in measures.facts(name).needs}
    compiled, started = trained.compilations(), time.perf_counter()
    model = network(profile)
    for name, module in modules.items():
        if hasattr(module, "check"):
            module.check(profile.measures[name], model)
    costs = []
    if trained.compilations() > compiled:
        costs.append(_cost("compile", time.perf_counter() - started))
    controls = {} if controls is None else controls
    if "control" in needs and point.p > 0 and point.seed not in controls:
        zero = profile.point("none", 0, point.seed)
        controls[point.seed] = subject(profile, zero, progress=progress)
    rival = _rival(profile) if "rival" in needs else None
    for factor in profile.generators(point.augmentation):
        trained.generator(profile, factor, progress=progress)
    # What is loaded from a checkpoint cost more seconds than it takes now.
    stage = "load" if checkpoint_path(profile, point).exists() else "train"
    started = time.perf_counter()
    own = subject(profile, point, progress=progress)
    costs.append(_cost(stage, time.perf_counter() - started))
    own.control, own.rival = controls.get(point.seed) if point.p > 0 else None, rival
    if stage == "train" or record_file(profile, point, "network") not in index:
        write(profile, point, own.model, record_file(profile, point, "network"), costs)
    for name, module in modules.items():
        started = time.perf_counter()
        rows = module.rows(own, profile.measures[name])
        rows.append(_cost(name, time.perf_counter() - started))
        write(profile, point, own.model, record_file(profile, point, name), rows)


def run_generator(profile, factor, *, progress=True):
    """Train a factor's generator, if that is to be done, and write the record of its quality."""
    rows = generation.rows(profile, factor, progress=progress)
    point = profile.point(factor, 1, profile.grid["seed"][0])
    model = train_or_load(profile, point, progress=progress)
    write(profile, point, model, generator_file(profile, factor), rows)


def write(profile, point, model, file, rows):
    """Write the record `file` of a point: its rows with their provenance."""
    shared = {
        "profile": profile.name, **vars(point), "code": file.code, "settings": file.settings,
        "data": dataset(profile).checksum[:12], **describe(device(), runtime.how(model)),
    }  # fmt: skip
    records.write([shared | row for row in rows], record_folder(profile) / f"{file}")


def _cost(stage, seconds):
    return row("cost", "seconds", seconds, 1, stage=stage)


def _rival(profile):
    """The network at p = 0 of the second seed, None if there is none."""
    if len(profile.grid["seed"]) == 1:
        return None
    return train_or_load(profile, profile.point("none", 0, profile.grid["seed"][1]), progress=False)
