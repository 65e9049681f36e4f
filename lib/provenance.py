"""Where a number comes from: the code, the libraries and the device that made it."""

import ast
import hashlib
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def imports(path):
    """The files of `lib/` that a notebook or module imports, directly or through one another."""
    found, waiting = set(), [Path(path)]
    while waiting:
        tree = ast.parse(waiting.pop().read_text())
        names = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        files = {ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in names
                 if name.startswith("lib.")}  # fmt: skip
        new = {file for file in files if file.exists()} - found
        found |= new
        waiting += new
    return found


@cache
def code_version(*modules):
    """Twelve hexadecimal digits that change when the code of `lib/<module>.py` or its imports does.

    Comments, docstrings and layout are no code: records outlive their change.
    """
    paths = {ROOT / "lib" / f"{module}.py" for module in modules}
    digest = hashlib.sha256()
    for file in sorted(paths.union(*map(imports, paths))):
        digest.update(f"{file.name} {_code(ast.parse(file.read_text()))!r}".encode())
    return digest.hexdigest()[:12]


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
