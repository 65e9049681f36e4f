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
from scipy.special import betainc, gamma, jv

from lib import attacks, charts, claims, records
from lib.seeds import generator
from lib.stress import bootstrap, label_changes, prediction_change_stress, sphere, wilson
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
distance = 0.1
centre = torch.full((1, *shape), 0.5)
centre.view(-1)[0] = 0.5 - distance
rows = []
for r in (0.05, 0.2, 0.5, 1.0, 2.0):
    exact = 0.5 * betainc((d - 1) / 2, 0.5, 1 - (distance / r) ** 2) if r > distance else 0.0
    found = prediction_change_stress(
        linear, centre, eps=r, neighbours=20_000, generator=generator(seed, "linear")
    )
    rows.append({"eps": r, "exact": exact, "estimated": found.item()})
charts.table(
    pd.DataFrame(rows),
    caption=f"Stress of a linear classifier at distance {distance} in {d} dimensions, 20,000 neighbours",
    formats={"eps": ".2f", "exact": ".4f", "estimated": ".4f"},
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
# known exactly: it is $\Gamma(\tfrac d2)\, (2/r)^{d/2 - 1} J_{d/2 - 1}(r)\, g(x)$ with $r = \varepsilon \|w\|$ and
# $J$ the Bessel function. The three agree as long as the sphere is small:

# %%
few = min(d, 64)  # in more dimensions the factors of the exact mean overflow
w = torch.randn(few, generator=generator(seed, "wave"), dtype=torch.float64)
at = torch.full((1, 1, 1, few), 0.5, dtype=torch.float64)
wave = torch.sin(at.flatten() @ w).item()
rows = []
for r in (0.03, 0.1, 0.3, 1.0):
    around = sphere(at, r, 50_000, generator(seed, "around"))[0].flatten(1)
    z, order = r * w.norm().item(), few / 2 - 1
    rows.append(
        {
            "eps": r,
            "sampled": (torch.sin(around @ w).mean() - wave).item(),
            "exact": (gamma(few / 2) * (2 / z) ** order * jv(order, z) - 1) * wave,
            "by the Laplacian": -(r**2) / (2 * few) * (w @ w).item() * wave,
        }
    )
charts.table(
    pd.DataFrame(rows),
    caption=f"A plane wave in {few} dimensions: its mean over the sphere minus its value at the centre, "
    "from 50,000 points, exactly, and to leading order",
    formats=dict.fromkeys(rows[0], ".2e") | {"eps": "g"},
)

# %% [markdown]
# Stress is the left side of {eq}`laplacian` with its sign turned, for the indicator
# $g(u) = \mathbb 1[f(u) = f(x)]$. But the indicator is not smooth. It is flat but for a step on the
# decision boundary, where all its curvature sits, so the right side is zero almost everywhere, and so
# is stress until $\varepsilon$ reaches the boundary. What a small sphere cannot see, a large one can:
# stress is the Laplacian *at the scale* $\varepsilon$, which tells how much boundary there is at that distance
# and how it bends.
#
# ## One model
#
# Around clean test points; around points chosen at random on the sphere, each the centre of a sphere
# of the same radius; and around the same points after an attack of that radius. Attacked
# points are of two kinds, those where the model is then wrong (successful) and the others, and lie
# on different sides of the boundary; they are never averaged. The interval is over test points: it
# is a {term}`bootstrap`'s, from a thousand samples drawn from the sample itself.

# %%
n = settings.stress["neighbours"]


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
for r in settings.stress["adversarial"]:
    random = sphere(live.test.x, r, 1, live.generator("centres"))[:, 0]
    rows.append(line("on the sphere", r, stress(random, r)))
    x_adv = live.adversarial(r, settings.stress["steps"])
    fooled, shares = attacks.predict(live.model, x_adv) != live.y, stress(x_adv, r)
    for name, members in {"successful": fooled, "unsuccessful": ~fooled}.items():
        if members.any():
            rows.append(line(f"attacked, {name}", r, shares[members]))
charts.table(
    pd.DataFrame(rows),
    caption=f"{live.point}: prediction-change stress with {n} neighbours a centre, and its 95 % interval",
    formats={"eps": "g", "stress": ".2%", "low": ".2%", "high": ".2%"},
)

# %% [markdown]
# Compare the rows of one radius. Whether a point at that distance was found by chance or by an attack
# makes the difference: an attack ends near the boundary, and there many directions lead across.
#
# ### How many neighbours?
#
# Of one centre, stress is a probability estimated from $n$ trials, with {term}`Wilson's interval` around it.
# Most centres are clear cases and need few; those near a boundary need many. So neighbours are
# drawn in rounds until the interval is as narrow as asked, and no longer:

# %%
some, r, width = live.test.x[:100], radii[-1], 0.1
changed, drawn = label_changes(
    live.model, some, eps=r, neighbours=2000, width=width, generator=live.generator("rounds")
)
low, high = wilson(changed, drawn)
chosen = (changed / drawn).argsort()[torch.linspace(0, len(some) - 1, 6).long()]
charts.table(
    pd.DataFrame(
        {
            "test image": chosen.tolist(),
            "neighbours": drawn[chosen].int().tolist(),
            "stress": (changed / drawn)[chosen].tolist(),
            "low": low[chosen].tolist(),
            "high": high[chosen].tolist(),
        }
    ),
    caption=f"Six of {len(some)} test images, from the calmest to the most stressed at eps {r:g}, each "
    f"until its interval is no wider than {width:.0%}; {int(drawn.sum()):,} neighbours for all of them",
    formats=dict.fromkeys(("stress", "low", "high"), ".1%"),
)

# %% [markdown]
# ### Neighbours that are images
#
# A step away from a black pixel leads half of the time to one that is blacker than black. Such a
# neighbour is a point of the network's input space, but no image. `sphere(..., inside=True)` keeps the
# distance and turns round the steps that would leave $[0, 1]$. That is another question with
# another answer:

# %%
rows = [{"eps": r} for r in radii]
for name, inside in {"anywhere": False, "within [0, 1]": True}.items():
    shares = prediction_change_stress(
        live.model, live.test.x, eps=radii, neighbours=n, inside=inside,
        generator=live.generator("inside"),
    )  # fmt: skip
    for row, mean in zip(rows, shares.mean(1).tolist(), strict=True):
        row[name] = mean
charts.table(
    pd.DataFrame(rows),
    caption=f"{live.point}: stress around clean points, neighbours anywhere on the sphere or within [0, 1]",
    formats={"eps": "g", "anywhere": ".2%", "within [0, 1]": ".2%"},
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
# Around random points on the sphere of the same radius:

# %% tags=["hide-input"]
charts.against_p(
    table[table.centre == "sphere"],
    y="prediction-change stress",
    facet="eps",
    format=".2%",
    description=f"Stress around random points on the sphere, {settings.dataset}, against p",
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

# %% [markdown]
# The same in numbers: Spearman's correlation over the networks of a seed, with the risk and with the
# mean distance to the boundary. Where stress tells the vulnerable from the robust, the first is positive
# and the second negative.

# %% tags=["hide-input"]
reach = records.read(settings.name, "distances")
table, performance, reach = (
    claims.balanced(claims.planned(part, settings.grid))
    for part in (table, performance, reach[reach.measure == "mean distance"])
)
rows = []
for r in radii:
    for name, other, where in (
        ("risk", performance, claims.ATTACK),
        ("mean distance", reach, {"measure": "mean distance"}),
    ):
        found = claims.rank_correlation(table, other, {"centre": "clean", "eps": r}, where)
        rows.append(
            {
                "stress at eps": r,
                "with": name,
                "correlation": found.value,
                "low": found.low,
                "high": found.high,
                "seeds": found.seeds,
            }
        )
charts.table(
    pd.DataFrame(rows),
    caption="Spearman correlation of stress with risk and with distance over the networks of a seed: "
    "mean over seeds and 95 % interval",
    formats={"stress at eps": "g", "correlation": "+.2f", "low": "+.2f", "high": "+.2f"},
)

# %% [markdown]
# Correlation across augmentations is not causation: $p$ moves both. What the claim of the talk is worth
# on this data set, [the findings](06_findings) say.
