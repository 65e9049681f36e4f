import ast
import platform
import subprocess
import sys
from itertools import chain

import pytest
import torch

from lib.records import provenance
from lib.records.provenance import ROOT, code_version, constants, describe, imports

# Who imports whom: top -> (middle, side) -> (bottom), in every form of the statement.
MODULES = {
    "top": "from lib import middle\nimport lib.side\nimport json, os.path\n",
    "middle": "def later():\n    from lib.bottom import thing\n",
    "side": "import lib.bottom as b, math\nfrom lib.middle import later as l\n",
    "bottom": "thing = 1\n",
    "other": "import lib.top\n",
    "quoted": '"""from lib import bottom"""\n# import lib.bottom\ntext = "import lib.bottom"\n',
    "outside": "import library\nfrom libs import bottom\nfrom lib.nowhere import x\nimport torch\n",
    "pair": "from lib import (\n    bottom,\n    other as o,\n)\n",
}


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A lib folder of its own; `house(name, text)` rewrites a module, as if in a new process."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "lib").mkdir()

    def write(name, text):
        (tmp_path / "lib" / f"{name}.py").write_text(text)
        code_version.cache_clear()

    for name, text in MODULES.items():
        write(name, text)
    yield write
    code_version.cache_clear()


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("top", {"middle", "side", "bottom"}),
        ("middle", {"bottom"}),
        ("side", {"bottom", "middle"}),
        ("bottom", set()),
        ("other", {"top", "middle", "side", "bottom"}),
        ("quoted", set()),
        ("outside", set()),
        ("pair", {"bottom", "other", "top", "middle", "side"}),
    ],
)
def test_imports_are_found_in_every_form_and_through_one_another(house, tmp_path, module, imported):
    folder = tmp_path / "lib"
    assert imports(folder / f"{module}.py") == {folder / f"{name}.py" for name in imported}


def test_imports_of_modules_that_import_each_other_end(house, tmp_path):
    house("bottom", "import lib.top\n")
    found = {path.stem for path in imports(tmp_path / "lib" / "top.py")}
    assert found - {"top"} == {"middle", "side", "bottom"}


def test_imports_of_a_notebook(house, tmp_path):
    notebook = tmp_path / "chapter.py"
    notebook.write_text("# %% [markdown]\n# import lib.side\n# %%\nfrom lib.middle import later\n")
    assert {path.stem for path in imports(str(notebook))} == {"middle", "bottom"}


def test_imports_of_the_real_engine():
    """Against Python itself: what a fresh process has loaded after importing the module."""
    script = "import sys, lib.study.point; print(*(n for n in sys.modules if n.startswith('lib.')))"
    made = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    found = imports(ROOT / "lib" / "study" / "point.py")
    paths = [ROOT / name.replace(".", "/") for name in made if name != "lib.study.point"]
    # A package that is executed on the way to one of its modules has no say in the numbers.
    assert {path.with_suffix(".py") for path in paths if not path.is_dir()} <= found | {
        file for path in paths if path.is_dir() for file in imports(path / "__init__.py")
    }
    assert found <= set((ROOT / "lib").rglob("*.py"))


@pytest.mark.parametrize("changed", sorted(MODULES))
def test_the_version_changes_with_the_module_and_what_it_imports_only(house, changed):
    modules = [name for name in MODULES if name != "outside"]
    before = {name: code_version(name) for name in modules}
    imported = {
        name: {path.stem for path in imports(provenance.ROOT / "lib" / f"{name}.py")} | {name}
        for name in modules
    }
    house(changed, MODULES[changed] + "more = 1\n")
    after = {name: code_version(name) for name in modules}
    for name in modules:
        assert (after[name] != before[name]) == (changed in imported[name])
    house(changed, MODULES[changed])
    assert {name: code_version(name) for name in modules} == before


