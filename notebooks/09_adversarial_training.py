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
# # Adversarial training
#
# If a network errs on attacked images, why not train it on them? That is adversarial training: attack
# each batch with the network as it is, and learn from what comes out. What does it buy, what does it cost, and
# how strong must the attack be?
#
# ```{admonition} This chapter
# **You will know** how to train against an attack, what that does to the weights of a linear classifier, and
# why a weak attack in training can deceive.
# **You need** [the chapter before](08_adversarial_examples).
# **It takes** 15 minutes to read and under a minute to run.
# <a href="09_adversarial_training.slides.html">Slides</a>.
# ```

# %% tags=["parameters"]
eps = 0.1  # of the attack in training, Linf: standard training loses six in ten images there
pair = [3, 7]  # the talk's two digits
seed = 0  # of initialisation and data order, the same for all that are compared

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
from IPython.display import Markdown

from lib import attacks, data, models, records
from lib.augmentation import Adversarial
from lib.book import charts
from lib.study import Profile, claims_adversarial, recorded
from lib.study import claims as study_claims
from lib.study import claims_foundations as claims
from lib.training import train

READS = [
    "three-seven/three_seven", "adversarial-training/adversarial_training",
    "performance", "distances", "stress", "influence",
]  # fmt: skip
linear = records.read("three-seven", "three_seven")
deep = records.read("adversarial-training", "adversarial_training")


def named(eps_train):
    return "standard" if eps_train == 0 else f"trained at eps {eps_train:g}"


risks = linear[(linear.measure == "risk") & (linear.attack == "fgsm")]
plain = risks[risks.weight_decay == 0]
charts.against(
    plain.assign(training=plain.eps_train.map(named)),
    "eps",
    line="training",
    x_title="eps of the attack, Linf",
    y="share of test images that are wrong",
    format=".0%",
    description="Risk of linear classifiers of threes and sevens against eps, after standard and adversarial "
    "training: mean and 95 % interval over seeds",
)

# %% tags=["hide-input"]
_, _, robust, costs, decay = claims.linear(linear)
at = f"eps {claims.EPS:g}"
Markdown(
    f"**What we see.** Training at eps {claims.EPS:g} changes the risk at {at} by "
    f"{claims.in_words(robust.effects[0])}: *{robust.verdict}* that it makes the classifier robust. The clean "
    f"error changes by {claims.in_words(costs.effects[0])}, and by "
    f"{claims.in_words(costs.effects[-1])} with the larger eps: *{costs.verdict}* that there is a price."
)

# %% [markdown]
# ## A minimum of maxima
#
# Standard training looks for weights $\theta$ with a small mean loss. Adversarial training
# {cite}`madry2018` lets an adversary move first:
#
# $$
# \min_\theta\, \mathbb E \max_{\|\delta\|_\infty \le \varepsilon} \ell\big(h_\theta(x + \delta), y\big) .
# $$
#
# (The talk writes the maximum outside of the mean. Then one $\delta$ would have to serve all examples; what
# everybody does, and the talk too, is to let each example have its own.)
#
# How does one descend along a maximum? Find the worst $\delta$, hold it, and take the gradient there. If
# the maximum is found, that is the gradient of the maximum (Danskin's theorem). So each step of training is an
# attack, then a step of gradient descent on what it made. In this book an attack on the network in
# training is an [augmentation](01_definition) like any other: a random function from a sample to a sample.
# It can be composed, and applied with a probability.

# %%
whole = data.first_there("mnist", "digits")
images = data.only(whole, pair)
x, y = images.test_images.float() / 255, images.test_labels


def trained(eps, steps):
    model = models.initialise(models.dense(x.shape[1:], 2), seed)
    train(model, images, Adversarial(model, eps, steps), epochs=10, seed=seed, batch_size=100,
          learning_rate=0.005, weight_decay=0, progress=False)  # fmt: skip
    return model


standard, fast, slow = trained(0, 1), trained(eps, 1), trained(eps, 5)

# %% tags=["hide-input"]
ways = {"standard": standard, "FGSM, one step": fast, "PGD, five steps": slow}
rows = []
for name, model in ways.items():
    attacked = attacks.fgsm(model, x, y, eps=eps)
    slope = (model.head.weight[1] - model.head.weight[0]).detach() / 0.25
    rows.append({"training": name, "clean error": attacks.risk(model, x, y),
                 f"risk at eps {eps:g}": attacks.risk(model, attacked, y),
                 "L1 norm of w": slope.abs().sum().item()})  # fmt: skip
apart = (fast.head.weight - slow.head.weight).abs().max().item()
charts.table(
    pd.DataFrame(rows),
    caption=f"Linear classifiers of {images.name}, trained just now. The weights after one step and after five differ "
    f"by {apart:.1g} at most"
    + (
        ""
        if whole.name == "mnist"
        else "; MNIST is not on this machine, these are digits of scikit-learn"
    ),
    formats={"clean error": ".1%", f"risk at eps {eps:g}": ".1%", "L1 norm of w": ".0f"},
)

