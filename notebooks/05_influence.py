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
# # Influence: which training points a prediction leans on
#
# Take one training image away and train again: how would the loss on a given test image change?
# Training a thousand networks to find out is rarely affordable. **Influence functions**
# {cite}`koh2017` estimate the answer from one trained model, for every pair of a training and a test point. The talk asks them a
# question about augmentation: does a model lean more on the real examples or on the augmented ones,
# and is it different for test images under attack?

# %% tags=["parameters"]
profile = "digits"  # records of the whole grid exist for it, and its live model trains in seconds
augmentation = "classic"  # its augmented twins can be told from their originals by eye
p = 0.5  # about as many coins of each kind, so both groups are large
seed = 0  # the first of the study's seeds; it fixes the draw of A(S) as well

# %%
import pandas as pd
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_iris

from lib import attacks, charts, claims, records
from lib.augmentation import Sample, changed
from lib.influence import influence, removal_effect
from lib.study import Profile, subject
from lib.trust import correlation, leave_one_out, minimised

settings = Profile.load(profile)
live = subject(settings, settings.point(augmentation, p, seed))

# %% [markdown]
# ## The derivative behind it
#
# Training minimises the regularised risk
#
# $$R(\theta) = \frac1n \sum_{i=1}^n L(z_i, \theta), \qquad
# L(z, \theta) = \ell(z, \theta) + \frac{\lambda}{2} \|\theta\|^2 ,$$
#
# where $L$ is a point's share of it. Give the point $z$ a little more weight, $R(\theta) + w\, L(z,
# \theta)$, and the minimiser moves by $-H^{-1} \nabla_\theta L(z)$ for each unit of $w$, where $H$ is
# the Hessian of $R$. The loss of a test point, which has no regulariser, then changes at the rate
#
# $$I(z, z_{\mathrm{test}}) = -\nabla_\theta \ell(z_{\mathrm{test}})^\top H^{-1}\,
# \nabla_\theta L(z) .$$
#
# Removing $z$ is the weight $w = -1/n$, so the predicted change of the test loss is $-I/n$. If that is
# above zero, the loss rises without the point: the point was *helpful*. Below zero it was *harmful*.
# The share $\lambda\theta$ of the regulariser in $\nabla L$ is the same for every point, and it
# outweighs $\nabla \ell$ for a point that is fitted very well.
#
# The study computes this for the last layer, whose Hessian is small enough to be inverted exactly,
# in a training risk over one draw of $A(S)$, with $\lambda$ the weight decay of training and no
# damping. It reads off which points of the draw are augmented, that is, differ from the example they
# were made from.

# %%
l2 = settings.training["weight_decay"]
drawn = live.features(live.drawn)
augmented = changed(live.train, live.drawn)
tests = live.features(live.influence_tests)
effects = removal_effect(live.head, drawn, tests, method=settings.influence["method"], l2=l2)

charts.table(
    pd.DataFrame(
        [
            {
                "training points": len(augmented),
                "augmented": int(augmented.sum()),
                "test points": len(tests) // 2,
                "adversarial twins": len(tests) // 2,
                "parameters of the last layer": sum(w.numel() for w in live.head.parameters()),
            }
        ]
    ),
    caption=f"What the influence of {live.point} is computed for",
)

# %% [markdown]
# ## One test image and its adversarial twin
#
# Every test image has an adversarial twin, the same image after an attack, with the same true label.
# Below is a test image whose twin fools the model, and for both the training points whose removal
# would raise the loss most (helpful) and lower it most (harmful), each with its label, whether it is
# real or augmented (aug.), and the predicted change of the loss.

# %% tags=["hide-input"]
labels = live.influence_tests.y.argmax(1)
predicted = attacks.predict(live.model, live.influence_tests.x)
clean, twin = (predicted == labels).chunk(2)
chosen = int((clean & ~twin).nonzero()[0, 0])


