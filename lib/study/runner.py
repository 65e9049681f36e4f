"""The grid runner: many points in one process, each recorded as soon as it is done."""

import statistics
import time

from lib import checks, records
from lib.records.provenance import describe
from lib.runtime import accelerated, device
from lib.study.grid import grid
from lib.study.point import generator_recorded, record_path, recorded, run, run_generator
from lib.study.sweep import estimate, generator_seconds
from lib.study.trained import generator

__all__ = ["points_of", "run_points"]


def points_of(profile, augmentation=None, p=None, seed=None):
    """The points of lists (or single values) of augmentations, p and seeds, None the grid's own.

    Those of the grid come first, in its order.
    """
    lists = [
        profile.grid[axis] if value is None else value if isinstance(value, list) else [value]
        for axis, value in (("augmentation", augmentation), ("p", p), ("seed", seed))
    ]
    augmentations, dial, seeds = lists
    wanted = {profile.point(a, q, s): None for s in seeds for q in dial for a in augmentations}
    planned = [point for point in grid(profile) if point in wanted]
    return list(dict.fromkeys([*planned, *wanted]))


def run_points(profile, points, *, hours=None, progress=True):
    """Make those of `points` that are not recorded, one after the other; return what is left.

    With `hours`, a point is begun only where one as slow as the slowest so far, and the training
    of the generators that it needs, fits into what is left of them. ValueError if none does: then
    nothing is begun. Whatever stops a point, those before it stay recorded. One whose training
    diverges, or that a measure refuses, is passed over, and a ValueError at the end tells of it.
    """
    if hours is not None and not checks.radius(hours, "hours"):
        raise ValueError("hours must be a number > 0, got 0")
    if profile.sweep["compile"] and not accelerated() and profile.subset is None:
        raise ValueError(f"profile {profile.name} is for a GPU, and there is none")
    started = time.monotonic()
    todo = [point for point in points if not recorded(profile, point)]
    print(f"{len(points)} points, {len(points) - len(todo)} of them recorded already", flush=True)
    slowest, training = 0.0, {}
    if hours is not None and todo:
        slowest, names = _expected(profile), {point.augmentation for point in todo}
        factors = {factor for name in names for factor in profile.generators(name)}
        training = {factor: generator_seconds(profile, factor) for factor in factors}
    controls, left, failed = {}, [], {}
    for point in todo:
        if recorded(profile, point):  # by another process, in the meantime
            continue
        factors = profile.generators(point.augmentation)
        if hours is not None:
            needed = slowest + sum(training[factor] for factor in factors)
            if needed > 3600 * hours - (time.monotonic() - started):
                left.append((needed, point))
                continue
        try:
            for factor in factors:
                generator(profile, factor, progress=progress)
                training[factor] = 0.0
            began = time.monotonic()
            run(profile, point, controls=controls, progress=progress)
        except (FloatingPointError, ValueError) as error:
            print(f"{point} failed: {error}", flush=True)
            failed[point] = error
            continue
        seconds = time.monotonic() - began
        slowest = max(slowest, seconds)
        print(f"{point}: {seconds:.1f} s, {record_path(profile, point).name}", flush=True)
    if left:
        needed, point = min(left, key=lambda pair: pair[0])
        said = f"hours={hours:g} are {3600 * hours:.0f} s; {point} takes about {needed:.0f} s"
        if len(left) == len(todo):
            raise ValueError(f"{said}: nothing is begun")
        print(f"{len(left)} points are left, of {said}", flush=True)
    else:
        _judge_generators(profile, points, progress)
    if failed:
        point, error = next(iter(failed.items()))
        raise ValueError(f"{len(failed)} points failed, the first of them {point}: {error}")
    return [point for _, point in left]


def _judge_generators(profile, points, progress):
    """Record the quality of each generator whose point, p = 1 of the first seed, is recorded."""
    seed = profile.grid["seed"][0]
    for factor in sorted({f for point in points for f in profile.generators(point.augmentation)}):
        learnt = recorded(profile, profile.point(factor, 1, seed))
        if learnt and not generator_recorded(profile, factor):
            run_generator(profile, factor, progress=progress)


def _expected(profile):
    """Seconds that a point takes on this device: the median of those recorded, else estimated."""
    try:
        cost = records.every(profile.name, "cost")
    except FileNotFoundError:
        return sum(estimate(profile).values())
    here = cost[cost.device.str.startswith(describe(device())["device"])]
    totals = here.groupby([*records.CELL, "code", "settings"]).value.sum()
    return statistics.median(totals) if len(totals) else sum(estimate(profile).values())
