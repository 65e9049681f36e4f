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
# # Augmentation as a random function
#
# Mirror a photograph, blend two digits, draw a face from a generator: three things that people
# call *data augmentation*, and that look nothing alike. To compare them fairly we need one
# definition that covers all three, and that tells us what we get when we apply one after another.
# The talk this book follows {cite}`eghbalzadeh2020` gives such a definition. This chapter states
# it, turns it into an object that we can call and compose, and finds that the lemma on composition
# needs more conditions than are printed.

# %% tags=["parameters"]
profile = "digits"  # a data set that comes with scikit-learn: nothing to download
augmentation = "classic"  # the composition of several transforms: there is something to take apart
p = 0.25  # a coin for each of several transforms: at higher p hardly an example escapes them all
seed = 0  # every draw below comes from this number

# %%
import itertools
from collections import Counter
from fractions import Fraction

import pandas as pd
import torch

from lib import charts, data
from lib.augmentation import Identity, changed
from lib.profile import Profile
from lib.seeds import generator
from lib.training import to_sample

settings = Profile.load(profile)
digits = data.load(settings.dataset)
S = to_sample(digits.train_images[:8], digits.train_labels[:8], len(digits.classes))

# %% [markdown]
# ## The definition
#
# Let $\mathcal X$ be the images, $\mathcal Y$ the labels, $P_X$ the distribution of images and
# $l : \mathcal X \to \mathcal Y$ the true labelling. A *sample* of size $s$ is
#
# $$S = \big((x_1, l(x_1)), \dots, (x_s, l(x_s))\big)$$
#
# with $x_i$ drawn independently from $P_X$. Probabilities below are over $S$ and over what the
# augmentation draws.
#
# ````{prf:definition} Augmentation
# :label: augmentation
#
# A random function $A$ that maps a sample $S$ to a vector of *independent* random vectors on
# $\mathcal X \times \mathcal Y$,
#
# $$A(S) = (X_1 \times Y_1, \dots, X_r \times Y_r),$$
#
# is an **augmentation** if the marginal distribution of each $X_i$ *dominates* that of the data: for
# every measurable set $D$,
#
# $$P_X(D) > 0 \quad\Longrightarrow\quad P_{X_i}(D) > 0 .$$
# ````
#
# Domination says that an augmentation forgets nothing: whatever the data can show, it can still
# show. It may add new images, but it must not make an old one impossible. A constant map, which
# turns every image into the same grey one, is no augmentation. *Independence* says that the $r$
# new examples are as good as $r$ separate draws.
#
# An *augmented sample* is one observation of $A(S)$. That is what the code computes: a `Sample`
# holds images `x` and rows of class probabilities `y`, an `Augmentation` is called with a sample
# and a source of randomness, and nothing else decides what comes out.

# %%
A = settings.augmentation(augmentation, p)
drawn = A(S, generator(seed, "a first draw"))
again = A(S, generator(seed, "a second draw"))

charts.pictures(
    torch.cat([S.x, drawn.x, again.x]).numpy(),
    rows=["S", "A(S), one draw", "A(S), another"],
    columns=len(S),
    description=f"Eight training images and two draws of {augmentation} augmentation at p = {p}",
)

# %% [markdown]
# Rows two and three are two observations of the same random vector. An example whose coins all fell
# tails comes back as it was, bit for bit. The others are **augmented**, which from here on means
# that the image or its label differs from before.

# %% tags=["hide-input"]
charts.table(
    pd.DataFrame(
        [
            {"draw": name, "augmented": int(changed(S, sample).sum()), "of": len(S)}
            for name, sample in {"one": drawn, "another": again}.items()
        ]
    ),
    caption="How many of the eight examples each draw changed",
)

# %% [markdown]
# ## Composition
#
# Augmentations are applied one after another: first a shift, then a rotation. We write
# $(A \circ B)(S) = A(B(S))$, and `A @ B` in code. The identity is neutral, and composition is
# associative, so that we need no brackets:

# %%
mixup = settings.augmentation("mixup", p)


def same(first, second):
    """Whether two augmentations give the same sample from the same random numbers."""
    one, two = (f(S, generator(seed, "comparison")) for f in (first, second))
    return torch.equal(one.x, two.x) and torch.equal(one.y, two.y)


charts.table(
    pd.DataFrame(
        [
            {"law": "(A @ B) @ A = A @ (B @ A)", "true": same((A @ mixup) @ A, A @ (mixup @ A))},
            {"law": "I @ A = A", "true": same(Identity() @ A, A)},
            {"law": "A @ I = A", "true": same(A @ Identity(), A)},
        ]
    ),
    caption="A is the augmentation chosen above, B is mixup, I the identity",
)

# %% [markdown]
# Is the composition of two augmentations an augmentation again? The talk prints this lemma:
#
# ````{prf:lemma} as printed
# :label: lemma-printed
#
# If $A$ and $B$ are augmentations, then $A \circ B$ is an augmentation.
# ````
#
# The definition asks for two things, and neither is automatic. $A$ promises domination and
# independent outputs for a sample of the data. $B(S)$ is a sample of another law, for which $A$ has
# promised nothing.
#
# Two coins are enough to see it. Let the images be single bits, all of one class, so that labels play
# no part.
#
# ````{prf:example} Two bits
# :label: two-bits
#
# $B$ throws its sample away and returns two independent bits, each $1$ with probability
# $\tfrac34$. $A$ keeps the first bit and replaces the second by their exclusive or:
# $A(s_1, s_2) = (s_1, s_1 \oplus s_2)$. Of a sample $S$ of two fair bits, both are augmentations:
# the four values of $A(S)$ are equally likely, so its components are two independent fair bits.
# ````
#
# The laws are small enough to be written down in exact fractions:


