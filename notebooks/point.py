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
# # One execution of the sweep
#
# Trains and measures the points given below and writes the record of each as soon as it is done.
# A point whose record is there already is not made again, so an interrupted execution is
# continued by starting it again. Where `augmentation`, `p` or `seed` is `None`, all of the
# profile's grid are meant; the points come in an order in which the first are already a study.

# %% tags=["parameters"]
profile = "digits"  # a file of notebooks/profiles/, or a path to one of your own
augmentation = (
    "classic"  # a name of the profile's augmentations ("a+b" applies a, then b), or a list
)
p = 0.5  # the probability of applying it, or a list of probabilities
seed = 0  # of initialisation, data order and augmentation, or a list of seeds
hours = None  # no point is begun that would not be done by then; None: all are

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
from lib.study import Profile
from lib.study.runner import run_points

settings = Profile.load(profile)
left = run_points(settings, settings.points(augmentation, p, seed), hours=hours)
