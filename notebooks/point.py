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
# continued by starting it again.

# %% tags=["parameters"]
profile = "digits"  # a file of notebooks/profiles/, or a path to one of your own
augmentation = "classic"  # a name of the profile's augmentations; "a+b" applies a, then b
p = 0.5  # the probability of applying it, or a list of probabilities
seed = 0  # of initialisation, data order and augmentation, or a list of seeds

# %%
from lib.study import Profile, record_path, recorded, run, subject

settings = Profile.load(profile)


def listed(value):
    return value if isinstance(value, list) else [value]


points = {settings.point(augmentation, q, s): None for s in listed(seed) for q in listed(p)}
missing = [point for point in points if not recorded(settings, point)]
print(f"{len(points)} points, {len(points) - len(missing)} of them recorded already")

# %%
controls = {}  # of one seed at a time
for point in missing:
    if point.p > 0 and point.seed not in controls:
        controls = {point.seed: subject(settings, settings.point("none", 0, point.seed))}
    run(settings, point, control=controls.get(point.seed))
    print(f"{point}: {record_path(settings, point).name}")
