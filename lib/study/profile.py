"""Profiles: what is run, with which settings, on which grid.

Knows no torch: what the engine has to say of a profile's settings, `recipes` asks it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lib.records import schema
from lib.records.provenance import ROOT
from lib.records.schema import Count, Name, Number, Schema, Seed, Share, Sum
from lib.study.grid import Point

FOLDER = ROOT / "notebooks" / "profiles"


class Training(Schema):
    epochs: Count
    batch_size: Count
    learning_rate: Number
    momentum: Number
    weight_decay: Number
    precision: Literal["fp32", "bf16"]


class Attack(Schema):
    eps: Annotated[list[Number], Field(min_length=1)]
    steps: Annotated[list[Count], Field(min_length=1)]


class Distance(Schema):
    steps: Count
    upto: Number


class Checks(Schema):
    images: Count
    queries: Count
    restarts: Count


class Stress(Schema):
    neighbours: Count
    clean: list[Number]
    sphere: list[Number]
    adversarial: list[Number]
    steps: Count


class Influence(Schema):
    test_points: Count
    eps: Number
    steps: Count
    method: Literal["exact", "cg"]  # of the last layer; "identity" is always shown beside them
    left_out: Annotated[int, Field(ge=3)]  # a correlation of fewer says nothing


class Grid(Schema):
    augmentation: Annotated[list[Sum], Field(min_length=1)]
    p: Annotated[list[Share], Field(min_length=1)]
    seed: Annotated[list[Seed], Field(min_length=1)]


class Sweep(Schema):
    points_per_job: Count
    remake: bool
    batch: Count
    compile: bool


class File(Schema):
    profile: Name
    dataset: Name
    network: Name
    subset: Annotated[list[Count | None], Field(min_length=2, max_length=2)] | None = None
    training: Training
    attack: Attack
    distance: Distance
    checks: Checks
    stress: Stress
    influence: Influence
    augmentations: dict[Name, Any]
    grid: Grid
    sweep: Sweep


@dataclass(frozen=True)
class Profile:
    """A parameter file: data set, network, training, measures and grid."""

    name: str
    dataset: str
    network: str
    training: dict
    attack: dict
    distance: dict
    checks: dict
    stress: dict
    influence: dict
    augmentations: dict
    grid: dict
    sweep: dict
    subset: list | None = None  # (train, test): the first so many images, to try a profile out

    @classmethod
    def read(cls, name):
        """The profile `name` of notebooks/profiles/, or of the YAML file at a path, by its schema.

        A file that `extends` another profile, one of its folder first, holds a name of its own and
        what differs, setting by setting. Raises ValueError in one line: file, setting, value, what
        is allowed.
        """
        path, settings = _read(name)
        whole = schema.fit(File, settings, path.name)
        profile = cls(name=whole.pop("profile"), **whole)
        for augmentation in profile.grid["augmentation"]:
            profile.factors(augmentation)
        return profile

    @classmethod
    def load(cls, name):
        """The profile as `read` gives it, its names and augmentations tried on the engine."""
        from lib.study import recipes  # with torch

        profile = cls.read(name)
        recipes.check(profile)
        return profile

    def point(self, augmentation, p, seed):
        """The point of this profile, its augmentation checked."""
        point = Point(self.dataset, self.network, augmentation, p, seed)
        self.factors(augmentation)
        return point

    def factors(self, name):
        """(factor, class's name, arguments) of each factor of an augmentation, innermost first."""
        return [] if name == "none" else [(part, *self._line(part)) for part in name.split("+")]

    def generators(self, name):
        """The factors of the augmentation `name` that need a trained generator."""
        return [part for part, kind, _ in self.factors(name) if kind == "Generative"]

    def version(self, augmentation):
        """Twelve hexadecimal digits of the settings that a point's records depend on."""
        apart = {"name", "grid", "sweep", "augmentations"}
        return self._digest(set(self.__dataclass_fields__) - apart, augmentation)

    def training_version(self, augmentation):
        """Twelve hexadecimal digits of the settings that a point's network depends on."""
        return self._digest({"dataset", "network", "training", "subset"}, augmentation)

    def generator_version(self, factor):
        """Twelve hexadecimal digits of the settings that a factor's generator depends on."""
        return self._digest({"dataset", "subset"}, factor)

    def _digest(self, names, augmentation):
        # Of the augmentations the point's own alone: a new one leaves the others' records valid.
        settings = {name: _plain(getattr(self, name)) for name in names}
        settings["factors"] = [self.augmentations[part] for part, *_ in self.factors(augmentation)]
        text = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _line(self, name):
        """Class and arguments, as the line `name: [class, arguments]` has them."""
        if name not in self.augmentations:
            known = ", ".join(self.augmentations)
            raise ValueError(f"unknown augmentation {name!r}: choose one of {known}")
        line = self.augmentations[name]
        kind, arguments = line if isinstance(line, list) and len(line) == 2 else (line, {})
        if not isinstance(kind, str) or not isinstance(arguments, dict):
            raise ValueError(
                f"augmentation {name!r}: must be [class, arguments by name], got {line!r}"
            )
        return kind, arguments


def _read(name, beside=None, extending=()):
    """The path of a profile and its settings, merged with those of the one that it extends."""
    path = _find(name, beside)
    settings = schema.read(path)
    if "extends" not in settings:
        return path, settings
    if path in extending:
        raise ValueError(f"{path.name} extends itself")
    whole = _read(settings.pop("extends"), path.parent, (*extending, path))[1]
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
    return whole


def _plain(value):
    """2.0 as 2: in a file they are the same."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
