"""What the Snakefile is told: jobs, their order, and what a chapter is made from."""

import re
import subprocess
import sys

import pytest

from lib import records
from lib.records.provenance import ROOT, constants
from lib.study import claims, workflow
from lib.study.grid import grid, jobs
from lib.study.index import record_folder
from lib.study.profile import Profile
from tests.study.test_point import small_profile
from tests.study.test_sweep import record


def mark(profile, job):
    path = records.runs() / profile.name / "jobs" / f"{job}.done"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_jobs_are_those_that_have_something_to_do(house, tmp_path):
    profile = small_profile(tmp_path, **{"sweep.points_per_job": 2})
    path, whole = str(tmp_path / "small.yaml"), jobs(profile)
    assert workflow.prepare(path)["jobs"].keys() == whole.keys()
    first, *others = whole
    for point in whole[first]:
        record(profile, point)
    marks = {job: mark(profile, job) for job in whole}
    plan = workflow.prepare(path)
    assert plan["jobs"].keys() == set(others)
    assert {job for job, path in marks.items() if path.exists()} == {first}
    assert workflow.planned(path) == plan
    # A measure more is a job again.
    profile = small_profile(
        tmp_path, **{"sweep.points_per_job": 2, "measures.stress.neighbours": 9}
    )
    assert workflow.prepare(path)["jobs"].keys() == whole.keys()


def test_what_a_job_is_compared_with_comes_before_it(house, tmp_path):
    small_profile(tmp_path, **{"grid.augmentation": ["classic", "gan-ns"], "grid.p": [0, 0.5],
                               "grid.seed": [0, 1, 2], "sweep.points_per_job": 1})  # fmt: skip
    plan = workflow.prepare(str(tmp_path / "small.yaml"))
    after = {job: set(what["after"]) for job, what in plan["jobs"].items()}
    none = [f"none-seed{seed}-part0" for seed in range(3)]
    assert after[none[0]] == {none[1]}  # its adversarial examples are tried on those of seed 0
    assert after[none[1]] == after[none[2]] == set()
    assert after["classic-seed0-part0"] == {none[0], none[1]}
    assert after["classic-seed2-part0"] == {none[2]}
    assert after["gan-ns-seed2-part0"] == {none[2], "gan-ns"}
    assert plan["generators"] == {"gan-ns": [none[0]]}
    assert "generators" in plan["tables"]


def test_parameters_give_each_job_its_points(house, tmp_path):
    profile = small_profile(tmp_path, **{"sweep.points_per_job": 4})
    plan = workflow.prepare(str(tmp_path / "small.yaml"))
    for job, points in jobs(profile).items():
        given = dict(plan["jobs"][job]["parameters"])
        assert Profile.read(given.pop("profile")) == profile
        assert set(profile.points(**given)) == set(points)


def test_tables_are_due_until_all_that_is_recorded_is_in_them(house, tmp_path):
    profile = small_profile(tmp_path)
    path = str(tmp_path / "small.yaml")
    for point in grid(profile):
        record(profile, point)
    due = records.runs() / "small" / "due"
    assert workflow.prepare(path)["due"]
    first = due.read_text()
    records.collect("small", sorted(record_folder(profile).glob("*.parquet")))
    plan = workflow.prepare(path)
    assert plan["jobs"] == {}
    assert due.read_text() == first
    record(profile, profile.point("mixup", 0.35, 0))  # by hand, in no job
    workflow.prepare(path)
    assert due.read_text() != first


def test_what_nobody_could_run_is_refused_before_anything_is_planned(house, tmp_path, refuses):
    profile = small_profile(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(path.read_text().replace("small_cnn", "large_cnn"))
    refuses(lambda: workflow.prepare(str(path)), "large_cnn", "small_cnn")
    assert not (records.runs() / profile.name / "plan.json").exists()


def test_the_snakefile_is_read_without_torch_where_nothing_is_to_do():
    code = (
        "import sys; from lib.study import workflow; plan = workflow.prepare('digits');"
        "[workflow.tables(name) for name in workflow.chapters()];"
        "sys.exit('torch' in sys.modules or plan['jobs'] != {})"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# Chapters


@pytest.mark.parametrize("chapter", workflow.chapters())
def test_a_chapter_reads_no_table_that_it_does_not_name(chapter):
    """All tables come through READS, which the Snakefile asks for."""
    text = (ROOT / "notebooks" / f"{chapter}.py").read_text()
    calls = re.findall(r"recorded\.stud(?:y|ies)\((.*?)\)|records\.read\((.*?)\)", text)
    given = [part for call in calls for part in call if part]
    said = constants(ROOT / "notebooks" / f"{chapter}.py")
    tables = said.get("READS", ())
    for call in given:
        names = re.findall(r'"([\w/-]+)"', call)
        named = {table.split("/")[-1] for table in tables}
        starred = re.findall(r"\*(\w+)", call)
        names += [name for star in starred for name in said.get(star, ())]
        assert names, call
        assert set(names) & named, call


def test_findings_read_what_decides_the_claims():
    assert set(claims.TABLES) <= set(constants(ROOT / "notebooks" / "06_findings.py")["READS"])


def test_the_tables_of_a_chapter_are_those_of_every_recorded_study(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "stress.parquet").touch()
    (tmp_path / "versions.yaml").touch()
    monkeypatch.setenv("RESULTS", str(tmp_path))
    found = workflow.tables("04_stress")
    names = ("digits/stress", "mine/stress", "digits/performance")
    wanted = {f"{tmp_path / name}.parquet" for name in names} | {str(tmp_path / "versions.yaml")}
    assert wanted <= set(found)
    assert "notebooks/profiles/digits.yaml" in found
    assert workflow.tables("01_definition") == []
