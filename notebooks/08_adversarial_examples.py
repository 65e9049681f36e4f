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
# # Adversarial examples
#
# How little must an image change before a classifier errs, and who can find that change? A linear
# classifier tells threes from sevens and is right about 98 in 100. A change that the eye barely sees
# makes it wrong about four in ten. For a linear classifier the worst change is known exactly, so this is
# the place to begin.
#
# ```{admonition} This chapter
# **You will know** what an adversarial example is, how to make one in a line, why a linear classifier has
# so many, and how one is made for a classifier that shows its labels only.
# **You need** vectors and derivatives.
# **It takes** 20 minutes to read and under a minute to run.
# <a href="08_adversarial_examples.slides.html">Slides</a>.
# ```

# %% tags=["parameters"]
eps = 0.08  # Linf, pixels from 0 to 1: so much that four in ten of the test images are lost
pair = [3, 7]  # the talk's two digits; [4, 9] are harder to tell apart
seed = 0  # of initialisation and data order; nearly every seed gives the same weights

# %% tags=["remove-cell"]
# %load_ext lib.book.parameters

# %% tags=["hide-input"]
import pandas as pd
import torch
from IPython.display import Markdown

from lib import attacks, data, models, records
from lib.augmentation import Identity
from lib.book import charts, foundations
from lib.study import claims_foundations as claims
from lib.training import train

READS = ["three-seven/three_seven", "transfer/transfer"]
networks = records.read("three-seven", "three_seven")
targets = records.read("transfer", "transfer")

whole = data.first_there("mnist", "digits")
images = data.only(whole, pair)
x, y = images.test_images.float() / 255, images.test_labels
model = models.initialise(models.dense(x.shape[1:], 2), seed)
train(model, images, Identity(), epochs=10, seed=seed, batch_size=100, learning_rate=0.005,
      weight_decay=0, progress=False)  # fmt: skip
x_adv = attacks.fgsm(model, x, y, eps=eps)
before, after = attacks.predict(model, x), attacks.predict(model, x_adv)
fooled = ((before == y) & (after != y)).nonzero()[:8, 0]
fooled = fooled if len(fooled) else torch.arange(8)  # where the attack is too small to fool
delta = x_adv[fooled] - x[fooled]
charts.pictures(
    torch.cat([x[fooled], x_adv[fooled], (0.5 + delta / (2 * eps)).clamp(0, 1)]).numpy(),
    rows=["clean", "attacked", "difference"],
    titles=[
        f"{images.classes[a]} → {images.classes[b]}"
        for a, b in zip(before[fooled], after[fooled], strict=True)
    ],
    columns=len(fooled),
    description=f"Images of {images.name} that the classifier gets right, and wrong after a change of "
    f"{eps:g} in each pixel; the difference is magnified, grey is no change",
)

# %% tags=["hide-input"]
Markdown(
    f"The classifier above was trained just now, on {len(images.train_images):,} images "
    f"({images.name}). It errs on {attacks.risk(model, x, y):.1%} of {len(y):,} test images, and on "
    f"{attacks.risk(model, x_adv, y):.1%} of the attacked ones."
    + ("" if whole.name == "mnist" else " MNIST is not on this machine: these are the small digits "
       "that come with scikit-learn, on which the numbers differ from those of the records.")
)  # fmt: skip

# %% [markdown]
# ## What an adversarial example is
#
# A classifier $f$ gives an image $x$ a label. An *adversarial example* of $x$ is an image $x + \delta$
# with another label than the true one, where $\delta$ is so small that the image shows the same. How
# small is a decision. In this chapter no pixel changes by more than $\varepsilon$:
#
# $$\|\delta\|_\infty = \max_i |\delta_i| \le \varepsilon .$$
#
# Among these changes the attacker looks for one with a large loss $\ell$:
#
# $$\max_{\|\delta\|_\infty \le \varepsilon} \ell\big(h(x + \delta), y\big) .$$
#
# Near $x$ the loss is nearly linear, $\ell(x + \delta) \approx \ell(x) + \delta^\top \nabla_x \ell$. To
# make that sum large, move every pixel by as much as is allowed, in the direction in which the loss
# rises. This is the **fast gradient sign method** {cite}`goodfellow2015`:
#
# ```{math}
# :label: fgsm
# x_{\mathrm{adv}} = x + \varepsilon\, \mathrm{sign}\, \nabla_x \ell\big(h(x), y\big) .
# ```


