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
# # The recorded study
#
# The charts and verdicts of this book are drawn from records: rows in small tables, each with the code,
# the settings, the data and the device that made it. A study is a grid of points, and a point is one
# network: an augmentation, a probability $p$ and a seed. This page shows which points are recorded in this
# copy of the book, where they come from, what they took, and what is missing.

# %% tags=["parameters"]
profile = "digits"  # the study of the point that the end of the page looks up
augmentation = "classic"  # that point's augmentation: the expert's transforms,
p = 0.5  # at the middle of the dial,
seed = 0  # at the first of the study's seeds

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
from IPython.display import Markdown, display

from lib import records
from lib.book import charts
from lib.study import Profile, recorded
from lib.study.settings import FOLDER

# %% [markdown]
# ## The studies
#
# A study is named by its data, its network and its epochs: a network that was trained for longer has other
# margins, so what holds after few epochs need not hold after many. Its settings are a *profile*, a
# parameter file.

# %% tags=["hide-input"]
READS = ["cost"]  # the table of every recorded study
studies = recorded.shelf()
charts.table(
    recorded.overview(studies),
    caption="The studies: how many networks are recorded in this copy, of how many points",
)

# %% [markdown]
# Each file begins with what parts its study from the talk's, and why:

# %% tags=["hide-input"]
for study in studies:
    words = recorded.header(study.profile.name)
    display(Markdown(f"**{study.profile.name}**: {words}"))

# %% [markdown]
# ## What is recorded
#
# A square is a cell of the grid, an augmentation at a $p$. It is filled as far as its seeds are recorded.

# %% tags=["hide-input"]
for study in studies:
    display(Markdown(f"**{study.label}**. {recorded.standing(study)}"))
    if len(study["cost"]):
        display(
            charts.coverage(
                recorded.coverage(study.profile, study["cost"]),
                description=f"Recorded points of the grid: {study.label}",
            )
        )

# %% [markdown]
# ## Where it was made
#
# The *engine* is a digest of the code that trains and measures, without its comments. What two engines
# recorded is never averaged together: a page reads what the engine with the most points recorded, unless
# somebody has declared that another gives the same results. What is left out for that reason is listed
# above.

# %% tags=["hide-input"]
for study in studies:
    if len(study["cost"]):
        display(
            charts.table(
                recorded.origins(study["cost"]),
                caption=f"Where the points were made: {study.label}",
            )
        )

# %% [markdown]
# ## What it took
#
# Seconds of a point by stage. Loading stands for training where a checkpoint was there already. Some stages
# are for some points only: the checks of the attacks are made at one seed.

# %% tags=["hide-input"]
for study in studies:
    if len(study["cost"]):
        display(
            charts.table(
                recorded.seconds(study["cost"]),
                caption=f"Seconds of a point, median and longest: {study.label}",
                formats=dict.fromkeys(("median", "longest"), ".2f"),
            )
        )

# %% [markdown]
# ## A point, looked up
#
# The point that the parameters name, and where its numbers come from:

# %% tags=["hide-input"]
settings = Profile.load(profile)
point = settings.point(augmentation, p, seed)
study = recorded.study(settings, "cost")
cost = recorded.of_point(study["cost"], point)
if len(cost):
    made = charts.table(
        recorded.origins(cost).assign(seconds=cost.value.sum()),
        caption=f"{point}: {study.label}",
        formats={"seconds": ".1f"},
    )
else:
    made = Markdown(f"{point} is not recorded: {study.label}.")
made

# %% [markdown]
# To add a point to a study, or a study of your own, see the repository's README.

# %% tags=["hide-input"]
known = {study.profile.name for study in studies} | {file.stem for file in FOLDER.glob("*.yaml")}
if others := sorted(set(records.profiles()) - known):
    display(Markdown(f"Recorded as well, without a profile in the book: {', '.join(others)}."))
