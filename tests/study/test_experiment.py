"""Experiments: a notebook and a profile, nothing else."""

import random
import subprocess
import sys

import numpy as np
import pytest
import yaml

from lib import records
from lib.records.provenance import ROOT, code_version
from lib.study import run_experiment, sweep
from lib.study.grid import grid, jobs
from lib.study.index import Index, record_folder
from lib.study.profile import Profile

HEAD = (ROOT / "notebooks" / "point.py").read_text().split("# %% [markdown]")[0]
NOTEBOOK = f'''{HEAD}# %% tags=["parameters"]
profile = "coin.yaml"
n = None
seed = None

# %%
import random
import time


def point(n, seed, heads=0.5, seconds=0):
    """The mean of n flips of a coin."""
    time.sleep(seconds)
    flips = random.Random(seed)
    mean = sum(flips.random() < heads for _ in range(n)) / n
    return [dict(measure="mean", value=mean, examples=n)]


# %%
from lib.study import run_experiment

run_experiment(profile, point, n=n, seed=seed)
'''
SETTINGS = {
    "profile": "coin", "notebook": "coin", "settings": {"heads": 0.3},
    "grid": {"n": [10, 1000], "seed": [0, 1, 2]}, "sweep": {"points_per_job": 2},
}  # fmt: skip


def mean(n, seed, heads=0.3):
    flips = random.Random(seed)
    return sum(flips.random() < heads for _ in range(n)) / n


def toy(folder, text=NOTEBOOK, **changes):
    """A notebook and a profile in a folder; the path of the profile."""
    (folder / "coin.py").write_text(text)
    path = folder / "coin.yaml"
    path.write_text(yaml.safe_dump(SETTINGS | changes))
    return path


def point(n, seed, heads=0.5):
    return [{"measure": "mean", "value": mean(n, seed, heads), "examples": n}]


def test_a_grid_has_all_cells_and_jobs_cut_its_last_axis(tmp_path):
    profile = Profile.read(toy(tmp_path))
    cells = [(n, seed) for n in (10, 1000) for seed in (0, 1, 2)]
    assert [tuple(cell.cell.values()) for cell in grid(profile)] == cells
    assert [[str(cell) for cell in part] for part in jobs(profile).values()] == [
        ["n=10-seed=0", "n=10-seed=1"], ["n=10-seed=2"],
        ["n=1000-seed=0", "n=1000-seed=1"], ["n=1000-seed=2"],
    ]  # fmt: skip


def test_rows_are_recorded_with_their_axes_and_their_provenance(house, tmp_path, capsys):
    path = toy(tmp_path)
    profile = Profile.read(path)
    run_experiment(path, point, seed=[0, 1])
    assert [str(cell) for cell in grid(profile) if Index(profile).missing(cell)] == [
        "n=10-seed=2", "n=1000-seed=2",
    ]  # fmt: skip
    sweep.status(profile)
    assert "n 10: 0 1 -\n" in capsys.readouterr().out
    run_experiment(path, point)
    assert "6 points, 4 of them recorded already" in capsys.readouterr().out
    sweep.collect(profile)
    found = records.read("coin", "coin")
    assert records.axes_of(found) == ["n", "seed"]
    cells = zip(found.n, found.seed, found.value, strict=True)
    assert sorted(cells) == sorted((n, s, mean(n, s)) for n in (10, 1000) for s in (0, 1, 2))
    assert found.n.dtype == "int64"
    assert (found.examples == found.n).all()
    code, settings = profile.version("coin")
    assert ((found.code == code) & (found.settings == settings) & (found.data == "none")).all()
    cost = records.read("coin", "cost")
    assert set(cost.stage) == {"coin"}
    assert len(cost) == 6
    # What is collected stands when the runs are gone.
    for file in record_folder(profile).iterdir():
        file.unlink()
    assert not any(map(Index(profile).missing, grid(profile)))
    sweep.plan(profile, 2)
    assert "0 of them to do" in capsys.readouterr().out


def test_what_a_record_says_depends_on_the_notebook_and_the_settings(house, tmp_path):
    path = toy(tmp_path)
    run_experiment(path, point)
    for notebook, settings, stands in [
        (NOTEBOOK + "# A word more.\n", {}, True),
        (NOTEBOOK.replace("flips of a coin", "throws"), {}, True),  # a docstring
        (NOTEBOOK.replace("< heads", "<= heads"), {}, False),
        (NOTEBOOK, {"settings": {"heads": 0.4}}, False),
        (NOTEBOOK, {"grid": {"n": [10], "seed": [0]}}, True),
    ]:
        profile = Profile.read(toy(tmp_path, notebook, **settings))
        code_version.cache_clear()  # which stands as long as a process
        assert (Index(profile).missing(grid(profile)[0]) == []) is stands


def test_how_points_are_gone_through_is_no_part_of_what_they_say(house, tmp_path, engine):
    profile = Profile.read(toy(tmp_path))
    before = profile.version("coin")
    engine("study.experiment")
    engine("records.tables")
    assert profile.version("coin") == before
    seeded = NOTEBOOK.replace("import random", "import random\n\nfrom lib import seeds")
    profile = Profile.read(toy(tmp_path, seeded))
    before = profile.version("coin")
    engine("seeds")
    assert profile.version("coin") != before