def most(row, count=6):
    """The training points most helpful and most harmful to the test point of a row of `effects`."""
    order = effects[row].argsort()
    picked = torch.cat([order.flip(0)[:count], order[:count]]).cpu()
    kinds = ["aug." if is_augmented else "real" for is_augmented in augmented[picked]]
    labels, changes = live.drawn.y[picked].argmax(1).tolist(), effects[row, picked].tolist()
    return charts.pictures(
        live.drawn.x[picked].cpu().numpy(),
        rows=["most helpful", "most harmful"],
        titles=[f"{y}, {k}: {e:+.0e}" for y, k, e in zip(labels, kinds, changes, strict=True)],
        description="Training points that would change the test image's loss most if removed",
    )


pair = live.influence_tests.x[[chosen, chosen + len(clean)]]
charts.pictures(
    pair.cpu().numpy(),
    titles=[
        f"{name}: predicted {int(predicted[row])}, truly {int(labels[row])}"
        for name, row in (("test image", chosen), ("its twin", chosen + len(clean)))
    ],
    description="A test image and its adversarial twin",
)

# %% [markdown]
# The test image leans on:

# %% tags=["hide-input"]
most(chosen)

# %% [markdown]
# And its twin:

# %% tags=["hide-input"]
most(chosen + len(clean))

# %% [markdown]
# ## Who leans on what?
#
# "More influenced" is about the size of $I$, whatever its sign. For each test point take the mean of
# $|I|$ over the augmented points and over the real ones; the logarithm of their ratio is above zero
# where augmented points weigh more. The study records its median over the test points.
#
# There is a trap. A network fits the very images that it was trained on, so a *fresh* image tends to
# have a larger loss, a larger gradient and a larger influence, trained on or not. So the study also
# compares **pairs**: an example and its augmented twin. And it shows the same pairs to a model of the
# same seed that was trained *without* augmentation, the **control**. Only an excess of the pairs over
# their control could speak of training on augmented data. The converse is not safe: the control has
# memorised the originals, a model trained with augmentation may not have, and that alone lowers the
# difference.
#
# A mixed point has two parents and a label between theirs, and its loss is the cross-entropy with that
# label. Its pair is with the parent at its own place; the other parent is in no pair.

# %% tags=["hide-input"]
table = records.read(settings.name, "influence")
ratios = table[(table.measure == "log ratio") & (table.method == settings.influence["method"])]
ratios = claims.planned(ratios[ratios.augmentation != "none"], settings.grid).sort_values(
    "test", ascending=False
)
charts.against_p(
    claims.balanced(ratios[ratios.reading == "groups"]),
    y="natural log of the ratio of mean |I|",
    facet="test",
    rule=0,
    format=".2f",
    description="Influence of augmented over real training points against p, on clean and on "
    "adversarial test points",
)

# %% [markdown]
# Real points run out as $p$ grows, for a composition of several transforms long before $p = 1$. A group
# that is too small makes the reading missing, and only those $p$ are drawn at which every augmentation
# has a value at every seed. The pairs know no such limit. Here they are beside their control:

# %% tags=["hide-input"]
beside = ratios[ratios.reading.isin(["pairs", "control"])].sort_values(
    ["test", "reading"], ascending=False
)
charts.against_p(
    beside.assign(
        panel=[f"{r}, {t} test points" for r, t in zip(beside.reading, beside.test, strict=True)]
    ),
    y="natural log of the ratio of mean |I|",
    facet="panel",
    rule=0,
    format=".2f",
    description="Influence of augmented twins over their originals against p, in the trained model "
    "and in the control model",
)

# %% [markdown]
# And their difference, pairs minus control:

# %% tags=["hide-input"]
cell = ["augmentation", "p", "seed", "test"]
both = beside.pivot(index=cell, columns="reading", values="value").reset_index()
excess = both.assign(value=both["pairs"] - both["control"]).sort_values("test", ascending=False)
charts.against_p(
    excess,
    y="pairs minus control",
    facet="test",
    rule=0,
    format=".2f",
    description="What the pairs show beyond their control against p, in natural logs of ratios",
)

