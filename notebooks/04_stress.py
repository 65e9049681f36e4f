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
# cheap, it needs no gradient, and from a fixed number of neighbours it is estimated without bias. But it is
# another quantity than risk: a network with no stress may still fall to every attack.

# %% tags=["parameters"]
profile = "digits"  # records of the whole grid exist for it, and its live model trains in seconds
augmentation = "classic"  # the expert's transforms, as in the chapter before
p = 0.5  # the middle of the dial
seed = 0  # the first of the study's seeds; neighbours are drawn from it as well

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
import math

import pandas as pd
import torch
from IPython.display import Markdown, display
from scipy.special import betainc, gamma, jv

from lib import attacks
from lib.book import charts
from lib.seeds import generator
from lib.stress import bootstrap, label_changes, prediction_change_stress, sphere, wilson
from lib.study import Profile, claims, recorded, subject, verdicts

settings = Profile.load(profile)
live = subject(settings, settings.point(augmentation, p, seed))
this = f"{live.point} on {recorded.label(settings)}"

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
radii = settings.measures["stress"]["clean"]
around = [sphere(centres, r, 1, live.generator("neighbour")).flatten(0, 1) for r in radii]
charts.pictures(
    torch.cat([centres, *around]).clamp(0, 1).cpu().numpy(),
    rows=["centre", *(f"eps = {r:g}" for r in radii)],
    columns=len(centres),
    description="Test images and one random neighbour of each at growing distance, clipped for display: "
    f"{recorded.label(settings)}",
)

# %% [markdown]
# ## A case with a known answer
#
# For a linear classifier in $d$ dimensions whose boundary is at distance $\gamma$ from $x$, a
# neighbour crosses it if its direction lies in a spherical cap:
#
# $$\mathrm{stress} = \tfrac12 \, B_{1 - (\gamma/\varepsilon)^2}\big(\tfrac{d-1}2, \tfrac12\big)$$
#
# for $\varepsilon > \gamma$, else 0, with $B$ the regularised incomplete beta function. Here it is beside the
# estimate and its 95 % interval, {term}`Wilson's <Wilson's interval>`:

# %%
shape = live.test.x.shape[1:]
d = shape.numel()
linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(d, 2))
with torch.no_grad():
    linear[1].weight.zero_()
    linear[1].weight[1, 0] = 1.0  # the boundary is where the first pixel is a half
    linear[1].bias.copy_(torch.tensor([0.5, 0.0]))
distance = 0.1
centre = torch.full((1, *shape), 0.5)
centre.view(-1)[0] = 0.5 - distance
rows, many = [], 20_000
for r in (distance / 2, *(k * distance * d**0.5 for k in (0.5, 1, 2, 4))):
    exact = 0.5 * betainc((d - 1) / 2, 0.5, 1 - (distance / r) ** 2) if r > distance else 0.0
    found = prediction_change_stress(
        linear, centre, eps=r, neighbours=many, generator=generator(seed, "linear")
    )
    low, high = wilson(found * many, torch.tensor(many))
    estimate = {"estimated": found.item(), "low": low.item(), "high": high.item()}
    rows.append({"eps": r, "exact": exact, **estimate})
charts.table(
    pd.DataFrame(rows),
    caption=f"Stress of a linear classifier at distance {distance} in {d} dimensions, {many:,} neighbours",
    formats=dict.fromkeys(rows[0], ".4f") | {"eps": ".2f"},
)

# %% [markdown]
# An attack needs $\varepsilon > \gamma$ and is done. A random neighbour goes only about
# $\varepsilon / \sqrt d$ towards the boundary, because in many dimensions nearly every direction is
# nearly parallel to it. To see a boundary that an attack of some radius finds, stress needs a radius
# about $\sqrt d$ times as large: on images of 64 pixels, eight times. Stress and risk are different
# readings of one geometry.

