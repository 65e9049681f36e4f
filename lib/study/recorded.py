"""The recorded studies as pages show them: what each is called, what is there and what is missing.

`studies` reads the tables of all that are recorded, photographs first, and says how complete they
are. The others describe one profile for the page of the recorded study.
"""

from dataclasses import dataclass, replace

import pandas as pd
from safetensors import safe_open

from lib import measures, records
from lib.study.grid import grid
from lib.study.index import current
from lib.study.profile import Profile
from lib.study.profile import Study as Settings
from lib.study.settings import FOLDER

TITLES = {"cifar10": "CIFAR-10", "mnist": "MNIST", "svhn": "SVHN"}
PHOTOGRAPHS = {"cifar10", "svhn"}
STAGES = ("compile", "train", "load")  # before the measures


def label(profile):
    """What a page calls a study: "CIFAR-10, resnet50, 24 epochs". More epochs change margins."""
    epochs = profile.training["epochs"]
    title = TITLES.get(profile.dataset, profile.dataset)
    return f"{title}, {profile.network}, {epochs} epoch{'s' if epochs > 1 else ''}"


@dataclass(frozen=True)
class Study:
    """A recorded study: its profile, its tables by name, and lines on what they lack."""

    profile: Profile
    label: str
    tables: dict
    lacks: tuple

    def __getitem__(self, table):
        """A copy of a table."""
        return self.tables[table].copy()


def study(profile, *tables):
    """The profile's Study. Raises FileNotFoundError, saying how to record it, if a table lacks."""
    found, lacks = {}, {}
    for table in tables:
        found[table], words = records.select(profile.name, table)
        lacks.setdefault(words, []).append(table)
    lines = [f"{_listed(names)}: {words}" for words, names in lacks.items() if words]
    changed = {}
    for table, rows in found.items():
        changed.setdefault(_foreign_settings(profile, table, rows), []).append(table)
    for kinds, names in changed.items():
        if kinds:
            since = f"since the points of {_listed(kinds)} were recorded"
            lines.append(f"{_listed(names)}: the profile has changed {since}")
    return Study(profile, label(profile), found, tuple(lines))


def studies(own, *tables):
    """The studies that have these tables, in the order of a page, and the words before them.

    `own` is the profile of the page, which has to be recorded. Of the others those that cannot be
    read are left out, and the words say so. The words are Markdown.
    """
    found, words, labels = [], [], set()
    for name in dict.fromkeys([*records.studies(*tables), own.name]):
        try:
            profile = own if name == own.name else Profile.load(name)
            one = study(profile, *tables)
        except ValueError as error:
            if name == own.name:
                raise
            words.append(f"- Profile {name} is left out: {error}.")
            continue
        if one.label in labels:
            one = replace(one, label=f"{one.label} ({name})")
        found.append(one)
        labels.add(one.label)
        words.append(f"- **{one.label}**: {completeness(profile, one[tables[0]])}.")
        words += [f"    - {_sentence(line)}" for line in one.lacks]
    lacking = {name: [table for table in tables if name not in records.studies(table)]
               for name in records.in_order(records.profiles())}  # fmt: skip
    partly = {name: lacks for name, lacks in lacking.items() if 0 < len(lacks) < len(tables)}
    for name, lacks in partly.items():
        words.append(f"- Profile {name} is left out: no {_listed(lacks)} recorded yet.")
    if not partly and not any(one.profile.dataset in PHOTOGRAPHS for one in found):
        words += ["", "No study of photographs is recorded in this copy yet: [the recorded study]"
                      "(07_recorded.html) says what it takes."]  # fmt: skip
    return found, "\n".join(["What the studies on this page have recorded:", "", *words])


def shelf():
    """A Study of each profile in notebooks/profiles/ with its costs, which every point has.

    The table is empty where nothing is recorded. In the order of a page.
    """
    found = []
    for name in records.in_order(file.stem for file in FOLDER.glob("*.yaml")):
        profile = Profile.load(name)
        if not isinstance(profile, Settings):
            continue
        try:
            found.append(study(profile, "cost"))
        except FileNotFoundError:
            nothing = pd.DataFrame(columns=records.CELL)
            found.append(Study(profile, label(profile), {"cost": nothing}, ()))
    return found


def overview(studies):
    """What each study is, how many points of its grid are recorded and how many it has."""
    rows = []
    for one in studies:
        profile, planned = one.profile, len(grid(one.profile))
        rows.append(
            {
                "study": one.label,
                "recorded": planned - len(missing(profile, one["cost"])),
                "points": planned,
                "seeds": len(profile.grid["seed"]),
                "batch": profile.training["batch_size"],
                "profile": profile.name,
            }
        )
    return pd.DataFrame(rows)