# %% [markdown]
# ### The most influential hundred
#
# The mean of $|I|$ may hang on a few points. Another reading ranks: of the hundred training points with
# the largest $|I|$ on a test point, how many are augmented, beyond their share among all points of the
# draw? Zero is what chance would give.

# %% tags=["hide-input"]
cell = ["augmentation", "p", "seed"]
top = table[(table.reading == "top") & (table.method == settings.influence["method"])]
share = table[table.measure == "augmented points"][[*cell, "value"]]
top = claims.planned(top, settings.grid).merge(share, on=cell, suffixes=("", "_of_all"))
charts.against_p(
    top.assign(value=top.value - top.value_of_all).sort_values("test", ascending=False),
    y="share in the top 100, minus of all",
    facet="test",
    rule=0,
    format=".0%",
    description="Share of augmented points among the hundred most influential, minus their share "
    "among all training points, against p",
)

# %% [markdown]
# ### The regulariser's part
#
# The gradient of a training point holds $\lambda\theta$, its share of the regulariser, which is the same
# for all points. Should it count? Koh and Liang's formula has it; the loss of the point knows nothing of
# it. Where points are fitted so well that their own gradient vanishes, it is most of what is left. Below
# is the last reading of the talk, adversarial minus clean test points, with it and without, and the mean
# log ratio over groups itself:

# %% tags=["hide-input"]
readings = {"with": "groups", "without": "groups, loss alone"}
rows = []
for word, reading in readings.items():
    part = ratios[ratios.reading == reading]
    part = claims.balanced(part)
    for name in claims.augmentations(part):
        values = {
            test: claims.by_seed(part, augmentation=name, test=test)
            for test in ("clean", "adversarial")
        }
        for what, numbers in {
            "clean": values["clean"],
            "adversarial minus clean": values["adversarial"] - values["clean"],
        }.items():
            found = claims.effect(what, numbers)
            rows.append(
                {
                    "augmentation": name,
                    "regulariser": word,
                    "log ratio": what,
                    "value": found.value,
                    "low": found.low,
                    "high": found.high,
                }
            )
charts.table(
    pd.DataFrame(rows).sort_values(["log ratio", "augmentation"], ascending=[False, True]),
    caption="Log ratio of mean |I|, augmented over real points, with and without the regulariser's share "
    "in the training points' gradients: mean over seeds and 95 % interval",
    formats=dict.fromkeys(("value", "low", "high"), "+.2f"),
)

# %% [markdown]
# ## The distributions
#
# The mean hides how unequal the points are. Thin lines reach from the 5 % to the 95 % quantile of
# $|I|$ over all pairs of a training and a test point, bars from 25 % to 75 %.

# %% tags=["hide-input"]
spread = records.read(settings.name, "distribution")
charts.distribution(
    spread[spread.method == settings.influence["method"]].sort_values("test", ascending=False),
    x="|I|, change of test loss per unit of weight",
    description="Quantiles of |I| of real and of augmented training points, for each p",
)

# %% [markdown]
# ## Without the Hessian
#
# The talk crosses $H^{-1}$ out and looks at gradients. With it dropped, $I$ becomes the product of
# two gradients, $-\nabla \ell(z_{\mathrm{test}})^\top \nabla L(z)$; and the norm of $\nabla \ell(z)$ alone
# knows no test point at all.

# %% tags=["hide-input"]
plain = table[(table.measure == "log ratio") & (table.reading == "groups")]
plain = plain[plain.method.isin(["identity", "gradient norm"]) & (plain.augmentation != "none")]
plain = plain.sort_values(["method", "test"], ascending=False)
words = {
    ("identity", "clean"): "gradient product, clean test points",
    ("identity", "adversarial"): "gradient product, adversarial test points",
    ("gradient norm", "none"): "gradient norm",
}
plain = plain.assign(kind=[words[m, t] for m, t in zip(plain.method, plain.test, strict=True)])
charts.against_p(
    claims.balanced(plain),
    y="log ratio, augmented over real points",
    facet="kind",
    rule=0,
    format=".2f",
    description="Log ratio of gradient products and of gradient norms, augmented over real points",
)

