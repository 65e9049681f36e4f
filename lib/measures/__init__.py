"""Measures: what is read off a trained network, a module each.

A measure's module says, in literals,
- TABLES: the tables that its rows go into, which are its own;
- AFTER: other measures whose settings it builds on (may be missing, as those below);
- NEEDS: "control", the network of the same seed at p = 0, "rival", that of the second seed;
- FIRST_SEED: True where the networks of one seed are enough;
and has
- Settings, the schema of its section in a profile;
- rows(subject, settings), what it measures of a Subject;
- seconds(settings, cost), about how long that takes, from a Cost;
- check(settings, model), if it must refuse a network before hours of training.

Here is what is known of them without executing one: this module knows no torch.
"""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from lib.records.provenance import code_version, constants

FOLDER = Path(__file__).parent
ENGINE = "study.trained"  # what a network depends on, and with it every measure


@dataclass(frozen=True)
class Facts:
    """What a measure's module says of itself in literals."""

    tables: tuple
    after: tuple
    needs: tuple
    first_seed: bool


@cache
def every():
    """{name: Facts} of all measures. ValueError if two of them name one table."""
    found, owners = {}, {}
    for path in sorted(FOLDER.glob("*.py")):
        said = constants(path)
        if "TABLES" not in said:
            continue
        for table in said["TABLES"]:
            if table in owners:
                raise ValueError(
                    f"measure {path.stem}: the table {table!r} is that of {owners[table]}"
                )
            owners[table] = path.stem
        found[path.stem] = Facts(
            tuple(said["TABLES"]), tuple(said.get("AFTER", ())), tuple(said.get("NEEDS", ())),
            said.get("FIRST_SEED", False),
        )  # fmt: skip
    return found


def names():
    return tuple(every())


def facts(name):
    return every()[name]


def module(name):
    """The module of a measure."""
    return import_module(f"{__name__}.{name}")


def code(name):
    """Twelve hexadecimal digits of the code that a measure's rows depend on."""
    return code_version(ENGINE, f"measures.{name}")


@dataclass(frozen=True)
class Cost:
    """What an estimate goes by: seconds an image takes, on this device, and how many there are."""

    attacked: float  # by one step
    predicted: float
    train: int
    test: int
    measures: dict  # the profile's settings, by measure