# %%
def fast_gradient_sign(x, y, eps):
    x = x.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(model(x), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    return (x.detach() + eps * gradient.sign()).clamp(0, 1)


by_hand = fast_gradient_sign(x, y, eps)
other = ((by_hand - x_adv).abs() > eps / 2).flatten(1).any(1)
f"risk {attacks.risk(model, by_hand, y):.1%}; in {other.sum()} of {len(y)} images a pixel goes another way"

# %% [markdown]
# Another way than with the engine's attack, that is. Where the classifier is very sure, the probability
# of the label is rounded to nearly 1, and of a small gradient the sign is soon that of a rounding error. The
# engine climbs the difference of the logits instead, which has the same direction and does not vanish.
#
# The talk draws the output of its classifier before and after. Here is ours: the logit of the second
# digit minus that of the first. The boundary is at 0. The attack moves each class towards it, all images by
# nearly the same.


# %% tags=["hide-input"]
def outputs(x, title):
    logits = attacks.logits_of(model, x)
    names = [images.classes[label] for label in y]
    values = (logits[:, 1] - logits[:, 0]).tolist()
    return pd.DataFrame({"class": names, "value": values, "images": title})


foundations.outputs(
    pd.concat([outputs(x, "clean"), outputs(x_adv, f"attacked, eps {eps:g}")]),
    x="output of the classifier",
    y="test images",
    facet="images",
    rule=0,
    description="Output of the linear classifier for the test images of both classes, clean and attacked; "
    "the dashed line is the decision boundary",
)

# %% [markdown]
# ## Why a linear classifier has so many
#
# ```{prf:theorem} The worst change of a linear classifier
# :label: worst-linear
# Let $g(x) = w^\top x + b$, and let the label be $\tau \in \{-1, 1\}$, right if $\tau g(x) > 0$. Of all
# changes with $\|\delta\|_\infty \le \varepsilon$, $\delta = -\varepsilon\, \tau\, \mathrm{sign}(w)$ makes
# $\tau g(x + \delta)$ smallest, namely $\tau g(x) - \varepsilon \|w\|_1$.
# ```
#
# ```{prf:proof}
# $\tau w^\top \delta \ge -\sum_i |w_i| |\delta_i| \ge -\varepsilon \sum_i |w_i|$, and the stated $\delta$
# reaches it.
# ```
#
# For any loss that falls with $\tau g$ this $\delta$ is that of {eq}`fgsm`: for a linear classifier
# the fast method is not an approximation, it is the best there is. The price is $\varepsilon \|w\|_1$, a
# sum over all pixels. An image has many pixels, and a little from each adds up.
#
# The theorem lets a pixel be darker than black. Images end at 0 and 1, and on a digit most pixels lie
# there already, so half of the attack is cut off. How much that matters, the records say:

# %% tags=["hide-input"]
plain = networks[(networks.weight_decay == 0) & (networks.eps_train == 0)]
risks = plain[plain.measure == "risk"]
names = {
    "fgsm": "fast gradient sign",
    "formula": "formula, pixels unbounded",
    "random signs": "random signs",
}
charts.against(
    risks[risks.attack.isin(names)].assign(attack=lambda t: t.attack.map(names)),
    "eps",
    line="attack",
    x_title="eps, Linf",
    y="share of test images that are wrong",
    format=".0%",
    description="Risk of the linear classifier of threes and sevens against eps, under the attack, by the "
    "formula, and under random signs: mean and 95 % interval over seeds",
)


# %% tags=["hide-input"]
def mean_risk(attack, at):
    rows = risks[(risks.attack == attack) & (risks.eps == at)]
    return rows.value.mean()


crossing = min(e for e in sorted(set(risks.eps)) if mean_risk("fgsm", e) >= 0.35)
forty, _, *_ = claims.linear(networks)
Markdown(
    "**What we see.** "
    f"Without an attack the classifier errs on {mean_risk('fgsm', 0):.1%} of the test images. At eps "
    f"{crossing:g} the attack brings it to {mean_risk('fgsm', crossing):.0%}, the number of the talk. "
    f"At eps {claims.EPS:g} it is {mean_risk('fgsm', claims.EPS):.0%}; that it is more than 40 % there: "
    f"*{forty.verdict}*, by {claims.in_words(forty.effects[0])}. "
    f"The formula without bounds says {mean_risk('formula', crossing):.0%} at eps {crossing:g}, "
    "nearly twice as much. The same size of change with signs drawn at random does nothing: "
    f"{mean_risk('random signs', crossing):.1%}. It is the direction that counts."
)

# %% [markdown]
# ## The curve over eps
#
# One $\varepsilon$ says little. The *robustness curve* {cite}`goepfert2019` shows the share of wrong
# images for every $\varepsilon$. It can be had in two ways: attack at each $\varepsilon$, or find the
# distance of each image to the boundary and count those within. The second curve rises by its making,
# since an image that is lost stays lost. For a linear classifier both must agree, which tests them both:

# %% tags=["hide-input"]
wide = risks.pivot_table("value", ["seed", "eps"], "attack")
off = (wide["fgsm"] - wide["distances"]).abs().max()
loss = claims.linear(networks)[1]
Markdown(
    f"**What we see.** The two ways differ by {off:.2%} of the test images at most, over all seeds and "
    f"every eps. The loss under attack rises at every step of eps: *{loss.verdict}*; the smallest step of "
    f"a curve is {claims.in_words(loss.effects[0], 'nats', 3)}."
)

# %% [markdown]
# ## One step, many steps, a goal
#
# A network that is not linear bends. Then one large step may miss, and many small ones do better: the
# basic iterative method {cite}`madry2018` repeats {eq}`fgsm` with a small step and stays in the ball.
# [Chapter 3](03_performance) climbs the same way in another norm.
#
# With more than two classes the attacker may want a certain label. The *targeted* attack descends the
# loss at that label. Here a linear classifier of all ten digits, and eight images of the first class that
# are told to become something else:

# %%
few = models.initialise(models.dense(whole.train_images.shape[1:], 10), seed)
train(few, whole, Identity(), epochs=3, seed=seed, batch_size=100, learning_rate=0.005,
      weight_decay=0, progress=False)  # fmt: skip
start = whole.test_images[whole.test_labels == 0][:1].float() / 255
goals = torch.arange(1, 9)
aimed = attacks.bim(few, start.repeat(8, 1, 1, 1), goals, eps=0.25, steps=20, targeted=True)
reached = attacks.predict(few, aimed)
charts.pictures(
    aimed.numpy(),
    titles=[f"goal {goal}: read as {label}" for goal, label in zip(goals, reached, strict=True)],
    columns=8,
    description=f"One zero of {whole.name}, changed by up to .25 a pixel towards eight goals",
)

# %% [markdown]
# ## Who sees only labels
#
# So far the attacker knew the weights. Often one sees a network's answers and nothing else. Then train a
# network of one's own, a *surrogate*, on images that the target has labelled, and attack that
# {cite}`papernot2017`. Both have learnt from the same kind of data, so what fools one often fools the
# other.
#
# In the experiment the target learns from one half of the threes and sevens. The attacker has the other
# half, labelled by the target, and trains three kinds: a linear classifier, a network of the target's
# kind, and four of that kind together, which are attacked through the mean of their logits.

# %% tags=["hide-input"]
told = targets[(targets.measure == "risk") & (targets.eps > 0)]
told = told[(told.attack == "pgd") | (told.by == "random signs")]
kinds = {"linear": "linear", "mlp": "one hidden layer", "small_cnn": "three convolutions"}
charts.against(
    told.assign(target=told.target.map(kinds)),
    "eps",
    line="by",
    facet="target",
    x_title="eps, Linf",
    y="share of test images that are wrong",
    format=".0%",
    description="Risk of three targets against eps, under attacks by who knows the target, through "
    "surrogates, and under random signs: mean and 95 % interval over seeds",
)


# %% tags=["hide-input"]
def told_risk(target, by, at=claims.FAR):
    rows = told[(told.target == target) & (told.by == by) & (told.eps == at)]
    return rows.value.mean()


(fools,) = claims.surrogates(targets)
agreement = targets[targets.measure == "agreement"].value
lines = [
    f"{kinds[t]}, {told_risk(t, 'white box'):.0%} with its weights, "
    f"{told_risk(t, 'several of its kind'):.0%} through four surrogates, "
    f"{told_risk(t, 'one of its kind'):.0%} through one"
    for t in kinds
]
Markdown(
    f"**What we see.** The surrogates agree with their targets on {agreement.min():.1%} to "
    f"{agreement.max():.1%} of the test images. At eps {claims.FAR:g} the target errs on so many images: "
    + "; ".join(lines)
    + f". Random signs stay at {told[told.by == 'random signs'].value.max():.1%} or less. That attacks "
    f"through surrogates fool the target: *{fools.verdict}* "
    f"(more than random signs by {claims.in_words(fools.effects[-1])} for the convolutions)."
)

# %% [markdown]
# How well an attack transfers depends on how alike the two networks are. Linear classifiers learn nearly
# the same weights from other data, if weight decay removes what initialisation left. Convolutions
# differ more from one training to the next, and several together come closer than one.
#
# ## In short
#
# - An adversarial example is a small change with a large effect. For a linear classifier the worst one
#   is $\varepsilon\, \mathrm{sign}(w)$, and it costs $\varepsilon \|w\|_1$.
# - A random change of the same size does next to nothing. The direction counts.
# - Labels are enough to attack: a surrogate that imitates a network is fooled by much the same images.
#
# ## Exercises
#
# ```{exercise} By hand
# :label: worst-l2
# State and prove {prf:ref}`worst-linear` for $\|\delta\|_2 \le \varepsilon$. *Hint: Cauchy and Schwarz.
# Which norm of $w$ takes the place of $\|w\|_1$?*
# ```
#
# ```{exercise} By code
# :label: by-code-pair
# Set `pair = [4, 9]` and execute the chapter again. Which `eps` loses four in ten? *Hint: search for it with
# `attacks.risk` and a loop.*
# ```
#
# ```{exercise} By experiment
# :label: by-experiment-decay
# The profile `transfer` uses weight decay. Copy it, set that to 0 for the linear target, and record it.
# Why does knowing the weights help more then? *Hint: look at the weights of pixels that are black in every
# image.*
# ```
#
# What follows from all this for training is the subject of [the next chapter](09_adversarial_training).