# %% [markdown]
# ## Two ways to the same number
#
# The Hessian need not be inverted: conjugate gradients solve $H s = \nabla_\theta \ell(z_{\mathrm{test}})$
# from Hessian-vector products alone, which is the way for layers that are too large. On four test
# points of this model:

# %%
few = type(tests)(tests.x[:4], tests.y[:4])
by_cg = influence(live.head, drawn, few, method="cg", l2=l2, iterations=5000, tolerance=1e-9)
by_cholesky = influence(live.head, drawn, few, method="exact", l2=l2)
difference = (by_cg - by_cholesky).abs().max() / by_cholesky.abs().max()
charts.table(
    pd.DataFrame([{"pairs": by_cg.numel(), "largest relative difference": difference.item()}]),
    caption="Conjugate gradients against the direct solve",
    formats={"largest relative difference": ".1e"},
)

# %% [markdown]
# ## The last layer, or all of them?
#
# The same question to the network as a whole: all its parameters, the Gauss-Newton matrix in place of the
# Hessian, which may have negative curvature, and a damping, which the last layer is given here as well.
# For the test image above and its twin:

# %%
damping = 0.1
rows = [chosen, chosen + len(clean)]
two = Sample(live.influence_tests.x[rows], live.influence_tests.y[rows])
whole = influence(
    live.model, live.drawn, two, method="cg", curvature="gauss-newton", damping=damping, l2=l2,
    tolerance=1e-4,
)  # fmt: skip
last = influence(
    live.head, drawn, Sample(tests.x[rows], tests.y[rows]), method="exact", damping=damping, l2=l2
)


def ratio(scores):
    """Log ratio of mean |I|, augmented over real points, of one test point."""
    return (scores[augmented].abs().mean() / scores[~augmented].abs().mean()).log().item()


charts.table(
    pd.DataFrame(
        [
            {
                "test point": name,
                "Spearman": spearmanr(one.cpu(), other.cpu()).statistic,
                "log ratio, all": ratio(one),
                "log ratio, last": ratio(other),
            }
            for name, one, other in zip(
                ("test image", "its twin"), whole, last.to(whole), strict=True
            )
        ]
    ),
    caption=f"{live.point}: influence in all parameters against the last layer's, damping {damping:g}: "
    "rank correlation over training points, and the reading of each",
    formats=dict.fromkeys(("Spearman", "log ratio, all", "log ratio, last"), ".2f"),
)

# %% [markdown]
# ## Can influence be trusted?
#
# The derivation takes a minimum with positive curvature around it, and a point's weight so small that
# nothing of second order matters. A trained network need not be at a minimum. The test is to do what
# influence predicts: leave the point out, train again until the gradient vanishes, and compare.
#
# Here that is done for the last layer of this network, with the features below it held fixed, where
# the risk is convex: for ten training points, the five most influential and five at random. Twice:
# from the parameters that stochastic gradient descent left, as in the study, and from the minimum itself.

# %%
ranked = effects.abs().mean(0).argsort(descending=True)
order = torch.randperm(len(ranked) - 5, generator=live.generator("left out"), device=ranked.device)
out = torch.cat([ranked[:5], ranked[5:][order[:5]]])
actual = leave_one_out(live.head, drawn, tests, out, l2=l2, tolerance=1e-6)
least = minimised(live.head, drawn, l2=l2, tolerance=1e-6)
start = {"as trained": live.head, "at the minimum": least}
predicted = {
    name: removal_effect(head, drawn, tests, method=settings.influence["method"], l2=l2)[:, out]
    for name, head in start.items()
}
charts.table(
    pd.DataFrame(
        [
            {
                "parameters": name,
                "test points": which,
                "Pearson": part.nanmedian().item(),
            }
            for name, effect in predicted.items()
            for which, part in zip(
                ("clean", "adversarial"), correlation(effect, actual).chunk(2), strict=True
            )
        ]
    ),
    caption=f"{live.point}: predicted against actual change of the loss when one of {len(out)} training "
    "points is left out; correlation over these, median over test points",
    formats={"Pearson": ".3f"},
)

