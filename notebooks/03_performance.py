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
# # Performance: clean error and risk under attack
#
# A classifier can fail in two ways. It can be wrong about an ordinary image. Or it can be right there,
# and wrong after a small change. The share of images of the first kind is the *clean error*; the share
# of both together is the *risk under attack*. Augmentation is known to lower the first. What does it
# do to the second?

# %% tags=["parameters"]
profile = "digits"  # records of the whole grid exist for it, and its live model trains in seconds
augmentation = "classic"  # the expert's transforms, which the source found most useful
p = 0.5  # the middle of the dial: half of the coins fall each way
seed = 0  # the first of the study's seeds; its checkpoint is there once the study has run

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
import pandas as pd
import torch
from IPython.display import Markdown, display

from lib import attacks
from lib.attacks import boundary_distance, masking, mean_distance, median_distance, risk_curve
from lib.book import charts
from lib.study import Profile, claims, dataset, recorded, subject

settings = Profile.load(profile)
live = subject(settings, settings.point(augmentation, p, seed))
this = f"{live.point} on {recorded.label(settings)}"
x, y = live.test.x[:1000], live.y[:1000]  # in one batch: enough for a close-up

# %% [markdown]
# The cell above trained a network, or loaded the checkpoint of the same training. It is the point
# of the study that the parameters name: an augmentation, a probability and a seed.
#
# ## The two risks
#
# Let $h$ give the logits, $f(x) = \arg\max_k h_k(x)$ the label, and $\ell$ be the cross-entropy. The
# clean error is the share of test images with $f(x) \ne y$. An attack looks for a perturbation
# $\delta$ no longer than $\varepsilon$ that makes the loss as large as possible,
#
# $$\max_{\|\delta\|_2 \le \varepsilon} \ell\big(h(x + \delta), y\big), \qquad x + \delta \in [0, 1]^d ,$$
#
# and the risk under attack is the share of images for which the label at the perturbed image is
# wrong. Pixels run from 0 to 1, and $\|\cdot\|_2$ is over the whole image: $\varepsilon = 0.5$ is
# the length of changing a single pixel by half its range, or all of them by a little.
#
# ## Climbing the loss
#
# Projected gradient descent {cite}`madry2018` (ascent, really) repeats one step: go along the
# normalised gradient, then back into the ball and into the range of pixels,
#
# $$x \leftarrow \Pi\Big(x + \eta \, \frac{\nabla_x \ell}{\|\nabla_x \ell\|_2}\Big) .$$
#
# The study starts at the image itself, takes steps of $\eta = 2.5\,\varepsilon$ over the number of
# iterations, and keeps the last iterate. The talk states $\varepsilon$ and the iterations only.


# %%
def attack(eps, steps):
    return attacks.pgd(live.model, x, y, eps=eps, steps=steps)


eps, steps = (
    settings.measures["performance"]["eps"][-1],
    settings.measures["performance"]["steps"][0],
)
x_adv = attack(eps, steps)
charts.table(
    pd.DataFrame(
        [
            {"attack": "none", "risk": attacks.risk(live.model, x, y)},
            {
                "attack": f"PGD, eps {eps}, {steps} iterations",
                "risk": attacks.risk(live.model, x_adv, y),
            },
        ]
    ),
    caption=f"{this}: risk over {len(y)} test images",
    formats={"risk": ".1%"},
)

# %% [markdown]
# Here are images that the network gets right, and wrong under attack. The third line is the
# perturbation, magnified so that its largest entry spans half the range; grey is no change.

# %%
before, after = attacks.predict(live.model, x), attacks.predict(live.model, x_adv)
fooled = ((before == y) & (after != y)).nonzero()[:8, 0]
delta = x_adv[fooled] - x[fooled]
magnified = 0.5 + 0.5 * delta / delta.abs().amax((1, 2, 3), keepdim=True)
classes = dataset(settings).classes
charts.pictures(
    torch.cat([x[fooled], x_adv[fooled], magnified]).cpu().numpy(),
    rows=["clean", "attacked", "difference"],
    titles=[
        f"{classes[a]} → {classes[b]}" for a, b in zip(before[fooled], after[fooled], strict=True)
    ],
    columns=len(fooled),
    description=f"Test images, the same under attack, and the magnified difference: {this}",
)

