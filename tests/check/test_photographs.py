"""Chapters beside a second recorded study, incomplete: the digits' numbers under another name."""

import shutil

import nbformat
import pandas as pd
import pytest

from lib import records
from lib.book import build as book
from lib.records.provenance import ROOT
from lib.study.profile import Profile
from lib.study.recorded import label

CHAPTERS = ["03_performance", "04_stress", "05_influence", "06_findings", "07_recorded"]
FIRST = {0: 0, 0.5: 0, 1: 0}  # p: the last seed that is there
STUDIES = {
    "one seed": {"engine": FIRST},
    "three seeds": {"engine": dict.fromkeys((0, 0.5, 1), 2)},
    "two engines": {"engine": FIRST, "faster": {0: 1, 0.5: 1}},
}
SAID = {
    "one seed": ["13 of the 183 points", "no claim is decided"],
    "three seeds": ["39 of the 183 points", "at 3 of 3 seeds"],
    "two engines": ["14 of the 183 points", "13 of engine engine"],
}


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """`photographs(engines)` adds a study of CIFAR-10 to the digits' tables."""
    folder = tmp_path / "results"
    shutil.copytree(ROOT / "results", folder, ignore=shutil.ignore_patterns("photographs"))
    monkeypatch.setenv("RESULTS", str(folder))
    cifar = Profile.load("cifar10")

    def add(engines):
        for path in sorted((folder / "digits").glob("*.parquet")):
            table = records.read_file(path).assign(
                profile=cifar.name, dataset=cifar.dataset, network=cifar.network
            )
            owners = {name: one for one in cifar.all_measures for name in cifar.tables(one)}
            stages = dict.fromkeys(("compile", "train", "load"), "network")
            measures = table.stage.replace(stages) if path.stem == "cost" else owners[path.stem]
            pairs = table.assign(owner=measures)[["owner", "augmentation"]]
            table["settings"] = [cifar.version(*pair)[1] for pair in pairs.itertuples(index=False)]
            parts = [
                table[table.p.map(seeds).ge(table.seed)].assign(code=code)
                for code, seeds in engines.items()
            ]
            if any(map(len, parts)):
                records.write(pd.concat(parts), folder / cifar.name / path.name)
        return label(cifar)

    return add


def said(path):
    """All that an executed notebook shows in words, and the captions of its figures and tables."""
    texts, captions = [], []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            texts += [data.get("text/markdown", ""), data.get("text/plain", "")]
            if "text/html" in data:
                captions.append(data["text/plain"].splitlines()[0])
    return "\n".join(texts), captions


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "one seed") for name in CHAPTERS]  # the fewest rows, no interval
    + [("06_findings", "three seeds"), ("03_performance", "two engines"),
       ("07_recorded", "two engines")],
)  # fmt: skip
def test_a_chapter_shows_the_photographs_first_as_far_as_they_are_recorded(
    tmp_path, photographs, name, kind
):
    own = photographs(STUDIES[kind])
    book.execute(ROOT / "notebooks" / f"{name}.py", tmp_path / "made.ipynb")
    text, captions = said(tmp_path / "made.ipynb")
    for words in SAID[kind]:
        assert words in text
    digits = label(Profile.load("digits"))
    assert text.index(f"**{own}**") < text.index(f"**{digits}**")
    assert any(own in one for one in captions)
    if name in ("03_performance", "06_findings"):
        known = ("The claims", "The foundations", "Made-up studies")
        captions = [one for one in captions if not one.startswith(known)]
        assert all(own in one or digits in one for one in captions)
    assert "No study of photographs" not in text


def test_chapters_say_that_no_photographs_are_recorded(tmp_path, photographs):
    for name in ("06_findings", "07_recorded"):
        book.execute(ROOT / "notebooks" / f"{name}.py", tmp_path / "made.ipynb")
        text, _ = said(tmp_path / "made.ipynb")
        assert "No study of photographs" in text or "No point of it is recorded" in text