# %%
def law_of_bits(one):
    """The law of two independent bits that are 1 with probability `one`."""
    weight = {1: one, 0: 1 - one}
    return {(a, b): weight[a] * weight[b] for a, b in itertools.product((0, 1), repeat=2)}


def push(law, function):
    """The law of function(S) where S has the given law."""
    image = Counter()
    for outcome, probability in law.items():
        image[function(*outcome)] += probability
    return dict(image)


def independent(law):
    first, second = Counter(), Counter()
    for (a, b), probability in law.items():
        first[a] += probability
        second[b] += probability
    return all(law.get((a, b), 0) == first[a] * second[b] for a in first for b in second)


def xor(a, b):
    return a, a ^ b


laws = {
    "A(S)": push(law_of_bits(Fraction(1, 2)), xor),
    "B(S)": law_of_bits(Fraction(3, 4)),
    "A(B(S))": push(law_of_bits(Fraction(3, 4)), xor),
    "B(A(S))": law_of_bits(Fraction(3, 4)),
}
charts.table(
    pd.DataFrame(
        [
            {
                "sample": name,
                **{f"{a}{b}": str(law[a, b]) for a, b in sorted(law)},
                "independent": independent(law),
            }
            for name, law in laws.items()
        ]
    ),
    caption="The probability of each pair of bits, in exact fractions",
)

# %% [markdown]
# $A(S)$ and $B(S)$ have independent components, $A(B(S))$ has not: the printed lemma is false. Order
# matters, too: $B$ forgets what $A$ did, so $B(A(S))$ is as good as $B(S)$. What survives of the lemma
# is enough for practice, and it comes in two halves.
#
# ````{prf:theorem} Composition
# :label: composition
#
# Let $A$ and $B$ be augmentations that draw independently of each other and of $S$, $A$ defined for
# samples of the size that $B$ gives, and let $Q$ be the law of $(x, l(x))$ for $x$ from $P_X$.
#
# 1. *Domination.* If the output pairs of $B$ are independent and each dominates $Q$, every image of
#    $A(B(S))$ dominates $P_X$.
# 2. *Independence given the sample.* If $A$ acts example by example,
#
#    $$A(S) = (A_1(s_1), \dots, A_r(s_r))$$
#
#    with independent random functions $A_i$, and the outputs of $B$ are independent given $S$, then
#    the outputs of $A \circ B$ are independent given $S$.
# ````
#
# ````{prf:proof}
# *1.* Independent pairs that each dominate $Q$ have a joint law that dominates the product of copies
# of $Q$, which is the law of $S$. So a set of samples that has positive probability under the law of
# $S$ has positive probability under that of $B(S)$. If $P_X(D) > 0$, the samples $z$ for which $A(z)$
# puts its $i$-th image into $D$ with positive probability are such a set, since $A$ is an
# augmentation of $S$. So the $i$-th image of $A(B(S))$ lies in $D$ with positive probability.
#
# *2.* Given $S$, the pairs $(A_i, B_i(S))$ are independent of one another, and the $i$-th output
# $A_i(B_i(S))$ is a function of the $i$-th pair alone.
# ````
#
# It is not enough in the first half that the *images* of $B$ dominate. Let $B$ keep every image and give
# it a wrong label, and let $A$ keep an image whose label is true and paint every other one grey. Both
# are augmentations, and $A(B(S))$ is all grey.
#
# If both act example by example and the pairs of $B$ dominate $Q$, both halves apply, and $A \circ B$ is
# an augmentation.
#
# ## Are they augmentations?
#
# **Classic** transforms act example by example, each on independent draws, so their outputs are
# independent. As long as an example may be left alone, that is, for $p < 1$, its law contains a share
# of $P_X$ and dominates it. At $p = 1$ domination is a question about the transform: a rotation by an
# angle from a continuous range returns an image of whole grey levels with probability zero.
#
# **Generators** that draw an image for each example act example by example as well; at $p = 1$
# they dominate only if they can draw every image that the data can show.
#
# **Mixup** blends the examples of a minibatch with *one* weight, *one* permutation and *one* coin. Its
# outputs have these in common, so they are not independent, and by the letter of the definition it
# is no augmentation as the study applies it, though its images dominate for $p < 1$. A coin, a weight
# and a partner of its own for each example, drawn with replacement, make its outputs independent
# given the sample.
#
# ## With probability p
#
# The study turns one dial: an augmentation is applied **with probability p**. A composition hands
# $p$ to each of its factors, and every factor tosses a coin of its own. So an example escapes a
# composition of three factors with probability $(1-p)^3$, unless a transform happens to draw "no
# change". At $p = 0$ we have the identity, at $p = 1$ the augmentation itself.

# %%
whole = to_sample(digits.train_images, digits.train_labels, len(digits.classes))
charts.table(
    pd.DataFrame(
        [
            {
                "p": q,
                "augmented": changed(
                    whole,
                    settings.augmentation(augmentation, q)(whole, generator(seed, "share", q)),
                )
                .float()
                .mean()
                .item(),
            }
            for q in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
    ),
    caption=f"Share of the {len(whole)} training examples that {augmentation} changed",
    formats={"p": ".2f", "augmented": ".1%"},
)

# %% [markdown]
# What each of the augmentations looks like, and what it does to labels, is the next chapter's
# subject.
