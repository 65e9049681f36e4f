"""The digits records that come with the repository are those of its engine and its profile.

Else every newcomer would wait for the study to be made again: `make sweep PROFILE=digits`, then
commit `results/digits`.
"""

import subprocess

import pytest

from lib import records
from lib.records.provenance import ROOT
from lib.study.grid import grid
from lib.study.index import Index, current
from lib.study.profile import Profile
from lib.study.trained import kept_generator_path

PROFILE = Profile.load("digits")
FOLDER = ROOT / "results" / "digits"
TABLES = sorted(path.stem for path in FOLDER.glob("*.parquet"))


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_of_todays_engine_and_settings(table):
    rows = records.every("digits", table)
    assert current(PROFILE, table, rows).all(), "make sweep PROFILE=digits"


def test_the_grid_is_whole():
    index = Index(PROFILE)
    assert [str(point) for point in grid(PROFILE) if index.missing(point)] == []
    cost = records.every("digits", "cost")
    assert len(cost.drop_duplicates(records.CELL)) == len(grid(PROFILE))


def test_the_generators_are_there_and_no_others():
    kept = {kept_generator_path(PROFILE, factor) for factor in PROFILE.generators()}
    assert kept == set((FOLDER / "generators").glob("*.safetensors"))


def test_they_are_small():
    listed = subprocess.run(
        ["git", "ls-files", "results/digits"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("no git here")
    assert sum((ROOT / name).stat().st_size for name in listed.stdout.split()) < 1_500_000
