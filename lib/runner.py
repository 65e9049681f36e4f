"""The grid runner: many points in one process, each recorded as soon as it is done."""

import statistics
import time

from lib import checks, records
from lib.profile import grid
from lib.provenance import describe
from lib.runtime import device
from lib.study import (
    generator_recorded,
    record_path,
    recorded,
    run,
    run_generator,
    subject,
)
from lib.sweep import estimate, generator_seconds

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
    nothing is begun. Whatever stops a point, those before it stay recorded, and the next call
    goes on behind them.
    """
    if hours is not None and not checks.radius(hours, "hours"):
        raise ValueError("hours must be a number > 0, got 0")
    started = time.monotonic()
    todo = [point for point in points if not recorded(profile, point)]
    print(f"{len(points)} points, {len(points) - len(todo)} of them recorded already", flush=True)
    slowest = _expected(profile) if hours is not None and todo else 0.0
    controls, left = {}, []
    for point in todo:
        began = time.monotonic()
        if hours is not None:
            factors = profile.generators(point.augmentation)
            needed = slowest + sum(generator_seconds(profile, factor) for factor in factors)
            if needed > 3600 * hours - (began - started):
                left.append((needed, point))
                continue
        if point.p > 0 and point.seed not in controls:
            control = profile.point("none", 0, point.seed)
            controls[point.seed] = subject(profile, control, progress=progress)
        run(profile, point, control=controls.get(point.seed), progress=progress)
        seconds = time.monotonic() - began
        slowest = max(slowest, seconds)
        print(f"{point}: {seconds:.1f} s, {record_path(profile, point).name}", flush=True)
    _judge_generators(profile, points, progress)
    if left:
        needed, point = min(left, key=lambda pair: pair[0])
        said = f"hours={hours:g} are {3600 * hours:.0f} s; {point} takes about {needed:.0f} s"
        if len(left) == len(todo):
            raise ValueError(f"{said}: nothing is begun")
        print(f"{len(left)} points are left, of {said}", flush=True)
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
    totals = here.groupby(["augmentation", "p", "seed"]).value.sum()
    return statistics.median(totals) if len(totals) else sum(estimate(profile).values())