# %% [markdown]
# For a linear classifier of two classes one step is all there is
# ({prf:ref}`worst-linear`): more steps in the same direction end in the same place. FGSM training and PGD training
# give the same weights. To tell the two apart takes a network that bends.
#
# ## What it does to the weights
#
# By {prf:ref}`worst-linear` the attack costs $\varepsilon \|w\|_1$ of margin. So to train against it is to
# train on $\ell(\tau g(x) - \varepsilon \|w\|_1)$, as long as pixels may have any value. That is a penalty on
# the sum of the absolute weights, but inside of the loss: where the margin is large it costs nothing. Here are
# the weights of one seed, grey is zero:

# %% tags=["hide-input"]
seen = linear[(linear.measure == "largest slope") & (linear.weight_decay == 0)]
seen = seen[seen.seed == seen.seed.min()].sort_values("eps_train")
charts.pictures(
    np.stack(seen.picture)[:, None] / 255,
    titles=[named(value) for value in seen.eps_train],
    columns=len(seen),
    scale=6,
    description="Weights of linear classifiers of threes and sevens, each scaled to its own largest: bright pixels speak "
    "for a seven, dark ones for a three",
)

# %% tags=["hide-input"]
norms = linear[(linear.measure == "L1 norm of the slope") & (linear.weight_decay == 0)]
norms = norms.groupby("eps_train").value.mean()
Markdown(
    "**What we see.** The sum of the absolute weights falls from "
    + " to ".join(f"{value:.0f} ({named(k)})" for k, value in norms.items())
    + ". Standard training uses many pixels a little; under attack each pixel has its price, and what is left "
    "are a few places in which threes and sevens differ most."
)

# %% [markdown]
# A regulariser shrinks weights as well. Is it the same? Weight decay, the penalty on the squares, at several
# strengths:

# %% tags=["hide-input"]
some = risks[risks.eps_train.isin([0, claims.EPS])]
charts.against(
    some.assign(
        training=some.eps_train.map(named),
        decay=[f"weight decay {value:g}" for value in some.weight_decay],
    ),
    "eps",
    line="training",
    facet="decay",
    x_title="eps of the attack, Linf",
    y="share of test images that are wrong",
    format=".0%",
    description="Risk against eps of linear classifiers with weight decay of four strengths, after standard and "
    "adversarial training",
)

# %% tags=["hide-input"]
Markdown(
    f"**What we see.** The strongest decay leaves more risk at {at} than adversarial training without any, by "
    f"{claims.in_words(decay.effects[0])}: *{decay.verdict}* that decay does not replace it."
)

# %% [markdown]
# ## A network that bends
#
# The network of the digits study, three convolutions, on 6,000 images of all ten digits of MNIST, halved in size, trained in
# four ways: on clean images; on one step of the fast method; on one step from a random point of the ball; on
# five steps of projected gradient descent. All are attacked by one step (FGSM) and by twenty (PGD).

# %% tags=["hide-input"]
settings = {
    "standard": "standard",
    "fgsm": "FGSM",
    "fgsm-random": "FGSM, random start",
    "pgd": "PGD",
}
deep = deep.assign(training=deep.method.map(settings))
judged = deep[(deep.measure == "risk") & (deep.attack != "none")]
charts.against(
    judged.assign(attack=[f"attacked by {name.upper()}" for name in judged.attack]),
    "eps",
    line="training",
    facet="attack",
    x_title="eps of the attack, Linf",
    y="share of test images that are wrong",
    format=".0%",
    description="Risk of a small network against eps under one step and under twenty, after four ways of training at "
    "eps .15: mean and 95 % interval over seeds",
)

# %% tags=["hide-input"]
summary = deep[deep.measure.isin(["risk", "training seconds"])]
summary = summary[(summary.measure != "risk") | summary.eps.isin([0, claims.BENT])]
summary = summary.assign(reading=[
    "seconds of training" if m != "risk" else "clean error" if a == "none" else f"risk, {a.upper()}"
    for m, a in zip(summary.measure, summary.attack, strict=True)])  # fmt: skip
summary = summary.pivot_table("value", "training", "reading", sort=False)
charts.table(
    summary.loc[
        [name for name in settings.values() if name in summary.index],
        ["clean error", "risk, FGSM", "risk, PGD", "seconds of training"],
    ],
    index=True,
    caption=f"Four ways of training a small network at eps {claims.BENT:g}: means over seeds, risks at the same eps",
    formats={name: ".0f" if "seconds" in name else ".1%" for name in summary},
)

