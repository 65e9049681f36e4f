"""Profiles and points: what the study is run on, with which settings, on which grid."""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path

import yaml

from lib import augmentation as library
from lib import checks, data, models
from lib.provenance import ROOT

FOLDER = ROOT / "notebooks" / "profiles"
SECTIONS = {
    "training": {"epochs", "batch_size", "learning_rate", "momentum", "weight_decay"},
    "attack": {"norm", "eps", "steps"},
    "stress": {"neighbours", "clean", "adversarial", "steps"},
    "influence": {"test_points", "eps", "steps", "method"},
    "augmentations": None,
    "grid": {"augmentation", "p", "seed"},
    "sweep": {"points_per_job", "remake"},
}


@dataclass(frozen=True)
class Point:
    """A cell of the grid. At p = 0 the augmentation is "none": that point is shared by all."""

    dataset: str
    network: str
    augmentation: str
    p: float
    seed: int

    def __post_init__(self):
        p = round(checks.probability(self.p), 6)
        object.__setattr__(self, "p", p)
        if p == 0:
            object.__setattr__(self, "augmentation", "none")
        elif self.augmentation == "none":
            raise ValueError(f'the augmentation "none" has p = 0 only, got {p}')
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"a seed must be an integer >= 0, got {self.seed!r}")

    def __str__(self):
        # %g, because 0.1 + 0.2 has to be found under 0.3
        return f"{self.augmentation}-p{self.p:g}-seed{self.seed}"


@dataclass(frozen=True)
class Profile:
    """A parameter file: data set, network, training, measures and grid."""

    name: str
    dataset: str
    network: str
    training: dict
    attack: dict
    stress: dict
    influence: dict
    augmentations: dict
    grid: dict
    sweep: dict
    subset: tuple | None = None  # (train, test): the first so many images, to try a profile out

    @classmethod
    def load(cls, name):
        """The profile `name` of notebooks/profiles/, or of the YAML file at a path.

        Raises ValueError that names the profile or setting and what is allowed.
        """
        path = Path(name) if str(name).endswith(".yaml") else FOLDER / f"{name}.yaml"
        if not path.exists():
            known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
            raise ValueError(f"unknown profile {str(name)!r}: choose {known}, or a path to a .yaml")
        try:
            settings = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
        if not isinstance(settings, dict):
            raise ValueError(f"{path} is no profile: it must hold settings by name")
        expected = {"profile", "dataset", "network", *SECTIONS}
        _same_keys(path.name, settings.keys() - {"subset"}, expected)
        for section, keys in SECTIONS.items():
            if not isinstance(settings[section], dict):
                raise ValueError(f"{path.name}: {section} must hold settings by name")
            if keys:
                _same_keys(f"{path.name}: {section}", settings[section].keys(), keys)
        checks.one_of(settings["dataset"], data.CLASSES, "data set")
        checks.one_of(settings["network"], models.NETWORKS, "network")
        profile = cls(name=settings.pop("profile"), **settings)
        for name, values in profile.grid.items():
            if not (isinstance(values, list) and values):
                raise ValueError(f"{path.name}: grid: {name} must be a list, got {values!r}")
        for augmentation in profile.grid["augmentation"]:
            profile.augmentation(augmentation)
        for p in profile.grid["p"]:
            checks.probability(p)
        for rate in ("learning_rate", "momentum", "weight_decay"):
            checks.radius(profile.training[rate], rate)
        checks.count(profile.training["epochs"], "epochs")
        checks.count(profile.training["batch_size"], "batch_size")
        return profile

    def point(self, augmentation, p, seed):
        """The point of this profile, its augmentation checked."""
        point = Point(self.dataset, self.network, augmentation, p, seed)
        self.augmentation(augmentation, point.p)
        return point

    def augmentation(self, name, p=1.0):
        """The augmentation `name` with probability `p`; "a+b" is B @ A, each factor at `p`."""
        if name == "none":
            return library.with_probability(library.Identity(), p)
        factors = []
        for part in name.split("+"):
            checks.one_of(part, self.augmentations, "augmentation")
            line = self.augmentations[part]
            factors.append(_made(part, *(line if isinstance(line, list) else [line])))
        return library.with_probability(reduce(lambda done, next: next @ done, factors), p)

    @cached_property
    def version(self):
        """Twelve hexadecimal digits of the settings a point's records depend on."""
        return self._digest(set(self.__dataclass_fields__) - {"name", "grid", "sweep"})

    @cached_property
    def training_version(self):
        """Twelve hexadecimal digits of the settings a point's network depends on."""
        return self._digest({"dataset", "network", "training", "augmentations", "subset"})

    def _digest(self, names):
        text = json.dumps({name: getattr(self, name) for name in sorted(names)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def grid(profile):
    """The points of the profile, those with p = 0 first and once a seed."""
    axes = profile.grid
    points = {
        profile.point(augmentation, p, seed): None
        for p in sorted(axes["p"])
        for augmentation in axes["augmentation"]
        for seed in axes["seed"]
    }
    return list(points)


def jobs(profile):
    """The grid cut into executions of the point notebook: {name: points}, those of p = 0 first.

    A job's points share augmentation and seed, so the control they need, the p = 0 model of that
    seed, is one.
    """
    groups = {}
    for point in grid(profile):
        groups.setdefault(f"{point.augmentation}-seed{point.seed}", []).append(point)
    size = checks.count(profile.sweep["points_per_job"], "points_per_job")
    return {
        f"{name}-part{part}": group[part * size : (part + 1) * size]
        for name, group in groups.items()
        for part in range(math.ceil(len(group) / size))
    }


def _made(name, kind, arguments=None):
    """The augmentation that a line of the profile, `name: [kind, arguments]`, stands for."""
    made = getattr(library, kind, None)
    if not (isinstance(made, type) and issubclass(made, library.Augmentation)):
        raise ValueError(f"augmentation {name!r}: {kind!r} is no class of lib/augmentation.py")
    try:
        return made(**(arguments or {}))
    except TypeError as error:
        raise ValueError(f"augmentation {name!r}: {error}") from error


def _same_keys(where, got, expected):
    for name in sorted(got ^ expected):
        what = "is missing" if name in expected else "is not a setting"
        raise ValueError(f"{where}: {name!r} {what}; expected {', '.join(sorted(expected))}")
