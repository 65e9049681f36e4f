"""The grid of a profile: its points, the order of their use, and the jobs that make them."""

from dataclasses import dataclass


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

    def __str__(self):
        # %g, because 0.1 + 0.2 has to be found under 0.3
        return f"{self.augmentation}-p{self.p:g}-seed{self.seed}"


def grid(profile):
    """The points of a profile, those with p = 0 once a seed, in the order of their use.

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
    """The grid cut into executions of the notebook: {name: points}.

    Each is a product of lists, as the notebook is given them: one augmentation and all p of some
    seeds or, where `points_per_job` is less than that, some p of one seed, for every point of a
    seed needs the same control, its p = 0 model. Those of p = 0 come first. Where `points_per_job`
    holds the whole grid, there is one job for p = 0 and one for the rest.
    """
    size, whole = profile.sweep["points_per_job"], grid(profile)
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
