"""Which tests a change can reach: `pytest --since COMMIT` leaves the others out.

A test is reached by its own file, by what of `lib/` and `tests/` it imports, directly or through
one another, and, if it looks at the tree or at what is made from it, by any change. A test of one
chapter or page, by name, is reached by what that page is made from.
"""

import ast
import subprocess
from functools import cache
from pathlib import Path

import pytest

from lib.records.provenance import ROOT, imports
from lib.study import workflow

EVERYTHING = {"pyproject.toml", "requirements.txt", "Makefile", "tests/conftest.py",
              "tests/reach.py", ".ci/run"}  # fmt: skip
TREE = ("tests/check/", "tests/book/", "tests/study/", "tests/records/test_provenance.py",
        "tests/test_notebooks.py", "tests/test_committed.py", "tests/test_wings.py")  # fmt: skip
SITE = ("book/", "lib/book/", "_config.yml", "_toc.yml", "Snakefile", "tests/check/")


def changed(since):
    """The paths, from the root, that differ from a commit, untracked ones among them."""
    found = set()
    for command in (["diff", "--name-only", since], ["ls-files", "--others", "--exclude-standard"]):
        listed = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)
        if listed.returncode:
            raise pytest.UsageError(f"--since {since}: {listed.stderr.strip()}")
        found |= set(listed.stdout.split("\n"))
    return found - {""}


@cache
def closure(path):
    """A test's file and all that it imports, with the packages on the way, from the root."""
    found, waiting = set(), [ROOT / path]
    while waiting:
        file = waiting.pop()
        if file in found or not file.exists():
            continue
        found.add(file)
        waiting += imports(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
                waiting.append(ROOT / (node.module.replace(".", "/") + ".py"))
    found |= {package for file in found if (package := file.parent / "__init__.py").exists()}
    return {str(file.relative_to(ROOT)) for file in found}


@cache
def made_from(chapter):
    return {*workflow.sources(f"notebooks/{chapter}.py"), *workflow.tables(chapter)}


def reached(path, chapter, paths):
    """Whether a test in the file `path`, of a chapter or None, is reached by changed `paths`."""
    if paths & (EVERYTHING | closure(path)):
        return True
    if chapter is not None and path.startswith("tests/check/"):
        return bool(paths & made_from(chapter)) or any(one.startswith(SITE) for one in paths)
    return bool(paths) and path.startswith(TREE)


def chapter_of(item):
    """The chapter that a test is of, by a parameter that names it or its page."""
    names = workflow.chapters()
    values = getattr(item, "callspec", None) and item.callspec.params.values() or ()
    stems = {Path(str(value)).name.split(".")[0] for value in values}
    return next((name for name in names if name in stems), None)


def pytest_addoption(parser):
    parser.addoption("--since", help="only tests that what has changed since a commit can reach")


def pytest_collection_modifyitems(config, items):
    since = config.getoption("--since")
    if not since:
        return
    paths = changed(since)
    kept = [item for item in items
            if reached(str(item.path.relative_to(ROOT)), chapter_of(item), paths)]  # fmt: skip
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def pytest_sessionfinish(session, exitstatus):
    """That a change reaches none of the chosen tests is no failure."""
    if session.config.getoption("--since") and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK
