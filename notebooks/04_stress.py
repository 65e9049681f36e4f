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
# # Stress: what the neighbours are called
#
# An attack searches for the worst neighbour of an image. Suppose nobody searches: take a neighbour
# at random. How often does it get another label? The talk calls this share
# **prediction-change stress** and suggests that it tells vulnerable models from robust ones. It is
# cheap, it needs no gradient, and its estimate is unbiased, where an attack gives a lower bound.

# %% tags=["parameters"]
profile = "digits"  # records of the whole grid exist for it, and its live model trains in seconds
augmentation = "classic"  # the expert's transforms, as in the chapter before
p = 0.5  # the middle of the dial
seed = 0  # the first of the study's seeds; neighbours are drawn from it as well

# %%
import pandas as pd
import torch
from scipy.special import betainc

from lib import attacks, charts, claims, records
from lib.seeds import generator
from lib.stress import prediction_change_stress, sphere
from lib.study import Profile, subject

settings = Profile.load(profile)
live = subject(settings, settings.point(augmentation, p, seed))

# %% [markdown]
# ## The estimator
#
# Let $f(x)$ be the predicted label, and let $u_{i1}, \dots, u_{in}$ be drawn uniformly from the sphere of
# radius $\varepsilon$ around $x_i$ (a Gaussian vector, scaled to length $\varepsilon$). For a sample
# of centres $x_1, \dots, x_s$,
#
# $$
# \begin{aligned}
# &\widehat{\mathrm{stress}}_{\mathrm{pc}}(f, S, \varepsilon) \\
# &\quad = \frac1s \sum_{i=1}^s \frac1n \sum_{j=1}^n \mathbb 1\big[f(x_i) \ne f(u_{ij})\big] .
# \end{aligned}
# $$
#
# A neighbour is compared with the model's *own* prediction at the centre, not with the true label:
# a model that is wrong with conviction has no stress. Neighbours may leave the range of pixels.

# %%
centres = live.test.x[:6]
radii = settings.stress["clean"]
around = [sphere(centres, r, 1, live.generator("neighbour")).flatten(0, 1) for r in radii]
charts.pictures(
    torch.cat([centres, *around]).clamp(0, 1).cpu().numpy(),
    rows=["centre", *(f"eps = {r:g}" for r in radii)],
    columns=len(centres),
    description="Test images and one random neighbour of each at growing distance, clipped for display",
)

# %% [markdown]
# ## A case with a known answer
#
# For a linear classifier in $d$ dimensions whose boundary is at distance $\gamma$ from $x$, a
# neighbour crosses it if its direction lies in a spherical cap:
#
# $$\mathrm{stress} = \tfrac12 \, B_{1 - (\gamma/\varepsilon)^2}\big(\tfrac{d-1}2, \tfrac12\big)$$
#
# for $\varepsilon > \gamma$, else 0, with $B$ the regularised incomplete beta function. The estimator agrees:

# %%
shape = live.test.x.shape[1:]
d = shape.numel()
linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(d, 2))
with torch.no_grad():
    linear[1].weight.zero_()
    linear[1].weight[1, 0] = 1.0  # the boundary is where the first pixel is a half
    linear[1].bias.copy_(torch.tensor([0.5, 0.0]))
gamma = 0.1
centre = torch.full((1, *shape), 0.5)
centre.view(-1)[0] = 0.5 - gamma
rows = []
for r in (0.05, 0.2, 0.5, 1.0, 2.0):
    exact = 0.5 * betainc((d - 1) / 2, 0.5, 1 - (gamma / r) ** 2) if r > gamma else 0.0
    found = prediction_change_stress(
        linear, centre, eps=r, neighbours=20_000, generator=generator(seed, "linear")
    )
    rows.append({"eps": r, "exact": exact, "estimated": found.item()})
charts.table(
    pd.DataFrame(rows),
    caption=f"Stress of a linear classifier at distance {gamma} in {d} dimensions, 20,000 neighbours",
    formats={"eps": ".2f", "exact": ".4f", "estimated": ".4f"},
)

