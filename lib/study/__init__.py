"""The study and other experiments: grids of points, each measured and recorded; what that decides.

`profile` has the settings, `grid` the points, `index` says which are recorded, `workflow` what is
to be done. Of the study, `recipes` says what the engine has to say of the settings, `trained` makes
or loads what a point needs, `point` measures it, `runner` makes many; `experiment` runs all else;
`sweep` is the command line; `recorded`, `claims`, `verdicts` and `power` read.
"""

from importlib import import_module

# Found when they are asked for: who plans a grid needs no torch.
_PUBLIC = {
    "Point": "grid", "Profile": "profile", "grid": "grid", "jobs": "grid",
    "augmentation": "trained", "dataset": "trained", "generator": "trained", "judge": "trained",
    "network": "trained", "subject": "trained", "train_or_load": "trained",
    "run_points": "runner", "run_experiment": "experiment",
}  # fmt: skip
__all__ = sorted(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
