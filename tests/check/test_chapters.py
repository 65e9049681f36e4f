"""What is executed again when something changes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from lib import records
from lib.records.provenance import ROOT
from lib.study import workflow
from lib.study.grid import jobs
from lib.study.index import record_file
from lib.study.profile import Profile

CHAPTERS = workflow.chapters()


def snakemake(folder, *arguments):
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--nolock", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def built(tmp_path):
    """A copy of the tree in which the book is up to date."""
    if not (ROOT / "_build" / ".done").exists():
        pytest.fail("there is no website to look at: make book")
    shutil.copytree(ROOT, tmp_path / "copy", symlinks=True,
                    ignore=shutil.ignore_patterns(".venv", ".git", "__pycache__"))  # fmt: skip
    return tmp_path / "copy"


def planned(folder):
    """{rule: outputs} that would be made now."""
    lines = snakemake(folder, "--dry-run", "book").splitlines()
    outputs = [line.split("output:")[1] for line in lines if line.strip().startswith("output:")]
    return {Path(name.strip()).stem for line in outputs for name in line.split(",")}


def append(path, text):
    path.write_text(path.read_text() + text)


def test_nothing_is_to_do_when_nothing_has_changed(built):
    assert planned(built) == set()


def test_a_new_date_is_no_change(built):
    for name in ("notebooks/04_stress.py", "lib/book/charts.py", "results/digits/stress.parquet"):
        (built / name).touch()
    assert planned(built) == set()


def test_a_chapter_is_executed_again_when_its_source_changes_and_no_other_is(built):
    append(built / "notebooks" / "04_stress.py", "\n# A word more.\n")
    assert planned(built) == {"04_stress", ".done"}


def test_chapters_are_executed_again_when_a_module_that_they_import_changes(built):
    append(built / "lib" / "study" / "claims.py", "\n# A word more.\n")
    readers = {name for name in CHAPTERS
               if "lib/study/claims.py" in workflow.sources(f"notebooks/{name}.py")}  # fmt: skip
    assert {"03_performance", "04_stress", "05_influence", "06_findings"} <= readers
    assert "02_augmentations" not in readers
    assert planned(built) == {*readers, ".done"}


def test_chapters_are_executed_again_when_records_that_they_read_change(built):
    path = built / "results" / "digits" / "distribution.parquet"
    frame = pd.read_parquet(path)
    frame.iloc[:-1].to_parquet(path)
    assert planned(built) == {"05_influence", ".done"}


def test_the_study_is_made_again_when_the_engine_changes(built):
    append(built / "lib" / "attacks" / "gradient.py", "\nMORE = 1\n")
    again = planned(built)
    assert {*jobs(Profile.read("digits")), "gan-ns", "performance", "06_findings"} <= again


def test_chapters_are_executed_again_when_versions_are_declared_the_same(built):
    (built / "results" / "versions.yaml").write_text("- {codes: [a, b], reason: speed only}\n")
    readers = {name for name in CHAPTERS if workflow.tables(name)}
    assert planned(built) == {*readers, ".done"}


def test_a_point_that_was_made_by_hand_is_collected(built):
    """It is in no job: without this the sweep would have nothing to do, and the tables lack it."""
    profile = Profile.read("digits")
    file = record_file(profile, profile.point("classic", 0.35, 0), "stress")
    rows = pd.read_parquet(built / "results" / "digits" / "stress.parquet")
    rows = rows[(rows.augmentation == "classic") & (rows.p == 0.5) & (rows.seed == 0)]
    records.write(rows.assign(p=0.35, table="stress"), built / "runs/digits/records" / f"{file}")
    assert {"stress", "cost"} <= planned(built)


def test_only_pages_are_rendered_again_when_a_page_changes(built):
    append(built / "book" / "introduction.md", "\nA word more.\n")
    assert planned(built) == {".done"}
