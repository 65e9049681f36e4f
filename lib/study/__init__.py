"""The study: a grid of points, each trained, measured and recorded; what the records decide.

`profile` has the settings, `grid` the points, `recipes` what the engine says of the settings;
`trained` makes or loads what a point needs, `point` measures it, `runner` makes many, `sweep` is
the command line; `recorded` and `claims` read.
"""

from importlib import import_module

# Found when they are asked for: who plans a grid needs no torch.
_PUBLIC = {
    "Point": "grid", "Profile": "profile", "grid": "grid", "jobs": "grid",
    "augmentation": "trained", "dataset": "trained", "generator": "trained", "judge": "trained",
    "network": "trained", "subject": "trained", "train_or_load": "trained",
    "points_of": "runner", "run_points": "runner",
}  # fmt: skip
__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
