"""Profiles and points: what the study is run on, with which settings, on which grid."""

import hashlib
import inspect
import json
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import yaml

from lib import augmentation as library
from lib import checks, data, gan, models, runtime
from lib.records.provenance import ROOT

FOLDER = ROOT / "notebooks" / "profiles"
SECTIONS = {
    "training": {"epochs", "batch_size", "learning_rate", "momentum", "weight_decay", "precision"},
    "attack": {"eps", "steps"},
    "distance": {"steps", "upto"},
    "checks": {"images", "queries", "restarts"},
    "stress": {"neighbours", "clean", "sphere", "adversarial", "steps"},
    "influence": {"test_points", "eps", "steps", "method", "left_out"},
    "augmentations": None,
    "grid": {"augmentation", "p", "seed"},
    "sweep": {"points_per_job", "remake", "batch", "compile"},
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
    distance: dict
    checks: dict
    stress: dict
    influence: dict
    augmentations: dict
    grid: dict
    sweep: dict
    subset: tuple | None = None  # (train, test): the first so many images, to try a profile out

    @classmethod
    def load(cls, name):
        """The profile `name` of notebooks/profiles/, or of the YAML file at a path.

        A file that `extends` another profile holds its name and what differs, setting by setting.
        Raises ValueError that names the profile or setting and what is allowed.
        """
        path, settings = _read(name)
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
            profile.factors(augmentation)
        for p in profile.grid["p"]:
            checks.probability(p)
        for rate in ("learning_rate", "momentum", "weight_decay"):
            checks.radius(profile.training[rate], rate)
        checks.count(profile.training["epochs"], "epochs")
        checks.count(profile.training["batch_size"], "batch_size")
        checks.one_of(profile.training["precision"], runtime.PRECISIONS, "precision")
        checks.count(profile.sweep["batch"], "batch")
        return profile

    def point(self, augmentation, p, seed):
        """The point of this profile, its augmentation checked."""
        point = Point(self.dataset, self.network, augmentation, p, seed)
        self.factors(augmentation)
        return point

    def factors(self, name):
        """(factor, class, arguments) of each factor of the augmentation `name`, innermost first."""
        return [] if name == "none" else [(part, *self._line(part)) for part in name.split("+")]

    def generators(self, name):
        """The factors of the augmentation `name` that need a trained generator."""
        return [part for part, kind, _ in self.factors(name) if kind is library.Generative]

    def augmentation(self, name, p=1.0, generator=None):
        """The augmentation `name` with probability `p`; "a+b" is B @ A, each factor at `p`.

        `generator(factor)` gives the trained generator of a factor that needs one;
        `lib.study.augmentation` brings it along.
        """
        made = [
            kind(generator(part)) if kind is library.Generative else kind(**arguments)
            for part, kind, arguments in self.factors(name)
        ]
        whole = reduce(lambda inner, outer: outer @ inner, made) if made else library.Identity()
        return library.with_probability(whole, p)

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
        settings = {name: getattr(self, name) for name in names}
        settings["factors"] = [self.augmentations[part] for part, *_ in self.factors(augmentation)]
        text = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _line(self, name):
        """The class and arguments that the line `name: [class, arguments]` stands for."""
        checks.one_of(name, self.augmentations, "augmentation")
        line = self.augmentations[name]
        kind, arguments = line if isinstance(line, list) and len(line) == 2 else (line, {})
        made = getattr(library, kind, None) if isinstance(kind, str) else None
        if not (isinstance(made, type) and issubclass(made, library.Augmentation)):
            raise ValueError(f"augmentation {name!r}: {kind!r} is no class of lib/augmentation.py")
        if not isinstance(arguments, dict):
            raise ValueError(f"augmentation {name!r}: arguments by name, got {arguments!r}")
        try:
            if made is library.Generative:
                inspect.signature(gan.train_gan).bind(dataset=None, **arguments)
                checks.one_of(arguments["kind"], gan.KINDS, "kind of GAN")
            else:
                made(**arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"augmentation {name!r}: {error}") from error
        return made, arguments


def grid(profile):
    """The points of the profile, those with p = 0 once a seed, in the order of their use.

    Whatever is made first is already a study: the ends and the middle of the dial for one seed,
    then for the others; then every second of the other p, for all seeds, then the rest.
    """
    axes = profile.grid
    dial, seeds = sorted(set(axes["p"])), axes["seed"]
    first = sorted({dial[0], dial[len(dial) // 2], dial[-1]})
    others = [p for p in dial if p not in first]
    order = [(p, seed) for seed in seeds for p in first]
    order += [(p, seed) for p in others[1::2] + others[::2] for seed in seeds]
    points = {
        profile.point(augmentation, p, seed): None
        for p, seed in order
        for augmentation in axes["augmentation"]
    }
    return list(points)


def jobs(profile):
    """The grid cut into executions of the point notebook: {name: points}, those of p = 0 first.

    A job's points have one augmentation, all p of some seeds or, where `points_per_job` is less
    than that, some p of one seed: every point of a seed needs the same control, its p = 0 model.
    Where `points_per_job` holds the whole grid, there is one job for p = 0 and one for the rest.
    """
    size = checks.count(profile.sweep["points_per_job"], "points_per_job")
    whole = grid(profile)
    if size >= len(whole):
        parts = {"none": [point for point in whole if point.p == 0],
                 "grid": [point for point in whole if point.p > 0]}  # fmt: skip
        return {name: points for name, points in parts.items() if points}
    dial = sum(p > 0 for p in profile.grid["p"]) or 1
    together = max(1, size // dial)
    seeds = profile.grid["seed"]
    cut = {}
    for point in sorted(whole, key=lambda point: point.p):
        chunk = seeds.index(point.seed) // together
        cut.setdefault((point.augmentation, chunk), []).append(point)
    found = {}
    for (augmentation, chunk), points in cut.items():
        points.sort(key=lambda point: seeds.index(point.seed))
        own = "-".join(map(str, seeds[chunk * together : (chunk + 1) * together]))
        step = size if together == 1 else len(points)
        for start in range(0, len(points), step):
            name = f"{augmentation}-seed{own}-part{start // step}"
            found[name] = points[start : start + step]
    return found


def _read(name, extending=()):
    """The path of a profile and its settings, merged with those of the one that it extends."""
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
    if "extends" not in settings:
        return path, settings
    if path in extending:
        raise ValueError(f"{path.name} extends itself")
    whole = _read(settings.pop("extends"), (*extending, path))[1]
    del whole["profile"]  # its records are not those of the one it extends: a name of its own
    for key, value in settings.items():
        both = isinstance(value, dict) and isinstance(whole.get(key), dict)
        whole[key] = whole[key] | value if both else value
    return path, whole


def _same_keys(where, got, expected):
    for name in sorted(got ^ expected):
        what = "is missing" if name in expected else "is not a setting"
        raise ValueError(f"{where}: {name!r} {what}; expected {', '.join(sorted(expected))}")