# %% [markdown]
# ## The whole study
#
# One network proves nothing: another seed, another network. The study repeats every setting over
# several seeds, and at each seed initialisation and data order are the same for all augmentations,
# so that they can be compared in pairs. The charts are drawn from its records, one for each recorded
# study. Lines are means over seeds, bands their 95 % t-intervals; all lines start at the shared point
# $p = 0$. Click the legend to single out an augmentation.

# %% tags=["hide-input"]
READS = ["performance", "distances", "checks"]  # tables, of every recorded study
studies, words = recorded.studies(settings, *READS)
Markdown(words)

# %% tags=["hide-input"]
for study in studies:
    clean = study["performance"][study["performance"].attack == "none"]
    description = f"Clean error on {study.label} against p for each augmentation"
    display(charts.against_p(clean, y="clean error", format=".2%", description=description))


# %% tags=["hide-input"]
def attacked(study):
    rows = study["performance"][study["performance"].attack == "pgd"]
    pairs = zip(rows.eps, rows.steps, strict=True)
    return rows.assign(setting=[f"eps {e:g}, {int(s)} iterations" for e, s in pairs])


for study in studies:
    display(
        charts.against_p(
            attacked(study),
            y="risk under attack",
            facet="setting",
            format=".1%",
            description=f"Risk under L2 PGD on {study.label} against p, for each attack setting",
        )
    )

# %% [markdown]
# Do clean error and risk go together? An image that is wrong without an attack counts in both, so part
# of a relation would be built in. Below it is taken off: the share of images that only the attack turns.
# Each dot is one network:

# %% tags=["hide-input"]
cell = ["augmentation", "p", "seed"]
for study in studies:
    performance = study["performance"]
    decisive = (performance[list(claims.ATTACK)] == pd.Series(claims.ATTACK)).all(axis=1)
    both = performance[performance.attack == "none"].merge(
        performance[decisive], on=cell, suffixes=("_clean", "_attacked")
    )
    display(
        charts.scatter(
            both.assign(turned=both.value_attacked - both.value_clean),
            x="value_clean",
            y="turned",
            x_title="clean error",
            y_title=f"{claims.RISK}, minus clean error",
            format=".1%",
            description="Clean error against the risk that an attack adds, a dot for each network: "
            f"{study.label}",
        )
    )

# %% [markdown]
# ## How far must one go?
#
# A risk at one $\varepsilon$ says nothing of another, and where it is near 0 or 1 it cannot tell two
# networks apart. The *distance to the boundary* of each image can: the norm of the smallest
# perturbation that makes its label wrong, 0 where it is wrong already. A minimal-norm attack
# {cite}`pintor2021` bounds it from above. Its results lie on the boundary itself, where the network is
# about to change its mind:

# %%
distances, nearest = boundary_distance(live.model, x, y, known=[x_adv], images=True)
order = distances.argsort()
order = order[(distances[order] > 0) & distances[order].isfinite()]
shown = order[torch.linspace(0, len(order) - 1, 8).long()]
delta = nearest[shown] - x[shown]
charts.pictures(
    torch.cat([x[shown], nearest[shown], 0.5 + 0.5 * delta / delta.abs().amax()]).cpu().numpy(),
    rows=["clean", "at the boundary", "difference"],
    titles=[
        f"{classes[a]} → {classes[b]}, {d:.2f}"
        for a, b, d in zip(
            before[shown],
            attacks.predict(live.model, nearest[shown]),
            distances[shown],
            strict=True,
        )
    ],
    columns=len(shown),
    description="Test images from the nearest to the farthest, each moved to the decision boundary, "
    f"the distance, and the difference on one scale for all: {this}",
)

