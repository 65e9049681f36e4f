"""What is known of measures without executing one, and a measure more."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from lib import measures, records
from lib.records.provenance import ROOT
from tests.study.test_point import small_profile

TOY = '''"""Majority: the share of test images of the most frequent predicted class."""

from lib.attacks.threat import predict
from lib.records.schema import Schema
from lib.records.tables import row

TABLES = ("majority",)


class Settings(Schema):
    pass


def rows(subject, settings):
    counts = predict(subject.model, subject.test.x).bincount()
    n = len(subject.y)
    return [row("majority", "share of the most frequent class", counts.max() / n, n)]


def seconds(settings, cost):
    return cost.test * cost.predicted
'''


def test_measures_are_known_without_torch():
    code = (
        "import sys; from lib import measures; facts = measures.every();"
        "print(*facts); sys.exit('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0
    assert set(run.stdout.split()) == {
        "performance", "distances", "checks", "stress", "influence", "trust",
    }  # fmt: skip


@pytest.mark.parametrize("name", measures.names())
def test_a_measure_has_what_is_asked_of_it(name):
    module, facts = measures.module(name), measures.facts(name)
    assert callable(module.rows)
    assert callable(module.seconds)
    assert module.Settings.model_fields is not None
    assert set(facts.after) <= set(measures.names())
    assert set(facts.needs) <= {"control", "rival"}
    assert facts.tables


def test_two_measures_of_one_table_are_refused(tmp_path, monkeypatch, refuses):
    for name in ("one", "other"):
        (tmp_path / f"{name}.py").write_text('TABLES = ("majority",)\n')
    monkeypatch.setattr(measures, "FOLDER", tmp_path)
    measures.every.cache_clear()
    try:
        refuses(measures.every, "other", "'majority'", "one")
    finally:
        measures.every.cache_clear()


def test_a_measure_more_is_a_module_and_a_line(tmp_path):
    """Planned, run, collected; the records of the others stay valid, and are not made again."""
    tree = tmp_path / "tree"
    for name in ("lib", "notebooks"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    profile = small_profile(tmp_path, **{"grid.augmentation": ["classic"], "grid.p": [0],
                                         "grid.seed": [0]})  # fmt: skip
    path = tmp_path / "small.yaml"
    script = f"""
import json, sys
from lib.study import Profile, run_points
from lib.study.grid import grid
from lib.study.index import Index
from lib.study.sweep import collect
profile = Profile.load({str(path)!r})
todo = {{str(point): Index(profile).missing(point) for point in grid(profile)}}
run_points(profile, grid(profile), progress=False)
collect(profile)
versions = {{name: profile.version(name, "none") for name in profile.measures}}
print(json.dumps([todo, versions]))
"""

    def study():
        environment = {"PYTHONPATH": str(tree), "RUNS": str(tmp_path / "runs"),
                       "RESULTS": str(tmp_path / "results"), "OMP_NUM_THREADS": "1"}  # fmt: skip
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                             env=environment, cwd=tree)  # fmt: skip
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout.splitlines()[-1])

    todo, before = study()
    assert list(todo.values()) == [list(profile.measures)]
    (tree / "lib" / "measures" / "majority.py").write_text(TOY)
    settings = yaml.safe_load(path.read_text())
    settings["measures"]["majority"] = {}
    path.write_text(yaml.safe_dump(settings))
    todo, after = study()
    assert list(todo.values()) == [["majority"]]
    assert {name: after[name] for name in before} == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESULTS", str(tmp_path / "results"))
        (row,) = records.read("small", "majority").to_dict("records")
    assert 0.1 <= row["value"] <= 1
    assert row["examples"] == 60
