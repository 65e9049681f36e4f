"""Profiles: what is run, with which settings, on which grid.

A profile is a parameter file: the notebook that executes it, its settings, and a grid whose axes
are parameters of that notebook. The study's own notebook is "point"; any other is an experiment.
Knows no torch: what the engine has to say of a profile's settings, `recipes` asks it.
"""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lib import measures
from lib.records import schema
from lib.records.provenance import ROOT, code_version
from lib.records.schema import Count, Name, Number, Schema, Seed, Share, Sum
from lib.records.tables import PROVENANCE, VALUES
from lib.study import notebook
from lib.study.grid import AXES, Cell, Point, grid
from lib.study.settings import NOTEBOOKS, digest, read

NETWORK = ("dataset", "network", "training", "subset")  # what a network depends on
RESERVED = {"profile", "table", "measure", "stage", *PROVENANCE, *VALUES}


class Training(Schema):
    epochs: Count
    batch_size: Count
    learning_rate: Number
    momentum: Number
    weight_decay: Number
    precision: Literal["fp32", "bf16"]


class StudyGrid(Schema):
    augmentation: Annotated[list[Sum], Field(min_length=1)]
    p: Annotated[list[Share], Field(min_length=1)]
    seed: Annotated[list[Seed], Field(min_length=1)]


class Jobs(Schema):
    points_per_job: Count = 1
    remake: bool = True


class StudyJobs(Jobs):
    points_per_job: Count
    remake: bool
    batch: Count
    compile: bool


class StudyFile(Schema):
    profile: Name
    notebook: Literal["point"] = "point"
    dataset: Name
    network: Name
    subset: Annotated[list[Count | None], Field(min_length=2, max_length=2)] | None = None
    training: Training
    measures: dict[Name, dict[str, Any]]
    augmentations: dict[Name, Any]
    grid: StudyGrid
    sweep: StudyJobs


class ExperimentFile(Schema):
    profile: Name
    notebook: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)*$")]
    settings: dict[Name, Any] = {}
    grid: Annotated[
        dict[Name, Annotated[list[int | float | Name], Field(min_length=1)]], Field(min_length=1)
    ]
    sweep: Jobs = Jobs()


@dataclass(frozen=True)
class Profile:
    """What all profiles have. `path` is the file; of no concern to what is recorded."""

    name: str
    notebook: str
    grid: dict
    sweep: dict
    path: Path = field(compare=False)

    @staticmethod
    def read(name):
        """The profile `name` of notebooks/profiles/, or of the YAML file at a path, by its schema.

        A file that `extends` another profile, one of its folder first, holds a name of its own and
        what differs, setting by setting; `null` leaves a setting out. Raises ValueError in one
        line: file, setting, value, what is allowed.
        """
        path, settings = read(name)
        study = settings.get("notebook", "point") == "point"
        whole = schema.fit(StudyFile if study else ExperimentFile, settings, path.name)
        made = (Study if study else Experiment)(name=whole.pop("profile"), path=path, **whole)
        made.check()
        return made

    @classmethod
    def load(cls, name):
        """The profile as `read` gives it, all of its settings tried on the engine."""
        profile = cls.read(name)
        if isinstance(profile, Study):
            from lib.study import recipes  # with torch

            recipes.check(profile)
        return profile

    @property
    def axes(self):
        return tuple(self.grid)

    @property
    def source(self):
        """The notebook, `.py`: beside the profile, or in notebooks/."""
        places = (folder / f"{self.notebook}.py" for folder in (self.path.parent, NOTEBOOKS))
        return next((place for place in places if place.exists()), None)


