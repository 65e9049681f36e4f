import ast
import io
import subprocess
import sys
import tokenize

import jupytext
import nbformat
import papermill
import pytest

from lib.records.provenance import ROOT
from lib.study.settings import FOLDER

SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
PARAMETERS = ["profile", "augmentation", "p", "seed"]
each = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def cells(notebook):
    return [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells]


def parameters_cell(source):
    (cell,) = [c for c in jupytext.read(source).cells if "parameters" in c.metadata.get("tags", [])]
    return cell


def test_there_are_notebooks():
    assert "point" in {path.stem for path in SOURCES}
    assert len(SOURCES) > 1


# The pair: the .py is the source, the .ipynb is for Colab


@each
def test_the_pair_has_the_same_cells(source):
    pair = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert cells(pair) == cells(jupytext.read(source))
    assert pair.metadata["kernelspec"]["name"] == "python3"


@each
def test_the_pair_has_no_outputs(source):
    pair = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(pair)
    for cell in pair.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert "papermill" not in pair.metadata


def test_every_pair_has_a_source():
    pairs = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert pairs == {path.stem for path in SOURCES}


# Parameters


@each
def test_there_is_one_parameters_cell_before_any_other_code(source):
    code = [c for c in jupytext.read(source).cells if c.cell_type == "code"]
    tagged = ["parameters" in c.metadata.get("tags", []) for c in code]
    assert tagged == [True] + [False] * (len(code) - 1)


@each
def test_every_parameter_is_a_literal_with_a_comment(source):
    text = parameters_cell(source).source
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    for statement in ast.parse(text).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)
        said = [comments.get(line, "") for line in (statement.lineno - 1, statement.end_lineno)]
        assert any(len(words.split()) > 1 for words in said), ast.unparse(statement)


@each
def test_papermill_reads_the_parameters(source, tmp_path):
    converted = tmp_path / "notebook.ipynb"
    nbformat.write(jupytext.read(source), converted)
    found = papermill.inspect_notebook(converted)
    values = {name: ast.literal_eval(one["default"]) for name, one in found.items()}
    assert values["seed"] >= 0
    if "profile" in values:  # a chapter of the study, or its point
        assert list(found)[:4] == PARAMETERS
        assert (FOLDER / f"{values['profile']}.yaml").exists()
        assert 0 <= values["p"] <= 1


# Who imports whom

PYTHON = [*SOURCES, *(ROOT / "lib").rglob("*.py"), ROOT / "Snakefile"]


def imported(path):
    """The top-level names of every import in a file, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0] if not node.level else "lib")
    return names


def test_lib_imports_nothing_from_the_notebooks():
    notebooks = {"notebooks", *(path.stem for path in SOURCES)}
    for path in (ROOT / "lib").glob("*.py"):
        assert not imported(path) & notebooks, path.name


def test_torchvision_is_imported_in_one_place():
    everywhere = [*SOURCES, *(ROOT / "lib").rglob("*.py"), *(ROOT / "tests").rglob("*.py"),
                  *(ROOT / "benchmarks").rglob("*.py")]  # fmt: skip
    found = {path.relative_to(ROOT).as_posix() for path in everywhere
             if "torchvision" in imported(path)}  # fmt: skip
    assert found == {"lib/vision.py"}


@pytest.mark.parametrize(
    "module",
    [
        "book.charts",
        "book.build",
        "records",
        "records.schema",
        "study.claims",
        "study.profile",
        "files",
    ],
)
def test_what_draws_and_keeps_tables_knows_no_torch(module):
    script = f"import sys, lib.{module}; print({{'torch', 'torchvision'}} & set(sys.modules))"
    made = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == "set()"


@each
def test_chapters_define_no_algorithm(source):
    """A chapter is prose and calls: a function in it has at most 25 lines.

    Training loops, attacks and solvers belong into lib/.
    """
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 25, node.name
        names = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
        assert not names & {"backward", "SGD", "Adam"}