# %% tags=["hide-input"]
charts.histogram(
    distances.cpu(),
    x="distance to the decision boundary, L2",
    y="test images",
    description=f"Distances of {len(y)} test images to the boundary of {this}; "
    "0 are those that are wrong already",
)

# %% [markdown]
# The share of images with a found distance of at most $\varepsilon$ is a lower bound of the risk, at
# every $\varepsilon$ at once: the *robustness curve* {cite}`goepfert2019`. At $\varepsilon = 0$ it is the
# clean error, and it never falls. Beside it, the risk that PGD finds with as few iterations as above:

# %% tags=["hide-input"]
upto = settings.measures["distances"]["upto"]
radii = torch.linspace(0, upto, 31, dtype=torch.float64).tolist()
found = {
    "distance to the boundary": risk_curve(distances, radii).tolist(),
    f"PGD, {steps} iterations": [attacks.risk(live.model, attack(r, steps), y) for r in radii],
}
charts.against(
    pd.DataFrame(
        [
            {"augmentation": name, "eps": r, "seed": seed, "value": value}
            for name, risks in found.items()
            for r, value in zip(radii, risks, strict=True)
        ]
    ),
    "eps",
    x_title="eps, L2",
    y="risk",
    format=".0%",
    description=f"Risk of {this} at every eps: from the distances to the boundary, and under PGD",
)

# %% [markdown]
# Two readings of the curve saturate less easily: the median distance, at which half of the images are
# lost (infinite if they never are), and the mean of the distances, each cut at some $\varepsilon$, which
# is the area above the curve up to there. In both an image that is wrong already counts as 0.

# %% tags=["hide-input"]
area = f"mean distance up to {upto:g}"
charts.table(
    pd.DataFrame(
        [
            {
                "median distance": median_distance(distances),
                area: mean_distance(distances, upto),
            }
        ]
    ),
    caption=f"{this}: how far the boundary is, in L2",
    formats=dict.fromkeys(("median distance", area), ".3f"),
)

# %% [markdown]
# In the whole study: at one $\varepsilon$ most images may be lost or hardly any. The distances need none
# that is chosen in advance. They say how far the search had to go (a better one may need less): on
# average, and to lose so many of a hundred images. A value is missing where a network has images that
# no attack found.

# %% tags=["hide-input"]
for study in studies:
    reach, cut = study["distances"], study.profile.measures["distances"]["upto"]
    display(
        charts.against_p(
            reach[reach.measure == "mean distance"],
            y=f"mean distance to the boundary, up to {cut:g}",
            description=f"Mean L2 distance to the decision boundary on {study.label} against p",
        )
    )

# %% tags=["hide-input"]
for study in studies:
    quantiles = study["distances"][study["distances"].measure == "quantile"]
    groups = quantiles.groupby(["augmentation", "p", "q"]).value
    quantiles = quantiles[groups.transform(lambda values: values.notna().all())]
    display(
        charts.against_p(
            quantiles.assign(lost=[f"{q:.0%} of images lost within" for q in quantiles.q]),
            y="distance, L2",
            facet="lost",
            shared=False,
            description=f"Distribution of the distances on {study.label} against p: quantiles",
        )
    )

# %% [markdown]
# And the robustness curves at the recorded $p$ nearest to this page's, beside that of no augmentation:

# %% tags=["hide-input"]
for study in studies:
    reach = study["distances"]
    near = min(reach.p.unique(), key=lambda q: (q == 0, abs(q - p)))
    display(
        charts.against(
            reach[(reach.measure == "risk within") & reach.p.isin([0, near])],
            "eps",
            x_title="eps, L2",
            y="risk",
            format=".0%",
            description=f"Risk against eps on {study.label} at p = {near:g}, mean and interval over "
            "seeds",
        )
    )

