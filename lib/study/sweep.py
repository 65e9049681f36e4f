"""The sweep from the command line: what it takes, where it stands, its generators and tables."""

import argparse
import sys
import time
from functools import partial

import torch
import torch.nn.functional as F

from lib import checks, gan, measures, records
from lib.attacks.gradient import pgd
from lib.attacks.threat import frozen
from lib.checkpoint import history_of
from lib.gan.training import recipe_of
from lib.measures import Cost
from lib.runtime import accelerated, device, forward
from lib.study.grid import grid, jobs, label
from lib.study.index import File, Index, current, is_current, record_folder
from lib.study.point import run_generator
from lib.study.profile import Profile, Study
from lib.study.trained import dataset, generator_path, kept_generator_path, network


def estimate(profile):
    """Seconds a point takes here, by stage, from timings of single steps on this device.

    A few steps of training, attack and prediction, in whole batches on a GPU and of 32 images on
    a CPU, scaled by how many images the profile puts through each; augmentation and the linear
    algebra of influence are not in it. What one seed has alone is shared out among all.
    """
    images = dataset(profile)
    model = network(profile)
    n_train, n_test = len(images.train_images), len(images.test_images)
    sizes = (profile.training["batch_size"], profile.sweep["batch"]) if accelerated() else (32, 32)
    learnt, seen = (min(size, n_train) for size in sizes)
    x = images.train_images[: max(learnt, seen)].to(device()).float() / 255
    y = images.train_labels[: max(learnt, seen)].to(device())

    def step():
        F.cross_entropy(forward(model.train(), x[:learnt]), y[:learnt]).backward()

    def attack():
        pgd(model, x[:seen], y[:seen], eps=0.5, steps=1)

    def predict():
        with frozen(model), torch.no_grad():
            forward(model, x[:seen])

    train = _seconds(step) / learnt
    attacked, predicted = (_seconds(call) / seen for call in (attack, predict))
    cost = Cost(attacked, predicted, n_train, n_test, profile.measures)
    found, seeds = {"train": profile.training["epochs"] * n_train * train}, profile.grid["seed"]
    for name, settings in profile.measures.items():
        shared = len(seeds) if measures.facts(name).first_seed else 1
        found[name] = measures.module(name).seconds(settings, cost) / shared
    return found


def generator_seconds(profile, factor):
    """Seconds that what is left of a factor's generator's training takes here; 0 if it is done.

    Of a few steps beyond the first, which pays for the start; on a processor, where a whole batch
    may take a minute, with few images.
    """
    ((_, _, recipe),) = profile.factors(factor)
    whole = recipe_of(**recipe)
    size, rounds = whole["batch_size"], whole["rounds"]
    done = max(len(history_of(at(profile, factor)))
               for at in (generator_path, kept_generator_path))  # fmt: skip
    if done >= rounds:
        return 0.0
    few, more = (size, 20) if device().type == "cuda" else (min(size, 4), 2)
    images, rest = dataset(profile), recipe | {"rounds": 1, "batch_size": few}

    def seconds(steps):
        return _seconds(lambda: gan.train_gan(
            dataset=images, device=device(), progress=False, **rest | {"steps": steps}
        ))  # fmt: skip

    step = max(seconds(1 + more) - seconds(1), 1e-6) / more * size / few
    return recipe["steps"] * (1 - done / rounds) * step


