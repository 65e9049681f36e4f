"""What is executed again when something changes, and chapters with other parameters."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from lib import book, records
from lib.profile import Profile
from lib.provenance import ROOT
from lib.recorded import label

CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("0*.py"))


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
    for name in ("notebooks/04_stress.py", "lib/charts.py", "results/digits/stress.parquet"):
        (built / name).touch()
    assert planned(built) == set()


def test_a_chapter_is_executed_again_when_its_source_changes_and_no_other_is(built):
    append(built / "notebooks" / "04_stress.py", "\n# A word more.\n")
    assert planned(built) == {"04_stress", ".done"}


def test_chapters_are_executed_again_when_a_module_that_they_import_changes(built):
    append(built / "lib" / "claims.py", "\n# A word more.\n")
    readers = {"03_performance", "04_stress", "05_influence", "06_findings"}
    assert planned(built) == {*readers, ".done"}


def test_chapters_are_executed_again_when_records_that_they_read_change(built):
    path = built / "results" / "digits" / "distribution.parquet"
    frame = pd.read_parquet(path)
    frame.iloc[:-1].to_parquet(path)
    assert planned(built) == {"05_influence", ".done"}


def test_the_study_is_made_again_when_the_engine_changes(built):
    append(built / "lib" / "attacks.py", "\nMORE = 1\n")
    again = planned(built)
    jobs = {"none-seed0-1-part0", "classic-seed4-part0", "gan-ns"}
    assert jobs | {"performance", "06_findings"} <= again


def test_chapters_are_executed_again_when_versions_are_declared_the_same(built):
    (built / "results" / "versions.yaml").write_text("- {codes: [a, b], reason: speed only}\n")
    readers = {name for name in CHAPTERS if name != "01_definition"}
    assert planned(built) == {*readers, ".done"}


def test_only_pages_are_rendered_again_when_a_page_changes(built):
    append(built / "book" / "introduction.md", "\nA word more.\n")
    assert planned(built) == {".done"}


@pytest.mark.parametrize("name", CHAPTERS)
@pytest.mark.parametrize(
    "other", [{"augmentation": "mixup", "p": 1.0, "seed": 1}, {"augmentation": "classic", "p": 0}]
)
def test_a_chapter_shows_another_network(tmp_path, name, other):
    book.execute(ROOT / "notebooks" / f"{name}.py", tmp_path / "made.ipynb", other)
    assert (tmp_path / "made.ipynb").stat().st_size > 10_000


# A second recorded study, incomplete: the digits' numbers under another name

FIRST = {0: 0, 0.5: 0, 1: 0}  # p: the last seed that is there
STUDIES = {
    "one seed": {"engine": FIRST},
    "three seeds": {"engine": dict.fromkeys((0, 0.5, 1), 2)},
    "two engines": {"engine": FIRST, "faster": {0: 1, 0.5: 1}},
}
SAID = {
    "one seed": ["11 of the 153 points", "no claim is decided"],
    "three seeds": ["33 of the 153 points", "at 3 of 3 seeds"],
    "two engines": ["12 of the 153 points", "11 of engine engine"],
}


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """`photographs(engines)` adds a study of CIFAR-10 to the digits' tables."""
    folder = tmp_path / "results"
    shutil.copytree(ROOT / "results" / "digits", folder / "digits")
    monkeypatch.setenv("RESULTS", str(folder))
    cifar = Profile.load("cifar10")

    def add(engines):
        for path in sorted((folder / "digits").glob("*.parquet")):
            table = records.read_file(path).assign(
                profile=cifar.name, dataset=cifar.dataset, network=cifar.network
            )
            table["settings"] = [cifar.version(name) for name in table.augmentation]
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
    [(name, "one seed") for name in CHAPTERS[2:]]  # 3 to 7: the fewest rows, no interval
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
        assert all(own in one or digits in one for one in captions)
    assert "No study of photographs" not in text


def test_chapters_say_that_no_photographs_are_recorded(tmp_path, photographs):
    for name in ("06_findings", "07_recorded"):
        book.execute(ROOT / "notebooks" / f"{name}.py", tmp_path / "made.ipynb")
        text, _ = said(tmp_path / "made.ipynb")
        assert "No study of photographs" in text or "No point of it is recorded" in text