# %% [markdown]
# ## Can the attack be believed?
#
# Every attack gives a lower bound of the risk, and a weak one makes any network look robust. What
# stronger attacks find beyond PGD is what the study's numbers miss, at the least. Auto-PGD
# {cite}`croce2020` chooses its steps itself, and aimed at other classes in turn it looks in every
# direction. Square {cite}`andriushchenko2020` needs no gradient: where it finds an image that PGD
# misses, PGD cannot be trusted. So few queries make it weak, above all on large images: that it finds
# nothing more proves little. On the first hundred test images:

# %% tags=["hide-input"]
few, labels = x[:100], y[:100]
queries = settings.measures["checks"]["queries"]
targets = min(9, len(classes) - 1)
tried = {
    f"PGD, {steps} iterations": lambda *of: attacks.pgd(*of, eps=eps, steps=steps),
    "PGD, 100 iterations": lambda *of: attacks.pgd(*of, eps=eps, steps=100),
    "Auto-PGD, 100 iterations": lambda *of: attacks.apgd(*of, eps=eps, norm="l2"),
    f"Auto-PGD, {targets} targets": lambda *of: attacks.apgd(
        *of, eps=eps, norm="l2", loss="dlr", targets=targets
    ),
    f"Square, {queries} queries": lambda *of: attacks.square(
        *of, eps=eps, norm="l2", steps=queries, generator=live.generator("square")
    ),
}
tried["the worst of all"] = attacks.worst_of(*tried.values())
charts.table(
    pd.DataFrame(
        [
            {"attack": name, "risk": attacks.risk(live.model, few, labels, one)}
            for name, one in tried.items()
        ]
    ),
    caption=f"{this}: risk at eps {eps} over {len(few)} test images, attack by attack",
    formats={"risk": ".0%"},
)

# %% [markdown]
# A defence can defeat an attack without being robust, by *masking* its gradients
# {cite}`athalye2018`. Here is the same network behind a quantiser that rounds every pixel to one of
# seventeen values, as a camera or a file format would. Rounding has no slope, so gradient ascent stands
# still:


