import re

import pandas as pd
import pytest

from lib import records
from lib.book import readme
from lib.records.provenance import ROOT
from lib.study import claims
from lib.study.grid import grid
from lib.study.profile import Profile

DIGITS = Profile.load("digits")


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


def record(profile, points, error):
    """Tables whose clean error is `error(augmentation)`, and which have little else."""
    shared = {"data": "d", "commit": "c", "python": "3", "torch": "2", "device": "d",
              "code": "c", "examples": 1000}  # fmt: skip
    measures = {
        "performance": [{"measure": "clean error", "attack": "none", "eps": 0.0, "steps": 0.0},
                        {"measure": "risk under attack", **claims.ATTACK}],
        "distances": [{"measure": "mean distance", "upto": 1.5}],
        "stress": [{"measure": "stress", "centre": "clean", "eps": 2.0}],
        "influence": [{"measure": "log ratio", "method": "exact", "reading": reading, "test": test}
                      for reading in ("groups", "pairs", "control")
                      for test in ("clean", "adversarial")],
    }  # fmt: skip
    for table, kinds in measures.items():
        frame = pd.DataFrame(
            {"profile": profile.name, **vars(point), **shared, **kind,
             "settings": profile.version(table, point.augmentation)[1],
             "value": error(point.augmentation) + 0.001 * (point.seed**2 % 7)
             * len(point.augmentation)}
            for point in points for kind in kinds
        )  # fmt: skip
        records.write(frame, records.results() / profile.name / f"{table}.parquet")


def classic_wins(augmentation):
    return 0.1 if augmentation == "classic" else 0.5


def classic_loses(augmentation):
    return 0.9 if augmentation == "classic" else 0.5


def test_digits_alone_have_one_column_and_the_figure():
    record(DIGITS, grid(DIGITS), classic_wins)
    text, figure = readme.results()
    assert figure.startswith("<svg")
    assert f"on digits]({readme.FIGURE})" in text
    assert "| Sentence | of | on digits |" in text
    assert text.count("![") == 1
    assert "means over 5 seeds and 95 % intervals" in text
    assert text.endswith(
        "From 125 networks. Digits are not CIFAR-10: they decide no claim about photographs."
    )
    line = next(line for line in text.splitlines() if "most useful" in line)
    assert line.endswith("| talk | holds |")


def test_photographs_come_first_with_a_column_of_their_own():
    cifar = Profile.load("cifar10")
    record(DIGITS, grid(DIGITS), classic_loses)
    record(cifar, [point for point in grid(cifar) if point.p in (0, 0.5, 1)], classic_wins)
    text, _ = readme.results()
    assert f"on CIFAR-10, resnet9, 24 epochs]({readme.FIGURE})" in text
    assert "| on CIFAR-10, resnet9, 24 epochs | on digits |" in text
    line = next(line for line in text.splitlines() if "most useful" in line)
    assert line.endswith("| talk | holds | does not hold |")
    assert "Networks on CIFAR-10, resnet9, 24 epochs: 39." in text
    assert "Networks on digits: 125." in text
    assert "39 of the 183 points" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {5}


def test_one_seed_is_said_and_decides_nothing():
    record(DIGITS, [point for point in grid(DIGITS) if point.seed == 0], classic_wins)
    text, _ = readme.results()
    assert ": one seed.*" in text
    verdicts = set(re.findall(r"\| ([a-z ]+) \|$", text, re.M)) - {"on digits"}
    assert verdicts == {claims.OPEN}


def test_the_readme_has_the_marks():
    text = (ROOT / "README.md").read_text()
    assert text.count(readme.BEGIN) == text.count(readme.END) == 1
    assert text.index(readme.BEGIN) < text.index(readme.END)