CODE = '''
"""What it is for."""
import math

LIMIT = 1.0  # of something


class Box:
    """A box."""

    side = 2

    def area(self, by=None, *, scale=1):
        """Its area."""
        # squared
        return scale * self.side**2 if by is None else f"{by!r:>{self.side}} {scale}"[0]


async def later(values):
    """Wait."""
    return {key: value for key, value in values.items() if key not in (None, True)}
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# of something", "# of something else"),
        ("# squared\n", "\n"),
        ('"""What it is for."""', ""),
        ('"""A box."""', '"""Another box,\n\n    described at length.\n    """'),
        ('"""Its area."""', "'of a square'"),
        ('"""Wait."""', ""),
        ("LIMIT = 1.0", "LIMIT = (1.0)\n\n\n"),
        ("by=None, *, scale=1", "\n        by=None,\n        *,\n        scale=1,\n    "),
    ],
)
def test_a_comment_a_docstring_or_the_layout_is_no_other_version(house, old, new):
    assert old in CODE
    versions = []
    for text in (CODE, CODE.replace(old, new)):
        house("bottom", text)
        versions.append(code_version("top"))
    assert versions[0] == versions[1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 1.0", "LIMIT = 1"),
        ("LIMIT = 1.0", "LIMIT = True"),
        ("LIMIT = 1.0", "LIMIT = '1.0'"),
        ("LIMIT = 1.0", "LIMIT = None"),
        ("LIMIT = 1.0", "LIMIT: float = 1.0"),
        ("side = 2\n", "side = 3\n"),
        ("area", "perimeter"),
        ("by=None", "by=0"),
        ("*, ", ""),
        ("!r", "!s"),
        (":>", ":<"),
        ("**2", "*2"),
        ("by is None", "by is not None"),
        ("async def", "def"),
        ("(None, True)", "[None, True]"),
        ("(None, True)", "(True, None)"),
        ("import math\n", "import math as m\n"),
        ("class Box:", "class Box(dict):"),
        ("values.items()", "values.items(None)"),
        ('"""Its area."""', '"""Its area."""\n        "said twice"'),
        ("LIMIT = 1.0", "LIMIT = 1.0\n'not the first'"),
    ],
)
def test_any_change_of_the_code_is_another_version(house, old, new):
    assert old in CODE
    versions = []
    for text in (CODE, CODE.replace(old, new)):
        house("bottom", text)
        versions.append(code_version("top"))
    assert versions[0] != versions[1]


def test_the_version_does_not_depend_on_the_version_of_python():
    """Python 3.12 ends the format inside a format with an empty text, others do not."""
    one, other = (ast.parse('f"{value:>{width}}"') for _ in range(2))
    for node in ast.walk(other):
        if isinstance(node, ast.FormattedValue) and node.format_spec:
            node.format_spec.values.append(ast.Constant(""))
    assert ast.dump(one) != ast.dump(other)
    assert provenance._code(one) == provenance._code(other)


def test_the_version_is_twelve_hexadecimal_digits(house):
    assert len(code_version("top")) == 12
    assert int(code_version("top"), 16) >= 0


@pytest.mark.parametrize(
    ("measure", "own", "others"),
    [
        ("stress", {"stress.py"}, {"influence/functions.py", "measures/influence.py"}),
        ("influence", {"influence/functions.py", "measures/last_layer.py"}, {"stress.py"}),
        ("trust", {"influence/trust.py", "measures/last_layer.py"}, {"stress.py"}),
        ("distances", {"attacks/minimal.py"}, {"stress.py", "influence/functions.py"}),
    ],
)
def test_the_version_of_a_measure_knows_every_module_that_makes_its_numbers(measure, own, others):
    lib = ROOT / "lib"
    files = [lib / "study" / "trained.py", lib / "measures" / f"{measure}.py"]
    found = {path.relative_to(lib).as_posix() for path in files + [*chain(*map(imports, files))]}
    network = {"attacks/gradient.py", "augmentation/transforms.py", "data.py", "models.py",
               "measures/subject.py", "seeds.py", "study/recipes.py", "training.py"}  # fmt: skip
    assert network | own <= found
    assert not {name for name in found if name.startswith("book/")}
    assert not found & ({"study/claims.py", "study/sweep.py", "study/runner.py"} | others)


@pytest.mark.parametrize(
    ("name", "own"), [("measures.stress", "stress"), ("study.trained", "seeds")]
)
def test_what_keeps_the_records_is_none_of_their_code(engine, name, own):
    before = code_version(name)
    engine("records.tables")
    engine("records.provenance")
    engine("study.experiment")
    assert code_version(name) == before
    engine(own)
    assert code_version(name) != before


def test_constants_are_read_without_executing_anything(tmp_path):
    path = tmp_path / "module.py"
    path.write_text('TABLES = ("a", "b")\nFIRST = True\nOTHER = len(TABLES)\nraise OSError\n')
    assert constants(path) == {"TABLES": ("a", "b"), "FIRST": True}


def test_a_name_of_a_package_stands_for_the_module_that_defines_it(tmp_path):
    """Also where the package has it from another one, or imports it when it is asked for."""
    lib, notebook = ROOT / "lib", tmp_path / "chapter.py"
    for text, module, without in [
        ("from lib.attacks import pgd", "attacks/gradient.py", "attacks/square.py"),
        ("from lib.attacks import square", "attacks/square.py", "attacks/gradient.py"),
        ("from lib.augmentation import Mixup", "augmentation/mixup.py", "augmentation/law.py"),
        ("from lib.study import grid", "study/grid.py", "study/trained.py"),
        ("from lib.study import Profile", "study/profile.py", "study/runner.py"),
        ("import lib.attacks", "attacks/square.py", "stress.py"),
    ]:
        notebook.write_text(text)
        found = {path.relative_to(lib).as_posix() for path in imports(notebook)}
        assert module in found
        assert without not in found


def test_the_description_of_a_record(tmp_path, monkeypatch):
    found = describe(torch.device("cpu"))
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert platform.machine() in found["device"]
    assert f"{torch.get_num_threads()} thread" in found["device"]


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_commit_says_whether_the_files_are_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)

    def commit():
        provenance.commit.cache_clear()
        return provenance.commit()

    try:
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert commit() == "unknown"
        git(tmp_path, "init", "-q")
        (tmp_path / "a").write_text("1")
        git(tmp_path, "add", "a")
        git(tmp_path, "commit", "-qm", "one")
        whole = git(tmp_path, "rev-parse", "HEAD")
        git(tmp_path, "tag", "-am", "v", "v1")  # the commit all the same
        assert commit() == whole[:12]
        (tmp_path / "a").write_text("2")
        assert commit() == whole[:12] + "+"
    finally:
        provenance.commit.cache_clear()