def test_a_cell_that_fails_does_not_block_the_others(house, tmp_path, capsys):
    path = toy(tmp_path)

    def odd(n, seed, heads):
        if seed == 1:
            raise FloatingPointError("the loss is nan")
        return point(n, seed, heads)

    with pytest.raises(ValueError, match=r"2 points failed.*n=10-seed=1: the loss is nan"):
        run_experiment(path, odd)
    profile = Profile.read(path)
    assert [cell.cell["seed"] for cell in grid(profile) if Index(profile).missing(cell)] == [1, 1]


def test_pictures_are_recorded_beside_numbers(house, tmp_path):
    path = toy(tmp_path, grid={"n": [3], "seed": [0]})
    shown = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)

    def with_picture(n, seed, heads):
        return [*point(n, seed, heads), {"measure": "x", "value": 1, "examples": 1, "seen": shown}]

    run_experiment(path, with_picture)
    sweep.collect(Profile.read(path))
    found = records.read("coin", "coin").set_index("measure").seen
    np.testing.assert_array_equal(found["x"], shown)
    assert found["mean"] is None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"seen": np.zeros((3, 200, 200), np.uint8)}, "at most 65536 bytes"),
        ({"seen": np.zeros((3, 8, 8), np.float32)}, "uint8"),
        ({"seed": 7}, "seed"),
        ({"value": "much"}, "value"),
        ({"value": ...}, "value"),
        ({"examples": ...}, "examples"),
        ({"measure": ...}, "measure"),
    ],
)
def test_rows_that_are_none_are_refused_and_nothing_is_written(house, tmp_path, more, said):
    path = toy(tmp_path, grid={"n": [3], "seed": [0]})

    def wrong(n, seed, heads):
        (row,) = point(n, seed, heads)
        return [{name: value for name, value in (row | more).items() if value is not ...}]

    with pytest.raises(ValueError, match=said):
        run_experiment(path, wrong)
    folder = record_folder(Profile.read(path))
    assert not folder.exists() or not [*folder.iterdir()]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"notebook": "dice"}, ["notebook", "dice.py"]),
        ({"notebook": "../coin"}, ["notebook", "../coin"]),
        ({"grid": {"n": [1], "sides": [6]}}, ["'sides'", "parameter", "n, seed"]),
        ({"grid": {"n": [1]}}, ["'seed'", "point"]),
        ({"settings": {"weight": 1}}, ["'weight'", "point", "heads"]),
        ({"grid": {}}, ["grid"]),
        ({"grid": {"n": [], "seed": [0]}}, ["n", "[]"]),
        ({"grid": {"n": [[1]], "seed": [0]}}, ["n", "[1]"]),
        ({"measures": {}}, ["'measures'", "not a setting"]),
    ],
)
def test_a_profile_that_does_not_fit_its_notebook_is_a_line(tmp_path, refuses, changes, said):
    path = toy(tmp_path, **changes)
    refuses(lambda: Profile.read(path), "coin.yaml", *said)


@pytest.mark.parametrize(
    ("notebook", "said"),
    [
        (NOTEBOOK.replace('# %% tags=["parameters"]', "# %%"), ["parameters"]),
        (NOTEBOOK.replace("def point(", "def cell("), ["function `point`"]),
        (NOTEBOOK.replace("seed = None\n", ""), ["'seed'", "parameter"]),
        (NOTEBOOK.replace('profile = "coin.yaml"\n', ""), ["'profile'", "parameter"]),
        (NOTEBOOK.replace("def point(n, seed", "def point(n"), ["'seed'", "argument"]),
    ],
)
def test_a_notebook_that_does_not_fit_its_profile_is_a_line(tmp_path, refuses, notebook, said):
    path = toy(tmp_path, notebook)
    refuses(lambda: Profile.read(path), "coin.yaml", "coin.py", *said)


@pytest.mark.parametrize("name", ["stress", "cost", "generators"])
def test_a_table_of_the_study_is_none_of_an_experiment(tmp_path, refuses, name):
    path = toy(tmp_path)
    (tmp_path / f"{name}.py").write_text(NOTEBOOK)
    path.write_text(yaml.safe_dump(SETTINGS | {"notebook": name}))
    refuses(lambda: Profile.read(path), "table", f"'{name}'")


def test_the_study_is_no_experiment(refuses):
    refuses(lambda: run_experiment("digits", point), "digits", "study")


def test_an_experiment_is_planned_without_torch(tmp_path):
    toy(tmp_path)
    code = (
        "import sys; from lib.study.workflow import prepare; from lib.study.profile import Profile;"
        f"Profile.load({str(tmp_path / 'coin.yaml')!r}); prepare({str(tmp_path / 'coin.yaml')!r});"
        "sys.exit('torch' in sys.modules)"
    )
    environment = {"RUNS": str(tmp_path / "runs"), "RESULTS": str(tmp_path / "results")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT).returncode == 0
