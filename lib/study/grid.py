"""The grid of a profile: its points, the order of their use, and the jobs that make them."""

from dataclasses import dataclass

AXES = ("augmentation", "p", "seed")  # of the study


@dataclass(frozen=True)
class Point:
    """A cell of the study's grid. At p = 0 the augmentation is "none": all share that point."""

    dataset: str
    network: str
    augmentation: str
    p: float
    seed: int

    def __post_init__(self):
        if type(self.p) not in (int, float) or not 0 <= self.p <= 1:
            raise ValueError(f"p must be a number in [0, 1], got {self.p!r}")
        p = round(float(self.p), 6)
        object.__setattr__(self, "p", p)
        if p == 0:
            object.__setattr__(self, "augmentation", "none")
        elif self.augmentation == "none":
            raise ValueError(f'the augmentation "none" has p = 0 only, got {p}')
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"a seed must be an integer >= 0, got {self.seed!r}")

    @property
    def cell(self):
        """{axis: value}."""
        return {axis: getattr(self, axis) for axis in AXES}

    def __str__(self):
        return label(self.cell)


@dataclass(frozen=True)
class Cell:
    """A cell of an experiment's grid: pairs of an axis and its value."""

    pairs: tuple

    @property
    def cell(self):
        """{axis: value}."""
        return dict(self.pairs)

    def __str__(self):
        return label(self.cell)


def label(cell):
    """The name of a cell, {axis: value}, in file names: 2.0 is 2."""
    if tuple(cell) == AXES:
        # %g, because 0.1 + 0.2 has to be found under 0.3
        return "{augmentation}-p{p:g}-seed{seed}".format(**cell)
    return "-".join(f"{axis}={_shown(value)}" for axis, value in cell.items())


def grid(profile):
    """The points of a profile, in the order of their use.

    Of the study those with p = 0 come once a seed, and whatever is made first is already a study:
    the ends and the middle of the dial for one seed, then for the others; then every second of the
    other p, for all seeds, then the rest.
    """
    if profile.axes != AXES:
        return profile.points()
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
    """The grid cut into executions of the notebook: {name: points}.

    Each is a product of lists, as the notebook is given them. A job of an experiment holds at most
    `points_per_job` values of the last axis, and one of each other.

    A job of the study has one augmentation, all p of some seeds or, where `points_per_job` is less
    than that, some p of one seed: every point of a seed needs the same control, its p = 0 model.
    Those of p = 0 come first. Where `points_per_job` holds the whole grid, there is one job for
    p = 0 and one for the rest.
    """
    size, whole = profile.sweep["points_per_job"], grid(profile)
    if profile.axes != AXES:
        return _lines(profile, size)
    if size >= len(whole):
        parts = {"none": [point for point in whole if point.p == 0],
                 "grid": [point for point in whole if point.p > 0]}  # fmt: skip
        return {name: points for name, points in parts.items() if points}
    dial = sum(p > 0 for p in profile.grid["p"]) or 1
    together = max(1, size // dial)
    seeds = profile.grid["seed"]
    place = {seed: k for k, seed in enumerate(seeds)}
    cut = {}
    for point in sorted(whole, key=lambda point: point.p):
        cut.setdefault((point.augmentation, place[point.seed] // together), []).append(point)
    found = {}
    for (augmentation, chunk), points in cut.items():
        points.sort(key=lambda point: place[point.seed])
        own = "-".join(map(str, seeds[chunk * together : (chunk + 1) * together]))
        step = size if together == 1 else len(points)
        for start in range(0, len(points), step):
            name = f"{augmentation}-seed{own}-part{start // step}"
            found[name] = points[start : start + step]
    return found


def _lines(experiment, size):
    cells = experiment.points()
    length = len(set(experiment.grid[experiment.axes[-1]]))
    lines = [cells[k : k + length] for k in range(0, len(cells), length)]
    parts = [line[k : k + size] for line in lines for k in range(0, len(line), size)]
    return {f"{part[0]}": part for part in parts}


def _shown(value):
    number = not isinstance(value, str)
    return str(value) if not number else f"{int(value)}" if value == int(value) else f"{value:.12g}"