# %%
class Rounded(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((16 * x).round() / 16)


masked = Rounded(live.model)
still = attacks.pgd(masked, few, labels, eps=eps, steps=steps)
charts.table(
    pd.DataFrame(
        [
            {"attack": "none", "risk": attacks.risk(masked, few, labels)},
            {"attack": "PGD", "risk": attacks.risk(masked, still, labels)},
            {
                "attack": f"Square, {queries} queries",
                "risk": attacks.risk(masked, few, labels, tried[f"Square, {queries} queries"]),
            },
            {
                "attack": "PGD on the network without the quantiser, tried on it",
                "risk": attacks.risk(masked, x_adv[:100], labels),
            },
        ]
    ),
    caption=f"{this}, behind a quantiser: risk at eps {eps} over {len(few)} test images",
    formats={"risk": ".0%"},
)

# %% [markdown]
# PGD alone would call it robust. The signs of such a failure are known {cite}`carlini2019`, and the
# study looks for them:
#
# - gradients that are zero, and outputs that are not the same twice;
# - a risk that stays below 1 at an $\varepsilon$ at which every image can be made the same grey: grey gets
#   one label, so images of every other class are wrong there;
# - images that PGD misses while another attack finds them: Square, PGD with twice the iterations or
#   from random starts, or (in the records only) images that were made for the network without
#   augmentation of the second seed and are merely tried on this one.
#
# A share above its limit is a warning. Here are both networks, the study's and the quantised one:

# %%
long = max(settings.measures["performance"]["steps"])


def warnings(model):
    against = attacks.pgd(model, few, labels, eps=eps, steps=long)
    signs = masking.masked(model, few, labels, steps=long)
    signs += masking.missed(
        model, few, labels, against, eps=eps, steps=long, queries=queries,
        restarts=settings.measures["checks"]["restarts"], generator=live.generator("warnings"),
    )  # fmt: skip
    return signs


charts.table(
    pd.DataFrame(
        [
            {
                "sign": one.kind,
                "by": one.by,
                "network": one.share,
                "quantised": other.share,
                "limit": one.limit,
                "warns": ", ".join(
                    name for name, sign in (("network", one), ("quantised", other)) if sign.warns
                ),
            }
            for one, other in zip(warnings(live.model), warnings(masked), strict=True)
        ]
    ),
    caption=f"{this}: signs that PGD with {long} iterations is too weak, as shares of {len(few)} test "
    "images",
    formats=dict.fromkeys(("network", "quantised", "limit"), ".0%"),
)

# %% [markdown]
# Now all networks of the studies. More iterations usually find more. But that they find little more does
# not prove that PGD is done: both runs may stop at the same place. The last columns are the risk that the
# search for the boundary finds within the same $\varepsilon$, starting from PGD's results, and the most by
# which it exceeds PGD on one network. PGD missed it.


# %% tags=["hide-input"]
def gain(study):
    pgd, within = attacked(study), study["distances"]
    within = within[within.measure == "risk within"]
    means = pgd.groupby(["eps", "steps"]).value.mean().unstack("steps")
    found = means.rename(columns="{:g} iterations".format)
    found["search"] = within.groupby("eps").value.mean().reindex(means.index)
    longest = pgd[pgd.steps == means.columns[-1]]
    beside = longest.merge(within, on=[*cell, "eps"], suffixes=("", "_search"))
    found["missed at most"] = (beside.value_search - beside.value).groupby(beside.eps).max()
    return found


for study in studies:
    found = gain(study)
    display(
        charts.table(
            found,
            index=True,
            caption="Mean risk over all networks, PGD's and that of the search for the boundary: "
            f"{study.label}",
            formats={"eps": "g"} | dict.fromkeys(found.columns, ".1%"),
        )
    )

# %% [markdown]
# And the signs of a weak attack? At one seed every network was searched for them, on a few fixed test
# images and at each $\varepsilon$ of the profile. The largest share found, over all augmentations and $p$:

# %% tags=["hide-input"]
for study in studies:
    checks = study["checks"].astype({"warning": bool})
    summary = checks.groupby(["measure", "by"], sort=False).agg(
        checks=("value", "size"),
        median=("value", "median"),
        largest=("value", "max"),
        limit=("limit", "first"),
        warnings=("warning", "sum"),
    )
    display(
        charts.table(
            summary,
            index=True,
            caption=f"Signs of a weak attack on {study.label}, as shares of {checks.examples.max()} "
            "test images; those with an eps are checked at each",
            formats=dict.fromkeys(("median", "largest", "limit"), ".0%"),
        )
    )

# %% tags=["hide-input"]
for study in studies:
    checks = study["checks"]
    warned = checks[checks.warning.astype(bool)]
    if len(warned):
        shown = charts.table(
            warned[["augmentation", "p", "measure", "by", "eps", "value", "limit"]],
            caption=f"Warnings on {study.label}. Of those called missed, at least this share of the "
            "images checked should have been counted as risk",
            formats={"p": "g", "eps": "g", "value": ".0%", "limit": ".0%"},
        )
    else:
        n = checks.examples.max()
        shown = Markdown(
            f"On {study.label} no check warns. That is no proof: what shows in none of {n} images may "
            f"still show in {3 / n:.0%} of all."
        )
    display(shown)

# %% [markdown]
# ## Where these numbers come from

# %% tags=["hide-input"]
for study in studies:
    performance = study["performance"]
    display(
        charts.table(
            recorded.origins(performance).assign(images=performance.examples.max()),
            caption=f"Provenance of the records of {study.label}: networks and test images",
        )
    )

# %% [markdown]
# [The recorded study](07_recorded) says what is still missing. Which of the talk's sentences these
# curves support, and how surely, is decided in [the findings](06_findings).
