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
# {cite}`koh2017` estimate the answer from one trained model, for every pair of a training and a test
# point. The talk asks them a question about augmentation: does a model lean more on the real examples or on
# the augmented ones, and is it different for test images under attack?

# %% tags=["parameters"]
profile = "digits"  # records of the whole grid exist for it, and its live model trains in seconds
augmentation = "classic"  # its augmented twins can be told from their originals by eye
p = 0.5  # about as many coins of each kind, so both groups are large
seed = 0  # the first of the study's seeds; it fixes the draw of A(S) as well

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %%
import pandas as pd
import torch
from IPython.display import Markdown, display
from sklearn.datasets import load_iris
from torch.nn.functional import avg_pool2d, cross_entropy, one_hot
from torch.nn.utils import parameters_to_vector

from lib import attacks, data
from lib.augmentation import Sample, changed
from lib.book import charts
from lib.influence import (
    influence,
    parameter_influence,
    removal_effect,
    smallest_eigenvalue,
)
from lib.influence.ekfac import treatable
from lib.influence.trust import (
    agreement,
    correlation,
    leave_one_out,
    linear_datamodelling_score,
    minimised,
    rank_correlation,
    retrained_on_subsets,
)
from lib.measures.influence import log_ratio
from lib.measures.last_layer import LastLayer
from lib.study import Profile, claims, recorded, subject

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
# ## What removing a point does
#
# Two measurements of two kinds of Iris flowers leave room for a picture. A logistic regression separates
# the kinds by a straight line. Take the held-out flower of largest loss, and leave out the one training
# flower that matters most to it. Where does the line go? Influence predicts it from the fit to all flowers,
# by moving the parameters by $H^{-1} \nabla_\theta L(z) / n$; training again without the flower
# tells.

# %%
iris = load_iris()


def flowers(kinds, features, count):
    """The first `count` flowers of these kinds, standardised and shuffled, and the others."""
    x, y = iris.data[iris.target >= 3 - kinds][:, features], iris.target[iris.target >= 3 - kinds]
    x, y = torch.tensor((x - x.mean(0)) / x.std(0)), one_hot(torch.tensor(y - y.min())).double()
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return [Sample(x[part], y[part]) for part in (shuffled[:count], shuffled[count:])]


def line(theta):
    """Where the two outputs of a softmax regression are equal: u x + v y + w = 0."""
    weight, bias = theta[:4].view(2, 2), theta[4:]
    return dict(
        zip("uvw", [*(weight[1] - weight[0]).tolist(), (bias[1] - bias[0]).item()], strict=True)
    )


decay = 1e-3
petals, held_out = flowers(2, [2, 3], 80)
fitted = minimised(torch.nn.Linear(2, 2), petals, l2=decay)
with torch.no_grad():
    hardest = int(cross_entropy(fitted(held_out.x), held_out.y, reduction="none").argmax())
test = Sample(held_out.x[[hardest]], held_out.y[[hardest]])
effect = removal_effect(fitted, petals, test, method="exact", l2=decay)[0]
removed = int(effect.abs().argmax())
point = Sample(petals.x[[removed]], petals.y[[removed]])
others = torch.arange(len(petals)) != removed
retrained = minimised(fitted, Sample(petals.x[others], petals.y[others]), l2=decay)

# %% tags=["hide-input"]
theta = parameters_to_vector(fitted.parameters()).detach()
step = -parameter_influence(fitted, petals, point, method="exact", l2=decay)[0] / len(petals)
lines = {
    "all points": theta,
    "predicted": theta + step,
    "retrained": parameters_to_vector(retrained.parameters()).detach(),
}
kinds = torch.cat([petals.y, test.y]).argmax(1)
plane = pd.DataFrame(torch.cat([petals.x, test.x]).numpy(), columns=["petal length", "petal width"])
plane["class"] = [str(iris.target_names[1 + kind]) for kind in kinds]
plane["note"] = ["left out" if i == removed else "" for i in range(len(petals))] + ["test point"]
charts.boundaries(
    plane,
    pd.DataFrame([{"boundary": name, **line(at)} for name, at in lines.items()]),
    x="petal length",
    y="petal width",
    description="Decision boundaries between two kinds of Iris flowers: with all training flowers, as "
    "influence predicts it without one of them, and after training without it (measurements in standard "
    "deviations from their mean)",
)

