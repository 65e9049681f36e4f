"""The sweep from the command line: what it takes, where it stands, its generators and tables."""

import argparse
import sys
import time
from functools import partial

import torch
import torch.nn.functional as F

from lib import checks, gan, records
from lib.attacks.gradient import pgd
from lib.attacks.threat import frozen
from lib.checkpoint import history_of
from lib.gan.training import recipe_of
from lib.measures import CENTRES
from lib.runtime import accelerated, device, forward
from lib.study.grid import grid, jobs
from lib.study.point import current, record_folder, recorded, run_generator, valid
from lib.study.profile import Profile
from lib.study.trained import dataset, generator_path, generators, kept_generator_path, network


def estimate(profile):
    """Seconds a point takes here, by stage, from timings of single steps on this device.

    A few steps of training, attack and prediction, in whole batches on a GPU and of 32 images on
    a CPU, scaled by how many images the profile puts through each; augmentation and the linear
    algebra of influence are not in it. The checks, which one seed has, are shared out among all.
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
    a, d, c = profile.attack, profile.distance, profile.checks
    s, i = profile.stress, profile.influence
    runs = {(eps, steps) for eps in a["eps"] for steps in a["steps"]}
    runs |= {(eps, s["steps"]) for eps in s["adversarial"]} | {(i["eps"], i["steps"])}
    radii = sum(len(s[centre]) for centre in CENTRES)
    # Twice the steps, one run a restart, one on the rival; Square only predicts.
    checked = max(a["steps"]) * (3 + c["restarts"]) * attacked + c["queries"] * predicted
    return {
        "train": profile.training["epochs"] * n_train * train,
        "performance": n_test * sum(steps for _, steps in runs) * attacked,
        "distances": n_test * d["steps"] * attacked,
        "checks": min(c["images"], n_test) * len(a["eps"]) * checked / len(profile.grid["seed"]),
        "stress": n_test * s["neighbours"] * radii * predicted,
        # The draw of A(S) and its originals, and both once more in the control's eyes.
        "influence": 4 * n_train * predicted,
    }


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
    points = grid(profile)
    missing = [point for point in points if not recorded(profile, point)]
    seconds = estimate(profile)
    megabytes = len(points) * sum(p.numel() for p in network(profile).parameters()) * 4 / 1e6
    stages = ", ".join(f"{stage} {_duration(value)}" for stage, value in seconds.items())
    print(f"profile {profile.name}: {len(points)} points in {len(jobs(profile))} jobs, "
          f"{len(missing)} of them to do")  # fmt: skip
    print(f"a point, timed here on {device().type}: about {_duration(sum(seconds.values()))} "
          f"({stages}; augmentation and influence's linear algebra come on top)")  # fmt: skip
    trained = {name: generator_seconds(profile, name) for name in generators(profile)}
    for name, needed in trained.items():
        print(f"generator {name}: about {_duration(needed)}")
    hours = (sum(seconds.values()) * len(missing) / workers + sum(trained.values())) / 3600
    print(f"in all about {hours:.2g} hours with {workers} workers, "
          f"and {megabytes:.3g} MB of checkpoints")  # fmt: skip


def status(profile):
    """A line for each augmentation and seed, a mark for each p: recorded or missing."""
    done = {point: recorded(profile, point) for point in grid(profile)}
    print(f"profile {profile.name}: {sum(done.values())} of {len(done)} points are recorded")
    lines = {}
    for point, is_done in done.items():
        mark = f"{point.p:g}" if is_done else "-" * len(f"{point.p:g}")
        lines.setdefault((point.augmentation, point.seed), []).append(mark)
    for (augmentation, seed), marks in lines.items():
        print(f"  {augmentation}, seed {seed}: {' '.join(marks)}")


def collect(profile):
    """Merge the profile's valid point files into `results/`, points outside the grid as well."""
    files = sorted(record_folder(profile).glob("*.parquet"))
    kept = [file for file in files if valid(profile, file)]
    keep = partial(current, profile) if profile.sweep["remake"] else True
    records.collect(profile.name, kept, keep=keep)


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
            checks.one_of(arguments.factor, generators(profile), "generator of the grid")
            run_generator(profile, arguments.factor, progress=sys.stderr.isatty())
        else:
            {"status": status, "collect": collect}[arguments.command](profile)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")
