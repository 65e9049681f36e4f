"""Tests that are left out could not have failed for the change."""

import pytest

from lib.study import workflow
from tests.reach import chapter_of, closure, reached

UNIT = "tests/attacks/test_gradient.py"


@pytest.mark.parametrize(
    ("path", "chapter", "changes", "wanted"),
    [
        (UNIT, None, {"lib/attacks/gradient.py"}, True),
        (UNIT, None, {"lib/attacks/__init__.py"}, True),
        (UNIT, None, {"lib/attacks/threat.py"}, True),  # by way of gradient
        (UNIT, None, {UNIT}, True),
        (UNIT, None, {"pyproject.toml"}, True),
        (UNIT, None, {"lib/book/charts.py", "book/seminar.md", "README.md"}, False),
        (UNIT, None, {"tests/attacks/test_minimal.py"}, False),
        (UNIT, None, set(), False),
        ("tests/study/test_runner.py", None, {"tests/study/test_point.py"}, True),
        ("tests/study/test_runner.py", None, {"notebooks/profiles/digits.yaml"}, True),
        ("tests/check/test_killed_sweep.py", None, {"lib/checks.py"}, True),
        ("tests/check/test_site.py", "04_stress", {"lib/stress.py"}, True),
        ("tests/check/test_site.py", "04_stress", {"results/digits/stress.parquet"}, True),
        ("tests/check/test_site.py", "04_stress", {"notebooks/05_influence.py"}, False),
        ("tests/check/test_site.py", "04_stress", {"lib/online_learning.py"}, False),
        ("tests/check/test_site.py", "04_stress", {"_toc.yml"}, True),
        ("tests/check/test_site.py", None, {"notebooks/05_influence.py"}, True),
        ("tests/check/test_site.py", None, set(), False),
    ],
)
def test_a_change_reaches_what_looks_at_it(path, chapter, changes, wanted):
    assert reached(path, chapter, changes) is wanted


def test_a_test_reads_what_it_imports_and_the_packages_on_the_way():
    found = closure("tests/study/test_runner.py")
    assert {"tests/study/test_point.py", "lib/study/runner.py", "lib/attacks/gradient.py",
            "lib/study/__init__.py"} <= found  # fmt: skip
    assert "lib/book/build.py" not in found


@pytest.mark.parametrize("name", workflow.chapters())
def test_a_chapter_is_known_by_a_parameter(request, name):
    assert chapter_of(request.node) == name


def test_one_of_no_chapter_is_of_none(request):
    assert chapter_of(request.node) is None
