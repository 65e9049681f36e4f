"""The sweep for real, in a copy of the tree: killed in the middle, started again, damaged."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from lib import records
from lib.records.provenance import ROOT
from tests.study.test_point import small_profile


class House:
    """A copy of the repository with its own runs/ and results/, in which the sweep is started."""

    def __init__(self, folder):
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)

    def profile(self, path, **changes):
        """A profile of six points in six jobs at `path`, a few seconds each."""
        small_profile(self.folder, **{
            "profile": "small", "training.epochs": 3, "grid.p": [0, 0.5], "grid.seed": [0, 1],
            "sweep.points_per_job": 1,
        } | changes)  # fmt: skip
        (self.folder / "small.yaml").rename(self.folder / path)

    def command(self, profile):
        """What `make sweep` runs, without its set-up."""
        printed = subprocess.run(
            ["make", "--dry-run", "sweep", f"PROFILE={profile}", "CORES=2"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        (line,) = [line for line in printed.splitlines() if line.startswith("snakemake ")]
        return shlex.split(line)

    def start(self, profile="small"):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {
            "PATH": path, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"
        }  # fmt: skip
        if not Path(profile).is_absolute():  # in the copy's own folders
            environment.pop("RESULTS", None)
        self.log = self.folder / "log.txt"
        with open(self.log, "w") as log:
            return subprocess.Popen(
                self.command(profile), cwd=self.folder, env=environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def sweep(self, profile="small"):
        """Run it to its end; return what it said."""
        process = self.start(profile)
        try:
            code = process.wait(timeout=120)
        finally:
            kill(process)
        assert code == 0, self.log.read_text()
        return self.log.read_text()

    def records(self):
        return sorted((self.folder / "runs" / "small" / "records").glob("*.parquet"))

    def made(self, pattern="records/*.parquet"):
        """{path: what changes when a file is made again}."""
        files = sorted((self.folder / "runs" / "small").glob(pattern))
        stats = {path: path.stat() for path in files}
        return {path: (s.st_ino, s.st_mtime_ns, path.read_bytes()) for path, s in stats.items()}

    def tables(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RESULTS", str(self.folder / "results"))
            names = [
                "performance",
                "distances",
                "checks",
                "stress",
                "influence",
                "distribution",
                "trust",
                "cost",
            ]
            return {name: records.read("small", name) for name in names}


def kill(process):
    """SIGKILL to the whole process group; wait for what had left it, as Jupyter's kernels do."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    for one in alive:
        one.kill()
    assert not alive, "processes went on after their sweep was killed"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return House(tmp_path_factory.mktemp("tree"))


@pytest.fixture
def house(tree):
    """The copy with nothing made yet."""
    for name in ("runs", "results", ".snakemake"):
        shutil.rmtree(tree.folder / name, ignore_errors=True)
    return tree


POINTS = {(a, p, seed) for a, p in [("none", 0), ("classic", 0.5), ("gan-ns", 0.5)]
          for seed in (0, 1)}  # fmt: skip


def is_complete(tables):
    for name, table in tables.items():
        found = set(zip(table.augmentation, table.p, table.seed, strict=True))
        alone = name in ("checks", "trust")  # of the first seed
        assert found == {point for point in POINTS if not alone or point[2] == 0}, name
    assert len(tables["performance"]) == len(POINTS) * (1 + 2 * 2)
    assert len(tables["stress"]) == len(POINTS) * (4 + 1 + 2 * 2)
    checked = sum(seed == 0 for *_, seed in POINTS)  # the first seed's are
    assert len(tables["checks"]) == checked * (3 + 2 * 4)
    assert len(tables["cost"]) == len(POINTS) * 5 + checked * 2  # checks and trust


