"""What is known of measures without executing one, and a measure more."""

import json
import shutil
import subprocess
import sys
from collections import Counter

import pytest
import torch
import yaml

from lib import measures, records
from lib.records.provenance import ROOT
from lib.study import trained
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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of lib/measures/ that the measures are looked for in."""
    copy = tmp_path / "copy"
    shutil.copytree(measures.FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(measures, "FOLDER", copy)
    measures.every.cache_clear()
    yield copy
    measures.every.cache_clear()


@pytest.mark.parametrize("measure", measures.names())
def test_two_measures_of_one_table_are_refused(folder, refuses, measure):
    *_, table = measures.facts(measure).tables
    (folder / "zebra.py").write_text(f'TABLES = ("stripes", {table!r})\n')
    measures.every.cache_clear()
    refuses(measures.every, "zebra", repr(table), measure)


def test_facts_are_what_a_module_says_or_nothing(folder):
    """Read, not executed; a module that names no tables is no measure."""
    known = measures.every()
    (folder / "plain.py").write_text('TABLES = ("plain",)\nraise OSError\n')
    (folder / "choosy.py").write_text(
        'TABLES = ("choosy", "more")\nAFTER = ("plain",)\nNEEDS = ("rival",)\nFIRST_SEED = True\n'
    )
    (folder / "helper.py").write_text('AFTER = ("plain",)\n')
    measures.every.cache_clear()
    assert measures.every() == known | {
        "plain": measures.Facts(("plain",), (), (), False),
        "choosy": measures.Facts(("choosy", "more"), ("plain",), ("rival",), True),
    }


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
from lib.study.sweep import collect, estimate
profile = Profile.load({str(path)!r})
todo = {{str(point): Index(profile).missing(point) for point in grid(profile)}}
run_points(profile, grid(profile), progress=False)
collect(profile)
versions = {{name: profile.version(name, "none") for name in profile.all_measures}}
print(json.dumps([todo, versions, list(estimate(profile))]))
"""

    def files():
        found = [path for path in (tmp_path / "runs").rglob("*.*") if path.is_file()]
        return {path.name: path.read_bytes() for path in found}

    def study():
        environment = {"PYTHONPATH": str(tree), "RUNS": str(tmp_path / "runs"),
                       "RESULTS": str(tmp_path / "results"), "OMP_NUM_THREADS": "1"}  # fmt: skip
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                             env=environment, cwd=tree)  # fmt: skip
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout.splitlines()[-1])

    todo, before, planned = study()
    assert list(todo.values()) == [list(profile.measures)]
    assert planned == ["train", *profile.measures]
    assert before == {name: [*profile.version(name, "none")] for name in before}  # not of a place
    made = files()
    (tree / "lib" / "measures" / "majority.py").write_text(TOY)
    settings = yaml.safe_load(path.read_text())
    settings["measures"]["majority"] = {}
    path.write_text(yaml.safe_dump(settings))
    todo, after, planned = study()
    assert list(todo.values()) == [["majority"]]
    assert set(planned) == {"train", "majority", *profile.measures}
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"majority"}
    assert set(after["majority"]).isdisjoint(sum(before.values(), []))
    ((new, _),) = files().items() - made.items()  # no other is made again, no network trained
    assert new.startswith("none-p0-seed0.majority.")
    assert made.items() <= files().items()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNS", str(tmp_path / "runs"))
        patch.setenv("RESULTS", str(tmp_path / "results"))
        network = trained.train_or_load(profile, profile.point("none", 0, 0), progress=False)
        (row,) = records.read("small", "majority").to_dict("records")
    with torch.no_grad():
        said = network(trained.dataset(profile).test_images.float() / 255).argmax(1).tolist()
    assert row["value"] == pytest.approx(max(Counter(said).values()) / 60)
    assert row["examples"] == 60
