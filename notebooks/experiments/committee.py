# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Two layers under attack
#
# Four hidden units learn "exclusive or" from a stream, with and without an attack in training. What is
# recorded are the errors of each stream at each time, and how far its units have shared out the
# directions among them.

# %% tags=["parameters"]
profile = "committee"  # a file of notebooks/profiles/, or a path to one of your own
eps = None  # of the attack in training; a list; None: all of the grid
seed = None  # of the starts and streams; a list

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
import numpy as np

from lib.committee import errors, exclusive_or, learn, start
from lib.seeds import generator
from lib.study import run_experiment


# %%
def point(eps, seed, *, rho, v, signs, n, rate, times, eps_test, examples):
    """Rows of one stream: errors, and the share of each unit's overlaps that is its larger one."""
    layout = exclusive_or(rho, v)
    begin = start(layout, signs, n=n, runs=1, generator=generator(seed, "start"))
    path = learn(
        begin, layout, times, eta_w=rate, eta_b=rate, eps=eps, generator=generator(seed, "stream")
    )
    rows = []
    for alpha, committee in zip(times, path, strict=True):
        shares = np.abs(committee.overlaps[0])
        shares = shares.max(1) / shares.sum(1)
        readings = {"error": 0.0, "adversarial error": eps_test}
        for measure, radius in readings.items():
            value = errors(
                committee, layout, eps=radius, examples=examples,
                generator=generator(seed, "test"),
            )  # fmt: skip
            rows.append({"measure": measure, "alpha": alpha, "value": float(value[0]),
                         "examples": examples})  # fmt: skip
        rows.append({"measure": "specialisation", "alpha": alpha, "value": float(shares.mean()),
                     "examples": len(signs)})  # fmt: skip
    return rows


# %%
run_experiment(profile, point, eps=eps, seed=seed)
