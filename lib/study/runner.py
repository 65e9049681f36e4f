"""The grid runner: many points in one process, each recorded as soon as it is done."""

import time

from lib import checks, records
from lib.records.provenance import describe
from lib.runtime import accelerated, device
from lib.study.index import Index, generator_file
from lib.study.point import run, run_generator
from lib.study.sweep import estimate, generator_seconds
from lib.study.trained import generator


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
    started, index = time.monotonic(), Index(profile)
    todo = [point for point in points if index.missing(point)]
    print(f"{len(points)} points, {len(points) - len(todo)} of them recorded already", flush=True)
    slowest, training = 0.0, {}
    if hours is not None and todo:
        slowest, names = _expected(profile), {point.augmentation for point in todo}
        factors = {factor for name in names for factor in profile.generators(name)}
        training = {factor: generator_seconds(profile, factor) for factor in factors}
    controls, left, failed = {}, [], {}
    for point in todo:
        missing = index.missing(point)
        if not missing:  # made by another process, in the meantime
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
            run(profile, point, controls=controls, index=index, progress=progress)
        except (FloatingPointError, ValueError) as error:
            print(f"{point} failed: {error}", flush=True)
            failed[point] = error
            continue
        seconds = time.monotonic() - began
        slowest = max(slowest, seconds)
        print(f"{point}: {seconds:.1f} s, {', '.join(missing)}", flush=True)
    if left:
        needed, point = min(left, key=lambda pair: pair[0])
        said = f"hours={hours:g} are {3600 * hours:.0f} s; {point} takes about {needed:.0f} s"
        if len(left) == len(todo):
            raise ValueError(f"{said}: nothing is begun")
        print(f"{len(left)} points are left, of {said}", flush=True)
    else:
        _judge_generators(profile, points, index, progress)
    if failed:
        point, error = next(iter(failed.items()))
        raise ValueError(f"{len(failed)} points failed, the first of them {point}: {error}")
    return [point for _, point in left]


def _judge_generators(profile, points, index, progress):
    """Record the quality of each generator whose point, p = 1 of the first seed, is recorded."""
    seed = profile.grid["seed"][0]
    for factor in sorted({f for point in points for f in profile.generators(point.augmentation)}):
        learnt = not index.missing(profile.point(factor, 1, seed))
        if learnt and generator_file(profile, factor) not in index:
            run_generator(profile, factor, progress=progress)


def _expected(profile):
    """Seconds that a point takes on this device: the median of those recorded, else estimated."""
    try:
        cost, _ = records.select(profile.name, "cost")
    except FileNotFoundError:
        return sum(estimate(profile).values())
    here = cost[cost.device.str.startswith(describe(device())["device"])]
    totals = here.groupby(records.CELL).value.sum()
    return totals.median() if len(totals) else sum(estimate(profile).values())
