"""Seconds a point of a profile takes, by stage, and how threads and workers share the processor.

    python benchmarks/point.py [PROFILE]

Trains and measures a few points in fresh processes: one after another with all threads, then two
at once with one thread each. Both do the same work in the same run, so their ratio stands where
seconds do not. Writes nothing into `runs/` or `results/`.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time

WORK = """
import sys
from pathlib import Path
from lib import records, study
study.RUNS = Path(sys.argv[2])
profile = study.Profile.load(sys.argv[1])
name = profile.grid["augmentation"][0]
for seed in map(int, sys.argv[3:]):
    path = study.run(profile, profile.point(name, 0.5, seed), progress=False)
    frame = records.read_file(path)
    cost = frame[frame.table == "cost"]
    print(dict(zip(cost.stage, cost.value.round(2))), flush=True)
"""


def timed(profile, workers, threads, points):
    """Wall-clock seconds of `workers` processes that share `points` points, and their output."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        started = time.perf_counter()
        running = [
            subprocess.Popen(
                [sys.executable, "-c", WORK, profile, folder, *map(str, range(w, points, workers))],
                env=environment, stdout=subprocess.PIPE, text=True,
            )
            for w in range(workers)
        ]  # fmt: skip
        output = [process.communicate()[0] for process in running]
        if any(process.returncode for process in running):
            sys.exit("a worker failed")
        return time.perf_counter() - started, "".join(output)


def main():
    profile, points = (sys.argv[1:] or ["digits"])[0], 4
    cores = os.cpu_count()
    wide, _ = timed(profile, 1, cores, points)
    narrow, stages = timed(profile, cores, 1, points)
    print(f"{platform.processor() or platform.machine()}, {cores} cores, profile {profile}, "
          f"{points} points with the p = 0 model of each seed")  # fmt: skip
    print(f"1 worker, {cores} threads: {wide:.1f} s")
    print(f"{cores} workers, 1 thread: {narrow:.1f} s ({wide / narrow:.2f} times as fast)")
    print("stages with one thread (p = 0 models not counted):")
    print(stages, end="")


if __name__ == "__main__":
    main()
