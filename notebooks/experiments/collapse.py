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
# # When learning collapses to the larger class
#
# The error that the equations give, over the share of the larger class and the attack's
# $\varepsilon$, at several learning times.

# %% tags=["parameters"]
profile = "collapse"  # a file of notebooks/profiles/, or a path to one of your own
attack = None  # "fixed", "random" or "non-robust"; a list; None: all of the grid

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
import numpy as np

from lib.online_learning import Clusters, Rule, adversarial_error, order_parameters
from lib.study import run_experiment


# %%
def point(attack, *, priors, epsilons, times):
    """Rows of a picture: the clean error and the bias at each prior, eps and time."""
    rows = []
    for prior in np.linspace(*priors).round(4).tolist():
        for eps in np.linspace(*epsilons).round(4).tolist():
            clusters = Clusters(prior=prior)
            R, b = order_parameters(clusters, Rule(eps=eps, attack=attack), times)
            for measure, values in {"error": adversarial_error(clusters, R, b), "b": b}.items():
                for alpha, value in zip(times, values.tolist(), strict=True):
                    rows.append({"measure": measure, "prior": prior, "eps": eps, "alpha": alpha,
                                     "value": value, "examples": 1})  # fmt: skip
    return rows


# %%
run_experiment(profile, point, attack=attack)
