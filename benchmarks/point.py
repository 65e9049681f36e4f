"""Seconds a point of a profile takes, by stage, and what the whole grid would take.

    python benchmarks/point.py [PROFILE]

Trains and measures a few points in fresh processes. On a GPU, two in one process, of which the
first compiles. On a CPU, how threads and workers share it: one worker with all threads, then as
many as there are cores with one thread each; both do the same work in the same run, so their
ratio stands where seconds do not. Writes nothing into `runs/` or `results/`.
"""

import ast
import os
import statistics
import subprocess
import sys
import tempfile
import time

from lib import runtime
from lib.records.provenance import device_name
from lib.study.grid import grid
from lib.study.profile import Profile

WORK = """
import sys
import pandas as pd
from lib import records
from lib.study import point as study
from lib.study.index import record_folder
from lib.study.profile import Profile
profile = Profile.load(sys.argv[1])
name = profile.grid["augmentation"][0]
for seed in map(int, sys.argv[2:]):
    point = profile.point(name, 0.5, seed)
    study.run(profile, point, progress=False)
    files = record_folder(profile).glob(f"{point}.*.parquet")
    frame = pd.concat(map(records.read_file, files))
    cost = frame[frame.table == "cost"]
    print(dict(zip(cost.stage, cost.value.round(2).tolist())), flush=True)
"""


def timed(profile, workers, threads, points):
    """Wall-clock seconds of `workers` processes that share `points` points, and their output."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "RUNS": folder}
        started = time.perf_counter()
        running = [
            subprocess.Popen(
                [sys.executable, "-c", WORK, profile, *map(str, range(w, points, workers))],
                env=environment, stdout=subprocess.PIPE, text=True,
            )
            for w in range(workers)
        ]  # fmt: skip
        output = [process.communicate()[0] for process in running]
        if any(process.returncode for process in running):
            sys.exit("a worker failed")
        return time.perf_counter() - started, "".join(output)


def main():
    profile = (sys.argv[1:] or ["digits"])[0]
    cores, gpu = os.cpu_count(), runtime.device().type == "cuda"
    points, workers = (2, 1) if gpu else (4, cores)
    print(f"{device_name(runtime.device())}, {cores} cores, profile {profile}, {points} points "
          "with the p = 0 model of each seed")  # fmt: skip
    if not gpu:
        wide, _ = timed(profile, 1, cores, points)
        print(f"1 worker, {cores} threads: {wide:.1f} s")
    seconds, stages = timed(profile, workers, 1 if workers > 1 else cores, points)
    ratio = "" if gpu else f" ({wide / seconds:.2f} times as fast)"
    print(f"{workers} workers, {cores // workers} threads each: {seconds:.1f} s{ratio}")
    print("stages (p = 0 models not counted):")
    print(stages, end="")
    each = [ast.literal_eval(line) for line in stages.splitlines()]
    first, *others = (sum(point.values()) - point.get("compile", 0) for point in each)
    settings = Profile.load(profile)
    number, seeds = len(grid(settings)), len(settings.grid["seed"])
    # Checks and trust are the first seed's alone.
    mean = (first + (seeds - 1) * statistics.mean(others)) / seeds
    hours = number * mean / workers / 3600
    print(f"the grid's {number} points at {mean:.1f} s: {hours:.2g} hours, "
          "the generators' training not counted")  # fmt: skip


if __name__ == "__main__":
    main()
