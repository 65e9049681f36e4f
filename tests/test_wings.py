"""The house: a wing imports from lower ones only, and no room is too large."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from lib.records.provenance import ROOT

MODULES = [path for path in (ROOT / "lib").rglob("*.py") if path.name != "__init__.py"]
# A module each until they grow: these are no ground.
SCIENCES = {
    "stress", "online_learning", "committee", "surrogate", "mutual_information", "autoencoders",
    "robustness_bias", "abstention", "bayes_nets",
}  # fmt: skip
LINT = Path(sys.executable).with_name("lint-imports")


def contracts(folder):
    made = subprocess.run(
        [LINT, "--no-cache"], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )  # fmt: skip
    return made.returncode, made.stdout + made.stderr


def test_wings_import_downward_only(tmp_path):
    code, said = contracts(ROOT)
    assert code == 0, said
    shutil.copytree(ROOT / "lib", tmp_path / "lib")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with open(tmp_path / "lib" / "attacks" / "threat.py", "a") as file:
        file.write("from lib.study import grid\n")
    code, said = contracts(tmp_path)
    assert code == 1
    assert "lib.attacks.threat -> lib.study" in said


def test_few_modules_lie_outside_the_wings():
    outside = {path.stem for path in MODULES if path.parent == ROOT / "lib"}
    assert len(outside - SCIENCES) <= 10


def test_every_wing_says_what_lives_there():
    for wing in (path.parent for path in (ROOT / "lib").glob("*/__init__.py")):
        text = (wing / "__init__.py").read_text()
        assert text.startswith('"""')