@dataclass(frozen=True)
class Study(Profile):
    """A profile of the study: data set, network, training, measures, augmentations."""

    dataset: str
    network: str
    training: dict
    measures: dict
    augmentations: dict
    subset: list | None  # (train, test): the first so many images, to try a profile out

    def check(self):
        """ValueError if a measure or an augmentation is unknown."""
        where = self.path.name
        for name in self.measures:
            if name not in measures.names():
                raise ValueError(f"{where}: measures: {name!r} is none; "
                                 f"choose among {', '.join(measures.names())}")  # fmt: skip
            for other in measures.facts(name).after:
                if other not in self.measures:
                    raise ValueError(f"{where}: measures: {name} builds on {other}")
        for name in self.grid["augmentation"]:
            self.factors(name)

    def point(self, augmentation, p, seed):
        """The point of this profile, its augmentation checked."""
        point = Point(self.dataset, self.network, augmentation, p, seed)
        self.factors(augmentation)
        return point

    def points(self, augmentation=None, p=None, seed=None):
        """The points of lists (or single values) of augmentations, p and seeds, None the grid's.

        Those of the grid come first, in its order.
        """
        given = {"augmentation": augmentation, "p": p, "seed": seed}
        lists = [_listed(given[axis], self.grid[axis]) for axis in AXES]
        wanted = {self.point(*cell): None for cell in itertools.product(*lists)}
        planned = [point for point in grid(self) if point in wanted]
        return list(dict.fromkeys([*planned, *wanted]))

    def factors(self, name):
        """(factor, class's name, arguments) of each factor of an augmentation, innermost first."""
        return [] if name == "none" else [(part, *self._line(part)) for part in name.split("+")]

    def generators(self, name=None):
        """The factors of an augmentation, or of all of the grid, that need a trained generator."""
        if name is None:
            names = self.grid["augmentation"] if any(self.grid["p"]) else []
            return sorted({factor for name in names for factor in self.generators(name)})
        return [part for part, kind, _ in self.factors(name) if kind == "Generative"]

    def attacks(self, name):
        """Whether an augmentation attacks the network that is trained on it."""
        return any(kind == "Adversarial" for _, kind, _ in self.factors(name))

    def measured(self, point):
        """The names of the measures of a point: some need the networks of one seed only."""
        first = point.seed == self.grid["seed"][0]
        return [name for name in self.measures if first or not measures.facts(name).first_seed]

    @property
    def all_measures(self):
        """What records are of: the measures, the network itself and the quality of generators."""
        return (*self.measures, "network", "generators")

    def tables(self, measure):
        """The tables that a measure's rows go into, beside that of costs."""
        beside = {"network": (), "generators": ("generators",)}
        return beside[measure] if measure in beside else measures.facts(measure).tables

    def version(self, measure, augmentation):
        """(code, settings): what a measure's rows of a point with that augmentation depend on.

        Twelve hexadecimal digits each. Settings of other measures, grid and sweep do not count, nor
        do other augmentations: what is added leaves what is recorded valid.
        """
        if measure in ("network", "generators"):
            code = {"network": measures.ENGINE, "generators": "study.generation"}[measure]
            return code_version(code), self.training_version(augmentation)
        builds_on = measures.facts(measure).after
        own = {name: self.measures[name] for name in (measure, *builds_on)}
        return measures.code(measure), self._digest(NETWORK, augmentation, measures=own)

    def training_version(self, augmentation):
        """Twelve hexadecimal digits of the settings that a point's network depends on."""
        return self._digest(NETWORK, augmentation)

    def generator_version(self, factor):
        """Twelve hexadecimal digits of the settings that a factor's generator depends on."""
        return self._digest(("dataset", "subset"), factor)

    def _digest(self, names, augmentation, **more):
        settings = {name: getattr(self, name) for name in names} | more
        settings["factors"] = [self.augmentations[part] for part, *_ in self.factors(augmentation)]
        return digest(settings)

    def _line(self, name):
        """Class and arguments, as the line `name: [class, arguments]` has them."""
        if name not in self.augmentations:
            known = ", ".join(self.augmentations)
            raise ValueError(f"unknown augmentation {name!r}: choose one of {known}")
        line = self.augmentations[name]
        kind, arguments = line if isinstance(line, list) and len(line) == 2 else (line, {})
        if not isinstance(kind, str) or not isinstance(arguments, dict):
            raise ValueError(
                f"{self.path.name}: augmentations: {name!r} must be [class, arguments by name], "
                f"got {line!r}"
            )
        return kind, arguments


@dataclass(frozen=True)
class Experiment(Profile):
    """A profile of an experiment: a notebook, the settings it gets, and a grid of any axes.

    Its rows are in one table, named after the notebook.
    """

    settings: dict

    def check(self):
        """ValueError if the notebook is not there, or does not know an axis or a setting."""
        where, (own,) = self.path.name, self.measured()
        if self.source is None:
            raise ValueError(f"{where}: notebook: there is no {self.notebook}.py beside it, "
                             f"nor in {NOTEBOOKS.relative_to(ROOT)}/")  # fmt: skip
        known = notebook.parameters(self.source)
        if known is None:
            raise ValueError(f"{where}: notebook: {self.source.name} has no cell of parameters")
        for name in ("profile", *self.grid):
            if name not in known:
                raise ValueError(f"{where}: {name!r} is no parameter of {self.source.name}; "
                                 f"it has {', '.join(known)}")  # fmt: skip
        taken = {table for name in measures.names() for table in measures.facts(name).tables}
        if own in taken | {"cost", "generators"}:
            raise ValueError(f"{where}: notebook: the table {own!r} is one of the study's")
        if any(axis in RESERVED for axis in self.axes):
            raise ValueError(f"{where}: grid: no axis is called {', '.join(sorted(RESERVED))}")
        needs = notebook.arguments(self.source, "point")
        if needs is None:
            raise ValueError(f"{where}: notebook: {self.source.name} has no function `point`")
        given, (required, known) = {*self.axes, *self.settings}, needs
        for name in sorted(given - known):
            raise ValueError(f"{where}: {name!r} is no argument of `point` in {self.source.name}; "
                             f"it has {', '.join(sorted(known))}")  # fmt: skip
        for name in sorted(required - given):
            raise ValueError(f"{where}: `point` in {self.source.name} needs {name!r}: "
                             "an axis of the grid, or a setting")  # fmt: skip

    def generators(self, _=None):
        return []

    def measured(self, _=None):
        return [Path(self.notebook).name]

    @property
    def all_measures(self):
        return self.measured()

    def tables(self, measure):
        return (measure,)

    def points(self, **axes):
        """The cells of lists (or single values) of the axes, None the grid's own."""
        lists = [
            [(axis, value) for value in dict.fromkeys(_listed(axes.get(axis), own))]
            for axis, own in self.grid.items()
        ]
        return [Cell(pairs) for pairs in itertools.product(*lists)]

    def version(self, measure, _=None):
        """(code, settings): what the rows of a point depend on."""
        return code_version(str(self.source)), digest(self.settings)


def _listed(value, own):
    if value is None:
        return own
    return value if isinstance(value, list) else [value]