def test_a_killed_sweep_goes_on(house):
    house.profile("notebooks/profiles/small.yaml", **{"grid.augmentation": ["classic", "gan-ns"]})
    # The network and four measures each, two more at the first seed, and the generator.
    files = 5 * len(POINTS) + 2 * 3 + 1
    process = house.start()
    deadline = time.monotonic() + 100
    while not house.records() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    kill(process)
    before = house.made()
    assert 0 < len(before) < files, house.log.read_text()
    assert not (house.folder / "results" / "small").exists()

    # Started again it finishes, and what was recorded is not made again.
    house.sweep()
    after = house.made()
    assert len(after) == files
    assert {path: after[path] for path in before} == before
    is_complete(tables := house.tables())

    # Once more: nothing to do, so nothing is done.
    everything = house.made("**/*.parquet") | house.made("executed/*") | house.made("jobs/*")
    started = time.monotonic()
    house.sweep()
    assert time.monotonic() - started < 30
    again = house.made("**/*.parquet") | house.made("executed/*") | house.made("jobs/*")
    assert again == everything

    # A damaged record whose rows are in no table, and the damaged checkpoint of its network, are
    # named and made again.
    shutil.rmtree(house.folder / "results" / "small")
    (damaged,) = (house.folder / "runs/small/records").glob("classic-p0.5-seed1.stress.*")
    (checkpoint,) = (house.folder / "runs/small").rglob("classic-p0.5-seed1.safetensors")
    for path in (damaged, checkpoint):
        path.write_bytes(path.read_bytes()[:-500])
    others = {path: what for path, what in house.made().items() if path != damaged}
    said = house.sweep()
    assert damaged.name in said
    assert records.read_file(damaged)["seed"].unique().tolist() == [1]
    executed = house.folder / "runs/small/executed/classic-seed1-part0.ipynb"
    assert checkpoint.name in executed.read_text()
    now = house.made()
    network = {path for path in now if path.name.startswith("classic-p0.5-seed1.network.")}
    assert {path: what for path, what in now.items() if path not in {damaged, *network}} == {
        path: what for path, what in others.items() if path not in network
    }
    is_complete(repaired := house.tables())
    for name in tables.keys() - {"cost"}:
        pd.testing.assert_frame_equal(repaired[name], tables[name], check_exact=True)


def test_a_lost_record_is_made_again(house):
    """Of a profile that keeps its points: "recorded points stand until they are removed"."""
    only = {"grid.p": [0], "grid.seed": [0, 1], "sweep.remake": False}
    house.profile("notebooks/profiles/small.yaml", **only)
    house.sweep()
    tables, (first, *others) = house.tables(), house.records()
    kept = house.made()
    first.unlink()
    shutil.rmtree(house.folder / "results" / "small")
    house.sweep()
    assert house.records() == [first, *others]
    assert {path: house.made()[path] for path in others} == {path: kept[path] for path in others}
    again = house.tables()["performance"]
    pd.testing.assert_frame_equal(again, tables["performance"], check_exact=True)


def test_recorded_tables_survive_a_fresh_checkout_and_a_larger_grid(house):
    """Of a profile that keeps its points: its tables are extended, never emptied."""
    only = {"grid.p": [0], "grid.seed": [0], "sweep.remake": False}
    house.profile("notebooks/profiles/small.yaml", **only)
    house.sweep()
    before = house.tables()["performance"]
    shutil.rmtree(house.folder / "runs")
    shutil.rmtree(house.folder / ".snakemake")
    house.sweep()
    pd.testing.assert_frame_equal(house.tables()["performance"], before, check_exact=True)
    assert house.records() == []
    house.profile("notebooks/profiles/small.yaml", **only | {"grid.seed": [0, 1]})
    house.sweep()
    after = house.tables()["performance"]
    assert {path.name.rsplit(".", 3)[0] for path in house.records()} == {"none-p0-seed1"}
    assert set(after.seed) == {0, 1}
    pd.testing.assert_frame_equal(after[after.seed == 0], before, check_exact=True)


def test_points_are_made_again_when_settings_change(house):
    """Only where the profile remakes its points; its tables then speak of the new settings."""
    small = {"grid.p": [0], "grid.seed": [0]}
    house.profile("notebooks/profiles/small.yaml", **small)
    house.sweep()
    house.profile("notebooks/profiles/small.yaml", **small, **{"measures.stress.neighbours": 4})
    house.sweep()
    table = house.tables()["stress"]
    assert set(table["neighbours"]) == {4}
    assert table["settings"].nunique() == 1

    kept = {"sweep.remake": False, "measures.stress.neighbours": 4}
    house.profile("notebooks/profiles/small.yaml", **small, **kept)
    before = house.made("**/*.parquet")
    house.sweep()
    assert house.made("**/*.parquet") == before
    assert set(house.tables()["stress"]["neighbours"]) == {4}


def test_a_profile_of_ones_own_is_named_by_its_path(house):
    """As `make sweep PROFILE=mine.yaml`, from the root, where the path is relative."""
    house.profile("mine.yaml", **{"grid.p": [0], "grid.seed": [0]})
    assert yaml.safe_load((house.folder / "mine.yaml").read_text())["profile"] == "small"
    house.sweep("mine.yaml")
    assert set(house.tables()["performance"].seed) == {0}
