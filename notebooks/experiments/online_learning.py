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
# # Streams against equations
#
# The learning of a linear network from a stream of examples, in few dimensions and in many, beside
# the differential equations that describe it as the dimensions grow: for standard and adversarial
# training and two variants of it, with classes of one size and of two.

# %% tags=["parameters"]
profile = "online-learning"  # a file of notebooks/profiles/, or a path to one of your own
scenario = None  # a name of the profile's rules; a list; None: all of the grid
prior = None  # the share of the label +1; a list
n = None  # dimensions; a list
seed = None  # of the stream; a list

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
from lib.online_learning import Clusters, Rule, adversarial_error, order_parameters, simulate
from lib.seeds import generator
from lib.study import run_experiment


# %%
def point(scenario, prior, n, seed, *, rules, times, eps):
    """Rows of one stream: R, b and both errors at each time, beside those of the equations."""
    clusters, rule = Clusters(prior=prior), Rule(**rules[scenario])
    stream = simulate(
        clusters, rule, times, n=n, runs=1, generator=generator(seed, "stream", scenario, prior, n)
    )
    found = {
        "stream": [part[:, 0] for part in stream],
        "equations": order_parameters(clusters, rule, times),
    }
    rows = []
    for source, (R, b) in found.items():
        readings = {
            "R": R,
            "b": b,
            "error": adversarial_error(clusters, R, b),
            "adversarial error": adversarial_error(clusters, R, b, eps),
        }
        for measure, values in readings.items():
            for alpha, value in zip(times, values.tolist(), strict=True):
                rows.append(
                    {"measure": measure, "source": source, "alpha": alpha, "value": value,
                         "examples": round(alpha * n)}
                )  # fmt: skip
    return rows


# %%
run_experiment(profile, point, scenario=scenario, prior=prior, n=n, seed=seed)
