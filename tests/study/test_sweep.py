import re
import subprocess
import sys

import pytest
import yaml

from lib import measures, records
from lib.records.provenance import ROOT
from lib.study import point as study
from lib.study import sweep
from lib.study.grid import grid
from lib.study.index import Index, generator_file, record_file, record_folder
from lib.study.profile import Profile
from lib.study.settings import FOLDER
from tests.study.test_point import frame_of, small_profile


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS", str(tmp_path / "house" / "runs"))
    monkeypatch.setenv("RESULTS", str(tmp_path / "house" / "results"))
    return tmp_path / "house"


@pytest.fixture
def says(monkeypatch, capsys):
    """`says(*arguments)`: what `python -m lib.study` prints."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sweep", *map(str, arguments)])
        sweep.main()
        return capsys.readouterr().out

    return call


def record(profile, point, value=0.5):
    """The records of a point as the study writes them, of a row each, made without training."""
    for name in profile.measured(point):
        file = record_file(profile, point, name)
        row = {
            "profile": profile.name, **vars(point), "measure": "clean error", "code": file.code,
            "settings": file.settings, "data": "d", "commit": "c", "python": "3", "torch": "2",
            "device": "cpu", "value": value, "examples": 1,
        }  # fmt: skip
        rows = [row | {"table": table} for table in profile.tables(name)]
        rows.append(row | {"table": "cost", "stage": name})
        records.write(rows, record_folder(profile) / f"{file}")


def remove(profile):
    for path in record_folder(profile).iterdir():
        path.unlink()


# plan


@pytest.mark.parametrize("name", ["digits", "small"])
def test_plan_prints_points_hours_and_megabytes_and_leaves_nothing(house, tmp_path, says, name):
    path = name if name == "digits" else tmp_path / "small.yaml"
    small = small_profile(tmp_path)
    before = sorted(ROOT.glob("notebooks/**/*")), sorted(tmp_path.rglob("*"))
    said = says("plan", path, "--workers", 2)
    points = 125 if name == "digits" else len(grid(small))
    assert f"{points} points" in said
    assert re.search(r"[\d.e-]+ hours with 2 workers", said)
    # 25,866 parameters of four bytes each, for every point.
    assert f"{points * 25_866 * 4 / 1e6:.3g} MB" in said
    assert (sorted(ROOT.glob("notebooks/**/*")), sorted(tmp_path.rglob("*"))) == before
    assert not house.exists()


def test_hours_are_those_of_what_is_missing_shared_by_the_workers(
    house, tmp_path, says, monkeypatch
):
    monkeypatch.setattr(sweep, "estimate", lambda profile: {"train": 3600.0, "stress": 1800.0})
    profile = small_profile(tmp_path)
    points = grid(profile)
    assert len(points) == 2 * (1 + 2 * 2)
    assert "about 15 hours with 1 workers" in says("plan", tmp_path / "small.yaml")
    for point in points[:6]:
        record(profile, point)
    said = says("plan", tmp_path / "small.yaml", "--workers", 3)
    assert "10 points" in said
    assert "4 of them to do" in said
    assert "about 2 hours with 3 workers" in said


@pytest.mark.parametrize("name", ["digits"])
def test_an_estimate_counts_every_image_that_is_put_through(monkeypatch, name):
    """With one second a step and image, seconds are counts, here from the design's description."""
    monkeypatch.setattr(sweep, "_seconds", lambda call: call() or 32.0)
    found = sweep.estimate(Profile.load(name))
    assert found["train"] == 20 * 1297
    # PGD of 10 and 100 steps at two eps; the other stages' attacks are among them.
    assert found["performance"] == 500 * (10 + 100 + 10 + 100)
    assert found["distances"] == 500 * 30
    # 100 images, two eps: PGD-200, two restarts, the rival's PGD, 300 queries; one seed of five.
    assert found["checks"] == 100 * 2 * (200 + 2 * 100 + 100 + 300) / 5
    assert found["stress"] == 500 * 16 * (4 + 1 + 2)
    assert found["influence"] == 4 * 1297


def test_an_estimate_is_of_the_right_order(house, tmp_path):
    """Against the seconds that a run says it took: within a factor of ten on a busy machine."""
    profile = small_profile(tmp_path, subset=[640, 200], **{"training.epochs": 5})
    estimated = sweep.estimate(profile)
    point = profile.point("none", 0, 0)
    study.run(profile, point, progress=False)
    cost = frame_of(profile, point).query("table == 'cost'").set_index("stage")["value"]
    assert all(seconds > 0 for name, seconds in estimated.items() if name != "trust")
    assert cost["train"] / 10 < estimated["train"] < cost["train"] * 10


# status


def marks(said):
    """{(augmentation, seed): what is said of its p}, from the lines below the first."""
    found = {}
    for line in said.strip().splitlines()[1:]:
        who, what = line.split(":")
        augmentation, seed = who.strip().split(", seed ")
        found[augmentation, int(seed)] = what.split()
    return found


def test_status_tells_recorded_points_from_missing_ones(house, tmp_path, says):
    profile = small_profile(tmp_path)
    points, path = grid(profile), tmp_path / "small.yaml"
    for number in (0, 3, len(points)):
        for point in points[:number]:
            record(profile, point)
        said = says("status", path)
        assert f"{number} of {len(points)} points" in said.splitlines()[0]
        found = marks(said)
        assert found.keys() == {(point.augmentation, point.seed) for point in points}
        for position, point in enumerate(points):
            shown = f"{point.p:g}" in found[point.augmentation, point.seed]
            assert shown == (position < number)
        assert sum(map(len, found.values())) == len(points)  # the missing have a mark as well


def test_status_makes_nothing(house, tmp_path, says):
    small_profile(tmp_path)
    says("status", tmp_path / "small.yaml")
    assert not house.exists()