# %% [markdown]
# ## What stress has to do with curvature
#
# The talk's authors relate stress to the Laplace operator. Here is why. Let $g$ be a smooth function on
# $\mathbb R^d$ and $u$ uniform on the unit sphere. Expand $g$ around $x$:
#
# $$
# \begin{aligned}
# g(x + \varepsilon u) = g(x) &+ \varepsilon\, u^\top \nabla g(x) \\
# &+ \tfrac{\varepsilon^2}2\, u^\top \nabla^2 g(x)\, u + \cdots
# \end{aligned}
# $$
#
# Now average over $u$. Since $u$ and $-u$ are equally likely, all odd terms vanish. Since the sign of
# each coordinate may be turned, $\mathbb E\, u_i u_j = 0$ for $i \ne j$; and since the $d$ squares $u_i^2$ are
# alike and add up to 1, $\mathbb E\, u_i^2 = 1/d$. What is left of the second order is the trace of the
# Hessian, which is the Laplacian $\Delta g$:
#
# ```{math}
# :label: laplacian
# \mathbb E\, g(x + \varepsilon u) - g(x) = \frac{\varepsilon^2}{2d}\, \Delta g(x) + O(\varepsilon^4) .
# ```
#
# For a plane wave $g(x) = \sin(w^\top x)$, $\Delta g = -\|w\|^2 g$, and the mean over the sphere is
# known exactly: it is $\Gamma(\tfrac d2)\, (2/\rho)^{d/2 - 1} J_{d/2 - 1}(\rho)\, g(x)$ with
# $\rho = \varepsilon \|w\|$ and $J$ the Bessel function. Below, points of the sphere are drawn in pairs, $u$ and
# $-u$, so that the odd terms cancel here too. On small spheres sample, exact value and leading order
# agree; on large ones the leading order departs.

# %%
few = min(d, 64)  # in more dimensions the factors of the exact mean overflow
w = torch.randn(few, generator=generator(seed, "wave"), dtype=torch.float64)
at = torch.full((1, 1, 1, few), 0.5, dtype=torch.float64)
wave = torch.sin(at.flatten() @ w).item()
rows = []
for r in (0.03, 0.1, 0.3, 1.0):
    around = sphere(at, r, 25_000, generator(seed, "around"))[0].flatten(1)
    around = torch.cat([around, 2 * at.flatten() - around])
    rho, order = r * w.norm().item(), few / 2 - 1
    rows.append(
        {
            "eps": r,
            "sampled": (torch.sin(around @ w).mean() - wave).item(),
            "exact": (gamma(few / 2) * (2 / rho) ** order * jv(order, rho) - 1) * wave,
            "by the Laplacian": -(r**2) / (2 * few) * (w @ w).item() * wave,
        }
    )
charts.table(
    pd.DataFrame(rows),
    caption=f"A plane wave in {few} dimensions: its mean over the sphere minus its value at the centre, "
    "from 25,000 pairs of points, exactly, and to leading order",
    formats=dict.fromkeys(rows[0], ".2e") | {"eps": "g"},
)

# %% [markdown]
# Stress is the left side of {eq}`laplacian` with its sign turned, for the indicator
# $g(z) = \mathbb 1[f(z) = f(x)]$. So, up to the factor $-\varepsilon^2 / 2d$, it is a Laplacian of the indicator
# *at the scale* $\varepsilon$. But the indicator is not smooth. It is flat but for a step on the decision
# boundary, so its own Laplacian is zero almost everywhere, and so is stress until $\varepsilon$ reaches the
# boundary. From there on stress grows with the share of the sphere that lies beyond. It does not
# tell whether a boundary is near, or large, or bent: the flat one above has stress as well.
#
# ## One model
#
# Around clean test points; around points chosen at random on the sphere, each the centre of a sphere
# of the same radius; and around the same images after an attack of that radius. The images are of two
# kinds, those where the model is wrong after the attack (successful; some were wrong before) and the
# others. They lie on different sides of the boundary and are never averaged, and each kind is read
# twice, around its random and around its attacked points. The interval is over test points: it is a
# {term}`bootstrap`'s, which reckons with one centre more of the most unfavourable kind: that no neighbour
# of twenty images changed does not make it certain that none would.

# %%
n = settings.measures["stress"]["neighbours"]


def stress(x, r):
    return prediction_change_stress(
        live.model, x, eps=r, neighbours=n, generator=live.generator("stress")
    )


def line(centres, r, shares):
    low, high = bootstrap(shares, live.generator("bootstrap"))
    return {
        "centres": centres,
        "eps": r,
        "number": len(shares),
        "stress": shares.mean().item(),
        "low": low,
        "high": high,
    }


rows = [
    line("clean", r, shares) for r, shares in zip(radii, stress(live.test.x, radii), strict=True)
]
for r in settings.measures["stress"]["adversarial"]:
    random = sphere(live.test.x, r, 1, live.generator("centres"))[:, 0]
    x_adv = live.adversarial(r, settings.measures["stress"]["steps"])
    around = {"on the sphere": stress(random, r), "attacked": stress(x_adv, r)}
    fooled = attacks.predict(live.model, x_adv) != live.y
    for name, members in {"successful": fooled, "unsuccessful": ~fooled}.items():
        for centres, shares in around.items():
            if members.any():
                rows.append(line(f"{centres}, {name}", r, shares[members]))
charts.table(
    pd.DataFrame(rows),
    caption=f"{this}: prediction-change stress with {n} neighbours a centre, and its 95 % interval",
    formats={"eps": "g", "stress": ".2%", "low": ".2%", "high": ".2%"},
)

# %% [markdown]
# Compare the two lines of a group: the same images, at the same distance from where they were, moved by
# chance and moved by an attack.
#
# ### How many neighbours?
#
# Around given centres, stress is a probability estimated from trials, with {term}`Wilson's interval` around
# it. A first round of neighbours says how many more make the interval as narrow as asked, and is then
# thrown away. It would be wrong to draw until the interval looks narrow and count everything: one would
# stop the sooner the fewer changes chance has shown, and find too little.

# %%
some, width = live.test.x[:100], 0.01
rows = []
for r in radii:
    changed, drawn = label_changes(
        live.model, some, eps=r, neighbours=2000, width=width, generator=live.generator("rounds")
    )
    low, high = wilson(changed.sum(), drawn.sum())
    rows.append(
        {
            "eps": r,
            "neighbours": int(drawn[0]),
            "stress": (changed / drawn).mean().item(),
            "low": low.item(),
            "high": high.item(),
        }
    )
charts.table(
    pd.DataFrame(rows),
    caption=f"{this}: stress of the first {len(some)} test images, with as many neighbours of each as make "
    f"its interval no wider than {width:.0%}",
    formats={"eps": "g"} | dict.fromkeys(("stress", "low", "high"), ".2%"),
)

# %% [markdown]
# ### Neighbours that are images
#
# A step away from a black pixel leads half of the time to one that is blacker than black. Such a
# neighbour is a point of the network's input space, but no image. `sphere(..., inside=True)` keeps the
# distance and turns round the steps that would leave $[0, 1]$; those too long either way are cut, and the
# others lengthened. Such points are not uniform on the part of the sphere within $[0, 1]$: black
# pixels can only become brighter, so the neighbours of a dark image are brighter as a whole. It is
# another question, and the answer may differ:

# %%
rows = [{"eps": r} for r in radii]
for name, inside in {"anywhere": False, "within [0, 1]": True}.items():
    shares = prediction_change_stress(
        live.model, live.test.x, eps=radii, neighbours=n, inside=inside,
        generator=live.generator("stress"),
    )  # fmt: skip
    for row, mean in zip(rows, shares.mean(1).tolist(), strict=True):
        row[name] = mean
charts.table(
    pd.DataFrame(rows),
    caption=f"{this}: stress around clean points, neighbours anywhere on the sphere or within [0, 1]",
    formats={"eps": "g", "anywhere": ".2%", "within [0, 1]": ".2%"},
)

# %% [markdown]
# ## The whole study
#
# Around clean test points, for every augmentation and $p$, in each recorded study. Lines are means over
# seeds, bands their 95 % t-intervals, which cover another training, not other test images. Each panel has
# a scale of its own:

# %% tags=["hide-input"]
READS = ["stress", "performance", "distances"]  # tables, of every recorded study
studies, words = recorded.studies(settings, *READS)
Markdown(words)


# %% tags=["hide-input"]
def against_p(table, **settings):
    return charts.against_p(table, y="prediction-change stress", **settings)


for study in studies:
    table = study["stress"]
    display(
        against_p(
            table[table.centre == "clean"],
            facet="eps",
            shared=False,  # stress grows with the radius by orders of magnitude
            format=".2%",
            description=f"Stress around clean test points of {study.label} against p, by radius",
        )
    )

# %% [markdown]
# Around random points on the sphere of the same radius:

# %% tags=["hide-input"]
for study in studies:
    table = study["stress"]
    display(
        against_p(
            table[table.centre == "sphere"],
            facet="eps",
            format=".2%",
            description=f"Stress around random points on the sphere, {study.label}, against p",
        )
    )

# %% [markdown]
# Around adversarial points, successful and unsuccessful ones. Which points are in which group differs
# from network to network, so these curves compare stress around different images:

# %% tags=["hide-input"]
for study in studies:
    attacked = study["stress"][study["stress"].centre == "adversarial"]
    pairs = zip(attacked.eps, attacked.group, strict=True)
    display(
        against_p(
            attacked.assign(centres=[f"eps {e:g}, {group}" for e, group in pairs]),
            facet="centres",
            shared=False,
            format=".1%",
            description=f"Stress around adversarial test points of {study.label} against p",
        )
    )

# %% [markdown]
# ## Does stress go with risk?
#
# Each dot is one network. Stress is read at the smallest radius at which the networks without augmentation
# change the label of at least a tenth of the neighbours, or else at the largest: too near, there is nothing
# to count, and too far, nothing left of the image. Drag a rectangle to highlight the dots inside.

# %% tags=["hide-input"]
for study in studies:
    table, risks = study["stress"], study["performance"]
    table = table[table.centre == "clean"]
    radius = claims.radius_that_tells(table)
    decisive = (risks[list(claims.ATTACK)] == pd.Series(claims.ATTACK)).all(axis=1)
    cell = ["augmentation", "p", "seed"]
    display(
        charts.scatter(
            table[table.eps == radius].merge(
                risks[decisive], on=cell, suffixes=("_stress", "_risk")
            ),
            x="value_stress",
            y="value_risk",
            x_title=f"stress around clean points, eps {radius:g}",
            y_title=claims.RISK,
            format=".1%",
            description="Prediction-change stress against risk under attack, a dot for each network: "
            f"{study.label}",
        )
    )

# %% [markdown]
# The same in numbers: Spearman's correlation over augmentations and $p$ of stress with the risk, and with
# the mean distance to the boundary. Where stress tells the vulnerable from the robust, the first is
# positive and the second negative. How much of it is chance? More seeds do not tell: they repeat the same
# augmentations. So the curves are {term}`paired anew <pairing>`, the stress of each augmentation with the
# risk of another, in every possible way. If the two have nothing to do with each other, the true
# pairing is as good as any. The last column is the share of all pairings whose correlation is at least
# as strong in the direction expected. With few augmentations it cannot be small: of two there are two
# pairings, of four twenty-four.
#
# Stress and risk are means over different seeds: a network that came out badly is bad in both, and says
# nothing about its augmentation. Compositions are left out: made of other augmentations, they would
# count these twice.


# %% tags=["hide-input"]
def correlations(study):
    reach = study["distances"][study["distances"].measure == "mean distance"]
    parts = (study["stress"], study["performance"], reach)
    stress, risks, reach = (
        claims.balanced(claims.planned(part, study.profile.grid)) for part in parts
    )
    for r in sorted(stress.eps[stress.centre == "clean"].unique()):
        for name, other, where, sign in (
            ("risk", risks, claims.ATTACK, 1),
            ("mean distance", reach, {"measure": "mean distance"}, -1),
        ):
            radius = {"centre": "clean", "eps": r}
            found, seeds = claims.rank_correlations(stress, other, radius, where)
            rho, as_strong = found[0], verdicts.chance(sign * found)
            if seeds < 2:
                rho = as_strong = math.nan
            yield {"stress at eps": r, "with": name, "correlation": rho, "as strong": as_strong}


for study in studies:
    display(
        charts.table(
            pd.DataFrame(correlations(study)),
            caption="Spearman correlation of stress with risk and with distance over augmentations and p, "
            f"and the share of pairings that are as strong: {study.label}",
            formats={"stress at eps": "g", "correlation": "+.2f", "as strong": ".0%"},
        )
    )

# %% [markdown]
# Correlation across augmentations is not causation: $p$ moves both. What the claim of the talk is worth
# on each data set, [the findings](06_findings) say.
