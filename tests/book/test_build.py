import json
import shutil
import subprocess
import sys

import nbformat
import pytest

from lib.book import build as book
from lib.records.provenance import ROOT

CHAPTER = """\
# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A chapter
#
# With a formula, $p^2$.

# %% tags=["parameters"]
p = 0.25
name = "digits"

# %% tags=["shown"]
import warnings
from pathlib import Path

import lib.files

warnings.warn("look out")
print(p, name, Path("beside.txt").read_text(), lib.files.__file__)
"""


@pytest.fixture
def chapter(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "beside.txt").write_text("found")
    path = folder / "chapter.py"
    path.write_text(CHAPTER)
    return path


@pytest.fixture
def output(tmp_path):
    return tmp_path / "runs" / "chapter.ipynb"


def printed(notebook):
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return "".join(out["text"] for out in outputs if out.get("name") == "stdout")


# Executing


def test_a_chapter_runs_in_its_folder_with_its_parameters(chapter, output):
    book.main(["execute", str(chapter), str(output), "-p", "p", "0.5", "-p", "name", "cifar10"])
    made = nbformat.read(output, as_version=4)
    assert printed(made).startswith("0.5 cifar10 found lib/files.py")
    tags = [cell.metadata.get("tags", []) for cell in made.cells]
    assert tags == [[], ["parameters"], ["injected-parameters", "hide-input"], ["shown"]]
    text = output.read_text()
    for trace in (str(ROOT), sys.prefix, "ipykernel_", "papermill", "iopub", "start_time"):
        assert trace not in text


def test_a_failing_cell_is_shown_and_leaves_the_old_output(chapter, output):
    output.parent.mkdir()
    output.write_text("old")
    chapter.write_text(CHAPTER + "\n# %%\nraise KeyError('in the last cell')\n")
    with pytest.raises(book.BookError) as caught:
        book.execute(chapter, output)
    for said in (str(chapter), "KeyError", "in the last cell", "Traceback"):
        assert said in str(caught.value)
    assert output.read_text() == "old"
    assert [path.name for path in output.parent.iterdir()] == ["chapter.ipynb"]


def test_an_unknown_parameter_is_named(chapter, output, refuses):
    refuses(lambda: book.execute(chapter, output, {"q": 1}), "q", error=book.BookError)
    assert not output.exists()


def test_publishing_drops_timings_and_paths_only():
    image = f"{ROOT}/looks-like-a-path"
    cell = nbformat.v4.new_code_cell(
        "x = 1",
        metadata={"tags": ["a"], "papermill": {"duration": 1}, "execution": {"shell": "now"}},
        outputs=[
            nbformat.v4.new_output("stream", name="stderr", text=f"{ROOT}/lib/a.py:3: Warning"),
            nbformat.v4.new_output("stream", name="stderr", text="/tmp/ipykernel_12/345.py:1: W"),
            nbformat.v4.new_output("display_data", data={"image/png": image, "text/plain": "x"}),
        ],
    )
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {"duration": 1}})
    made = book.published(notebook)
    first, second, third = made.cells[0].outputs
    assert first.text == "lib/a.py:3: Warning"
    assert second.text == "cell:1: W"
    assert third.data == {"image/png": image, "text/plain": "x"}
    assert made.cells[0].metadata == {"tags": ["a"]}
    assert made.metadata == {}
    again = json.dumps(book.published(made))
    assert again == json.dumps(made)
    nbformat.validate(made)


# What a chapter depends on


def names(path):
    return {file.relative_to(ROOT).as_posix() for file in book.imports(path)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import numpy\nimport json\n", set()),
        (
            "from lib.book import charts\n",
            {"lib/book/charts.py", "lib/book/figure.py", "lib/files.py", "lib/book/show.py"},
        ),
        ("import lib.book.show as s\n", {"lib/files.py", "lib/book/show.py"}),
        ("from lib.files import replacing\n", {"lib/files.py"}),
        ("def f():\n    import lib.files\n", {"lib/files.py"}),
        (
            "from lib.records import read\n",
            {"lib/files.py", "lib/records/provenance.py", "lib/records/tables.py"},
        ),
        ("# from lib import charts\ntext = 'import lib.book.charts'\n", set()),
    ],
)
def test_imports_are_found_wherever_they_are(tmp_path, source, expected):
    path = tmp_path / "notebook.py"
    path.write_text(source)
    assert names(path) == expected