# collect


def test_collect_takes_the_points_of_the_profile(house, tmp_path, says):
    profile = small_profile(tmp_path)
    points = grid(profile)
    for number, point in enumerate(points[:4]):
        record(profile, point, number)
    record(profile, profile.point("classic", 0.75, 0), 99)  # one more than the grid has
    says("collect", tmp_path / "small.yaml")
    found = records.read("small", "performance")
    assert sorted(found["value"]) == [0, 1, 2, 3, 99]
    whole = [*points[:4], profile.point("classic", 0.75, 0)]
    assert len(records.read("small", "cost")) == sum(len(profile.measured(one)) for one in whole)
    assert records.profiles() == ["small"]


def test_collect_leaves_out_what_other_settings_or_code_made(house, tmp_path, says, monkeypatch):
    profile = small_profile(tmp_path)
    first, second, third, *_ = grid(profile)
    record(small_profile(tmp_path / "other", **{"training.epochs": 7}), first, 1)
    with monkeypatch.context() as patch:
        patch.setattr(measures, "code_version", lambda *modules: "0" * 12)
        record(profile, second, 2)
    record(profile, third, 3)
    says("collect", tmp_path / "small.yaml")
    assert records.read("small", "performance")["value"].tolist() == [3]


@pytest.mark.parametrize("remake", [True, False])
@pytest.mark.parametrize("same_engine", [True, False])
def test_collect_keeps_what_was_recorded_and_is_still_valid(
    house, tmp_path, says, monkeypatch, remake, same_engine
):
    """Of an older engine that is nothing, where points are remade."""
    profile = small_profile(tmp_path, **{"sweep.remake": remake})
    first, second, *_ = grid(profile)
    with monkeypatch.context() as patch:
        if not same_engine:
            patch.setattr(measures, "code_version", lambda *modules: "0" * 12)
        record(profile, first, 1)
        says("collect", tmp_path / "small.yaml")
    remove(profile)
    assert (not Index(profile).missing(first)) == (same_engine or not remake)
    record(profile, second, 2)
    says("collect", tmp_path / "small.yaml")
    found = sorted(records.every("small", "performance")["value"])
    assert found == ([1, 2] if same_engine or not remake else [2])


def test_collect_names_a_damaged_record_and_sets_it_aside(house, tmp_path, monkeypatch, capsys):
    profile = small_profile(tmp_path)
    first, second, *_ = grid(profile)
    record(profile, first, 1)
    record(profile, second, 2)
    damaged = record_folder(profile) / f"{record_file(profile, first, 'performance')}"
    damaged.write_bytes(damaged.read_bytes()[:50])
    monkeypatch.setattr(sys, "argv", ["sweep", "collect", str(tmp_path / "small.yaml")])
    with pytest.raises(SystemExit) as stopped:
        sweep.main()
    assert stopped.value.code == 2
    assert str(damaged) in capsys.readouterr().err
    assert records.read("small", "performance")["value"].tolist() == [2]
    assert len(records.read("small", "stress")) == 2
    assert not damaged.exists()
    assert Index(profile).missing(first) == ["performance"]


# The command line


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "lib.study", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip


def one_line(run, *said):
    """Exit code 2 and a last line that says what is wrong; no traceback, no other output."""
    assert run.returncode == 2
    assert run.stdout == ""
    *before, line = run.stderr.strip().splitlines()
    assert all(text.startswith(("usage:", " ")) for text in before)  # argparse's reminder
    for part in said:
        assert str(part) in line


def test_an_unknown_profile_is_a_line():
    known = [path.stem for path in FOLDER.glob("*.yaml")]
    one_line(command("plan", "digitz"), "'digitz'", *known)
    one_line(command("status", "nowhere/at-all.yaml"), "nowhere/at-all.yaml")


def test_an_unknown_command_is_a_line():
    one_line(command("sweep", "digits"), "'sweep'", "plan", "status", "collect")


@pytest.mark.parametrize("name", ["plan", "status"])
def test_a_grid_that_makes_no_sense_is_a_line(tmp_path, name):
    small_profile(tmp_path)
    path = tmp_path / "small.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["grid"]["seed"] = [0, -1]
    path.write_text(yaml.safe_dump(settings))
    one_line(command(name, tmp_path / "small.yaml"), "seed", "-1", "greater than or equal to 0")


def test_nothing_to_collect_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(tmp_path))
    small_profile(tmp_path, profile="nothing-was-recorded-for-this")
    one_line(command("collect", tmp_path / "small.yaml"), "nothing-was-recorded-for-this")


# generator


def test_a_generator_is_made_from_the_command_line(house, tmp_path, says):
    profile = small_profile(tmp_path, **{"grid.augmentation": ["gan-ns"]})
    assert re.search(
        r"generator gan-ns: about [\d.]+ (s|min|h)", says("plan", tmp_path / "small.yaml")
    )
    assert generator_file(profile, "gan-ns") not in Index(profile)
    says("generator", tmp_path / "small.yaml", "gan-ns")
    assert generator_file(profile, "gan-ns") in Index(profile)
    assert "generator gan-ns: about 0.0 s" in says("plan", tmp_path / "small.yaml")


@pytest.mark.parametrize("factor", ["classic", "gan-wgp", "gan"])
def test_a_generator_that_the_grid_does_not_need(house, tmp_path, says, capsys, factor):
    small_profile(tmp_path, **{"grid.augmentation": ["classic", "gan-ns"]})
    with pytest.raises(SystemExit) as stopped:
        says("generator", tmp_path / "small.yaml", factor)
    assert stopped.value.code == 2
    assert factor in (said := capsys.readouterr().err)
    assert "gan-ns" in said
    assert not house.exists()