# %% tags=["hide-input"]
actual = leave_one_out(fitted, petals, test, [removed], l2=decay)
charts.table(
    pd.DataFrame([{"predicted": effect[removed].item(), "retrained": actual.item()}]),
    caption="Change of the test flower's loss without the flower that was left out",
    formats={"predicted": "+.2f", "retrained": "+.2f"},
)

# %% [markdown]
# The prediction is of first order in the weight of the point: it follows the derivative, where retraining
# takes the whole step.
#
# ## In the study
#
# The study computes this for the last layer, whose Hessian is small enough to be inverted exactly,
# in a training risk over one draw of $A(S)$, with $\lambda$ the weight decay of training and no
# damping. It reads off which points of the draw are augmented, that is, differ from the example they
# were made from.

# %%
l2 = settings.training["weight_decay"]
layer = live.view(LastLayer)  # the last layer, and what it sees
drawn = layer.features(layer.drawn)
augmented = changed(live.train, layer.drawn)
tests = layer.features(layer.tests)
effects = removal_effect(
    layer.head, drawn, tests, method=settings.measures["influence"]["method"], l2=l2
)

charts.table(
    pd.DataFrame(
        [
            {
                "training points": len(augmented),
                "augmented": int(augmented.sum()),
                "test points": len(tests) // 2,
                "adversarial twins": len(tests) // 2,
                "parameters of the last layer": sum(w.numel() for w in layer.head.parameters()),
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
labels = layer.tests.y.argmax(1)
predicted = attacks.predict(live.model, layer.tests.x)
clean, twin = (predicted == labels).chunk(2)
chosen = int((clean & ~twin).nonzero()[0, 0])


def most(row, count=6):
    """The training points most helpful and most harmful to the test point of a row of `effects`."""
    order = effects[row].argsort()
    picked = torch.cat([order.flip(0)[:count], order[:count]]).cpu()
    kinds = ["aug." if is_augmented else "real" for is_augmented in augmented[picked]]
    labels, changes = layer.drawn.y[picked].argmax(1).tolist(), effects[row, picked].tolist()
    return charts.pictures(
        layer.drawn.x[picked].cpu().numpy(),
        rows=["most helpful", "most harmful"],
        titles=[f"{y}, {k}: {e:+.0e}" for y, k, e in zip(labels, kinds, changes, strict=True)],
        description="Training points that would change the test image's loss most if removed",
    )


pair = layer.tests.x[[chosen, chosen + len(clean)]]
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
# difference. So it lies below zero nearly whatever happens, and no claim rests on it. What could go
# either way is a network trained on some twins beside one trained on others, with the same originals,
# each asked about both; the study has no such networks.
#
# A mixed point has two parents and a label between theirs, and its loss is the cross-entropy with that
# label. Its pair is with the parent at its own place; the other parent is in no pair.

# %% tags=["hide-input"]
READS = ["influence", "distribution", "trust"]  # tables, of every recorded study
studies, words = recorded.studies(settings, *READS)
Markdown(words)


# %% tags=["hide-input"]
def rows_of(table):
    """All studies' rows on their grids; `solver` marks those of a way to solve with the Hessian."""
    parts = []
    for study in studies:
        rows = claims.planned(study[table], study.profile.grid)
        solver = rows.method == study.profile.measures["influence"]["method"]
        parts.append(rows.assign(study=study.label, solver=solver))
    return pd.concat(parts, ignore_index=True)


def each(table, draw):
    """What `draw` makes of each recorded study's rows; a sentence where there are none."""
    for label in (study.label for study in studies):
        part = table[table.study == label]
        nothing = f"{label}: no such reading at a $p$ that all augmentations and seeds share."
        display(Markdown(nothing) if part.empty else draw(label, part))


def against_p(table, description, **settings):
    """A chart for each study."""
    settings = {"rule": 0, "format": ".2f"} | settings

    def draw(label, part):
        return charts.against_p(part, description=f"{label}: {description}", **settings)

    each(table[table.value.notna()], draw)


def balanced(table):
    return pd.concat([claims.balanced(part) for _, part in table.groupby("study")])


table = rows_of("influence").sort_values("test", ascending=False)
ratios = table[(table.measure == "log ratio") & table.solver & (table.augmentation != "none")]
against_p(
    balanced(ratios[ratios.reading == "groups"]),
    "influence of augmented over real training points against p, on clean and on adversarial test points",
    y="natural log of the ratio of mean |I|",
    facet="test",
)

# %% [markdown]
# Real points run out as $p$ grows, for a composition of several transforms long before $p = 1$. A group
# that is too small makes the reading missing, and only those $p$ are drawn at which every augmentation
# has a value at every seed. The pairs know no such limit. Here they are beside their control:

# %% tags=["hide-input"]
beside = ratios[ratios.reading.isin(["pairs", "control"])].sort_values(
    ["test", "reading"], ascending=False
)
against_p(
    beside.assign(panel=beside.reading + ", " + beside.test + " test points"),
    "influence of augmented twins over their originals against p, in the trained model and in the "
    "control model",
    y="natural log of the ratio of mean |I|",
    facet="panel",
)

# %% [markdown]
# And their difference, pairs minus control, as an observation:

# %% tags=["hide-input"]
cell = ["study", "augmentation", "p", "seed"]
both = beside.pivot(index=[*cell, "test"], columns="reading", values="value").reset_index()
against_p(
    both.assign(value=both["pairs"] - both["control"]).sort_values("test", ascending=False),
    "what the pairs show beyond their control against p, in natural logs of ratios",
    y="pairs minus control",
    facet="test",
)

# %% [markdown]
# ### The most influential hundred
#
# The mean of $|I|$ may hang on a few points. Another reading ranks: of the hundred training points with
# the largest $|I|$ on a test point, how many are augmented, beyond their share among all points of the
# draw? Zero is what chance would give.

# %% tags=["hide-input"]
share = table[table.measure == "augmented points"][[*cell, "value"]]
top = table[(table.reading == "top") & table.solver]
top = top.merge(share, on=cell, suffixes=("", "_of_all"))
against_p(
    top.assign(value=top.value - top.value_of_all),
    "share of augmented points among the hundred most influential, minus their share among all training "
    "points, against p",
    y="share in the top 100, minus of all",
    facet="test",
    format=".0%",
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
def effects_of(part, regulariser):
    """The mean log ratio of each augmentation over seeds, and its interval."""
    rows = []
    for name in claims.augmentations(part):
        clean, adversarial = (
            claims.by_seed(part, augmentation=name, test=test) for test in ("clean", "adversarial")
        )
        for what, numbers in {
            "clean": clean, "adversarial minus clean": adversarial - clean
        }.items():  # fmt: skip
            found = claims.effect(what, numbers)
            rows.append(
                {"augmentation": name, "regulariser": regulariser, "log ratio": what,
                 "value": found.value, "low": found.low, "high": found.high}
            )  # fmt: skip
    return pd.DataFrame(rows)


def draw(label, part):
    words = {"groups": "with", "groups, loss alone": "without"}
    parts = [(part[part.reading == reading], word) for reading, word in words.items()]
    rows = pd.concat([effects_of(claims.balanced(one), word) for one, word in parts])
    return charts.table(
        rows.sort_values(["log ratio", "augmentation"], ascending=[False, True]),
        caption=f"{label}: log ratio of mean |I|, augmented over real points, with and without the "
        "regulariser's share in the training points' gradients: mean over seeds and 95 % interval",
        formats=dict.fromkeys(("value", "low", "high"), charts.finite("+.2f")),
    )


each(balanced(ratios[ratios.reading.str.startswith("groups")]), draw)

# %% [markdown]
# ## The distributions
#
# The mean hides how unequal the points are. Thin lines reach from the 5 % to the 95 % quantile of
# $|I|$ over all pairs of a training and a test point, bars from 25 % to 75 %.


# %% tags=["hide-input"]
def draw(label, part):
    return charts.distribution(
        part.sort_values("test", ascending=False),
        x="|I|, change of test loss per unit of weight",
        description=f"{label}: quantiles of |I| of real and of augmented training points, for each p",
    )


spread = rows_of("distribution")
each(spread[spread.solver], draw)

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
against_p(
    balanced(plain),
    "log ratio of gradient products and of gradient norms, augmented over real points",
    y="log ratio, augmented over real points",
    facet="kind",
)

# %% [markdown]
# ## Two ways to the same number
#
# The Hessian need not be inverted: conjugate gradients solve $H s = \nabla_\theta \ell(z_{\mathrm{test}})$
# from Hessian-vector products alone, which is the way for layers that are too large. On four test
# points of this model:

# %%
few = type(tests)(tests.x[:4], tests.y[:4])
by_cg = influence(layer.head, drawn, few, method="cg", l2=l2, iterations=5000, tolerance=1e-9)
by_cholesky = influence(layer.head, drawn, few, method="exact", l2=l2)
difference = (by_cg - by_cholesky).abs().max() / by_cholesky.abs().max()
charts.table(
    pd.DataFrame([{"pairs": by_cg.numel(), "largest relative difference": difference.item()}]),
    caption="Conjugate gradients against the direct solve",
    formats={"largest relative difference": ".1e"},
)

# %% [markdown]
# ## The last layer, or all of them?
#
# The same question to the network as a whole, in all its parameters. Is there a minimum to speak of? The
# smallest eigenvalue of the Hessian tells, by Lanczos's method from products alone:

# %%
least = smallest_eigenvalue(live.model, layer.drawn, l2=l2)
mended = f"there is negative curvature, which a damping above {-least:.2g} would mend"
Markdown(
    f"The smallest eigenvalue in all parameters of {live.point} is **{least:.2g}**: "
    f"{mended if least < 0 else 'all curvature is positive, and no damping is needed'}."
)

# %% [markdown]
# Two other matrices never have negative curvature. The **Gauss-Newton matrix** is what the Hessian would be
# were the network linear in its parameters. **EK-FAC** {cite}`george2018` stands for another, the second
# moment of the training points' gradients: layer by layer, in a basis in which it would be diagonal if the
# inputs of the layer and the gradients at its outputs were independent, it keeps the diagonal, and is
# inverted without solving anything. So it is fast enough for every augmentation of the study. It knows
# linear and convolutional layers only; the parameters of others, of which the digits' network has none, are
# left out. Here it is on eight test points and their twins, beside the last layer's exact influence, with
# one damping for all:

# %%
damping = 0.1  # for all that is compared: scores with different ones differ for that alone


def pick(subject, rows):
    return Sample(subject.view(LastLayer).tests.x[rows], subject.view(LastLayer).tests.y[rows])


def both_ways(subject, few):
    """Influence in all parameters, by EK-FAC, and in the last layer."""
    shared = {"damping": damping, "l2": l2}
    names = treatable(subject.model)
    layer = subject.view(LastLayer)
    whole = influence(subject.model, layer.drawn, few, method="ekfac", parameters=names, **shared)
    inputs = layer.features(layer.drawn), layer.features(few)
    return whole, influence(layer.head, *inputs, method="exact", **shared).to(whole)


def reading(subject, scores):
    """The study's: median log ratio of mean |I|, augmented over real points."""
    twins = changed(subject.train, subject.view(LastLayer).drawn)
    return log_ratio(scores[:, twins].abs(), scores[:, ~twins].abs()).quantile(0.5).item()


rows = []
for name in ["none", *settings.grid["augmentation"]]:
    one = subject(settings, settings.point(name, p if name != "none" else 0, seed), progress=False)
    number = len(one.view(LastLayer).tests) // 2
    whole, last = both_ways(one, pick(one, [*range(8), *range(number, number + 8)]))
    agreed = rank_correlation(whole, last).nanmedian().item()
    rows.append({"augmentation": name, "Spearman": agreed,
                 "log ratio, all": reading(one, whole), "log ratio, last": reading(one, last)})  # fmt: skip
charts.table(
    pd.DataFrame(rows),
    caption=f"p = {p:g}, seed {seed}, damping {damping:g}: influence in all parameters by EK-FAC against "
    "the last layer's: rank correlation over training points, and the reading of each; medians over test "
    "points",
    formats=dict.fromkeys(("Spearman", "log ratio, all", "log ratio, last"), ".2f"),
)

# %% [markdown]
# Is EK-FAC itself to be believed? For the test image above and its twin, conjugate gradients solve with the
# Gauss-Newton matrix itself, at the same damping. Two ways may rank single points differently and yet agree
# in the reading over all of them:

# %%
two = pick(live, [chosen, chosen + len(clean)])
whole, last = both_ways(live, two)
newton = influence(
    live.model, layer.drawn, two, method="cg", curvature="gauss-newton", damping=damping, l2=l2,
    tolerance=1e-4, parameters=treatable(live.model),
)  # fmt: skip
ways = {"Gauss-Newton, all": newton, "EK-FAC, all": whole, "exact, last layer": last}
charts.table(
    pd.DataFrame(
        [
            {
                "influence": name,
                "log ratio": reading(live, scores),
                **{
                    f"Spearman, {other.split(',')[0]}": rank_correlation(scores, ways[other])
                    .mean()
                    .item()
                    for other in list(ways)[:2]
                },
            }
            for name, scores in ways.items()
        ]
    ),
    caption=f"{live.point}, damping {damping:g}: three influences on a test image and its twin; reading, "
    "and mean rank correlation over training points with the two in all parameters",
    formats=dict.fromkeys(("log ratio", "Spearman, Gauss-Newton", "Spearman, EK-FAC"), ".2f"),
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
actual = leave_one_out(layer.head, drawn, tests, out, l2=l2, tolerance=1e-6)
least = minimised(layer.head, drawn, l2=l2, tolerance=1e-6)
start = {"as trained": layer.head, "at the minimum": least}
predicted = {
    name: removal_effect(
        head, drawn, tests, method=settings.measures["influence"]["method"], l2=l2
    )[:, out]
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
# The study measures this at its first seed, for every augmentation at every $p$, always from the
# parameters as trained; where retraining did not converge it is missing.

# %% tags=["hide-input"]
against_p(
    rows_of("trust"),
    "correlation of predicted effects with retraining against p, last layer, median over test points",
    y="Pearson correlation with retraining",
    facet="test",
)

# %% [markdown]
# Where it is low, the influence of a single point should not be believed. Whether a mean over many points,
# such as the study's readings, is nearer to the truth, these numbers do not say.
#
# ### From convex to deep
#
# Basu and co-authors {cite}`basu2021` ask the same of small networks as a whole: how does the agreement
# depend on weight decay, width and depth? In their way, on the 150 flowers of the Iris data and on 300
# digits, shrunk to 4 by 4 pixels: networks at a minimum of their risk, all parameters, the five test points
# with the largest loss, the fifteen training points with the largest predicted effect.

# %%
images = data.load("digits")


def shrunk(pixels, labels, count):
    x = avg_pool2d(pixels[:count].double() / 255, 2).flatten(1)
    return Sample(x, one_hot(labels[:count], 10).double())


sets = {
    "Iris": flowers(3, [0, 1, 2, 3], 120),
    "digits": [
        shrunk(images.train_images, images.train_labels, 300),
        shrunk(images.test_images, images.test_labels, 100),
    ],
}


def perceptron(train, width, depth):
    sizes = [train.x.shape[1], *[width] * depth]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            layers += [torch.nn.Linear(a, b), torch.nn.Tanh()]
        return torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], train.y.shape[1]))


def examined(train, test, width, depth, decay):
    """A row: the network, and how well the predictions for it agree with retraining."""
    row = {"hidden layers": depth, "width": width if depth else None, "weight decay": decay}
    try:
        network = minimised(perceptron(train, width, depth), train, l2=decay, tolerance=1e-6)
        found = agreement(network, train, test, l2=decay)
        return row | dict(zip(("Pearson", "Spearman"), found, strict=True))
    except ValueError as error:  # it says where retraining stopped
        return row | {"remark": str(error)}


networks = [(8, 0, 5e-3), (8, 1, 5e-3), (32, 1, 5e-3), (8, 2, 5e-3), (8, 1, 5e-4)]
for name, (train, test) in sets.items():
    display(
        charts.table(
            pd.DataFrame([examined(train, test, *network) for network in networks]),
            caption=f"{name}: predicted against actual leave-one-out change, correlation over fifteen "
            "training points, mean over test points",
            formats={"width": ".0f", "weight decay": "g", "Pearson": ".2f", "Spearman": ".2f"},
        )
    )

# %% [markdown]
# Without a hidden layer the risk is convex.
#
# A single point is the smallest change there is. The **linear datamodelling score**
# {cite}`park2023` asks about large ones: networks are trained again on random halves of the
# training points, and their losses on test points are ranked beside the sums of influence over each half.
# For the convex network and for the deepest, on the digits:


# %%
def score(train, test, width, depth, decay):
    """The linear datamodelling score over 16 halves, mean over test points."""
    row = {"hidden layers": depth, "weight decay": decay}
    start = perceptron(train, width, depth)

    def fit(sample):
        return minimised(start, sample, l2=decay, tolerance=1e-6)

    try:
        predicted = influence(fit(train), train, test, method="exact", l2=decay)
        draw = torch.Generator().manual_seed(seed)
        halves = retrained_on_subsets(fit, train, test, 16, generator=draw)
        return row | {"score": linear_datamodelling_score(predicted, *halves).nanmean().item()}
    except ValueError as error:
        return row | {"remark": str(error)}


charts.table(
    pd.DataFrame([score(*sets["digits"], *networks[i]) for i in (0, 3)]),
    caption="Linear datamodelling score of influence on digits, over 16 random halves of the training points",
    formats={"weight decay": "g"} | {"score": ".2f"},
)

# %% [markdown]
# What the layers below owe to a training point is in none of the study's numbers: they are about the
# last layer.