# %% tags=["hide-input"]
helps, more, deceives = claims.networks(deep)
seconds = summary["seconds of training"]
by_seed = judged[(judged.eps == claims.BENT) & (judged.attack == "pgd")]
by_seed = by_seed.pivot_table("value", "seed", "training")
surplus = (by_seed["FGSM"] - by_seed["PGD"]).sort_values()
Markdown(
    f"**What we see.** PGD training changes the risk under PGD at eps {claims.BENT:g} by "
    f"{claims.in_words(helps.effects[0])}: *{helps.verdict}* that it makes the network robust. That FGSM training leaves more "
    f"risk than PGD training: *{more.verdict}* ({claims.in_words(more.effects[0])}). That its own attack overrates it: "
    f"*{deceives.verdict}* ({claims.in_words(deceives.effects[0])}). The intervals are wide because seeds differ: FGSM "
    f"training leaves {100 * surplus.iloc[0]:.0f} points more at one seed, {100 * surplus.median():.0f} at the middle one, and "
    f"{100 * surplus.iloc[-1]:.0f} at seed {surplus.index[-1]}, where the network errs on "
    f"{by_seed['FGSM'][surplus.index[-1]]:.0%} of the images under PGD. "
    f"PGD training takes {seconds['PGD'] / seconds['standard']:.1f} times as long as standard training, FGSM training "
    f"{seconds['FGSM'] / seconds['standard']:.1f} times."
)

# %% [markdown]
# A network that is trained against one large step can learn to bend its loss just so that this step goes
# wrong, and stay open to smaller ones. Where that happens at once, in the middle of a training, it is called
# *catastrophic overfitting* {cite}`wong2020`. A random start makes the step less predictable, at no cost. The lesson is
# that of [chapter 3](03_performance): judge a defence by an attack that it was not trained on.
#
# ## Where it stands among augmentations
#
# Adversarial training is an augmentation whose examples come from the network itself. So the study has it
# beside the others: with probability $p$ an example gives way to an attacked one, by two steps of L2 PGD within
# .5 on digits. (Of several radii it is the largest that cost no clean error on images held out of the training
# set.) Seeds, budgets and attacks of the judge are those of [chapter 3](03_performance).

# %% tags=["hide-input"]
digits = Profile.load("digits")
studies, _ = recorded.studies(digits, "performance", "distances", "stress", "influence")
(study,) = [one for one in studies if one.profile.name == digits.name]
tables = [study_claims.planned(study[name], digits.grid) for name in study_claims.TABLES]
strongest = tables[0][tables[0].measure == "risk under attack"]
strongest = strongest[
    (strongest.eps == strongest.eps.max()) & (strongest.steps == strongest.steps.max())
]
charts.against_p(
    strongest,
    y=f"risk under L2 PGD at eps {strongest.eps.max():g}",
    format=".0%",
    description=f"{study.label}: risk under the strongest recorded attack against p, adversarial training beside the "
    "augmentations: mean and 95 % interval over seeds",
)

# %% tags=["hide-input"]
decided = claims_adversarial.evaluate(*tables)
charts.table(
    study_claims.frame(decided)[["claim", "verdict"]],
    caption=f"{study.label}: adversarial training at p = 1 beside every other augmentation",
)

# %% tags=["hide-input"]
robust, _, price, _, leaning = decided
nearest = max(robust.effects, key=lambda one: one.value)
Markdown(
    f"**What we see.** Even beside the augmentation that comes nearest ({nearest.label.removeprefix('minus ')}), "
    f"adversarial training changes the risk by {claims.in_words(nearest)}: *{robust.verdict}* that it leaves the "
    f"least. The clean error changes by {claims.in_words(price.effects[0])}: "
    f"*{price.verdict}* that it costs any. That networks are more influenced by attacked than by real points: "
    f"*{leaning.verdict}*. The augmentations of the [findings](06_findings.html) were made to describe images; this one "
    "was made for the attack it is judged by, so it is a yardstick, and no sentence of the talk is about it."
)

# %% [markdown]
# ## In short
#
# - Adversarial training descends the loss at attacked examples; the attack is made anew at each step.
# - For a linear classifier it prices the sum of the absolute weights, which weight decay does not, and it costs some
#   clean error.
# - One step in training is cheap and can deceive: at some seeds the network holds against that step and not against
#   many.
#
# ## Exercises
#
# ```{exercise} By hand
# :label: inside-the-loss
# Write the loss of a linear classifier under the worst change for $\ell(m) = \ln(1 + e^{-m})$ with margin
# $m$. Show that its penalty on $\|w\|_1$ vanishes for examples of large margin. *Hint: the slope of $\ell$.*
# ```
#
# ```{exercise} By code
# :label: half-of-the-examples
# Train with `with_probability(Adversarial(model, eps, 1), 0.5)`. Does half of the examples give half of the
# robustness? *Hint: `lib.augmentation.with_probability`.*
# ```
#
# ```{exercise} By experiment
# :label: larger-eps
# In the profile `adversarial-training` set `eps_train` to .2. What does PGD training do within ten epochs? *Hint:
# look at the rows `training error`.*
# ```
