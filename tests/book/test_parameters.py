"""Parameters: an unknown one stops a notebook, whoever executes it; without one nothing happens."""

import subprocess
import sys

import jupytext
import nbformat
import papermill
import pytest

from lib.records.provenance import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.py"))
LINE = "%load_ext lib.book.parameters"


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_looks_at_what_it_was_given(source):
    code = [cell for cell in jupytext.read(source).cells if cell.cell_type == "code"]
    assert code[0].metadata["tags"] == ["parameters"]
    assert (code[1].source, code[1].metadata["tags"]) == (LINE, ["remove-cell"])


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """`executed(name, **given)`: the notebook's first cells, and one that says that it ran."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def executed(name, **given):
        made = jupytext.read(ROOT / "notebooks" / f"{name}.py")
        upto = [cell.source for cell in made.cells].index(LINE) + 1
        made.cells = [*made.cells[:upto], nbformat.v4.new_code_cell("print(profile, p)")]
        path = tmp_path / "source.ipynb"
        nbformat.write(made, path)
        made = papermill.execute_notebook(
            path, tmp_path / "made.ipynb", given, kernel_name="python3", progress_bar=False
        )
        (out,) = made.cells[-1].outputs
        return out.text.strip()

    return executed


@pytest.mark.parametrize("name", ["point", "03_performance"])
def test_papermill_stops_at_an_unknown_parameter(executed, name):
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        executed(name, p=0.25, pp=0.35)
    assert caught.value.ename == "ValueError"
    said = "unknown parameter pp: this notebook has profile, augmentation, p, seed"
    assert caught.value.evalue.startswith(said)
    assert executed(name, p=0.25) == "digits 0.25"
    assert executed(name) == "digits 0.5"


@pytest.mark.parametrize("name", ["point", "03_performance"])
def test_so_does_the_book_before_a_cell_runs(name, tmp_path):
    path = ROOT / "notebooks" / f"{name}.py"
    ended = subprocess.run(
        [sys.executable, "-m", "lib.book", "execute", path, tmp_path / "made.ipynb"]
        + ["-p", "pp", "0.35", "-p", "q", "1"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 1
    said = f"{path}: unknown parameters pp, q: this notebook has profile, augmentation, p, seed"
    assert ended.stderr.splitlines()[-1].startswith(said)
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("cells", "stops"),
    [
        (["", "p = 1", "import os"], False),
        (["", "p = 1", "# Parameters\np = 2\n"], False),
        (["", "p = 1", "x, y = 1, 2", "# Parameters\np = 2\n", "q = 3"], False),  # out of order
        (["", "p = 1", "# Parameters\nq = 2\n"], True),
        (["", "# Parameters\nq = 2\n"], True),
    ],
)
def test_only_what_papermill_writes_is_looked_at(cells, stops, refuses):
    from types import SimpleNamespace

    from lib.book.parameters import load_ipython_extension

    shell = SimpleNamespace(user_ns={"In": cells})
    if stops:
        refuses(lambda: load_ipython_extension(shell), "unknown parameter q")
    else:
        load_ipython_extension(shell)
