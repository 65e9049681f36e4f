"""Files of settings: found by name, merged with those that they extend, digested."""

import hashlib
import json
from pathlib import Path

from lib.records import schema
from lib.records.provenance import ROOT

NOTEBOOKS = ROOT / "notebooks"
FOLDER = NOTEBOOKS / "profiles"


def read(name, beside=None, extending=()):
    """The path of a profile and its settings, merged with those of the one that it extends."""
    path = _find(name, beside)
    settings = schema.read(path)
    if "extends" not in settings:
        return path, settings
    if path in extending:
        raise ValueError(f"{path.name} extends itself")
    whole = read(settings.pop("extends"), path.parent, (*extending, path))[1]
    del whole["profile"]  # its records are not those of the one it extends: a name of its own
    return path, _merged(whole, settings)


def _find(name, beside):
    """The file of a profile's name or path, relative to the folder `beside` if there is one."""
    text = str(name)
    if text.endswith(".yaml"):
        path = Path(beside or ".", Path(text).expanduser())
        if path.exists():
            return path.resolve()
    elif schema.NAME.fullmatch(text):
        for folder in filter(None, (beside, FOLDER)):
            if (folder / f"{text}.yaml").exists():
                return (folder / f"{text}.yaml").resolve()
    known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
    raise ValueError(f"unknown profile {text!r}: choose {known}, or a path to a .yaml")


def _merged(whole, settings):
    whole = dict(whole)
    for key, value in settings.items():
        both = isinstance(value, dict) and isinstance(whole.get(key), dict)
        whole[key] = _merged(whole[key], value) if both else value
        if value is None:
            del whole[key]
    return whole


def digest(settings):
    """Twelve hexadecimal digits of settings, whatever the order of their names."""
    text = json.dumps(_plain(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _plain(value):
    """2.0 as 2: in a file they are the same."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
