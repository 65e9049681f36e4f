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
# # Three ways to augment
#
# Where may new examples come from? From an expert who knows what leaves a label unchanged. From
# the data, by combining what is there. From a model of the data that draws new ones. The talk
# compares one augmentation of each kind; this chapter looks at what they do to images and labels,
# for every probability $p$ on the study's dial.

# %% tags=["parameters"]
profile = "digits"  # a data set that comes with scikit-learn: nothing to download
augmentation = "classic"  # the one whose effect is shown for every p
p = 0.5  # where the study's dial stands in the close-ups
seed = 0  # every draw below comes from this number

# %%
import pandas as pd
import torch

from lib import charts, data
from lib.augmentation import changed
from lib.profile import Profile
from lib.seeds import generator
from lib.training import to_sample

settings = Profile.load(profile)
images = data.load(settings.dataset)
names = images.classes
sample = to_sample(images.train_images, images.train_labels, len(names))
first = [int((images.train_labels == k).nonzero()[0, 0]) for k in range(len(names))]
S = to_sample(images.train_images[first], images.train_labels[first], len(names))

charts.pictures(
    S.x.numpy(),
    titles=list(names),
    columns=len(names),
    description=f"One training image of each class of {images.name}",
)

# %% [markdown]
# ## The expert's: classic transforms
#
# Whoever labels photographs knows that a mirrored dog is a dog. For colour images the *classic*
# augmentation is a random crop after padding by four pixels, a mirror image in half of the cases,
# a jitter of brightness, contrast and saturation by up to a quarter, and a rotation by up to two
# degrees. For digits the expert knows something else: a mirrored 2 is no 2. There it is a shift by
# up to one pixel, a rotation by up to fifteen degrees and a zoom by up to a tenth.
#
# Each transform tosses its own coin for each example, so between untouched and fully transformed
# there is every mixture:

# %%
dial = settings.grid["p"]
chosen = [q for q in dial if q in (0, 0.25, 0.5, 0.75, 1)] or dial
rows = [settings.augmentation(augmentation, q)(S, generator(seed, "dial")).x for q in chosen]
charts.pictures(
    torch.cat(rows).numpy(),
    rows=[f"p = {q:g}" for q in chosen],
    columns=len(names),
    description=f"The same images under {augmentation} augmentation as p grows",
)

# %% [markdown]
# The rows below $p = 1$ use the same random numbers: going down a column, more of the coins fall heads.
# At $p = 1$ no coin is tossed, and the draw is another.
#
# At the $p$ of this chapter's parameters, with what the augmentation changed (grey is no change):

# %% tags=["hide-input"]
A = settings.augmentation(augmentation, p)
drawn = A(S, generator(seed, "close-up")).x
charts.pictures(
    torch.cat([S.x, drawn, (0.5 + (drawn - S.x) / 2)]).numpy(),
    rows=["original", f"p = {p:g}", "change"],
    description=f"The images, one draw of {augmentation} augmentation, and their difference",
)

# %% [markdown]
#
# ## The combination: mixup
#
# Mixup {cite}`zhang2018` draws one weight $\lambda \sim \mathrm{Beta}(\alpha, \alpha)$ for a minibatch
# and a partner for every example in it, and blends images *and labels*:
#
# $$
# \begin{aligned}
# \tilde x &= \lambda x_i + (1 - \lambda) x_j , \\
# \tilde y &= \lambda y_i + (1 - \lambda) y_j .
# \end{aligned}
# $$
#
# No photograph looks like this, and the label is no class but a distribution over classes. One coin
# decides for the whole minibatch, as in the authors' later code. With $\alpha = 1$ every weight is
# equally likely. An example that draws itself as its partner stays as it is.

# %%
mixed = settings.augmentation("mixup")(S, generator(seed, "mixup"))


def reading(y):
    """The two largest probabilities of a label as text."""
    weights, classes = y.topk(2)
    return ", ".join(
        f"{names[k]} {w:.0%}" for w, k in zip(weights.tolist(), classes.tolist(), strict=True) if w
    )


charts.pictures(
    mixed.x.numpy(),
    titles=[reading(y) for y in mixed.y],
    columns=5,
    description="Ten blended images with their soft labels",
)

# %% [markdown]
# ## The generator's: conditional GANs
#
# A generator that was trained to draw images of a given class can replace an example by a new one
# with the same label. The talk uses two such networks; a later edition of this chapter trains them.
# Until then they are in no grid and in no chart of this book.
#
# ## How much is augmented?
#
# Over a whole training set, the share of examples that differ from their originals:


# %%
def share(name, q, s):
    """Share of 1,000 training examples that one draw changes, minibatch by minibatch."""
    stream, A = generator(s, "share", name, q), settings.augmentation(name, q)
    order = torch.randperm(len(images.train_labels), generator=stream)[:1000]
    different = 0
    for batch in order.split(settings.training["batch_size"]):
        part = to_sample(images.train_images[batch], images.train_labels[batch], len(names))
        different += int(changed(part, A(part, stream)).sum())
    return different / len(order)


shares = pd.DataFrame(
    [
        {"augmentation": name, "p": q, "seed": s, "value": share(name, q, s)}
        for name in settings.augmentations
        for q in dial
        for s in settings.grid["seed"]
    ]
)
charts.against_p(
    shares,
    y="share of examples augmented",
    format=".0%",
    description="Share of 1,000 training examples that each augmentation changes, against p",
)

# %% [markdown]
# Classic augmentation has several coins for each example, so most examples are changed long before
# $p = 1$. Mixup has one coin for a minibatch: on average the share is close to $p$, and it
# fluctuates from run to run because whole minibatches are changed or spared together.