def _seconds(call):
    """The median time of a call, after one to warm up."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        call()
        if device().type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return sorted(times[1:])[1]


def plan(profile, workers):
    points, index = grid(profile), Index(profile)
    missing = [point for point in points if index.missing(point)]
    print(f"profile {profile.name}: {len(points)} points in {len(jobs(profile))} jobs, "
          f"{len(missing)} of them to do")  # fmt: skip
    said = _plan_study if isinstance(profile, Study) else _plan_experiment
    said(profile, len(points), len(missing), workers)


def _plan_study(profile, points, missing, workers):
    seconds = estimate(profile)
    megabytes = points * sum(p.numel() for p in network(profile).parameters()) * 4 / 1e6
    stages = ", ".join(f"{stage} {_duration(value)}" for stage, value in seconds.items())
    print(f"a point, timed here on {device().type}: about {_duration(sum(seconds.values()))} "
          f"({stages}; augmentation and influence's linear algebra come on top)")  # fmt: skip
    trained = {name: generator_seconds(profile, name) for name in profile.generators()}
    for name, needed in trained.items():
        print(f"generator {name}: about {_duration(needed)}")
    hours = (sum(seconds.values()) * missing / workers + sum(trained.values())) / 3600
    print(f"in all about {hours:.2g} hours with {workers} workers, "
          f"and {megabytes:.3g} MB of checkpoints")  # fmt: skip


def _plan_experiment(profile, points, missing, workers):
    try:
        seconds = records.select(profile.name, "cost")[0].value
    except FileNotFoundError:
        print("how long a point takes is not known before one is recorded")
        return
    print(f"a point: {_duration(seconds.median())}, the median of {len(seconds)} recorded ones")
    hours = seconds.mean() * missing / workers / 3600
    print(f"in all about {hours:.2g} hours with {workers} workers")


def status(profile):
    """A line for each value of the first and other axes, a mark for each of the dial, or missing.

    The dial is p in the study, and the last axis of an experiment.
    """
    index, points = Index(profile), grid(profile)
    done = {point: not index.missing(point) for point in points}
    print(f"profile {profile.name}: {sum(done.values())} of {len(done)} points are recorded")
    dial, lines = "p" if isinstance(profile, Study) else profile.axes[-1], {}
    for point, is_done in done.items():
        words = [str(value) if axis == "augmentation" else f"{axis} {value}"
                 for axis, value in point.cell.items() if axis != dial]  # fmt: skip
        value = point.cell[dial]
        mark = value if isinstance(value, str) else f"{value:g}"
        mark = mark if is_done else "-" * len(mark)
        lines.setdefault(", ".join(words) or dial, []).append(mark)
    for words, marks in lines.items():
        print(f"  {words}: {' '.join(marks)}")


def collect(profile):
    """Merge the profile's record files of now into `results/`, points outside the grid as well.

    One that is damaged, or of another point than its name says, is set aside and named at the end,
    in a ValueError: started again, the sweep makes it again.
    """
    refused, kept = [], []
    for path in sorted(record_folder(profile).glob("*.parquet")):
        file = File.of(path.name)
        if file is None or not is_current(profile, file):
            continue
        try:
            _check(path, file)
            kept.append(path)
        except ValueError as error:
            path.replace(path.with_suffix(".refused"))
            refused.append(f"{error}")
    keep = partial(current, profile) if profile.sweep["remake"] else True
    if kept or not refused:
        records.collect(profile.name, kept, keep=keep)
    if refused:
        more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
        raise ValueError(f"{refused[0]}{more}: set aside; sweep again to make them again")


def _check(path, file):
    """ValueError if a record file is damaged, or its rows are of another point or version."""
    first = records.read_file(path).iloc[0]
    axes = records.axes_of(first.to_frame().T)
    cell = {axis: first[axis] for axis in axes if axis not in ("dataset", "network")}
    point = label(cell)
    if file.measure == "generators":
        point = f"generator-{first['augmentation']}"
    if (point, first["code"], first["settings"]) != (file.point, file.code, file.settings):
        raise ValueError(f"record {path} is of another point or version than its name says")


def _duration(seconds):
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def main():
    parser = argparse.ArgumentParser(prog="python -m lib.study", description=__doc__)
    parser.add_argument("command", choices=("plan", "status", "generator", "collect"))
    parser.add_argument("profile", help="a name of notebooks/profiles/, or a path to a .yaml")
    parser.add_argument("factor", nargs="?", help="of `generator`: the augmentation it serves")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    try:
        profile = Profile.load(arguments.profile)
        if arguments.command == "plan":
            plan(profile, arguments.workers)
        elif arguments.command == "generator":
            checks.one_of(arguments.factor, profile.generators(), "generator of the grid")
            run_generator(profile, arguments.factor, progress=sys.stderr.isatty())
        else:
            {"status": status, "collect": collect}[arguments.command](profile)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")
