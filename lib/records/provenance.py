"""Where a number comes from: the code, the libraries and the device that made it."""

import ast
import hashlib
import platform
import subprocess
from contextlib import suppress
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# How points are gone through and rows are kept is no part of what the rows say.
APART = ("lib/records/", "lib/study/experiment.py")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def imports(path, apart=()):
    """The files of `lib/` that a notebook or module imports, directly or through one another.

    A name that a package offers stands for the module that defines it, not for the whole package.
    Files whose names from the root begin as one of `apart` are left out, with what they import.
    """
    found, waiting = set(), [Path(path)]
    while waiting:
        new = _imported(_tree(waiting.pop().read_text())) - found
        new = {file for file in new if not _name(file).startswith(tuple(apart))}
        found |= new
        waiting += new
    return found


def _imported(tree):
    """The files that the statements of a syntax tree name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {_file(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {_file(f"{node.module}.{a.name}") or _origin(node.module, a.name)
                      for a in node.names}  # fmt: skip
    return found - {None}


def _file(name):
    """The file of the module or package of a dotted name, None if it is none of ours."""
    if not name.startswith("lib."):
        return None
    path = ROOT.joinpath(*name.split("."))
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.exists()), None)


def _origin(module, name):
    """The file from which `module`, a package or not, has a name."""
    file = _file(module)
    if file is None or file.name != "__init__.py":
        return file
    for node in ast.walk(_tree(file.read_text())):
        if isinstance(node, ast.ImportFrom) and name in {a.asname or a.name for a in node.names}:
            return _file(f"{node.module}.{name}") or _origin(node.module, name)
        if isinstance(node, ast.Dict):  # {name: module}, of what is imported when it is asked for
            pairs = zip(node.keys, node.values, strict=True)
            lazy = {k.value: v.value for k, v in pairs
                    if isinstance(k, ast.Constant) and isinstance(v, ast.Constant)}  # fmt: skip
            if name in lazy:
                return _file(f"{module}.{lazy[name]}")
    return file


def constants(path):
    """{name: value} of a module's names that literals are assigned to, read without importing."""
    found = {}
    for statement in _tree(Path(path).read_text()).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            with suppress(ValueError):
                found[statement.targets[0].id] = ast.literal_eval(statement.value)
    return found


@lru_cache(1000)
def _tree(text):
    return ast.parse(text)


@cache
def code_version(*names):
    """Twelve hexadecimal digits that change when this code does, or what it imports of `lib/`.

    `names`: modules, as "study.point", or paths of notebooks. Comments, docstrings and layout are
    no code, and what keeps the records is none of theirs: they outlive its change.
    """
    paths = {Path(name) if str(name).endswith(".py") else _file(f"lib.{name}") for name in names}
    files = paths.union(*(imports(path, APART) for path in paths))
    digest = hashlib.sha256()
    for name, file in sorted((_name(file), file) for file in files):
        digest.update(f"{name} {_code(_tree(file.read_text()))!r}".encode())
    return digest.hexdigest()[:12]


def _name(file):
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name


def _code(node):
    """A syntax tree as nested lists without docstrings.

    Not `ast.dump`, whose text differs between versions of Python: what is empty is left out.
    """
    if isinstance(node, list):
        return [_code(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    if isinstance(node, ast.JoinedStr):  # Python 3.12 ends a nested format with an empty text
        fields["values"] = [part for part in node.values if getattr(part, "value", 0) != ""]
    return [
        type(node).__name__,
        *((name, _code(value)) for name, value in fields.items() if value not in (None, [])),
    ]


@cache
def commit():
    """The commit of the code, with a plus if the files differ from it; "unknown" outside git."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device_name(device):
    """The GPU's name, or the processor's, e.g. "cpu (x86_64, 1 thread)"."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type} ({platform.machine()}, {threads} thread{'s' if threads > 1 else ''})"


def describe(device, how=""):
    """The provenance columns of a record made now on `device`; `how` the networks ran there."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "device": device_name(device) + how,
    }
