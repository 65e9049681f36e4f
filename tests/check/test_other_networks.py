"""Chapters with other parameters."""

import pytest

from lib.book import build as book
from lib.records.provenance import ROOT
from lib.study import notebook, workflow

# Those of the study: they show one of its networks.
NOTEBOOKS = ROOT / "notebooks"
CHAPTERS = [
    name for name in workflow.chapters()
    if "augmentation" in notebook.parameters(NOTEBOOKS / f"{name}.py")
]  # fmt: skip


@pytest.mark.parametrize("name", CHAPTERS)
@pytest.mark.parametrize(
    "other", [{"augmentation": "mixup", "p": 1.0, "seed": 1}, {"augmentation": "classic", "p": 0}]
)
def test_a_chapter_shows_another_network(tmp_path, name, other):
    book.execute(ROOT / "notebooks" / f"{name}.py", tmp_path / "made.ipynb", other)
    assert (tmp_path / "made.ipynb").stat().st_size > 10_000
