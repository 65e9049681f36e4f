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
# # Where a symmetry breaks
#
# Two classes of one size and one variance: no bias is as good as another one's mirror image, and
# b = 0 always solves the equations. Beyond some $\varepsilon$ it is unstable, and streams leave it to
# either side.

# %% tags=["parameters"]
profile = "symmetry"  # a file of notebooks/profiles/, or a path to one of your own
eps = None  # of the attack in training; a list; None: all of the grid

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
from lib.online_learning import Clusters, Rule, adversarial_error, order_parameters, simulate
from lib.seeds import generator
from lib.study import run_experiment


# %%
def point(eps, *, n, alpha, runs):
    """Rows of many streams at the end: R, b and the error of each, beside those of the equations."""
    clusters, rule = Clusters(), Rule(eps=eps)
    R, b = simulate(clusters, rule, [alpha], n=n, runs=runs, generator=generator("symmetry", eps))
    rows = []
    for run in range(runs):
        readings = {"R": R[0, run], "b": b[0, run]}
        readings["error"] = adversarial_error(clusters, *readings.values())
        for measure, value in readings.items():
            rows.append({"measure": measure, "source": "stream", "run": run, "value": float(value),
                             "examples": round(alpha * n)})  # fmt: skip
    R, b = order_parameters(clusters, rule, [alpha])
    for measure, (value,) in {"R": R, "b": b, "error": adversarial_error(clusters, R, b)}.items():
        rows.append({"measure": measure, "source": "equations", "run": 0, "value": float(value),
                         "examples": round(alpha * n)})  # fmt: skip
    return rows


# %%
run_experiment(profile, point, eps=eps)