# %% [markdown]
# An attack needs $\varepsilon > \gamma$ and is done. A random neighbour goes only about
# $\varepsilon / \sqrt d$ towards the boundary, because in many dimensions nearly every direction is
# nearly parallel to it. To see a boundary that an attack of some radius finds, stress needs a radius
# about $\sqrt d$ times as large: on images of 64 pixels, eight times. Stress and risk are different
# readings of one geometry.
#
# ## One model
#
# Around clean test points, and around the same points after an attack of the same radius. Attacked
# points are of two kinds, those where the model is then wrong (successful) and the others, and lie
# on different sides of the boundary; they are never averaged.

# %%
n = settings.stress["neighbours"]


def stress(x, r):
    return prediction_change_stress(
        live.model, x, eps=r, neighbours=n, generator=live.generator("stress")
    )


rows = []
for r in radii:
    values = stress(live.test.x, r)
    rows.append(
        {"centres": "clean", "eps": r, "number": len(values), "stress": values.mean().item()}
    )
for r in settings.stress["adversarial"]:
    x_adv = live.adversarial(r, settings.stress["steps"])
    fooled, values = attacks.predict(live.model, x_adv) != live.y, stress(x_adv, r)
    for name, members in {"successful": fooled, "unsuccessful": ~fooled}.items():
        if members.any():
            rows.append(
                {
                    "centres": f"attacked, {name}",
                    "eps": r,
                    "number": int(members.sum()),
                    "stress": values[members].mean().item(),
                }
            )
charts.table(
    pd.DataFrame(rows),
    caption=f"{live.point}: prediction-change stress with {n} neighbours a centre",
    formats={"eps": ".2f", "stress": ".2%"},
)

# %% [markdown]
# ## The whole study
#
# Around clean test points, for every augmentation and $p$. Each panel has a scale of its own:

# %% tags=["hide-input"]
table = records.read(settings.name, "stress")
charts.against_p(
    table[table.centre == "clean"],
    y="prediction-change stress",
    facet="eps",
    shared=False,  # stress grows with the radius by orders of magnitude
    format=".2%",
    description=f"Stress around clean test points of {settings.dataset} against p, by radius",
)

# %% [markdown]
# Around adversarial points, successful and unsuccessful ones. Which points are in which group differs
# from network to network, so these curves compare stress around different images:

# %% tags=["hide-input"]
attacked = table[table.centre == "adversarial"]
attacked = attacked.assign(
    centres=[f"eps {e:g}, {g}" for e, g in zip(attacked.eps, attacked.group, strict=True)]
)
charts.against_p(
    attacked,
    y="prediction-change stress",
    facet="centres",
    shared=False,
    format=".1%",
    description=f"Stress around adversarial test points of {settings.dataset} against p",
)

# %% [markdown]
# ## Does stress go with risk?
#
# Each dot is one network. Drag a rectangle to highlight the dots inside.

# %% tags=["hide-input"]
performance = records.read(settings.name, "performance")
cell = ["augmentation", "p", "seed"]
radius = {"centre": "clean", "eps": max(radii)}
first = table[(table.centre == "clean") & (table.eps == radius["eps"])]
second = performance
for column, value in claims.ATTACK.items():
    second = second[second[column] == value]
charts.scatter(
    first.merge(second, on=cell, suffixes=("_stress", "_risk")),
    x="value_stress",
    y="value_risk",
    x_title=f"stress around clean points, eps {radius['eps']:g}",
    y_title=claims.RISK,
    format=".1%",
    description="Prediction-change stress against risk under attack, a dot for each network",
)

# %% tags=["hide-input"]
rows = []
for r in radii:
    found = claims.rank_correlation(
        *(claims.balanced(claims.planned(part, settings.grid)) for part in (table, performance)),
        {"centre": "clean", "eps": r},
    )
    rows.append(
        {
            "stress at eps": r,
            "correlation": found.value,
            "low": found.low,
            "high": found.high,
            "seeds": found.seeds,
        }
    )
charts.table(
    pd.DataFrame(rows),
    caption="Spearman correlation of stress with risk over the networks of a seed: mean over seeds "
    "and 95 % interval",
    formats={"stress at eps": ".2f", "correlation": ".2f", "low": ".2f", "high": ".2f"},
)

# %% [markdown]
# Correlation across augmentations is not causation: $p$ moves both. What the claim of the talk is worth
# on this data set, [the findings](06_findings) say.