def standing(study):
    """What is recorded of a study from the shelf, and how to record the rest, as Markdown."""
    profile, cost = study.profile, study["cost"]
    name, lacking = profile.name, len(missing(profile, cost))
    if cost.empty:
        data = f"{TITLES[profile.dataset]} is downloaded once" if profile.dataset in TITLES else ""
        gpu = "A GPU is needed" if profile.sweep["compile"] else ""
        needs = ", and ".join(filter(None, [gpu, data]))
        return (
            f"No point of it is recorded in this copy. {needs + '.' if needs else ''} "
            f"`make plan PROFILE={name}` says how long its {lacking} points take on your machine, "
            f"`make sweep PROFILE={name}` records them, and goes on where it was interrupted."
        )
    words = [completeness(profile, cost)]
    if lacking:
        words.append(f"Missing: {lacking}. `make sweep PROFILE={name}` records them")
    beside = len(_cells(cost)) - (len(grid(profile)) - lacking)
    if beside:
        words.append(f"Beside the grid: {beside}")
    words += [line.removeprefix("cost: ") for line in study.lacks]
    return " ".join(map(_sentence, words))


def coverage(profile, table):
    """How many seeds of each augmentation and p of the grid are recorded, and how many planned.

    At p = 0 every augmentation has the shared point.
    """
    there = _there(profile, table)
    seeds = profile.grid["seed"]
    rows = []
    for name in profile.grid["augmentation"]:
        for p in sorted(profile.grid["p"]):
            points = {profile.point(name, p, seed) for seed in seeds}
            row = {"augmentation": name, "p": p, "recorded": len(points & there)}
            rows.append(row | {"planned": len(points)})
    return pd.DataFrame(rows)


def completeness(profile, table):
    """How much of the grid a table has, in words: "all 105 points of its grid, 5 seeds"."""
    there, planned = _there(profile, table), grid(profile)
    seeds, many = len({point.seed for point in there}), len(profile.grid["seed"])
    share = f"{100 * len(there) / len(planned):.0f} %"
    words = f"{len(there)} of the {len(planned)} points of its grid ({share})"
    words += f", at {seeds} of {_seeds(many)}"
    if len(there) == len(planned):
        words = f"all {len(there)} points of its grid, {_seeds(many)}"
    single = coverage(profile, table).recorded == 1
    if seeds == 1:
        words += ". One seed gives no interval: no band is drawn and no claim is decided"
    elif single.any():
        words += ". Where there is one seed, no band is drawn"
    return words


def missing(profile, table):
    """The points of the grid that a table does not have."""
    there = _there(profile, table)
    return [point for point in grid(profile) if point not in there]


def seconds(cost):
    """The seconds of a point by stage: median and largest, and of how many points."""
    by_stage = cost.groupby("stage").value.agg(["median", "max", "size"])
    whole = cost.groupby(records.CELL).value.sum().agg(["median", "max", "size"])
    by_stage.loc["whole point"] = whole
    measured = [name for name in by_stage.index if name not in (*STAGES, "whole point")]
    order = [name for name in [*STAGES, *measured, "whole point"] if name in by_stage.index]
    rest = [name for name in by_stage.index if name not in order]
    found = by_stage.loc[[*rest, *order]].reset_index()
    found.columns = ["stage", "median", "longest", "points"]
    return found.astype({"points": int})


def origins(cost):
    """Where the points were made: engine, commit, torch and device, and how many points each."""
    by = ["device", "torch", "code", "commit"]
    points = cost.drop_duplicates(records.CELL).groupby(by).size().reset_index(name="points")
    return points.rename(columns={"code": "engine"})[
        ["points", "device", "torch", "engine", "commit"]
    ]


def previews(profile):
    """The last images, uint8 `[classes, c, h, w]`, of each generator that is kept with a study."""
    found = {}
    for name in profile.augmentations:
        folder = records.results() / profile.name / "generators"
        of_recipe = folder.glob(f"{name}-{profile.generator_version(name)}*.safetensors")
        for path in of_recipe if profile.generators(name) else ():
            with safe_open(path, "np") as kept:
                found[name] = kept.get_tensor("previews.images")[-1]
    return found


def header(name):
    """The comment at the top of a profile's file, which lists what deviates from the talk."""
    words = []
    for line in (FOLDER / f"{name}.yaml").read_text().splitlines():
        if not line.startswith("#"):
            break
        words.append(line.lstrip("# "))
    return "\n".join(words)


def of_point(table, point):
    """The rows of a table that are of the point."""
    here = (table.augmentation == point.augmentation) & (table.p == point.p)
    return table[here & (table.seed == point.seed)]


def _there(profile, table):
    """The points of the grid that have rows in a table."""
    cells = _cells(table)
    return {point for point in grid(profile) if (point.augmentation, point.p, point.seed) in cells}


def _cells(table):
    """The points that have rows in a table; of costs, those of measures that every seed has."""
    if "stage" in table:
        whole = [name for name in measures.names() if not measures.facts(name).first_seed]
        table = table[table.stage.isin(whole)]
    return {*table[records.CELL].itertuples(index=False, name=None)}


def _foreign_settings(profile, table, rows):
    """The augmentations whose rows are no longer of the settings of the profile's file."""
    kept = replace(profile, sweep=profile.sweep | {"remake": False})  # whatever code made them
    return tuple(sorted(set(rows.augmentation[~current(kept, table, rows)])))


def _sentence(line):
    return f"{line[0].upper()}{line[1:]}."


def _listed(names):
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _seeds(number):
    return f"{number} seed{'s' if number > 1 else ''}"
