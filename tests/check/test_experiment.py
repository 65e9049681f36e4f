"""An experiment of two files, swept, killed, resumed and read."""

import time

import pytest

from lib import records
from lib.study.grid import grid
from lib.study.profile import Profile
from tests.check.test_killed_sweep import House, kill
from tests.study.test_experiment import mean, toy


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tree").mkdir()
    return House(tmp_path / "tree")


def test_two_files_are_an_experiment(tree, tmp_path, monkeypatch):
    """A notebook and a profile in a folder of their own: nothing else knows of them."""
    (tmp_path / "mine").mkdir()
    settings = {"heads": 0.3, "seconds": 0.4}
    path = toy(tmp_path / "mine", settings=settings, sweep={"points_per_job": 3})
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("RESULTS", str(tmp_path / "results"))
    folder = tmp_path / "runs" / "coin" / "records"

    def made():
        return {file: file.stat().st_mtime_ns for file in folder.glob("*.parquet")}

    process = tree.start(str(path))
    deadline = time.monotonic() + 60
    while not made() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    kill(process)
    before, cells = made(), grid(Profile.read(path))
    assert 0 < len(before) < len(cells), tree.log.read_text()
    assert not (tmp_path / "results").exists()

    tree.sweep(str(path))
    after = made()
    assert len(after) == len(cells)
    assert {file: after[file] for file in before} == before
    found = records.read("coin", "coin")
    assert sorted(zip(found.n, found.seed, found.value, strict=True)) == sorted(
        (n, seed, mean(n, seed)) for n in (10, 1000) for seed in (0, 1, 2)
    )

    # Nothing is left to do; with a larger grid only what is new is.
    tree.sweep(str(path))
    assert made() == after
    grown = {"n": [10, 1000], "seed": [0, 1, 2, 3]}
    toy(tmp_path / "mine", settings=settings, sweep={"points_per_job": 3}, grid=grown)
    tree.sweep(str(path))
    assert {file: made()[file] for file in after} == after
    assert len(made()) == 8
    assert len(records.read("coin", "coin")) == 8