# %% [markdown]
# The study measures this at one seed, for every augmentation at $p = 0$ and at the largest $p$, always
# from the parameters as trained:

# %% tags=["hide-input"]
trusted = table[table.measure == "correlation with retraining"]
charts.table(
    trusted.pivot_table("value", ["augmentation", "p"], "test", sort=False).reset_index(),
    caption=f"Correlation of predicted effects with retraining, on {settings.dataset}, last layer",
    formats={"p": "g", "clean": ".2f", "adversarial": ".2f"},
)

# %% [markdown]
# Where it is low, the influence of a single point should not be believed. Whether a mean over many points,
# such as the study's readings, is nearer to the truth, these numbers do not say.
#
# ### From convex to deep
#
# Basu and co-authors {cite}`basu2021` ask the same of small networks as a whole: how does the agreement
# depend on weight decay, width and depth? In their way, on the 150 flowers of the Iris data: networks
# at a minimum of their risk, all parameters, the test points with the largest loss, the fifteen training
# points with the largest predicted effect.

# %%
x, y = load_iris(return_X_y=True)
x = torch.tensor((x - x.mean(0)) / x.std(0))
y = torch.nn.functional.one_hot(torch.tensor(y), 3).double()
shuffled = torch.randperm(150, generator=torch.Generator().manual_seed(seed))
flowers, held_out = (Sample(x[part], y[part]) for part in (shuffled[:120], shuffled[120:]))


def perceptron(width, depth):
    sizes = [4, *[width] * depth]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            layers += [torch.nn.Linear(a, b), torch.nn.Tanh()]
        return torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], 3))


def agreement(width, depth, decay):
    """Pearson and Spearman correlation, mean over five test points."""
    network = minimised(perceptron(width, depth), flowers, l2=decay, tolerance=1e-6)
    with torch.no_grad():
        outputs = network(held_out.x)
    losses = torch.nn.functional.cross_entropy(outputs, held_out.y, reduction="none")
    hard = losses.argsort(descending=True)[:5]
    hard = Sample(held_out.x[hard], held_out.y[hard])
    predicted = removal_effect(network, flowers, hard, method="exact", l2=decay)
    most = predicted.abs().mean(0).argsort(descending=True)[:15]
    actual = leave_one_out(network, flowers, hard, most, l2=decay, tolerance=1e-6)
    pairs = zip(predicted[:, most], actual, strict=True)
    ranks = [spearmanr(guess, truth).statistic for guess, truth in pairs]
    linear = correlation(predicted[:, most], actual)
    return {"Pearson": linear.mean().item(), "Spearman": sum(ranks) / len(ranks)}


rows = []
for width, depth, decay in [(8, 0, 5e-3), (8, 1, 5e-3), (32, 1, 5e-3), (8, 2, 5e-3), (8, 1, 5e-4)]:
    found = {"hidden layers": depth, "width": width if depth else None, "weight decay": decay}
    try:
        found |= agreement(width, depth, decay)
    except ValueError as error:
        found |= {"remark": str(error)}
    rows.append(found)
charts.table(
    pd.DataFrame(rows),
    caption="Iris: predicted against actual leave-one-out change, correlation over fifteen training points",
    formats={"width": ".0f", "weight decay": "g", "Pearson": ".2f", "Spearman": ".2f"},
)

# %% [markdown]
# Without a hidden layer the risk is convex. What the layers below owe to a training point is in none of the
# study's numbers: they are about the last layer.