def test_no_module_that_python_loads_is_missed():
    code = (
        "import sys; from lib.study import sweep;"
        "ours = {n: m for n, m in sys.modules.items() if n[:4] == 'lib.'};"
        "print(*(name for name, module in ours.items() if not hasattr(module, '__path__')))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(loaded) > 5
    files = {f"{name.replace('.', '/')}.py" for name in loaded}
    assert files <= names(ROOT / "lib" / "study" / "sweep.py") | {
        "lib/study/sweep.py",
        # Packages execute these, of which nothing is used.
        *names(ROOT / "lib" / "attacks" / "__init__.py"),
        *names(ROOT / "lib" / "influence" / "__init__.py"),
    }


# Building


@pytest.fixture
def tree(tmp_path):
    """The root of a book of a page and a chapter, and the folder of executed chapters."""
    root, source = tmp_path / "root", tmp_path / "executed"
    (root / "book").mkdir(parents=True)
    source.mkdir()
    shutil.copy(ROOT / "_config.yml", root)
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    shutil.copy(ROOT / "book" / "references.bib", root / "book")
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/introduction\nchapters:\n  - file: notebooks/one\n"
    )
    (root / "book" / "introduction.md").write_text(
        "# Introduction\n\nSee {doc}`../notebooks/one`.\n"
    )
    cells = [nbformat.v4.new_markdown_cell("# One"), nbformat.v4.new_code_cell("1 + 1")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), source / "one.ipynb")
    return root, source


def built(root, source, out):
    """Build in a process of its own, as `make book` does: Sphinx leaves traces in one."""
    code = (
        "import sys; from pathlib import Path; from lib.book import build as book\n"
        "root, source, out = sys.argv[1:]\n"
        "try: book.build(source, out, root=Path(root))\n"
        "except book.BookError as error: sys.exit(f'BookError: {error}')"
    )
    return subprocess.run(
        [sys.executable, "-c", code, root, source, out], cwd=ROOT, capture_output=True, text=True
    )


def test_the_book_builds_and_what_is_unchanged_stays(tree, tmp_path):
    root, source = tree
    assert built(root, source, tmp_path / "out").returncode == 0
    html = tmp_path / "out" / "html"
    page = html / "notebooks" / "one.html"
    assert "book/introduction.html" in (html / "index.html").read_text()
    text = page.read_text()
    assert "charts.js" in text
    assert "vega.js" not in text
    assert "vegaEmbed" in (html / "_static" / "vega.js").read_text()
    before = page.stat().st_mtime_ns
    assert built(root, source, tmp_path / "out").returncode == 0
    assert page.stat().st_mtime_ns == before

    # What is gone from the book is gone from what it is rendered from.
    (root / "book" / "_static" / "book.css").unlink()
    assert built(root, source, tmp_path / "out").returncode == 0
    assert not list((tmp_path / "out" / "source").rglob("book.css"))
    assert "book.css" not in page.read_text()


def test_warnings_are_errors_each_time(tree, tmp_path):
    root, source = tree
    (root / "book" / "introduction.md").write_text("# Introduction\n\n{doc}`nowhere`\n")
    for _ in range(2):
        ended = built(root, source, tmp_path / "out")
        assert ended.returncode == 1
        assert "nowhere" in ended.stderr
        assert "BookError" in ended.stderr


def test_a_chapter_that_was_not_executed_is_named(tree, tmp_path, refuses):
    root, source = tree
    (source / "one.ipynb").unlink()
    refuses(lambda: book.build(source, tmp_path / "out", root=root), "one.ipynb", "make book",
            error=book.BookError)  # fmt: skip


def test_serving_nothing_is_refused(tmp_path, refuses):
    refuses(lambda: book.serve(tmp_path), "make book", error=book.BookError)


def test_an_error_is_a_message_and_not_a_trace(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "lib.book", "serve", "--out", tmp_path],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "make book" in ended.stderr
    assert "Traceback" not in ended.stderr
